# What restores beside pg_dump's own: tables that are copied one by one, restores through
# a pooler, into a database with a history of its own, twice, and after a crash.  Each
# ends as the source was, or with one clear error at the first row; nothing is lost
# quietly.  And a session that only looks like a restore records each row.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;
use Time::HiRes 'usleep';

my $node = new_node('restores');
my $directory = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN');
create_database($node, 'source');
my $source = make_source($node, 'source', 'postgres');
my $source_without_sequences = source_of($node, 'source', no_sequence => 1);
my @tables = config_tables($node, 'source');

# Programs that run beside the test, and end with it.
my @programs;
END { local $?; $_->kill_kill foreach @programs; }

#
# Helpers
#

# Runs psql on a database, without its startup file.  Returns whether it has ended without
# an error, and the errors.  "connstr" is another connection.
sub psql
{
	my ($dbname, $options, %params) = @_;
	my $connstr = $params{connstr} // $node->connstr($dbname) . ' user=' . ($params{role} // 'postgres');
	my $errors;
	my $done = IPC::Run::run([ 'psql', '-Xq', '-v', 'VERBOSITY=verbose', @$options, '-d', $connstr ],
		'<', \undef, '>', '/dev/null', '2>', \$errors);

	return ($done, $errors);
}

# A test: psql has ended without an error.
sub psql_ok
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $options, $name, %params) = @_;
	my ($done, $errors) = psql($dbname, $options, %params);

	ok($done && $errors !~ /ERROR/, $name) or diag(substr($errors, 0, 1000));
	return $done;
}

# The name of a file with this content.
sub file
{
	my ($name, $content) = @_;

	unlink "$directory/$name";
	append_to_file("$directory/$name", $content);
	return "$directory/$name";
}

# A dump of a database with these options.
sub dump_of
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $name, @options) = @_;

	command_ok([ 'pg_dump', @options, '-f', "$directory/$name", $node->connstr($dbname) . ' user=postgres' ],
		"pg_dump @options of $dbname");
	return "$directory/$name";
}

# A statement that sets a sequence to what it is in the source.
sub set_sequences
{
	return join '', map { $node->safe_psql('source', "SELECT format('SELECT setval(%L, %s, %L);', '$_', last_value, is_called) FROM $_") . "\n" }
	  'poser_change_id_seq', 'poser_batch_id_seq';
}

# A database that is no restore's, with a consumer that gets all changes.
sub database_with_consumer
{
	my ($dbname, %params) = @_;

	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $dbname");
	create_database($node, $dbname, %params);
	lines_as($node, $dbname, $params{owner} // 'postgres', q{SELECT poser_datasync_add('all', 'beginning')});
	return;
}

# Tests: each widget and component has been inserted once, and nothing else has been
# recorded.  There are "rows" of them.  The consumer gets each of them once.
sub all_recorded
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $rows, $name) = @_;
	my $role = $node->safe_psql($dbname, q{SELECT relowner::regrole FROM pg_class WHERE relname = 'poser_widget'});

	counts_exact($node, $dbname, $name, widgets => 0);
	history_exact($node, $dbname, $name, versions => $rows);
	is( lines_as($node, $dbname, $role, <<'EOF'), "$rows|$rows|0\n$rows", "$name: each row has its version, and a consumer gets it");
WITH live AS (
	SELECT 'poser_widget' AS payload_type, uuid AS payload_key, to_jsonb(w) AS payload FROM poser_widget w
	UNION ALL
	SELECT 'poser_component', uuid, to_jsonb(c) FROM poser_component c
), change AS (
	SELECT * FROM poser_datasync_changes('all', 1000000)
)
SELECT (SELECT count(*) FROM live), count(*),
	count(*) FILTER (WHERE deletion OR (payload_type, payload_key, payload) NOT IN (SELECT * FROM live))
FROM change;
SELECT poser_datasync_confirm('all', max(change_id)) FROM poser_datasync_changes('all', 1000000) \gset
SELECT count(*) FROM (SELECT uuid FROM poser_widget_version UNION ALL SELECT uuid FROM poser_component_version) v;
EOF
	return;
}

#
# Tables that are copied one by one
#

my $set_sequences = set_sequences();
$node->safe_psql('source', join "\n", map { "\\copy $_ TO '$directory/$_.copy'" } @tables);

# The tables of users, which batches and consumers need.
my $users_data = dump_of('source', 'users.sql', '--data-only', '-t', 'given*', '-t', 'batch*');

# Statements that copy tables: by COPY, by INSERT with SELECT, and by COPY of which a first
# try is rolled back.
sub copied { return join '', map { "\\copy $_ FROM '$directory/$_.copy'\n" } @_; }

sub copied_twice
{
	return join '', map { 'SAVEPOINT s; ' . copied($_) . 'ROLLBACK TO s; ' . copied($_) } @_;
}

sub inserted
{
	my $script = '';

	foreach my $table (@_)
	{
		my $columns = $node->safe_psql('source', qq{SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
			FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND attgenerated = ''});

		$script .= "CREATE TEMP TABLE stage AS SELECT $columns FROM $table LIMIT 0;\n"
		  . "\\copy stage FROM '$directory/$table.copy'\n"
		  . "INSERT INTO $table ($columns) OVERRIDING SYSTEM VALUE SELECT * FROM stage; DROP TABLE stage;\n";
	}
	return $script;
}

foreach (
	[ 'in one transaction', 'BEGIN; ' . copied(@tables) . $set_sequences . 'COMMIT;' ],
	[
		'in one REPEATABLE READ transaction',
		'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM poser_widget; ' . copied(@tables) . $set_sequences . 'COMMIT;'
	],
	[ 'with savepoints', 'BEGIN; ' . copied_twice(@tables) . $set_sequences . 'COMMIT;' ],
	[ 'in a transaction for each table', copied(@tables) . $set_sequences ],
	[ 'by INSERT with SELECT', inserted(@tables) . $set_sequences ])
{
	my ($how, $script) = @$_;

	new_target($node, 'target', $source, data => 1);
	psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', $users_data ], "copied $how: users' tables");
	psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', file('copy.sql', $script) ], "copied $how")
	  and restored_exact($node, 'target', $source, "copied $how", subtransactions => $how =~ /savepoint/);
}

# Tools that copy no sequences.
new_target($node, 'target', $source, data => 1);
psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', file('copy.sql', 'BEGIN; ' . copied(@tables) . 'COMMIT;') ],
	'copied: without sequences');
same_contents(lines_as($node, 'target', 'postgres', $source_without_sequences->{query}),
	$source_without_sequences->{contents}, 'copied: without sequences: all contents are equal');
history_goes_on($node, 'target', 'copied: without sequences');

#
# Sessions that only look like a restore
#

# A dump of something else, and a seed with all kinds of INSERT and COPY.
$node->safe_psql('postgres', 'CREATE DATABASE something_else TEMPLATE template0');
$node->safe_psql('something_else', 'CREATE TABLE city AS SELECT n AS id FROM generate_series(1, 10) n');
my $something_else = dump_of('something_else', 'something_else.sql', '--no-owner');
my $seed = file('seed.sql', <<'EOF');
INSERT INTO public.poser_widget (uuid, description) VALUES ('a', 'Seed'), ('b', 'Seed');
COPY public.poser_widget (uuid, description, active) FROM stdin;
c	Seed	t
d	Seed	f
\.
INSERT INTO public.poser_component (uuid, widget_uuid, item_code, description)
SELECT w.uuid || n, w.uuid, n, 'Seed' FROM public.poser_widget w, generate_series(1, 3) n;
COPY public.poser_component (uuid, widget_uuid, item_code, description) FROM stdin;
e	a	1	Seed
\.
INSERT INTO public.poser_widget (uuid, description) VALUES ('f', 'Seed')
ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
EOF
foreach my $role ('postgres', 'owner')
{
	my $name = "a seed after a dump of something else, by $role";

	database_with_consumer('seeded', owner => $role);
	psql_ok('seeded', [ '-v', 'ON_ERROR_STOP=1', '-f', $something_else, '-f', $seed ], $name, role => $role);
	all_recorded('seeded', 18, $name);
}

# A restore of the rows without the history's tables.
my $rows_only = dump_of('source', 'rows.sql', '-t', 'poser_widget', '-t', 'poser_component');
my $rows = $node->safe_psql('source', 'SELECT (SELECT count(*) FROM poser_widget) + (SELECT count(*) FROM poser_component)');
database_with_consumer('rows_only');
psql_ok('rows_only', [ '-v', 'ON_ERROR_STOP=1', '-f', $rows_only ], 'rows without their history');
all_recorded('rows_only', $rows, 'rows without their history');

# A session with a restore's settings.  Whatever comes and goes there is recorded, also
# where a row is inserted again as it was, and its history still seems to end in it.
database_with_consumer('settings', owner => 'owner');
lines_as($node, 'settings', 'owner', <<'EOF');
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_widget, poser_component TO writer;
CREATE FUNCTION add_widget(uuid text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS
$$BEGIN INSERT INTO public.poser_widget (uuid, description) VALUES (uuid, 'by a function'); END$$;
CREATE FUNCTION add_as_restore(uuid text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = '' SET row_security = off AS
$$BEGIN INSERT INTO public.poser_widget (uuid, description) VALUES (uuid, 'by a function'); END$$;
EOF
my $as_restore = q{SET row_security = off; SELECT pg_catalog.set_config('search_path', '', false) \gset
};

# A test: what has been recorded since the last call, as operation, key, description, role.
my $recorded_to = 0;

sub recorded
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($expected, $name) = @_;

	is($node->safe_psql('settings', <<"EOF"), $expected =~ s/\n\z//r, $name);
SELECT operation_type, uuid, description, role_name
FROM (SELECT uuid, description, operation_type, transaction_id, change_id FROM poser_widget_version
	  UNION ALL
	  SELECT uuid, description, operation_type, transaction_id, change_id FROM poser_component_version) v
JOIN poser_transaction t ON t.id = transaction_id
WHERE change_id > $recorded_to ORDER BY change_id
EOF
	$recorded_to = $node->safe_psql('settings', 'SELECT last_value FROM poser_change_id_seq');
	counts_exact($node, 'settings', $name, widgets => 0);
	history_exact($node, 'settings', $name);
	return;
}

lines_as($node, 'settings', 'writer', $as_restore . <<'EOF');
INSERT INTO public.poser_widget (uuid, description) VALUES ('a', 'by a writer');
COPY public.poser_widget (uuid, description) FROM STDIN;
b	copied
\.
SELECT public.add_widget('c');
SELECT public.add_as_restore('d');
EOF
lines_as($node, 'settings', 'writer', q{SELECT add_as_restore('e')});
recorded(<<'EOF', 'a writer with the settings of a restore is recorded');
0|a|by a writer|writer
0|b|copied|writer
0|c|by a function|writer
0|d|by a function|writer
0|e|by a function|writer
EOF
lines_as($node, 'settings', 'owner', $as_restore . <<'EOF');
INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted');
COPY public.poser_widget (uuid, description) FROM STDIN;
i	copied
\.
UPDATE public.poser_widget SET description = 'changed' WHERE uuid = 'a';
DELETE FROM public.poser_widget WHERE uuid = 'b';
UPDATE public.poser_widget SET uuid = 'c moved' WHERE uuid = 'c';
INSERT INTO public.poser_widget (uuid, description) VALUES ('d', 'upserted')
ON CONFLICT (uuid) DO UPDATE SET description = excluded.description;
EOF
recorded(<<'EOF', 'the owner with the settings of a restore is recorded');
0|h|inserted|owner
0|i|copied|owner
1|a|changed|owner
2|b|copied|owner
2|c|by a function|owner
0|c moved|by a function|owner
1|d|upserted|owner
EOF

# Rows that are deleted and inserted again as they were.
foreach (
	[ 'in two transactions', q{DELETE FROM public.poser_widget WHERE uuid = 'h';
		INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted');} ],
	[ 'in one transaction', q{BEGIN; DELETE FROM public.poser_widget WHERE uuid = 'h';
		INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted'); COMMIT;} ],
	[ 'in one statement', q{WITH d AS (DELETE FROM public.poser_widget WHERE uuid = 'h' RETURNING *)
		INSERT INTO public.poser_widget SELECT * FROM d;} ],
	[ 'around a savepoint', q{BEGIN; DELETE FROM public.poser_widget WHERE uuid = 'h'; SAVEPOINT s;
		INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted'); ROLLBACK TO s;
		INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted'); COMMIT;} ],
	[ 'by a function', q{DO $$ BEGIN DELETE FROM public.poser_widget WHERE uuid = 'h';
		INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted'); END $$;} ])
{
	my ($how, $sql) = @$_;

	lines_as($node, 'settings', 'owner', $as_restore . $sql);
	recorded(<<'EOF', "a row comes back $how");
2|h|inserted|owner
0|h|inserted|owner
EOF
}
lines_as($node, 'settings', 'owner', $as_restore . <<'EOF');
BEGIN;
UPDATE public.poser_widget SET uuid = 'h moved' WHERE uuid = 'h';
INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted');
COMMIT;
BEGIN;
TRUNCATE public.poser_widget, public.poser_component;
INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted');
COMMIT;
EOF
like($node->safe_psql('settings', q{SELECT string_agg(operation || ' ' || description, ', ') FROM poser_widget_history('h')}),
	qr/\A(insert inserted, delete inserted, ){2}/, 'a row comes back under its key, and after TRUNCATE');
counts_exact($node, 'settings', 'after TRUNCATE');
history_exact($node, 'settings', 'after TRUNCATE');

# A snapshot that is older than the row's delete.
my $session = $node->background_psql('settings');
$session->query_safe($as_restore . 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.poser_widget_version');
$node->safe_psql('settings', q{DELETE FROM poser_widget WHERE uuid = 'h'});
$session->query_safe(q{INSERT INTO public.poser_widget (uuid, description) VALUES ('h', 'inserted'); COMMIT;});
$session->quit;
is($node->safe_psql('settings', q{SELECT operation FROM poser_widget_history('h') LIMIT 2}), "insert\ndelete",
	'a row comes back in a transaction that does not see the delete');
counts_exact($node, 'settings', 'older snapshot');
history_exact($node, 'settings', 'older snapshot');

#
# A database with a history of its own
#

# Tests: the only error is that ids are in use, and it says what to do.
sub is_in_use
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($errors, $name) = @_;

	is(() = $errors =~ /ERROR: /g, 1, "$name: one error");
	like($errors, qr/ERROR:  55000: cannot insert history .* is in use\nDETAIL:  .*\.\nHINT:  .*\.\n/,
		"$name: the error says what to do");
	return;
}

# A test: a database still has all rows of Poser's tables that it had.
sub nothing_lost
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $before, $name) = @_;
	my %after = map { $_ => 1 } split /\n/, contents($node, $dbname, no_sequence => 1);

	is(join("\n", grep { /^poser/ && !$after{$_} } split /\n/, $before), '', "$name: nothing is lost");
	return;
}

# The record of skipped changes has no key.  So its rows come again when the same dump is
# restored again.
sub remove_double_skips
{
	my ($dbname) = @_;

	$node->safe_psql($dbname, 'DELETE FROM poser_datasync_skipped a USING poser_datasync_skipped b
		WHERE a.ctid > b.ctid AND (a.consumer, a.change_id, a.skipped_at) = (b.consumer, b.change_id, b.skipped_at)');
	return;
}

my $data = dump_of('source', 'data.sql', '--data-only');
my $inserts = dump_of('source', 'inserts.sql', '--data-only', '--inserts', '--on-conflict-do-nothing');

# Rows that have come and changed.  Their ids are in the dump, too.  The restore ends with
# one error.  In a single transaction it changes nothing.  What the error's hint says works.
my $own = q{INSERT INTO poser_widget (uuid, description) VALUES ('own', 'Own');
	UPDATE poser_widget SET description = 'Changed'};
foreach (
	[
		'a short history of its own',
		sub { $node->safe_psql('target', $own) },
		'TRUNCATE ' . join(', ', @tables) . ', poser_component_count, poser_component_count_delta'
	],
	[
		'a history of its own',
		sub { make_many_transactions($node, 'target', 'postgres', 'own') },
		join('; ', map { "DELETE FROM $_" } 'poser_component', 'poser_widget', grep { !/^poser_(component|widget)$/ } @tables)
	])
{
	my ($what, $make, $remove) = @$_;

	foreach my $options ([ '--single-transaction', '-v', 'ON_ERROR_STOP=1' ], [ '-v', 'ON_ERROR_STOP=1' ])
	{
		my $name = join ' ', 'into', $what, grep { $_ ne '-v' } @$options;

		new_target($node, 'target', $source, data => 1);
		$make->();
		my $before = contents($node, 'target', no_sequence => 1);
		my ($done, $errors) = psql('target', [ @$options, '-f', $data ]);
		is_in_use($errors, $name);
		nothing_lost('target', $before, $name);
		same_contents(contents($node, 'target', no_sequence => 1), $before, "$name: nothing has changed")
		  if $name =~ /single/;
	}
	my $name = "into $what that is removed by " . substr($remove, 0, 8);
	new_target($node, 'target', $source, data => 1);
	$make->();
	$node->safe_psql('target', $remove);
	psql_ok('target', [ '--single-transaction', '-v', 'ON_ERROR_STOP=1', '-f', $data ], $name)
	  and restored_exact($node, 'target', $source, $name);
}

# Rows that have only come give way.
new_target($node, 'target', $source, data => 1);
lines_as($node, 'target', 'postgres', <<'EOF');
SELECT poser_datasync_add('own', 'beginning');
SET poser.comment = 'beside';
INSERT INTO poser_widget (uuid, description) SELECT 'beside ' || n, 'Own' FROM generate_series(1, 5) n;
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('beside 1', 'beside 1', '1', 'Own');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('beside 2', 'beside 1', '2', 'Own');
COMMIT;
EOF
if (psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', $data ], 'beside rows that have only come'))
{
	is( $node->safe_psql('target', q{SELECT payload_type, payload_key, payload ->> 'description', comment
			FROM poser_datasync_changes('own', 1000000) JOIN poser_transaction t ON t.id = transaction_id
			WHERE payload_key LIKE 'beside%' ORDER BY payload_type DESC, payload_key}),
		join("\n", map({ "poser_widget|beside $_|Own|beside" } 1 .. 5), map({ "poser_component|beside $_|Own|beside" } 1, 2)),
		'beside rows that have only come: a consumer gets them');
	$node->safe_psql('target', q{SELECT poser_datasync_drop('own')});
	# the dump has set the sequence below the ids that the rows have now, and the next write moves it on
	like($node->safe_psql('target', 'SELECT * FROM poser_check()'),
		qr/\Asequence poser_change_id_seq\|is behind: \d+ is in use\z/,
		'beside rows that have only come: the sequence is behind');
	$node->safe_psql('target', q{SET poser.comment = 'beside'; UPDATE poser_widget SET active = false WHERE uuid = 'beside 1'});
	restored_exact($node, 'target', $source_without_sequences, 'beside rows that have only come', beside => qr/beside/);
}

# The same dump again.
new_target($node, 'target', $source, data => 1);
psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', $inserts ], 'once');
foreach ([ 'by COPY', $data ], [ 'ON CONFLICT DO NOTHING', $inserts ])
{
	my ($how, $file) = @$_;

	psql('target', [ '-f', $file ]);
	remove_double_skips('target');
	same_contents(lines_as($node, 'target', 'postgres', $source->{query}), $source->{contents}, "twice, $how: all contents are equal");
}
restored_exact($node, 'target', $source, 'twice');
my $clean = dump_of('source', 'clean.sql', '--clean', '--if-exists');
new_target($node, 'target', $source);
psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', $clean, '-f', $clean ], 'twice, --clean')
  and restored_exact($node, 'target', $source, 'twice, --clean');

# Without ON_ERROR_STOP.  A row that is in the way stops the widgets, and so the components.
# What is missing then is reported, and nothing that was there is lost.
database_with_consumer('target');
$node->safe_psql('target', q{INSERT INTO poser_widget (uuid, description) VALUES ('history 1', 'in the way'), ('beside', 'Own')});
my (undef, $errors) = psql('target', [ '-f', $data ]);
like($errors, qr/ERROR:  23505: .*"poser_widget_pkey"/, 'a row in the way: an error');
is( $node->safe_psql('target', q{SELECT operation, description FROM poser_widget_history('beside')}),
	'insert|Own', 'a row in the way: the history of another row is complete');
like($node->safe_psql('target', q{SELECT string_agg(object || ' ' || problem, E'\n') FROM poser_check()}),
	qr/widget history 2 /, 'a row in the way: poser_check() reports rows that are missing');
isnt($node->safe_psql('target', q{SELECT count(*) FROM poser_check() WHERE object = 'widget history 1'}), 0,
	'a row in the way: poser_check() reports it')
  if $node->safe_psql('target', q{SELECT description FROM poser_widget_history('history 1') LIMIT 1}) ne 'in the way';

#
# A crash
#

# The server crashes while a table of the history arrives, and the same script runs again.
# Each statement of it is a transaction, so it brings what is missing.
foreach my $table ('poser_component_version', 'poser_widget_version')
{
	my $name = "a crash while $table arrives";
	my $script = slurp_file($data);

	new_target($node, 'target', $source, data => 1);
	$script =~ /^COPY public\.$table .*\n(?:.*\n){5}/m or die "no $table";
	my $begin = substr($script, 0, $+[0]);
	my $crashing = IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('target') . ' user=postgres application_name=crashing' ],
		'<', \$begin, '>', '/dev/null', '2>', \my $output);
	push @programs, $crashing;
	foreach my $attempt (1 .. 600)
	{
		$crashing->pump_nb;
		last if $node->safe_psql('target', qq{SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'crashing' AND state = 'active' AND query LIKE 'COPY public.$table %'});
		die 'it does not arrive' if $attempt == 600;
		usleep(50_000);
	}
	$node->stop('immediate');
	$node->start;
	$crashing->kill_kill;
	# the sequences come last
	counts_exact($node, 'target', $name, problems => 'sequence poser_batch_id_seq|is behind: 5 is in use');
	psql('target', [ '-f', $data ]);
	remove_double_skips('target');
	restored_exact($node, 'target', $source, $name);
}

#
# A pooler
#

SKIP:
{
	my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
	skip 'no pgbouncer', 1 if !$pgbouncer;
	skip 'pgbouncer does not run as root', 1 if $> == 0;

	my $server = 'host=' . $node->host . ' port=' . $node->port;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $sockets = PostgreSQL::Test::Utils::tempdir_short();
	my $config = file('pgbouncer.ini', <<"EOF");
[databases]
one = $server dbname=one pool_size=1
* = $server
[pgbouncer]
listen_port = $port
unix_socket_dir = $sockets
auth_type = trust
auth_file = $directory/users
pool_mode = transaction
default_pool_size = 3
logfile = $directory/pgbouncer.log
EOF
	file('users', qq{"postgres" ""\n"owner" ""\n});
	my $pooler = IPC::Run::start([ $pgbouncer, '-q', $config ], '<', \undef, '>', '/dev/null', '2>', '/dev/null');
	push @programs, $pooler;
	my $through = sub { return "host=$sockets port=$port user=postgres dbname=$_[0]"; };

	# Other clients of the pool write rows of their own, and note their keys.
	my $others = sub {
		my ($dbname, $script) = @_;
		my $clients = IPC::Run::start(
			[ 'pgbench', '--no-vacuum', '-c', 3, '-T', 600, '--max-tries=0', '--file', pgbench_file('others', $script), $through->($dbname) . ' application_name=beside' ],
			'<', \undef, '>', '/dev/null', '2>', "$directory/others.log");
		push @programs, $clients;

		$node->poll_query_until($dbname, q{SELECT count(*) > 30 FROM public.noted}) or die 'no other client writes';
		return $clients;
	};
	my $noted = sub {
		my ($dbname, $clients, $name) = @_;
		my $rows = $node->safe_psql($dbname, 'SELECT count(*) FROM public.noted');
		# until there are writes after the restore
		$node->poll_query_until($dbname, "SELECT count(*) > $rows + 30 FROM public.noted") or die 'no other client writes';
		$clients->kill_kill;
		is(slurp_file("$directory/others.log") =~ /(.*error.*)/i ? $1 : '', '', "$name: the others have had no error");
		is($node->safe_psql($dbname, <<'EOF'), '', "$name: all that others have written is recorded");
SELECT format('%s is not recorded', uuid) FROM noted
WHERE NOT EXISTS (SELECT FROM poser_component_version v WHERE v.uuid = noted.uuid AND operation_type = 0)
EOF
	};
	my $wait = sub {
		foreach (1 .. 200)
		{
			my ($done) = psql('target', [ '-c', 'SELECT' ], connstr => $through->('target'));
			return if $done;
			usleep(50_000);
		}
		die 'no pooler: ' . slurp_file("$directory/pgbouncer.log");
	};

	# Others insert while the restore runs.  Their ids are those of the restore.
	my $own_tables = q{CREATE TABLE public.noted (uuid text PRIMARY KEY);
		SET poser.comment = 'beside';
		INSERT INTO poser_widget (uuid, description) VALUES ('beside', 'Of others');};
	my $insert = <<'EOF';
SELECT count(*) FROM public.poser_widget_summary;
WITH made AS (
	INSERT INTO public.poser_component (widget_uuid, item_code, description) VALUES ('beside', '', 'beside') RETURNING uuid)
INSERT INTO public.noted SELECT uuid FROM made;
EOF
	new_target($node, 'target', $source, data => 1);
	lines_as($node, 'target', 'postgres', $own_tables);
	$wait->();
	my $clients = $others->('target', $insert);
	my $done = psql_ok('target', [ '-v', 'ON_ERROR_STOP=1', '-f', $data ], 'through a pooler', connstr => $through->('target'));
	$noted->('target', $clients, 'through a pooler');
	restored_exact($node, 'target', $source_without_sequences, 'through a pooler', beside => qr/beside/) if $done;

	# Others change what they have inserted.  So the database has a history of its own, with
	# ids of the restore, and the restore ends with one error.  The dump has INSERT, because
	# pgbouncer gives a session to another client while the rows of a failed COPY still come.
	my $many_rows = dump_of('source', 'many_rows.sql', '--data-only', '--rows-per-insert=500');
	new_target($node, 'changing', $source, data => 1);
	lines_as($node, 'changing', 'postgres', $own_tables);
	$clients = $others->('changing', <<'EOF');
BEGIN;
WITH made AS (
	INSERT INTO public.poser_component (widget_uuid, item_code, description) VALUES ('beside', '', 'beside') RETURNING uuid)
INSERT INTO public.noted SELECT uuid FROM made;
UPDATE public.poser_component SET active = false WHERE uuid = (SELECT uuid FROM public.noted ORDER BY random() LIMIT 1);
COMMIT;
EOF
	($done, my $trouble) = psql('changing', [ '-v', 'ON_ERROR_STOP=1', '-f', $many_rows ], connstr => $through->('changing'));
	is_in_use($trouble, 'through a pooler beside changes');
	$noted->('changing', $clients, 'through a pooler beside changes');

	# The next clients get the same server sessions.
	foreach my $database ('several', 'one')
	{
		my $name = "an application behind a pooler with $database";

		database_with_consumer($database);
		psql_ok($database, [ '-v', 'ON_ERROR_STOP=1', '-f', $something_else ], "$name: a dump", connstr => $through->($database));
		psql_ok($database, [ '-f', $seed ], $name, connstr => $through->($database));
		all_recorded($database, 18, $name);
	}
	$pooler->kill_kill;
}

done_testing();
