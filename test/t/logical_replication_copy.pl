# The initial copy of Poser's tables by logical replication, in any order of the tables,
# beside writers: each row, version and transaction arrives once.  Changes after it arrive,
# too, and a subscriber that becomes the writer goes on.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use List::Util 'shuffle';
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $publisher = new_node('copy_publisher', allows_streaming => 'logical');
my $subscriber = new_node('copy_subscriber', conf => <<'EOF');
wal_retrieve_retry_interval = 100ms
max_sync_workers_per_subscription = 4
EOF
create_database($publisher, 'db');
make_source($publisher, 'db', 'postgres');
my @tables = split /\n/, $publisher->safe_psql('db', q{SELECT c.relname FROM pg_class c JOIN pg_depend d
	ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND relkind = 'r' ORDER BY c.oid});
$subscriber->safe_psql('postgres', 'CREATE ROLE writer');

# Writers of rows of their own.
my $script = pgbench_file('beside', <<'SQL');
\set n random(1, 20)
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('beside ' || :client_id || ' ' || :n, 'history 1', '', '') ON CONFLICT (uuid) DO UPDATE SET active = NOT poser_component.active;
DELETE FROM poser_component WHERE uuid = 'beside ' || :client_id || ' ' || (:n + 1);
COMMIT;
\sleep 2 ms
SQL

# Tests: runs a statement on the publisher if there is one, and then all tables are the
# same.
sub caught_up
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $name, $sql) = @_;

	$publisher->safe_psql('db', $sql) if $sql;
	$publisher->wait_for_catchup("sub_$dbname");
	same_contents(contents($subscriber, $dbname, no_sequence => 1), contents($publisher, 'db', no_sequence => 1),
		"$name: all tables are the same");
	counts_exact($subscriber, $dbname, $name, widgets => 300);
	history_exact($subscriber, $dbname, $name, versions => 2000, sequence_behind => 1);
	return;
}

# Subscribes to groups of tables, one group after the other, while others write.
sub subscribe
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, @groups) = @_;
	my $connstr = $publisher->connstr . ' dbname=db user=postgres';
	my $writers = IPC::Run::start(
		[ 'pgbench', '--no-vacuum', '-c', 2, '-T', 600, '--rate=50', '--max-tries=0', '--file', $script,
			$publisher->connstr('db') . ' application_name=pgbench' ],
		'<', \undef, '>', '/dev/null', '2>', \my $trouble);

	create_database($subscriber, $dbname);
	$subscriber->safe_psql($dbname, CONSUMER_OBJECTS . BATCH_TABLES);
	$publisher->safe_psql('db', "CREATE PUBLICATION pub_$dbname FOR TABLE " . join ', ', @{ $groups[0] });
	$subscriber->safe_psql($dbname, "CREATE SUBSCRIPTION sub_$dbname CONNECTION '$connstr' PUBLICATION pub_$dbname");
	foreach my $group (@groups)
	{
		if ($group != $groups[0])
		{
			$publisher->safe_psql('db', "ALTER PUBLICATION pub_$dbname ADD TABLE " . join ', ', @$group);
			$subscriber->safe_psql($dbname, "ALTER SUBSCRIPTION sub_$dbname REFRESH PUBLICATION");
		}
		$subscriber->wait_for_subscription_sync($publisher, "sub_$dbname", $dbname);
	}
	# not by SIGINT, which a process that was started in the background can ignore
	$writers->kill_kill;
	$publisher->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'})
	  or die 'a writer goes on';
	is($trouble =~ /(error.*)/i ? $1 : '', '', "$dbname: the writers have not failed");
	return;
}

my $seed = srand;
my @random = shuffle(@tables);
my @reverse = reverse @tables;
note("tables in random order, of seed $seed: @random");
my $n = 0;

foreach (
	[ 'reverse', map { [ splice(@reverse, 0, 2) ] } 1 .. @tables / 2 + 1 ],
	[ 'history_first', [ grep { /version/ } @tables ], ['poser_transaction'], [ grep { !/version|transaction/ } @tables ] ],
	[ 'random', map { [ splice(@random, 0, 3) ] } 1 .. @tables / 3 + 1 ])
{
	my ($dbname, @groups) = @$_;

	subscribe($dbname, grep { @$_ } @groups);
	caught_up($dbname, $dbname);
	$n++;
	make_many_transactions($publisher, 'db', 'postgres', "round $n");
	caught_up($dbname, "$dbname, changed", q{UPDATE poser_component SET active = NOT active WHERE uuid LIKE 'early%'});
	next if $dbname eq 'random';
	$subscriber->safe_psql($dbname, "DROP SUBSCRIPTION sub_$dbname");
}

# The subscriber becomes the writer.  The statements are from the manual.
$publisher->stop;
$subscriber->safe_psql('random', <<'SQL');
ALTER SUBSCRIPTION sub_random DISABLE;
ALTER SUBSCRIPTION sub_random SET (slot_name = NONE);
DROP SUBSCRIPTION sub_random;
SELECT setval('poser_change_id_seq',
              greatest(1, (SELECT max(id) FROM poser_transaction),
                       (SELECT max(change_id) FROM poser_widget_version),
                       (SELECT max(change_id) FROM poser_component_version)));
SELECT setval('poser_batch_id_seq', greatest(1, (SELECT max(id) FROM poser_batch)));
SQL
counts_exact($subscriber, 'random', 'taken over', widgets => 300);
history_exact($subscriber, 'random', 'taken over', versions => 2000);
history_goes_on($subscriber, 'random', 'taken over');

done_testing();
