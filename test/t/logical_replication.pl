# Logical replication of all of Poser's tables.  Rows, counts, history and consumers
# arrive once, first as a copy and then as changes.  The subscriber gives what arrives to
# its own consumers.  When it becomes the writer, it goes on where the publisher was.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PoserTest;
use Test::More;

my $publisher = new_node('publisher', allows_streaming => 'logical');
my $subscriber = new_node('subscriber');
# so that the publisher's transaction ids are in the future for the subscriber
$publisher->safe_psql('postgres', 'SELECT pg_current_xact_id()') foreach 1 .. 200;
create_database($_, 'db') foreach $publisher, $subscriber;
$subscriber->safe_psql('db', CONSUMER_OBJECTS . 'CREATE ROLE writer');

sub caught_up
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	$publisher->wait_for_catchup('sub');
	# all but the subscriber's own consumer
	same_contents(contents($subscriber, 'db', no_sequence => 1) =~ s/^.*"consumer": "local".*\n//mr,
		contents($publisher, 'db', no_sequence => 1), "$name: all tables are the same");
	counts_exact($publisher, 'db', "$name, publisher", widgets => 3);
	history_exact($publisher, 'db', "$name, publisher", versions => 20);
	history_exact($subscriber, 'db', "$name, subscriber", versions => 20, sequence_behind => 1);
	counts_exact($subscriber, 'db', "$name, subscriber", widgets => 3);
	is( $subscriber->safe_psql('db', 'SELECT count(*) FROM poser_transaction WHERE xact::text <> xmin::text'),
		0, "$name, subscriber: xact is that of the replicating transaction");
	# on the publisher they have got what is in "given"
	is( $subscriber->safe_psql('db', <<"EOF"), '', "$name: the publisher's consumers would go on here");
BEGIN;
WITH version AS (
	SELECT change_id FROM poser_widget_version UNION ALL SELECT change_id FROM poser_component_version
), change AS (
	SELECT consumer, c.change_id
	FROM poser_datasync_consumer, poser_datasync_changes(consumer, 1000000) c
	WHERE consumer <> 'local'
)
SELECT format('%s would not be given to %s', change_id, consumer)
FROM (SELECT consumer, v.change_id
	  FROM poser_datasync_consumer LEFT JOIN given_from f USING (consumer), version v
	  WHERE consumer <> 'local' AND v.change_id > coalesce(f.change_id, 0)
	  EXCEPT
	  SELECT consumer, change_id FROM given
	  EXCEPT
	  SELECT consumer, change_id FROM poser_datasync_skipped
	  EXCEPT
	  SELECT consumer, change_id FROM change) missing
UNION ALL
SELECT format('%s would be given all that it has been given', consumer)
FROM given WHERE consumer <> 'late' GROUP BY consumer
HAVING count(*) > 5 AND min(change_id) IN (SELECT change_id FROM change WHERE change.consumer = given.consumer);
ROLLBACK;
EOF
	return;
}

# A test: the subscriber's own consumer has got all that has arrived since the copy,
# each change once, those of a row in order, and the last one of each row is the row.
sub arrived_exact
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	$subscriber->safe_psql('db', 'DO $$ BEGIN WHILE take_arrived(1000) > 0 LOOP END LOOP; END $$');
	is( $subscriber->safe_psql('db', <<'EOF'), '', "$name: the subscriber's consumer has got all changes");
WITH version AS (
	SELECT change_id, 'poser_widget' AS payload_type, uuid AS payload_key, operation_type = 2 AS deletion
	FROM poser_widget_version
	UNION ALL
	SELECT change_id, 'poser_component', uuid, operation_type = 2 FROM poser_component_version
), copy AS (
	SELECT payload_type, payload_key, payload
	FROM (SELECT DISTINCT ON (payload_type, payload_key) * FROM arrived
		  ORDER BY payload_type, payload_key, n DESC) a
	WHERE NOT deletion
), live AS (
	SELECT 'poser_widget' AS payload_type, uuid AS payload_key, to_jsonb(w) AS payload FROM poser_widget w
	UNION ALL
	SELECT 'poser_component', uuid, to_jsonb(c) FROM poser_component c
)
SELECT 'nothing has arrived' WHERE NOT EXISTS (SELECT FROM arrived)
UNION ALL
SELECT format('%s is lost, or is not what it was', change_id)
FROM version v LEFT JOIN arrived USING (change_id, payload_type, payload_key, deletion) WHERE n IS NULL
UNION ALL
SELECT format('%s has come %s times', change_id, count(*)) FROM arrived GROUP BY change_id HAVING count(*) > 1
UNION ALL
SELECT format('%s has come before %s', change_id, next)
FROM (SELECT *, lead(change_id) OVER (PARTITION BY payload_type, payload_key ORDER BY n) AS next FROM arrived) a
WHERE next < change_id
UNION ALL
SELECT format('%s %s is %s, and came as %s', payload_type, payload_key, l.payload, c.payload)
FROM live l FULL JOIN copy c USING (payload_type, payload_key)
WHERE l.payload IS DISTINCT FROM c.payload;
EOF
	return;
}

# Rows that exist before the copy, and writers during the copy.
make_history($publisher, 'db', 'postgres');
make_consumers($publisher, 'db', 'postgres');
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
  or die 'no writer has begun';
my $connstr = $publisher->connstr . ' dbname=db user=postgres';
$subscriber->safe_psql('db', "CREATE SUBSCRIPTION sub CONNECTION '$connstr' PUBLICATION pub");
$writers->finish;
is($writers->full_result(0) || $trouble, '', 'writers beside the copy have not failed');
$subscriber->wait_for_subscription_sync($publisher, 'sub', 'db');
caught_up('copied');
# their workers stay on the publisher until the consumers move to the subscriber
$subscriber->safe_psql('db', q{SELECT poser_datasync_confirm(consumer, max(change_id))
	FROM unnest('{polled,late}'::name[]) consumer, poser_datasync_changes(consumer) GROUP BY consumer});

# A consumer of the subscriber's own, with a worker while changes arrive.
$subscriber->safe_psql('db', <<'SQL');
CREATE TABLE arrived (n bigint GENERATED ALWAYS AS IDENTITY, change_id bigint,
	payload_type text, payload_key text, deletion boolean, payload jsonb);
CREATE FUNCTION take_arrived(max_changes integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	taken bigint;
	last bigint;
BEGIN
	WITH kept AS (
		INSERT INTO arrived (change_id, payload_type, payload_key, deletion, payload)
		SELECT change_id, payload_type, payload_key, deletion, payload
		FROM poser_datasync_changes('local', max_changes)
		RETURNING change_id)
	SELECT count(*), max(change_id) INTO taken, last FROM kept;
	PERFORM poser_datasync_confirm('local', last);
	RETURN taken;
END
$$;
SELECT poser_datasync_add('local', 'beginning');
SQL
arrived_exact('copied');
my $worker = IPC::Run::start(
	[
		'pgbench', '--no-vacuum', '-t', 300, '--file', pgbench_file('worker', <<'SQL'),
\set n random(1, 700)
SELECT take_arrived(:n);
\sleep 10 ms
SQL
		$subscriber->connstr('db')
	],
	'<', \undef, '>', '/dev/null', '2>', \my $worker_trouble);

# Changes in small and large transactions, and changes that are rolled back.
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
SELECT take_changes('late', 100);
SELECT take_changes('polled', 2);
SQL
caught_up('changed');

# Rows of batches: each is found by its two columns, because the key of one column is
# generated, and is not replicated before PostgreSQL 18.  Sequences are not replicated.
$subscriber->safe_psql('db', q{SELECT setval('poser_batch_id_seq', 1000)});
$publisher->safe_psql('db', <<'SQL');
INSERT INTO poser_batch (uuid, target, key) VALUES ('replicated', 'poser_widget', '{uuid}');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new)
SELECT 'replicated', n, jsonb_build_object('uuid', n), '{}' FROM generate_series(1, 9) n;
UPDATE poser_batch_row SET new = '{"description": "edited"}' WHERE row_id = 'replicated.3';
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'replicated' AND sequence IN (4, 5);
UPDATE poser_batch_row SET sequence = sequence + 100 WHERE batch_uuid = 'replicated' AND sequence IN (5, 6);
DELETE FROM poser_batch_row WHERE row_id IN ('replicated.7', 'replicated.106');
SQL
caught_up('a batch');
is($subscriber->safe_psql('db', <<'SQL'), <<'EOF' =~ s/\n\z//r, 'changed and deleted rows of a batch arrive');
SELECT row_count, (SELECT count(*) FROM poser_batch_row WHERE batch_uuid = uuid) FROM poser_batch WHERE uuid = 'replicated';
SELECT row_id, removed, new FROM poser_batch_row WHERE batch_uuid = 'replicated' ORDER BY sequence;
SQL
5|7
replicated.1|f|{}
replicated.2|f|{}
replicated.3|f|{"description": "edited"}
replicated.4|t|{}
replicated.8|f|{}
replicated.9|f|{}
replicated.105|t|{}
EOF
$publisher->safe_psql('db', q{DELETE FROM poser_batch WHERE uuid = 'replicated'});
caught_up('the batch is gone');
consumers_go_on($publisher, 'db', 'publisher');
caught_up('consumed');
$worker->finish;
is($worker->full_result(0) || $worker_trouble, '', 'the worker of the subscriber\'s consumer has not failed');
arrived_exact('consumed');
cmp_ok($publisher->safe_psql('db', q{SELECT poser_prune_versions('0')}), '>', 0, 'the publisher prunes');
make_deltas($publisher, 'db');
$publisher->safe_psql('db', "COMMIT PREPARED 'db_1'; ROLLBACK PREPARED 'db_2'");
caught_up('pruned');
$publisher->safe_psql('db', 'TRUNCATE poser_component');
caught_up('truncated');
$publisher->safe_psql('db', q{SELECT poser_widget_revert('r1', (SELECT max(transaction_id)
	FROM poser_component_version WHERE operation_type <> 2), true)});
caught_up('gone back');
cmp_ok($subscriber->safe_psql('db', 'SELECT count(*) FROM poser_component'),
	'>', 0, 'components are inserted again');
$publisher->safe_psql('db', 'TRUNCATE poser_widget, poser_component');
$publisher->safe_psql('db', q{INSERT INTO poser_widget (uuid, description)
	SELECT 'after ' || n, '' FROM generate_series(1, 3) n});
caught_up('begun anew');
arrived_exact('begun anew');
is( $subscriber->safe_psql('db', q{SELECT max(username) FROM poser_widget_history('r1', true)}),
	$publisher->safe_psql('db', q{SELECT max(username) FROM poser_widget_history('r1', true)}),
	'the subscriber answers as the publisher');

# A writer's session has found that no consumer asks for NOTIFY.  It notices a consumer
# that is inserted or changed by replication.
create_database($_, 'other') foreach $publisher, $subscriber;
$publisher->safe_psql('other', 'CREATE PUBLICATION other FOR TABLE poser_datasync_consumer');
$subscriber->safe_psql('other', "CREATE SUBSCRIPTION other CONNECTION '"
	  . $publisher->connstr . " dbname=other user=postgres' PUBLICATION other");
$subscriber->wait_for_subscription_sync($publisher, 'other', 'other');
my ($writer, $listener) = map { $subscriber->background_psql('other') } 1 .. 2;
$listener->query_safe('LISTEN poser_datasync');
foreach (
	[ q{SELECT 'nothing'}, 'no consumer asks', 0 ],
	[ q{SELECT poser_datasync_add('c', notify => true)}, 'a consumer that asks for NOTIFY is inserted', 1 ],
	[ q{UPDATE poser_datasync_consumer SET notify = false}, 'the consumer no longer asks', 0 ],
	[ q{UPDATE poser_datasync_consumer SET notify = true}, 'the consumer asks again', 1 ])
{
	my ($sql, $name, $notified) = @$_;
	$publisher->safe_psql('other', $sql);
	$publisher->wait_for_catchup('other');
	$writer->query_safe(q{INSERT INTO poser_widget (description) VALUES ('')});
	my $heard = $listener->query('SELECT pg_sleep(0.2)') =~ /notification "poser_datasync"/ ? 1 : 0;
	is($heard, $notified, "replicated: $name");
}
$_->quit foreach $writer, $listener;
$subscriber->safe_psql('other', 'DROP SUBSCRIPTION other');

# The subscriber takes over.  This one statement is from the manual.
my $ids = contents($publisher, 'db', no_sequence => 1);
$publisher->stop;
$subscriber->safe_psql('db', <<'SQL');
ALTER SUBSCRIPTION sub DISABLE;
ALTER SUBSCRIPTION sub SET (slot_name = NONE);
DROP SUBSCRIPTION sub;
SQL
like($subscriber->safe_psql('db', 'SELECT * FROM poser_check()'),
	qr/\Asequence poser_change_id_seq\|is behind: \d+ is in use(\nconsumer \w+\|is at change \d+, which is yet to come){4}\z/,
	'no subscriber any more: poser_check() finds the sequence behind, also behind consumers, and nothing else');
$subscriber->safe_psql('db', q{SELECT setval('given_n_seq', max(n)) FROM given});
$subscriber->safe_psql('db', <<'SQL');
SELECT setval('poser_change_id_seq',
              greatest(1, (SELECT max(id) FROM poser_transaction),
                       (SELECT max(change_id) FROM poser_widget_version),
                       (SELECT max(change_id) FROM poser_component_version)));
SQL
$subscriber->safe_psql('db', q{SELECT poser_datasync_drop('local')});
same_contents(contents($subscriber, 'db', no_sequence => 1), $ids, 'no change is lost');
counts_exact($subscriber, 'db', 'taken over', widgets => 3);
history_exact($subscriber, 'db', 'taken over', versions => 20);
history_goes_on($subscriber, 'db', 'taken over');
consumers_go_on($subscriber, 'db', 'taken over', twice => 1, attempts => 0);
cmp_ok(
	$subscriber->safe_psql('db', q{SELECT poser_widget_revert('r1', (SELECT max(transaction_id)
		FROM poser_component_version WHERE operation_type <> 2 AND widget_uuid = 'r1'), true)}),
	'>', 1, 'a deleted widget of the publisher\'s is reverted');
counts_exact($subscriber, 'db', 'goes on', widgets => 4);
history_exact($subscriber, 'db', 'goes on', versions => 25);

done_testing();
