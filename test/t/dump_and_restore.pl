# Rows come through pg_dump as they were, in any schema, by superuser and by
# owner, plain, parallel and as data only; counts are right on the other side
# with no further step.

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

# Everything in the two tables and in the sums, whatever has been settled.
sub contents
{
	my ($dbname, $role) = @_;
	my $kept = MAINTAINED;
	return lines_as($node, $dbname, $role, <<"EOF");
SELECT to_json(w) FROM poser_widget w ORDER BY uuid COLLATE "C";
SELECT to_json(c) FROM poser_component c ORDER BY uuid COLLATE "C";
SELECT to_json(k) FROM ($kept) k ORDER BY widget_uuid COLLATE "C";
SELECT to_json(s) FROM poser_widget_summary s ORDER BY uuid COLLATE "C";
EOF
}

# Widgets and components with what makes text formats stumble, and deltas; and a
# larger table, which a parallel pg_restore takes up first, so that components
# come while there are no widgets yet.
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
	return;
}

my $source;

# Restores into a database made by the given role, and compares.
sub restored
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $role, $restore) = @_;

	$node->safe_psql('postgres', qq{DROP DATABASE IF EXISTS target;
		CREATE DATABASE target OWNER "$role" TEMPLATE template0});
	$restore->($node->connstr('target') . " user=$role");
	$node->safe_psql('postgres',
		"ALTER DATABASE target SET search_path = $source->{search_path}");
	is(contents('target', $role), $source->{contents},
		"$name: all is the same");
	counts_exact($node, 'target', $name, widgets => 312);
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

	# A privilege granted on the extension's tables is dumped, too.
	lines_as($node, $dbname, $role, qq{GRANT USAGE ON SCHEMA "$schema" TO reader;
		GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO reader});
	$source = {
		search_path => qq{"$schema"},
		contents    => contents($dbname, $role)
	};

	my $plain = "$directory/$dbname.sql";
	command_ok([ 'pg_dump', '-f', $plain, $connstr ], "$about: pg_dump");
	restored("$about: pg_dump, psql", $role, sub {
		command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $plain, $_[0] ],
			"$about: psql");
	});
	is( lines_as($node, 'target', 'reader',
			'SELECT count(*), sum(component_count) FROM poser_widget_summary'),
		$node->safe_psql($dbname,
			'SELECT (SELECT count(*) FROM poser_widget), count(*) FROM poser_component'),
		"$about: a reader still reads");

	my $parallel = "$directory/$dbname.dir";
	command_ok([ 'pg_dump', '-Fd', '-j2', '-f', $parallel, $connstr ],
		"$about: pg_dump -Fd -j2");
	restored("$about: pg_restore -j2", $role, sub {
		command_ok([ 'pg_restore', '-j2', '--exit-on-error', '-d', $_[0], $parallel ],
			"$about: pg_restore -j2");
	});

	my $data = "$directory/$dbname.data";
	command_ok([ 'pg_dump', '--data-only', '-T', '*.ballast', '-f', $data, $connstr ],
		"$about: pg_dump --data-only");
	restored("$about: --data-only", $role, sub {
		lines_as($node, 'target', $role, <<"EOF");
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS "$schema";
CREATE EXTENSION poser SCHEMA "$schema";
EOF
		command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $data, $_[0] ],
			"$about: psql of the data");
	});
}

# Rows that come without their widgets are refused, and wait for nobody who loads
# nothing: not for a session that has a transaction open.
create_database($node, 'alone');
my $idle = $node->background_psql('alone');
$idle->query_safe('BEGIN; SELECT count(*) FROM poser_widget');
fails_as($node, 'alone', 'postgres', '23503', q{SET row_security = off;
	SELECT pg_catalog.set_config('search_path', '', false);
	INSERT INTO public.poser_component (widget_uuid, item_code, description) VALUES ('none', '', '')},
	'components without widgets beside an open transaction');
$idle->quit;

done_testing();
