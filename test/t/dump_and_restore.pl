# pg_dump and a restore keep rows, history, batches and consumers as they are: in any
# schema, by superuser and by owner, plain, parallel and as data only.  The counts are
# right after it without a further step, and batches and consumers go on.  No other
# role's writes can look like a restore.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('dump');
my $directory = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN');

# Widgets and components with values that text formats must escape, and deltas; and a
# larger table, which a parallel pg_restore loads first, so that components are loaded
# while there are no widgets yet.
sub fill
{
	my ($dbname, $role) = @_;
	lines_as($node, $dbname, $role, <<'EOF');
INSERT INTO poser_widget (uuid, description, active) VALUES
	('', '', true),
	(' ', ' leading and trailing ', false),
	('\.', '\.', true),
	('\N', '\N', false),
	('NULL', 'NULL', true),
	(E'tab\t', E'a\ttab, a\nnewline, a\r\nreturn, a \b and a \v', true),
	('quote''"`', 'it''s "quoted" $$ $1 %s ; -- /* */ \ \\ {}', true),
	(E'\u00e4\u20ac\U0001F600', E'caf\u00e9 \u65e5\u672c\u8a9e \U0001F600 e\u0301', true),
	(repeat(E'\u00e9', 32), repeat(E'\u65e5', 255), true),
	('ABCDEF', 'upper case', true),
	('abcdef', 'lower case', true),
	('empty', 'no components', true);
INSERT INTO poser_widget (description)
SELECT 'Widget ' || n FROM generate_series(1, 300) n;
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT w.uuid, lpad(n::text, 20, '0'), w.description, n % 3 > 0
FROM poser_widget w, generate_series(1, 5) n WHERE w.uuid <> 'empty';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
VALUES (E'\\', E'tab\t', E'\t', E'\\\\\n');
CREATE TABLE ballast AS
SELECT n, repeat('larger than components', 10) FROM generate_series(1, 100000) n;
EOF
	make_deltas($node, $dbname);
	$node->safe_psql($dbname,
		"COMMIT PREPARED '${dbname}_1'; COMMIT PREPARED '${dbname}_2'");
	make_history($node, $dbname, $role);
	make_batches($node, $dbname, $role);
	make_consumers($node, $dbname, $role);
	return;
}

my $source;

# Makes an empty database that the role owns, restores into it and compares.
sub restored
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $role, $restore) = @_;

	$node->safe_psql('postgres', qq{DROP DATABASE IF EXISTS target;
		CREATE DATABASE target OWNER "$role" TEMPLATE template0});
	$restore->($node->connstr('target') . " user=$role");
	$node->safe_psql('postgres',
		"ALTER DATABASE target SET search_path = $source->{search_path}");
	is(contents($node, 'target', role => $role), $source->{contents},
		"$name: all contents are equal");
	counts_exact($node, 'target', $name, widgets => 312);
	history_exact($node, 'target', $name, versions => 2000);
	# each row has the xact of the transaction that has inserted it
	is( $node->safe_psql('target', 'SELECT count(*), count(*) FILTER
			(WHERE xact::text <> xmin::text) FROM poser_transaction'),
		"$source->{transactions}|0", "$name: xact is of this cluster");
	batches_go_on($node, 'target', $name, role => $role);
	history_goes_on($node, 'target', $name, role => $role);
	history_exact($node, 'target', "$name, after more writes", versions => 2000);
	consumers_go_on($node, 'target', $name, role => $role, twice => 1);
	return;
}

foreach (
	[ 'db', 'public', 'postgres' ],
	[ 'elsewhere', 'Stock Room', 'postgres' ],
	[ 'owned', 'public', 'owner' ])
{
	my ($dbname, $schema, $role) = @$_;
	my $connstr = $node->connstr($dbname) . " user=$role";
	my $about = "schema $schema, by $role";

	create_database($node, $dbname, schema => $schema, owner => $role);
	fill($dbname, $role);
	cmp_ok(
		$node->safe_psql($dbname, 'SELECT count(*) FROM poser_component_count_delta'),
		'>', 0, "$about: there are deltas at the time of the dump");
	counts_exact($node, $dbname, "$about, source", widgets => 312);
	history_exact($node, $dbname, "$about, source", versions => 2000);

	# A privilege granted on the extension's tables is dumped, too.
	lines_as($node, $dbname, $role, qq{GRANT USAGE ON SCHEMA "$schema" TO reader;
		GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO reader;
		GRANT SELECT ON poser_widget_version TO reader});
	$source = {
		search_path  => qq{"$schema"},
		contents     => contents($node, $dbname, role => $role),
		transactions => $node->safe_psql($dbname, 'SELECT count(*) FROM poser_transaction')
	};

	foreach my $form ('', '--inserts')
	{
		my $plain = "$directory/$dbname$form.sql";
		my $forms = "pg_dump $form, psql" =~ s/ ,/,/r;

		command_ok([ 'pg_dump', $form || (), '-f', $plain, $connstr ], "$about: $forms: dump");
		restored("$about: $forms", $role, sub {
			command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $plain, $_[0] ],
				"$about: $forms: restore");
		});
	}
	is( lines_as($node, 'target', 'reader',
			'SELECT count(*), sum(component_count) FROM poser_widget_summary'),
		$node->safe_psql($dbname,
			'SELECT (SELECT count(*) FROM poser_widget), count(*) FROM poser_component'),
		"$about: a reader can still read");
	my $history = q{SELECT * FROM poser_widget_history('history 1')};
	is(lines_as($node, 'target', 'reader', $history),
		$node->safe_psql($dbname, $history), "$about: history, too");
	fails_as($node, 'target', 'reader', '42501', "SELECT * FROM $_", "$about: not $_")
	  foreach 'poser_component_version', 'poser_batch', 'poser_batch_row',
	  'poser_datasync_consumer', 'poser_datasync_skipped', 'poser_datasync_status';
	is( lines_as($node, 'target', 'writer', q{SELECT count(*) FROM poser_datasync_changes('polled', 3)}),
		0, "$about: a writer still has its grant on a consumer, which has gone on");
	is( lines_as($node, 'target', 'writer', 'SELECT uuid FROM poser_batch ORDER BY uuid'),
		"complete\nempty\nexecuted\nopen", "$about: a writer sees only some of the batches");

	my $parallel = "$directory/$dbname.dir";
	command_ok([ 'pg_dump', '-Fd', '-j2', '-f', $parallel, $connstr ],
		"$about: pg_dump -Fd -j2");
	restored("$about: pg_restore -j2", $role, sub {
		command_ok([ 'pg_restore', '-j2', '--exit-on-error', '-d', $_[0], $parallel ],
			"$about: pg_restore -j2");
	});

	my $custom = "$directory/$dbname.custom";
	command_ok([ 'pg_dump', '-Fc', '-f', $custom, $connstr ], "$about: pg_dump -Fc");
	foreach my $option ('-j2', '--single-transaction')
	{
		restored("$about: pg_dump -Fc, pg_restore $option", $role, sub {
			command_ok([ 'pg_restore', $option, '--exit-on-error', '-d', $_[0], $custom ],
				"$about: pg_restore $option");
		});
	}

	my $data = "$directory/$dbname.data";
	command_ok([ 'pg_dump', '--data-only', '-T', '*.ballast', '-f', $data, $connstr ],
		"$about: pg_dump --data-only");
	restored("$about: --data-only", $role, sub {
		# the batches' targets, and the tables and functions of the consumers, must exist
		lines_as($node, 'target', $role, <<"EOF" . BATCH_TABLES . CONSUMER_OBJECTS);
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS "$schema";
CREATE EXTENSION poser SCHEMA "$schema";
SET search_path = "$schema";
EOF
		command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $data, $_[0] ],
			"$about: psql restores the data");
	});
}

# Rows without their widgets are refused.  They wait only for sessions that load, not for
# one with an open transaction.
create_database($node, 'alone');
my $idle = $node->background_psql('alone');
$idle->query_safe('BEGIN; SELECT count(*) FROM poser_widget');
fails_as($node, 'alone', 'postgres', '23503', q{SET row_security = off;
	SELECT pg_catalog.set_config('search_path', '', false);
	INSERT INTO public.poser_component (widget_uuid, item_code, description) VALUES ('none', '', '')},
	'components without widgets beside an open transaction');
$idle->quit;

# A dump of version 1.1 has no history: its rows are the beginning of the history.
create_database($node, 'older', version => '1.1');
$node->safe_psql('older', <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock'), ('b', 'Bell');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'a' || n, 'a', n, 'Part' FROM generate_series(1, 3) n;
EOF
my $older = "$directory/older.sql";
command_ok([ 'pg_dump', '-f', $older, $node->connstr('older') ], 'pg_dump of version 1.1');
$node->safe_psql('postgres', 'CREATE DATABASE newer TEMPLATE template0');
command_ok(
	[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $older, $node->connstr('newer') ],
	'a dump of version 1.1, restored where 1.4 is the default');
is( $node->safe_psql('newer', <<'EOF'), "2|3\n0|0\n0", 'the rows have no versions');
SELECT (SELECT count(*) FROM poser_widget), (SELECT count(*) FROM poser_component);
SELECT (SELECT count(*) FROM poser_widget_version), (SELECT count(*) FROM poser_component_version);
SELECT count(*) FROM poser_transaction;
EOF
is( $node->safe_psql('newer', 'SELECT object FROM poser_check() ORDER BY 1'),
	"component a1\ncomponent a2\ncomponent a3\nwidget a\nwidget b", 'poser_check() reports rows without versions');
is($node->safe_psql('newer', 'SELECT poser_record_versions()'), 5, 'poser_record_versions() makes the missing versions');
counts_exact($node, 'newer', 'repaired', widgets => 2);
history_exact($node, 'newer', 'repaired', versions => 5);
is( $node->safe_psql('newer', q{SELECT operation, changed, description, username, comment
	FROM poser_widget_history('b')}),
	'insert||Bell|postgres|recorded by poser_record_versions()', 'the history begins with these versions');

# Version 1.2 has no batches and no consumers, version 1.3 has no consumers.  A new
# consumer gets the whole history.
foreach my $version ('1.2', '1.3')
{
	my $dbname = 'version_' . $version =~ tr/./_/r;
	my $dump = "$directory/$dbname.sql";

	create_database($node, $dbname, version => $version);
	make_history($node, $dbname, 'postgres');
	make_batches($node, $dbname, 'postgres') if $version eq '1.3';
	command_ok([ 'pg_dump', '-f', $dump, $node->connstr($dbname) ], "pg_dump of version $version");
	$node->safe_psql('postgres', "CREATE DATABASE ${dbname}_restored TEMPLATE template0");
	$dbname = "${dbname}_restored";
	command_ok(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr($dbname) ],
		"a dump of version $version, restored where 1.4 is the default");
	counts_exact($node, $dbname, "from version $version", widgets => 3);
	history_exact($node, $dbname, "from version $version", versions => 20);
	make_batches($node, $dbname, 'postgres') if $version ne '1.3';
	make_consumers($node, $dbname, 'postgres');
	batches_go_on($node, $dbname, "from version $version");
	consumers_go_on($node, $dbname, "from version $version");
}

# Gives a session the settings of a restore.  recorded() returns what was written since:
# each version's operation and values.
my $as_restore = <<'EOF';
SET row_security = off;
SELECT pg_catalog.set_config('search_path', '', false) \gset
EOF

sub recorded
{
	return $node->safe_psql('guarded', <<'EOF');
SELECT operation_type, uuid, description, role_name
FROM (SELECT uuid, description, operation_type, transaction_id, change_id FROM poser_widget_version
	  UNION ALL
	  SELECT uuid, description, operation_type, transaction_id, change_id FROM poser_component_version) v
JOIN poser_transaction t ON t.id = transaction_id
ORDER BY change_id
EOF
}

create_database($node, 'guarded', owner => 'owner');
lines_as($node, 'guarded', 'owner', <<'EOF');
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_widget, poser_component TO writer;
CREATE FUNCTION add_widget(uuid text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
$$BEGIN INSERT INTO public.poser_widget (uuid, description) VALUES (uuid, 'by a function'); END$$;
CREATE FUNCTION add_as_restore(uuid text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = '' SET row_security = off AS
$$BEGIN INSERT INTO public.poser_widget (uuid, description) VALUES (uuid, 'by a function'); END$$;
EOF

# A writer that is not the owner is no restore, not even through the owner's functions.
lines_as($node, 'guarded', 'writer', $as_restore . <<'EOF');
INSERT INTO public.poser_widget (uuid, description) VALUES ('a', 'by a writer');
COPY public.poser_widget (uuid, description) FROM STDIN;
b	copied
\.
SELECT public.add_widget('c');
SELECT public.add_as_restore('d');
EOF
lines_as($node, 'guarded', 'writer', q{SELECT add_as_restore('e')});
is(recorded(), <<'EOF' =~ s/\n\z//r, 'a writer with the settings of a restore is recorded');
0|a|by a writer|writer
0|b|copied|writer
0|c|by a function|writer
0|d|by a function|writer
0|e|by a function|writer
EOF
counts_exact($node, 'guarded', 'a writer with the settings of a restore', widgets => 5);

# Nor is the owner with only one of the two settings.
lines_as($node, 'guarded', 'owner', <<'EOF');
SET row_security = off;
INSERT INTO poser_widget (uuid, description) VALUES ('f', 'by the owner');
RESET row_security;
SET search_path = '';
INSERT INTO public.poser_widget (uuid, description) VALUES ('g', 'by the owner');
EOF
is(recorded() =~ s/.*(?=0\|f)//sr, <<'EOF' =~ s/\n\z//r, 'the owner with one of the two settings is recorded');
0|f|by the owner|owner
0|g|by the owner|owner
EOF
counts_exact($node, 'guarded', 'the owner with one of the two settings', widgets => 7);

# The owner with both: INSERT and COPY make no versions, other commands do.
my $before = recorded();
lines_as($node, 'guarded', 'owner', $as_restore . <<'EOF');
INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'restored');
COPY public.poser_widget (uuid, description) FROM STDIN;
i	restored
\.
EOF
is(recorded(), $before, 'rows that the owner restores are not recorded');
is($node->safe_psql('guarded', 'SELECT object FROM poser_check() ORDER BY 1'),
	"widget h\nwidget i", 'poser_check() reports restored rows without versions');
is($node->safe_psql('guarded', 'SELECT poser_record_versions()'), 2, 'poser_record_versions() records them');
$before = recorded();
lines_as($node, 'guarded', 'owner', $as_restore . <<'EOF');
UPDATE public.poser_widget SET description = 'changed' WHERE uuid = 'a';
DELETE FROM public.poser_widget WHERE uuid = 'b';
UPDATE public.poser_widget SET uuid = 'c moved' WHERE uuid = 'c';
INSERT INTO public.poser_widget (uuid, description) VALUES ('d', 'upserted')
ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
EOF
is(recorded() =~ s/\A\Q$before\E\n//r, <<'EOF' =~ s/\n\z//r, 'UPDATE and DELETE in a restore are recorded');
1|a|changed|owner
2|b|copied|owner
2|c|by a function|owner
0|c moved|by a function|owner
1|d|upserted|owner
EOF
counts_exact($node, 'guarded', 'UPDATE and DELETE in a restore', widgets => 8);
history_exact($node, 'guarded', 'UPDATE and DELETE in a restore', versions => 14);

done_testing();
