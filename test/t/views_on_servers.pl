# Maintained views on several servers.  A subscriber of logical replication keeps its own
# counts, of all tables or of chosen ones, from the initial copy on, and becomes the writer.
# A standby reads the counts, and keeps them after its promotion.  After a crash in the midst
# of writers, with prepared transactions, the counts are right.  A lock that is held for a
# moment is not a problem of a view.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PoserTest;
use PoserViews;
use Test::More;

my $node = new_node('publisher', allows_streaming => 'logical', conf => <<'EOF');
max_worker_processes = 20
restart_after_crash = on
EOF
my $subscriber = new_node('subscriber', conf => <<'EOF');
max_logical_replication_workers = 20
max_worker_processes = 30
wal_retrieve_retry_interval = 100ms
EOF
$_->safe_psql('postgres', 'CREATE ROLE reader LOGIN') foreach $node, $subscriber;

sub source_connstr { return $node->connstr('db') =~ s/'/''/gr . " user=postgres" }

# Writers of all tables, until they have done a number of transactions.
sub start_writers
{
	my ($transactions) = @_;

	return IPC::Run::start(
		[
			'pgbench', '--no-vacuum', '-c', 4, '-t', $transactions, '--file', pgbench_file('writers', <<'SQL'), $node->connstr('db') . ' application_name=load'
\set id :client_id * 100 + random(1, 100)
\set c random(10, 20)
BEGIN;
INSERT INTO orders (id, customer_id, status, items, small, big, total, price) VALUES (100000 + :id, :c, 'open', :c, 1, :id, :id * 0.01, 2)
ON CONFLICT (id) DO UPDATE SET customer_id = EXCLUDED.customer_id, total = EXCLUDED.total, status = 'closed';
INSERT INTO lot VALUES (100000 + :id, 's', 11, :c) ON CONFLICT (id) DO UPDATE SET quantity = lot.quantity + 1;
INSERT INTO line_s (id, region, "to 1", to2, amount) VALUES (100000 + :id, 's', E'tab\t%s \\3', '00000000-0000-0000-0000-000000000003', :c) ON CONFLICT DO NOTHING;
SAVEPOINT s;
DELETE FROM lot WHERE id = 100000 + :id;
ROLLBACK TO s;
DELETE FROM orders WHERE id = 100001 + :id AND id <= 100100 + :client_id * 100;
COMMIT;
SQL
		],
		'<', \undef, '>', '/dev/null', '2>', \my $errors);
}

#
# Logical replication
#

create_database($node, 'db');
$node->safe_psql('db', VIEW_TABLES . MAINTAIN_VIEWS . VIEW_ROWS);
$node->safe_psql('db', 'CREATE PUBLICATION of_all FOR ALL TABLES');
my @published = (view_tables(), 'customer_orders_maintained');
$node->safe_psql('db', 'CREATE PUBLICATION of_some FOR TABLE ' . join ', ', @published);
$node->safe_psql('db', 'CREATE PUBLICATION of_roots FOR TABLE ' . join(', ', view_tables()) . ' WITH (publish_via_partition_root)');

# Tests: the subscriber has the rows of the publisher, and its views are exact.
sub caught_up
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $name) = @_;

	$node->wait_for_catchup($dbname);
	same_contents(view_rows_of($subscriber, $dbname), view_rows_of($node, 'db'), "$dbname, $name: all rows are equal");
	views_exact($subscriber, $dbname, "$dbname, $name");
	return;
}

foreach my $dbname ('of_all', 'of_some', 'of_roots')
{
	my $writers = start_writers(100);

	create_database($subscriber, $dbname);
	$subscriber->safe_psql($dbname, VIEW_TABLES . MAINTAIN_VIEWS);
	# in any order, while others write
	$subscriber->safe_psql($dbname, "CREATE SUBSCRIPTION $dbname CONNECTION '@{[ source_connstr() ]}' PUBLICATION $dbname");
	$subscriber->wait_for_subscription_sync($node, $dbname, $dbname);
	$writers->finish;
	is($writers->full_result(0), 0, "$dbname: the writers have not failed");
	caught_up($dbname, 'copied');
	$node->safe_psql('db', <<'SQL');
UPDATE orders SET total = total + 1, customer_id = customer_id % 5 + 12 WHERE id % 3 = 0;
UPDATE customer SET id = id + 3000 WHERE id IN (13, 14);
UPDATE customer SET id = id - 3000 WHERE id IN (3013, 3014);
DELETE FROM customer WHERE id = 20;
INSERT INTO customer (id, name) VALUES (20, 'again');
UPDATE "Odd %s ""x"."Line ""%" SET region = 's', amount = amount * 2 WHERE id % 6 = 1;
UPDATE depot SET id = 200 WHERE id = 5;
UPDATE depot SET id = 5 WHERE id = 200;
DELETE FROM lot WHERE id % 9 = 4;
SQL
	caught_up($dbname, 'changed');
	$node->safe_psql('db', 'TRUNCATE orders');
	caught_up($dbname, 'truncated');
	$node->safe_psql('db', q{TRUNCATE lot; DELETE FROM depot; INSERT INTO depot SELECT (ARRAY['n', 's'])[n % 2 + 1], n FROM generate_series(1, 20) n;
		INSERT INTO orders (id, customer_id, status, total) SELECT n, 10 + n % 10, 'open', n FROM generate_series(1, 200) n});
	caught_up($dbname, 'begun anew');
}

# A table that comes later.
create_database($subscriber, 'later');
$subscriber->safe_psql('later', VIEW_TABLES . MAINTAIN_VIEWS);
$node->safe_psql('db', 'CREATE PUBLICATION later FOR TABLE orders');
$subscriber->safe_psql('later', "CREATE SUBSCRIPTION later CONNECTION '@{[ source_connstr() ]}' PUBLICATION later");
$subscriber->wait_for_subscription_sync($node, 'later', 'later');
views_exact($subscriber, 'later', 'children without parents');
$node->safe_psql('db', q{ALTER PUBLICATION later ADD TABLE customer; UPDATE orders SET status = 'closed' WHERE id % 2 = 0});
$subscriber->safe_psql('later', 'ALTER SUBSCRIPTION later REFRESH PUBLICATION');
$subscriber->wait_for_subscription_sync($node, 'later', 'later');
$node->wait_for_catchup('later');
views_exact($subscriber, 'later', 'then the parents');
cmp_ok($subscriber->safe_psql('later', 'SELECT sum(orders) FROM customer_orders'), '>', 100, 'then the parents: there are counts');

# The subscriber becomes the writer.
foreach my $dbname ('of_all', 'of_some', 'of_roots', 'later')
{
	$subscriber->safe_psql($dbname, "DROP SUBSCRIPTION $dbname");
	views_go_on($subscriber, $dbname, "$dbname, taken over");
}
$subscriber->stop;

#
# A standby
#

$node->safe_psql('db', VIEW_ROWS =~ s/^INSERT.*?;$//gmsr);
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->safe_psql('db', q{BEGIN; UPDATE orders SET total = 1 WHERE id < 50; PREPARE TRANSACTION 'standby';
	UPDATE orders SET customer_id = 11, total = 5.25 WHERE id BETWEEN 50 AND 90});
$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
views_exact($standby, 'db', 'a standby, with deltas');
same_contents(view_rows_of($standby, 'db'), view_rows_of($node, 'db'), 'a standby: all rows are equal');
my $writers = start_writers(50);
views_right($standby, 'db', "a standby beside writers, $_") foreach 1 .. 5;
$writers->finish;
$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
$standby->promote;
$standby->safe_psql('db', q{COMMIT PREPARED 'standby'});
views_exact($standby, 'db', 'a promoted standby');
views_go_on($standby, 'db', 'a promoted standby');
$standby->stop;
$node->safe_psql('db', q{ROLLBACK PREPARED 'standby'});

#
# Crashes
#

foreach my $round (1 .. 3)
{
	my $load = start_writers(100000);

	$node->poll_query_until('db', q{SELECT count(*) > 2 FROM pg_stat_activity WHERE application_name = 'load' AND state <> 'idle'}) or die 'no load';
	$node->safe_psql('db', qq{BEGIN; UPDATE orders SET customer_id = 12, total = $round WHERE id BETWEEN 10 AND 20;
		INSERT INTO lot VALUES (-$round, 'n', 6, $round); PREPARE TRANSACTION 'crash'});
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @pids = ($postmaster, split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'));
	$node->kill9;
	kill 'KILL', @pids;
	$load->finish;
	foreach (1 .. 1800)
	{
		last unless kill 0, @pids;
		select undef, undef, undef, 0.1;
	}
	$node->start;
	views_exact($node, 'db', "crash $round, with a prepared transaction");
	$node->safe_psql('db', ($round == 2 ? 'ROLLBACK' : 'COMMIT') . q{ PREPARED 'crash'});
	views_exact($node, 'db', "crash $round");
	views_go_on($node, 'db', "crash $round");
}

#
# poser_check() beside locks that are held for a moment, as VACUUM does it to truncate a table
#

$node->safe_psql('db', q{SELECT poser_track('customer')});
my $locks = IPC::Run::start(
	[
		'pgbench', '--no-vacuum', '-t', 100000, '--file', pgbench_file('locks', <<'SQL'), $node->connstr('db') . ' application_name=locks'
BEGIN;
LOCK TABLE customer_orders_maintained;
\sleep 2 ms
COMMIT;
\sleep 1 ms
BEGIN;
LOCK TABLE customer;
\sleep 2 ms
COMMIT;
\sleep 1 ms
SQL
	],
	'<', \undef, '>', '/dev/null', '2>', \my $lock_errors);
$node->poll_query_until('db', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'locks'}) or die 'no locks';
foreach ([ 'poser_check() finds nothing' => 'SELECT * FROM poser_check();' ],
	[ 'no table has a problem' => 'SELECT target FROM poser_tables WHERE problem IS NOT NULL;' ],
	[ 'each view is served' => 'SELECT view FROM poser_views WHERE NOT served OR problem IS NOT NULL;' ])
{
	my ($name, $statement) = @$_;

	is($node->safe_psql('db', $statement x 40), '', "locks that are held for a moment: $name");
}
$locks->kill_kill;

done_testing();
