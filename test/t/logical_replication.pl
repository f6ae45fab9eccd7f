# Logical replication of all of Poser's tables: rows, counts, history and consumers
# arrive once, first copied and then as they change; the subscriber gives what arrives
# to consumers of its own; and when it has become the writer, it goes on where the
# publisher was.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoserTest;
use Test::More;

my $publisher = new_node('publisher', allows_streaming => 'logical');
my $subscriber = new_node('subscriber');
# so that a transaction of the publisher's would be yet to come there
$publisher->safe_psql('postgres', 'SELECT pg_current_xact_id()') foreach 1 .. 200;
create_database($_, 'db') foreach $publisher, $subscriber;
$subscriber->safe_psql('db', CONSUMER_OBJECTS . 'CREATE ROLE writer');

sub caught_up
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	$publisher->wait_for_catchup('sub');
	# all but the subscriber's own consumer
	is(contents($subscriber, 'db', no_sequence => 1) =~ s/^\{.*"consumer": "local".*\n//mr,
		contents($publisher, 'db', no_sequence => 1), "$name: all tables are the same");
	counts_exact($publisher, 'db', "$name, publisher", widgets => 3);
	history_exact($publisher, 'db', "$name, publisher", versions => 20);
	history_exact($subscriber, 'db', "$name, subscriber", versions => 20, sequence_behind => 1);
	counts_exact($subscriber, 'db', "$name, subscriber", widgets => 3);
	is( $subscriber->safe_psql('db', 'SELECT count(*) FROM poser_transaction WHERE xact::text <> xmin::text'),
		0, "$name, subscriber: xact is of the transaction that has brought the row");
	is($subscriber->safe_psql('db', SETTLED), $publisher->safe_psql('db', 'SELECT consumer, settled FROM poser_datasync_consumer ORDER BY 1'),
		"$name: the publisher's consumers start from what is settled there");
	return;
}

# After which change the publisher's consumers begin if they are worked for here.
use constant SETTLED => q{
	SELECT consumer, coalesce(max(v.change_id), 0)
	FROM poser_datasync_consumer c LEFT JOIN
		(SELECT change_id FROM poser_widget_version UNION ALL SELECT change_id FROM poser_component_version) v
		ON NOT EXISTS (SELECT FROM poser_datasync_changes(c.consumer, 1000000) d WHERE d.change_id <= v.change_id)
	WHERE consumer <> 'local'
	GROUP BY consumer ORDER BY consumer};

# What is there before, and is copied, while others write.
make_history($publisher, 'db', 'postgres');
$publisher->safe_psql('db', 'CREATE PUBLICATION pub FOR ALL TABLES');
my $writers = IPC::Run::start(
	[
		'pgbench', '--no-vacuum', '-c', 3, '-t', 500, '--file', pgbench_file('beside', <<'SQL'),
\set n random(1, 50)
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('beside ' || :client_id || ' ' || :n, 'history 1', '', '') ON CONFLICT (uuid) DO UPDATE SET active = NOT poser_component.active;
SAVEPOINT s;
DELETE FROM poser_component WHERE uuid LIKE 'beside ' || :client_id || ' %';
ROLLBACK TO s;
DELETE FROM poser_component WHERE uuid = 'beside ' || :client_id || ' ' || (:n + 1);
COMMIT;
SQL
		$publisher->connstr('db')
	],
	'<', \undef, '>', '/dev/null', '2>', \my $trouble);
$publisher->poll_query_until('db', q{SELECT count(*) > 50 FROM poser_component_version WHERE uuid LIKE 'beside%'})
  or die 'nobody writes';
my $connstr = $publisher->connstr . ' dbname=db user=postgres';
$subscriber->safe_psql('db', "CREATE SUBSCRIPTION sub CONNECTION '$connstr' PUBLICATION pub");
$writers->finish;
is($writers->full_result(0) || $trouble, '', 'writers beside the copy have not failed');
$subscriber->wait_for_subscription_sync($publisher, 'sub', 'db');
caught_up('copied');

# What changes, one by one and in large transactions, and what is undone.
$publisher->safe_psql('db', <<'SQL');
SET poser.runas = 'frank';
INSERT INTO poser_widget (uuid, description) VALUES ('r1', 'Replicated'), ('r2', 'Replicated');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'r' || n, 'r1', n, 'Part' FROM generate_series(1, 1000) n;
UPDATE poser_component SET active = false WHERE item_code::int % 3 = 0 AND widget_uuid = 'r1';
UPDATE poser_component SET widget_uuid = 'r2' WHERE item_code::int % 2 = 0 AND widget_uuid = 'r1';
BEGIN;
UPDATE poser_widget SET description = 'Once' WHERE uuid = 'r1';
SAVEPOINT s;
UPDATE poser_widget SET description = 'Undone' WHERE uuid = 'r1';
ROLLBACK TO s;
UPDATE poser_widget SET description = 'Twice' WHERE uuid = 'r1';
COMMIT;
BEGIN;
DELETE FROM poser_component;
ROLLBACK;
INSERT INTO poser_widget (uuid, description) VALUES ('r3', 'Moved');
UPDATE poser_widget SET uuid = 'r4' WHERE uuid = 'r3';
DELETE FROM poser_widget WHERE uuid = 'r4';
SELECT poser_prune_versions('0');
SQL
make_deltas($publisher, 'db');
$publisher->safe_psql('db', "COMMIT PREPARED 'db_1'; ROLLBACK PREPARED 'db_2'");
caught_up('changed');
$publisher->safe_psql('db', 'TRUNCATE poser_component');
caught_up('truncated');
$publisher->safe_psql('db', q{SELECT poser_widget_revert('r1', (SELECT max(transaction_id)
	FROM poser_component_version WHERE operation_type <> 2), true)});
caught_up('gone back');
cmp_ok($subscriber->safe_psql('db', 'SELECT count(*) FROM poser_component'),
	'>', 0, 'and there are components again');
$publisher->safe_psql('db', 'TRUNCATE poser_widget, poser_component');
$publisher->safe_psql('db', q{INSERT INTO poser_widget (uuid, description)
	SELECT 'after ' || n, '' FROM generate_series(1, 3) n});
caught_up('begun anew');
is( $subscriber->safe_psql('db', q{SELECT max(username) FROM poser_widget_history('r1', true)}),
	$publisher->safe_psql('db', q{SELECT max(username) FROM poser_widget_history('r1', true)}),
	'the subscriber answers as the publisher');

# The subscriber takes over.  The one statement is the manual's.
my $ids = contents($publisher, 'db', no_sequence => 1);
$publisher->stop;
$subscriber->safe_psql('db', <<'SQL');
ALTER SUBSCRIPTION sub DISABLE;
ALTER SUBSCRIPTION sub SET (slot_name = NONE);
DROP SUBSCRIPTION sub;
SQL
like($subscriber->safe_psql('db', 'SELECT * FROM poser_check()'),
	qr/\Asequence poser_change_id_seq\|is behind: \d+ is in use\z/,
	'no subscriber any more: poser_check() finds the sequence behind, and nothing else');
$subscriber->safe_psql('db', <<'SQL');
SELECT setval('poser_change_id_seq',
              greatest(1, (SELECT max(id) FROM poser_transaction),
                       (SELECT max(change_id) FROM poser_widget_version),
                       (SELECT max(change_id) FROM poser_component_version)));
SQL
is(contents($subscriber, 'db', no_sequence => 1), $ids, 'nothing is lost');
counts_exact($subscriber, 'db', 'taken over', widgets => 3);
history_exact($subscriber, 'db', 'taken over', versions => 20);
history_goes_on($subscriber, 'db', 'taken over');
cmp_ok(
	$subscriber->safe_psql('db', q{SELECT poser_widget_revert('r1', (SELECT max(transaction_id)
		FROM poser_component_version WHERE operation_type <> 2 AND widget_uuid = 'r1'), true)}),
	'>', 1, 'what the publisher has removed comes back');
counts_exact($subscriber, 'db', 'goes on', widgets => 4);
history_exact($subscriber, 'db', 'goes on', versions => 25);

done_testing();
