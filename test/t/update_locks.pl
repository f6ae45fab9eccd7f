# The newest update scripts lock all tables that they touch at their beginning: no later
# statement takes a lock that these do not include, so none waits.  For each lock of
# another session the update works or fails at once, and only the first lock is waited
# for.  A failed update changes nothing.  (The script to 1.7 touches no table.  What depends
# on several locks is tested in an update from 1.4.)

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

# Which modes conflict with a mode, from the weakest mode to the strongest.
my @modes = (
	'ACCESS SHARE', 'ROW SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE',
	'SHARE', 'SHARE ROW EXCLUSIVE', 'EXCLUSIVE', 'ACCESS EXCLUSIVE');
my %conflicts = (
	'ACCESS SHARE' => [7],
	'ROW SHARE' => [ 6, 7 ],
	'ROW EXCLUSIVE' => [ 4 .. 7 ],
	'SHARE UPDATE EXCLUSIVE' => [ 3 .. 7 ],
	'SHARE' => [ 2, 3, 5, 6, 7 ],
	'SHARE ROW EXCLUSIVE' => [ 2 .. 7 ],
	'EXCLUSIVE' => [ 1 .. 7 ],
	'ACCESS EXCLUSIVE' => [ 0 .. 7 ]);

sub conflict
{
	my ($one, $other) = @_;
	return scalar grep { $modes[$_] eq $other } @{ $conflicts{$one} };
}

# Does a lock include another one: does it conflict with each mode that conflicts with
# the other one?
sub includes
{
	my ($held, $other) = @_;
	return defined $held && !grep { !conflict($held, $modes[$_]) } @{ $conflicts{$other} };
}

# The comparison notices a lock that was not taken, and one that is too weak.
ok(!includes(undef, 'ACCESS SHARE'), 'no lock includes none');
ok(!includes('SHARE ROW EXCLUSIVE', 'ACCESS EXCLUSIVE'), 'a weaker lock does not include a stronger one');
ok(!includes('SHARE', 'SHARE UPDATE EXCLUSIVE'), 'SHARE does not include SHARE UPDATE EXCLUSIVE');
ok(includes('SHARE ROW EXCLUSIVE', 'ROW EXCLUSIVE'), 'a stronger lock includes a weaker one');

my $node = new_node('update_locks', conf => "deadlock_timeout = 100s\nstatement_timeout = 60s");

# Each: the versions, and how many tables the script locks.
foreach ([ '1.5', '1.6', 3 ], [ '1.6', '1.7', 0 ])
{
	my ($from, $to, $number) = @$_;
	my $dbname = 'from_' . $from =~ tr/./_/r;

	# What the script says that it locks.
	my $script = slurp_file("$FindBin::RealBin/../../sql/poser--$from--$to.sql");
	my @locks = $script =~ /\['(\w+)', '([A-Z ]+)'\]/g;
	my %locked = @locks;
	my $first = $locks[0];
	is(scalar(keys %locked), $number, "the script from $from to $to locks so many tables");
	is(scalar(keys %locked), @locks / 2, 'it locks each table once');

	create_database($node, $dbname, version => $from);
	$node->safe_psql($dbname, <<'EOF');
CREATE TABLE own_child (uuid varchar(32) PRIMARY KEY, widget_uuid varchar(32) REFERENCES poser_widget,
	batch_uuid varchar(32) REFERENCES poser_batch);
CREATE VIEW own_view AS SELECT uuid, component_count, target FROM poser_widget_summary JOIN poser_batch USING (uuid);
CREATE MATERIALIZED VIEW own_counts AS SELECT * FROM poser_widget_summary;
CREATE INDEX own_index ON poser_widget_version (description);
CREATE STATISTICS own_statistics ON uuid, description FROM poser_widget_version;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', '');
INSERT INTO poser_batch (uuid, target) VALUES ('b1', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key) VALUES ('b1', 1, 'delete', '{"uuid": "w1"}');
SELECT poser_datasync_add('c');
EOF

	# The relations that there are before, each with the table that it belongs to.
	$node->safe_psql($dbname, <<'EOF');
CREATE TABLE relation AS
	SELECT r.oid, r.oid::regclass::text AS name, r.relkind,
		coalesce(indexed.oid, toasted.oid, toast_of_index.oid, r.oid)::regclass::text AS of
	FROM pg_class r LEFT JOIN pg_index i ON i.indexrelid = r.oid
	LEFT JOIN pg_class indexed ON indexed.oid = i.indrelid AND indexed.relkind <> 't'
	LEFT JOIN pg_class toasted ON toasted.reltoastrelid = r.oid
	LEFT JOIN pg_class toast_of_index ON toast_of_index.reltoastrelid = i.indrelid
	WHERE r.oid >= 16384
EOF
	my @tables = split /\n/, $node->safe_psql($dbname,
		q{SELECT name FROM relation WHERE relkind = 'r' ORDER BY name});
	my @lockable = split /\n/, $node->safe_psql($dbname, q{SELECT name FROM relation WHERE relkind IN ('r', 'v')});
	is(join(' ', grep { my $name = $_; !grep { $_ eq $name } @lockable } keys %locked), '', 'each locked table or view exists');

	# The locks that the update holds on these at its end.  No statement but ALTER TYPE locks
	# a composite type until the transaction ends.
	my @held = split /\n/, $node->safe_psql($dbname, <<"EOF");
BEGIN;
ALTER EXTENSION poser UPDATE TO '$to';
SELECT r.name, r.of, upper(regexp_replace(replace(mode, 'Lock', ''), '([a-z])([A-Z])', '\\1 \\2', 'g'))
FROM pg_locks JOIN relation r ON r.oid = pg_locks.relation
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND r.name <> 'relation' AND r.relkind <> 'c'
ORDER BY 1, 3;
ROLLBACK;
EOF
	cmp_ok(scalar(@held), '>=', scalar(keys %locked), 'the update holds locks');
	is( join("\n", grep { my (undef, $table, $mode) = split /\|/; !includes($locked{$table}, $mode) } @held),
		'', 'the locks at the beginning include all others');

	# For each table and mode that another session holds: what the update says.
	my $holder = $node->background_psql($dbname);

	my $update_beside = sub
	{
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		my ($statement, $expected, $about) = @_;
		$holder->query_safe("BEGIN; $statement");
		my (undef, undef, $stderr) = $node->psql($dbname, <<"EOF");
SET lock_timeout = '500ms';
BEGIN;
ALTER EXTENSION poser UPDATE TO '$to';
ROLLBACK;
EOF
		$holder->query_safe('ROLLBACK');
		if ($expected)
		{
			like($stderr, qr/ERROR:  $expected/, $about);
		}
		else
		{
			is($stderr, '', $about);
		}
		return;
	};

	foreach my $table (@tables)
	{
		foreach my $mode ('ACCESS SHARE', 'ROW EXCLUSIVE', 'SHARE UPDATE EXCLUSIVE', 'ACCESS EXCLUSIVE')
		{
			my $statement = "LOCK TABLE $table IN $mode MODE";

			if (!$locked{$table} || !conflict($locked{$table}, $mode))
			{
				$update_beside->($statement, undef, "beside $statement the update works");
			}
			elsif ($table eq $first)
			{
				$update_beside->($statement, 'canceling statement due to lock timeout', "beside $statement the update waits");
			}
			else
			{
				$update_beside->($statement, qq{could not obtain lock on relation "$table"},
					"beside $statement the update fails at once");
			}
		}
	}
	foreach my $sequence (split /\n/, $node->safe_psql($dbname, q{SELECT name FROM relation WHERE relkind = 'S' ORDER BY name}))
	{
		$update_beside->("ALTER SEQUENCE $sequence CACHE 2", undef, "beside ALTER SEQUENCE $sequence the update works");
	}
	$update_beside->('REFRESH MATERIALIZED VIEW own_counts', undef, 'beside a reader of counts the update works');

	# A table that inherits is locked, too.
	if ($first)
	{
		$node->safe_psql($dbname, "CREATE TABLE own_heir () INHERITS ($first)");
		$update_beside->('LOCK TABLE own_heir IN ACCESS EXCLUSIVE MODE', 'could not obtain lock on relation "own_heir"',
			'beside a lock on a table that inherits the update fails at once');
		$node->safe_psql($dbname, 'DROP TABLE own_heir');
	}
	$holder->quit;

	is($node->safe_psql($dbname, q{SELECT extversion FROM pg_extension WHERE extname = 'poser'}),
		$from, 'updates that failed or were rolled back have changed nothing');
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'), '', '... and nothing is wrong');
}

# The message says what to do, and has an SQLSTATE of its own.
create_database($node, 'two_scripts', version => '1.4');
my $writer = $node->background_psql('two_scripts');
$writer->query_safe('BEGIN; LOCK TABLE poser_component IN ROW EXCLUSIVE MODE');
my (undef, undef, $stderr) = $node->psql('two_scripts', "\\set VERBOSITY verbose\nALTER EXTENSION poser UPDATE");
like($stderr, qr/55P03: could not obtain.*DETAIL:  Another transaction.*HINT:  Run the update again/s, 'the error has a hint');
$writer->query_safe('ROLLBACK');
$writer->quit;

# The session's own setting is back after the script.
create_database($node, 'db', version => '1.5');
is( $node->safe_psql('db', <<'EOF'), "7s\n8s", 'the update leaves lock_timeout as it was');
SET lock_timeout = '8s';
BEGIN;
SET LOCAL lock_timeout = '7s';
ALTER EXTENSION poser UPDATE;
SHOW lock_timeout;
ROLLBACK;
SHOW lock_timeout;
EOF

# After an earlier script in the same transaction the first lock is not waited for: the
# writer goes on to a table that the earlier script has locked.
create_database($node, 'older', version => '1.3');
$node->safe_psql('older', q{INSERT INTO poser_widget (uuid, description) VALUES ('w1', '')});
$writer = $node->background_psql('older');
$writer->query_safe('BEGIN; LOCK TABLE poser_widget IN ROW EXCLUSIVE MODE');
(undef, undef, $stderr) = $node->psql('older', 'ALTER EXTENSION poser UPDATE');
like($stderr, qr/could not obtain lock on relation "poser_widget"/, 'from 1.3 in one step: the update fails at once');
$writer->query_safe(q{UPDATE poser_widget SET description = 'changed'; COMMIT});
$writer->quit;
$node->safe_psql('older', 'ALTER EXTENSION poser UPDATE');
is($node->safe_psql('older', 'SELECT * FROM poser_check()'), '', '... and works when the writer has ended');

# Writers that go from component to widget and from widget to component, and readers of
# the history, while the update runs again and again: no writer becomes a deadlock's
# victim, though the writers look for deadlocks at once.  The update works, or fails with
# that error.
create_database($node, 'busy', version => '1.5');
$node->safe_psql('busy', <<'EOF');
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, '' FROM generate_series(0, 7) n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) SELECT 'c' || n, 'w' || n, '', '' FROM generate_series(0, 7) n;
EOF
my $widget = q{UPDATE poser_widget SET active = NOT active WHERE uuid = 'w' || :client_id;};
my $component = q{UPDATE poser_component SET active = NOT active WHERE uuid = 'c' || :client_id;};
my %writers = (
	upward => "$component\n$widget",
	downward => "$widget\n$component",
	reading => q{SELECT count(*) FROM poser_widget_history('w' || :client_id);});
my $writers = IPC::Run::start(
	[ 'pgbench', '--no-vacuum', '--client=8', '--transactions=250',
		(map { ('--file', pgbench_file($_, "BEGIN;\n$writers{$_}\n\\sleep 1 ms\nCOMMIT;\n")) } sort keys %writers),
		$node->connstr('busy') . q{ options='-c deadlock_timeout=1ms'} ],
	'>', \my $output, '2>', \my $errors);
my %seen;
while ($writers->pumpable)
{
	(undef, undef, $stderr) = $node->psql('busy', 'BEGIN; ALTER EXTENSION poser UPDATE; ROLLBACK');
	$seen{ $stderr =~ /^psql:<stdin>:1: (ERROR:  could not obtain lock) on relation/ ? $1 : $stderr }++;
	$writers->pump_nb;
}
ok($writers->finish, 'the writers work') or diag($errors);
like($output, qr/transactions actually processed: 2000\/2000/, 'no transaction of theirs has failed');
is(join(' ', grep { $_ ne '' && $_ ne 'ERROR:  could not obtain lock' } keys %seen), '', 'the update says nothing else');
$node->safe_psql('busy', 'ALTER EXTENSION poser UPDATE');
is($node->safe_psql('busy', 'SELECT * FROM poser_check()'), '', 'after an update nothing is wrong');
note("$_: $seen{$_}") foreach sort keys %seen;

# A second update waits for the first one, and has nothing left to do.  Some versions of
# the server take no lock for this, and then find a row that has changed.
my $updater = $node->background_psql('db');
$updater->query_safe('BEGIN; ALTER EXTENSION poser UPDATE');
my $second = start_session($node, 'second', 'ALTER EXTENSION poser UPDATE');
waits_for_lock($node, 'second');
$updater->query_safe('COMMIT');
$updater->quit;
like(sqlstate($second), qr/^(00000|XX000)$/, 'a second update has ended');
$second->quit;
is( $node->safe_psql('db', q{SELECT extversion = default_version FROM pg_extension JOIN pg_available_extensions ON name = extname WHERE extname = 'poser'}),
	't', '... and the database is updated');
is($node->safe_psql('db', 'SELECT * FROM poser_check()'), '', '... and nothing is wrong');

done_testing();
