# Writing first versions, recording, pruning and recounting show their progress, can be
# cancelled at any point, and leave nothing after a crash.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('own_stopped');
create_database($node, 'db');

# A session that passes a gate waits there while another session holds it.  Indexes with
# such an expression stop the work when it writes, and a trigger stops it when it deletes.
$node->safe_psql('db', <<'EOF');
CREATE FUNCTION pass(gate integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(gate);
	RETURN true;
END
$$;
CREATE FUNCTION pass_for(gate integer, id integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF id = 15000 THEN
		PERFORM public.pass(gate);
	END IF;
	RETURN id;
END
$$;
CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.pass(TG_ARGV[0]::integer);
	RETURN coalesce(NEW, OLD);
END
$$;

-- first versions, into a new table of versions
CREATE TABLE fresh (id integer PRIMARY KEY, name text);
INSERT INTO fresh SELECT n, 'Name ' || n FROM generate_series(1, 20000) n;

-- 1: first versions, into a table of versions that is there
CREATE TABLE tracked (id integer PRIMARY KEY, name text);
INSERT INTO tracked SELECT n, 'Name ' || n FROM generate_series(1, 20000) n;
CREATE TABLE tracked_version (id integer, name text, operation_type smallint, transaction_id bigint, change_id bigint);
CREATE INDEX ON tracked_version (pass_for(1, id));

-- 2: recording, at once and in steps
CREATE TABLE recorded (id integer PRIMARY KEY, name text);
SELECT poser_track('recorded');
CREATE INDEX ON recorded_version (pass_for(2, id));
ALTER TABLE recorded DISABLE TRIGGER USER;
INSERT INTO recorded SELECT n, 'Name ' || n FROM generate_series(1, 20000) n;
ALTER TABLE recorded ENABLE TRIGGER USER;

-- 4 and 5: pruning of a large and of a small table of versions
CREATE TABLE pruned (id integer PRIMARY KEY, name text);
CREATE TABLE small (id integer PRIMARY KEY, name text);
SELECT poser_track('pruned'), poser_track('small');
INSERT INTO pruned SELECT n, 'Name ' || n FROM generate_series(1, 20000) n;
UPDATE pruned SET name = 'New';
INSERT INTO small SELECT n, 'Name ' || n FROM generate_series(1, 100) n;
UPDATE small SET name = 'New';
CREATE TRIGGER pass BEFORE DELETE ON pruned_version FOR EACH ROW WHEN (OLD.id = 15000) EXECUTE FUNCTION pass(4);
CREATE TRIGGER pass BEFORE DELETE ON small_version FOR EACH ROW WHEN (OLD.id = 99) EXECUTE FUNCTION pass(5);

-- 6: counts that are wrong
INSERT INTO poser_widget (uuid, description) SELECT n, 'Widget ' || n FROM generate_series(1, 20000) n;
ALTER TABLE poser_component DISABLE TRIGGER USER;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) SELECT n, n, '1', 'Part' FROM generate_series(1, 20000) n;
ALTER TABLE poser_component ENABLE TRIGGER USER;
SELECT poser_record_versions('poser_component');
EOF

# All that the work below changes, with its places.
sub places
{
	return $node->safe_psql('db', <<'EOF');
SELECT count(*), to_regclass('fresh_version') FROM tracked_version;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY oid;
SELECT count(*), min(ctid), max(ctid), max(change_id) FROM recorded_version;
SELECT count(*), min(ctid), max(ctid), max(change_id) FROM pruned_version;
SELECT count(*), min(ctid), max(ctid), max(change_id) FROM small_version;
SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM poser_transaction AS t;
SELECT md5(string_agg(c::text, '' ORDER BY c::text)) FROM poser_component_count AS c;
SELECT count(*) FROM poser_prune_position;
SELECT count(obj_description(oid, 'pg_trigger')) FROM pg_trigger WHERE tgname = 'poser_versions_of';
EOF
}

sub activity
{
	return $node->safe_psql('db', q{SELECT query FROM pg_stat_activity WHERE application_name = 'worker'});
}

sub wait_until
{
	my ($condition) = @_;
	$node->poll_query_until('db', "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'worker' AND $condition")
	  or die "not: $condition";
	return;
}

sub signal_worker
{
	my ($function) = @_;
	$node->safe_psql('db', "SELECT $function(pid) FROM pg_stat_activity WHERE application_name = 'worker'");
	return;
}

# What closes the gate, what the session is told, and what pg_stat_activity shows at the gate.
# The numbers of versions come from a sequence, for which the first versions wait.  A call
# of poser_track() compares if one before has left dead versions.
my @work = (
	[ undef, q{SELECT poser_track('fresh')}, 'poser_track for fresh: writing versions, 0' ],
	[ 1, q{SELECT poser_track('tracked')}, '(poser_track for tracked: writing versions|poser_record_versions for tracked: comparing), 10000' ],
	[ 2, q{SELECT poser_record_versions('recorded')}, 'poser_record_versions for recorded: comparing, 10000' ],
	[ 2, q{SELECT poser_record_versions('recorded', 20000)}, 'poser_record_versions for recorded: comparing, 20000' ],
	[ 2, q{SELECT poser_record_versions(NULL, 20000)}, 'poser_record_versions for recorded: comparing, 20000' ],
	[ 4, q{SELECT poser_prune_versions('0', target => 'pruned')}, 'poser_prune_versions for pruned: removing, 10000' ],
	[ 4, q{SELECT poser_prune_versions('0', 20000, 'pruned')}, 'poser_prune_versions for pruned: removing, 10000' ],
	[ 5, q{SELECT poser_prune_versions('0', target => 'small')}, 'poser_prune_versions for small: removing, 0' ],
	[ 5, q{SELECT poser_prune_versions('0')}, 'poser_prune_versions for small: removing, 20000' ],
);
my $before = places();
my $holder;
my $session;
foreach my $work (@work)
{
	my ($gate, $told, $shown) = @$work;
	$holder = $node->background_psql('db');
	$holder->query_safe(defined $gate ? "SELECT pg_advisory_lock($gate)" : 'BEGIN; ALTER SEQUENCE poser_change_id_seq OWNED BY NONE');

	foreach my $function ('pg_cancel_backend', 'pg_terminate_backend')
	{
		$session = start_session($node, 'worker', $told);
		waits_for_lock($node, 'worker');
		like(activity(), qr{\A/\* $shown rows \*/ \Q$told\E;\z}, "$told: pg_stat_activity shows how far it is");
		signal_worker($function);
		if ($function eq 'pg_cancel_backend')
		{
			wait_until(q{state = 'idle'});
			is(activity(), "$told;", "$told: cancelled, the session's own query is shown");
			is(sqlstate($session), '57014', "$told: cancelled");
			$session->quit;
		}
		else
		{
			$node->poll_query_until('db', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'worker'})
			  or die 'not terminated';
			eval { $session->quit };
		}
		is(places(), $before, "$told: after $function nothing is changed");
	}
	$holder->quit;
}

# Recounting waits for another session that recounts.
$holder = $node->background_psql('db');
$holder->query_safe(q{BEGIN; LOCK TABLE poser_component_count IN SHARE UPDATE EXCLUSIVE MODE});
$session = start_session($node, 'worker', 'SELECT poser_recount()');
waits_for_lock($node, 'worker');
is(activity(), '/* poser_recount: comparing, 0 rows */ SELECT poser_recount();', 'recounting: pg_stat_activity shows it');
signal_worker('pg_cancel_backend');
wait_until(q{state = 'idle'});
is(activity(), 'SELECT poser_recount();', 'recounting: cancelled, the session\'s own query is shown');
is(sqlstate($session), '57014', 'recounting: cancelled');
$session->quit;
$holder->quit;
is(places(), $before, 'recounting: nothing is changed');

# After an error that is caught the session's own query is shown, too.
$node->safe_psql('db', q{CREATE INDEX failing ON tracked_version ((1 / (id - 19999)))});
my $caught = q{DO $$BEGIN PERFORM poser_track('tracked'); EXCEPTION WHEN division_by_zero THEN PERFORM pg_advisory_lock(9); END$$};
$holder = $node->background_psql('db');
$holder->query_safe('SELECT pg_advisory_lock(9)');
$session = start_session($node, 'worker', $caught);
waits_for_lock($node, 'worker');
is(activity(), "$caught;", 'after an error that is caught, the session\'s own query is shown');
$holder->quit;
$session->quit;
$node->safe_psql('db', q{DROP INDEX failing});

# A crash at the gate, with what was written on disk.
foreach my $work (@work)
{
	my ($gate, $told) = @$work;
	$holder = $node->background_psql('db');
	$holder->query_safe(defined $gate ? "SELECT pg_advisory_lock($gate)" : 'BEGIN; ALTER SEQUENCE poser_change_id_seq OWNED BY NONE');
	$session = start_session($node, 'worker', $told);
	waits_for_lock($node, 'worker');
	$node->safe_psql('db', 'CHECKPOINT');
	$node->stop('immediate');
	foreach my $stopped ($holder, $session) { eval { $stopped->quit }; }
	$node->start;
	is(places(), $before, "$told: a crash leaves nothing of it");
}

# Then the same succeeds.
foreach my $table ('fresh', 'tracked')
{
	is($node->safe_psql('db', "SELECT poser_track('$table')"), "${table}_version", 'poser_track() succeeds after a crash');
	is($node->safe_psql('db', "SELECT count(*), count(DISTINCT id) FROM ${table}_version"), '20000|20000', 'each row has one version');
}
is( $node->safe_psql('db', q{SELECT poser_record_versions('recorded', 15000), poser_record_versions('recorded', 15000), poser_record_versions('recorded', 15000)}),
	'15000|5000|0', 'recording succeeds after a crash');
is($node->safe_psql('db', q{SELECT poser_prune_versions('0')}), 20100, 'pruning succeeds after a crash');
is($node->safe_psql('db', q{SELECT poser_recount()}), 20000, 'recounting succeeds after a crash');
is($node->safe_psql('db', 'SELECT * FROM poser_check()'), '', 'poser_check() has nothing to report');

done_testing();
