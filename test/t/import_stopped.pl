# A long import shows its progress, can be cancelled at any point, leaves nothing after
# a crash, and succeeds while other sessions write.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('import');
create_database($node, 'db');

# All widgets with their places, and the number of versions.
sub places
{
	return $node->safe_psql('db', <<'EOF');
SELECT w, ctid, xmin FROM poser_widget w ORDER BY uuid COLLATE "C";
SELECT count(*) FROM poser_widget_version;
EOF
}

# A session that passes a gate waits there while another session holds it.
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_widget SELECT 'x' || n, 'Widget ' || n FROM generate_series(1, 500) n;
CREATE FUNCTION pass(gate integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(gate);
	RETURN true;
END
$$;
CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pass(TG_ARGV[0]::integer);
	RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER pass_delete BEFORE DELETE ON poser_widget FOR EACH ROW WHEN (OLD.uuid LIKE '%99') EXECUTE FUNCTION pass(3);
CREATE TRIGGER pass_update AFTER UPDATE ON poser_widget FOR EACH ROW WHEN (OLD.uuid LIKE '%99') EXECUTE FUNCTION pass(4);
CREATE TRIGGER pass_insert BEFORE INSERT ON poser_widget FOR EACH ROW WHEN (NEW.uuid LIKE '%99') EXECUTE FUNCTION pass(5);
CREATE TABLE list (uuid varchar(32), description varchar(255));
INSERT INTO list SELECT 'x' || n, 'Listed' FROM generate_series(251, 30000) n;
CREATE VIEW gated AS SELECT * FROM list WHERE uuid <> 'x29000' OR pass(1);
CREATE VIEW endless AS SELECT 'e' || n AS uuid, 'Endless' AS description FROM (SELECT generate_series(1, 1000000000000) AS n) s;
CREATE ROLE importer;
CREATE POLICY seen ON poser_widget TO importer USING (uuid <> 'x400' OR pass(2));
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_widget TO importer;
GRANT SELECT ON gated, endless TO importer;
EOF

# The query that pg_stat_activity shows for the importer's session.
sub activity
{
	return $node->safe_psql('db', q{SELECT query FROM pg_stat_activity WHERE application_name = 'importer'});
}

sub wait_until
{
	my ($condition) = @_;
	$node->poll_query_until('db', "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'importer' AND $condition")
	  or die "not: $condition";
	return;
}

sub signal_importer
{
	my ($function) = @_;
	$node->safe_psql('db', "SELECT $function(pid) FROM pg_stat_activity WHERE application_name = 'importer'");
	return;
}

my $import = q{SELECT * FROM poser_import('gated', 'poser_widget', '{uuid}', deletes => true) /* as it was told */};
my @phases = ('reading, [1-9]\d*', 'comparing, \d+', 'deleting, \d+', 'updating, \d+', 'creating, \d+');
my $before = places();
foreach my $gate (1 .. 5)
{
	my $told = $phases[ $gate - 1 ];
	my ($phase) = $told =~ /^(\w+)/;
	my $holder = $node->background_psql('db');
	$holder->query_safe("SELECT pg_advisory_lock($gate)");

	foreach my $function ('pg_cancel_backend', 'pg_terminate_backend')
	{
		my $session = start_session($node, 'importer', "SET ROLE importer;\n$import");
		waits_for_lock($node, 'importer');
		like(activity(), qr{\A/\* poser_import into poser_widget: $told rows \*/ \Q$import\E;\z},
			"$phase: pg_stat_activity shows the phase");
		signal_importer($function);
		if ($function eq 'pg_cancel_backend')
		{
			wait_until(q{state = 'idle'});
			is(activity(), "$import;", "$phase: cancelled, the session's own query is shown");
			is(sqlstate($session), '57014', "$phase: cancelled");
			$session->quit;
		}
		else
		{
			$node->poll_query_until('db', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'importer'})
			  or die 'not terminated';
			eval { $session->quit };
		}
		is(places(), $before, "$phase: after $function nothing is changed");
	}
	$holder->quit;
}

# The same while it waits for a row, and while it works.
my $holder = $node->background_psql('db');
$holder->query_safe(q{BEGIN; SELECT FROM poser_widget WHERE uuid = 'x300' FOR UPDATE});
foreach my $case (
	[ 'waiting for a row', $import, q{wait_event_type = 'Lock'}, 'updating' ],
	[ 'busy', q{SELECT * FROM poser_import_diff('endless', 'poser_widget', '{uuid}')}, q{query ~ 'reading, [1-9]'}, 'reading' ])
{
	my ($name, $statement, $condition, $phase) = @$case;
	my $session = start_session($node, 'importer', $statement);
	wait_until($condition);
	like(activity(), qr{\A/\* poser_import(_diff)? into poser_widget: $phase, \d+ rows \*/ }, "$name: pg_stat_activity shows it");
	signal_importer('pg_cancel_backend');
	is(sqlstate($session), '57014', "$name: cancelled");
	$session->quit;
	is(places(), $before, "$name: nothing is changed");
}
$holder->query_safe('ROLLBACK');

#
# Crash
#
# While it creates rows, after all updates and deletes, with its writes on disk.
$holder->query_safe(q{SELECT pg_advisory_lock(5)});
my $session = start_session($node, 'importer', $import);
waits_for_lock($node, 'importer');
like(activity(), qr/creating/, 'stopped while it is creating');
$node->safe_psql('db', 'CHECKPOINT');
$node->stop('immediate');
foreach my $stopped ($holder, $session) { eval { $stopped->quit }; }
$node->start;
is(places(), $before, 'a crash leaves nothing of an import');

# The same during a batch's execution: the batch has not been executed.
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_batch (uuid, target) VALUES ('b', 'poser_widget');
SELECT poser_batch_populate('b', 'list', '{uuid}', deletes => true);
EOF
my $batch = q{SELECT b, md5(string_agg(r::text, '' ORDER BY sequence))
	FROM poser_batch AS b JOIN poser_batch_row AS r ON batch_uuid = uuid GROUP BY b};
my $as_populated = $node->safe_psql('db', $batch);
$holder = $node->background_psql('db', on_error_stop => 0);
$holder->query_safe(q{SELECT pg_advisory_lock(5)});
$session = start_session($node, 'importer', q{SELECT * FROM poser_batch_execute('b')});
waits_for_lock($node, 'importer');
like(activity(), qr/poser_batch_execute into poser_widget: creating/, 'stopped while a batch is executed');
$node->safe_psql('db', 'CHECKPOINT');
$node->stop('immediate');
foreach my $stopped ($holder, $session) { eval { $stopped->quit }; }
$node->start;
is(places(), $before, 'a crash leaves nothing of an execution');
is($node->safe_psql('db', $batch), $as_populated, 'a crash leaves the batch as it was');

is($node->safe_psql('db', $import), '29500|250|250|0', 'the same import succeeds without a crash');
is($node->safe_psql('db', q{SELECT count(*) FROM poser_widget w JOIN list l USING (uuid, description)}), '29750',
	'the import does all that the crash has undone');
is($node->safe_psql('db', q{SELECT * FROM poser_batch_execute('b')}), '0|0|0|30000|0', 'the batch has nothing left to do');
is($node->safe_psql('db', q{SELECT executed IS NOT NULL FROM poser_batch}), 't', 'the batch counts as executed');

#
# While others write: each import succeeds, and no change is lost
#
$node->safe_psql('db', <<'EOF');
DELETE FROM poser_widget WHERE uuid NOT LIKE '%00';
DELETE FROM list WHERE uuid NOT LIKE '%00';
EOF
my @scripts = (pgbench_file('import', <<'EOF'), pgbench_file('write', <<'EOF'));
SET poser.runas = 'importer';
SELECT * FROM poser_import('list', 'poser_widget', '{uuid}', deletes => true);
EOF
\set n random(3, 302) * 100
\set m random(3, 302) * 100
SET poser.runas = 'writer';
UPDATE poser_widget SET description = 'Written' WHERE uuid = 'x' || :n;
UPDATE poser_widget SET active = NOT active WHERE uuid = 'x' || :m;
DELETE FROM poser_widget WHERE uuid = 'x' || :m;
INSERT INTO poser_widget (uuid, description) VALUES ('x' || :n, 'Written') ON CONFLICT DO NOTHING;
EOF
$node->command_ok(
	[
		'pgbench', '--no-vacuum', '-c', 8, '-j', 2, '-t', 100, '-f', "$scripts[0]\@1", '-f', "$scripts[1]\@3",
		$node->connstr('db')
	],
	'imports succeed while others write');
cmp_ok($node->safe_psql('db', q{SELECT count(*) FROM poser_transaction WHERE username = 'importer'}), '>', 10,
	'the imports had changes to write');
$node->safe_psql('db', $import);
is($node->safe_psql('db', q{SELECT uuid, description FROM poser_widget EXCEPT ALL SELECT uuid, description FROM list}), '',
	'after the last import no surplus row is left');
is($node->safe_psql('db', q{SELECT uuid, description FROM list EXCEPT ALL SELECT uuid, description FROM poser_widget}), '',
	'after the last import no row is missing');

# A row changes each time before it is written.  At the third attempt the import locks
# the table before it compares, and writers of the row wait.
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_widget VALUES ('w1', 'Surplus');
UPDATE poser_widget SET description = 'Old' WHERE uuid = 'x300';
CREATE SEQUENCE attempt;
CREATE FUNCTION attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pass((100 + nextval('attempt'))::integer);
	RETURN OLD;
END
$$;
CREATE TRIGGER attempt BEFORE DELETE ON poser_widget FOR EACH ROW EXECUTE FUNCTION attempt();
EOF
$holder = $node->background_psql('db');
$holder->query_safe('SELECT pg_advisory_lock(100 + n) FROM generate_series(1, 3) n');
$session = start_session($node, 'importer', $import);
my @writers;
foreach my $attempt (1 .. 3)
{
	$node->poll_query_until('db', "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 100 + $attempt AND NOT granted")
	  or die "no attempt $attempt";
	is( $node->safe_psql('db', q{SELECT count(*) FROM pg_locks
			WHERE relation = 'poser_widget'::regclass AND mode = 'ShareRowExclusiveLock' AND granted}),
		$attempt == 3 ? 1 : 0, "attempt $attempt: whether the table is locked");
	push @writers, start_session($node, "writer $attempt", "UPDATE poser_widget SET description = 'Written $attempt' WHERE uuid = 'x300'");
	if ($attempt == 3) { waits_for_lock($node, 'writer 3'); }
	else { $writers[-1]->query_safe('SELECT'); }
	$holder->query_safe("SELECT pg_advisory_unlock(100 + $attempt)");
}
like($session->query('SELECT'), qr/^0\|1\|1\|/m, 'the third attempt succeeds');
$writers[-1]->query_safe('SELECT');
is( $node->safe_psql('db', q{SELECT description FROM poser_widget_history('x300') LIMIT 4}),
	"Written 3\nListed\nWritten 2\nWritten 1", 'all writers\' changes are there');
$_->quit foreach $holder, $session, @writers;

counts_exact($node, 'db', 'in the end', widgets => 250);
history_exact($node, 'db', 'in the end', versions => 30000);

done_testing();
