# Consumers on servers that fail.  What was confirmed stays confirmed, and what was not
# comes again: after crashes, prepared transactions, a failover and a dump.  Long
# transactions delay only their own changes.  LISTEN hears of each transaction once.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

# What a consumer gets twice after a restore depends on the transactions that ran when
# its position was taken.  Here none runs, not even autovacuum.
my $node = new_node('primary', allows_streaming => 1, conf => "max_connections = 40\nautovacuum = off");
$node->safe_psql('postgres', 'CREATE ROLE clerk LOGIN');

# A client that stores what it gets in the same database.  take() stores and confirms
# the first changes of a chunk.  drain() takes all there is, chunk by chunk, and returns
# the number.  work() is a handler, which stores what "worker" gets.
use constant CLIENT => <<'EOF';
CREATE TABLE received (n bigint GENERATED ALWAYS AS IDENTITY, consumer name, change_id bigint,
	payload_type name, payload_key text, deletion boolean, payload jsonb);
CREATE TABLE broken (what text);
CREATE FUNCTION take(consumer name, chunk integer, keep integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	taken bigint;
	last bigint;
BEGIN
	WITH kept AS (
		INSERT INTO received (consumer, change_id, payload_type, payload_key, deletion, payload)
		SELECT take.consumer, c.change_id, c.payload_type, c.payload_key, c.deletion, c.payload
		FROM poser_datasync_changes(take.consumer, chunk) WITH ORDINALITY c WHERE ordinality <= keep
		RETURNING received.change_id)
	SELECT count(*), max(change_id) INTO taken, last FROM kept;
	PERFORM poser_datasync_confirm(consumer, last);
	RETURN taken;
END
$$;
CREATE FUNCTION drain(consumer name, chunk integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	taken bigint;
	total bigint = 0;
BEGIN
	LOOP
		taken = take(consumer, chunk, chunk);
		EXIT WHEN taken = 0;
		total = total + taken;
	END LOOP;
	RETURN total;
END
$$;
CREATE FUNCTION work(change poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM broken WHERE change.payload->>'description' = what) THEN
		RAISE EXCEPTION 'broken at %', change.payload->>'description';
	END IF;
	INSERT INTO received (consumer, change_id, payload_type, payload_key, deletion, payload)
	VALUES ('worker', change.change_id, change.payload_type, change.payload_key, change.deletion, change.payload);
END
$$;
GRANT INSERT ON received TO clerk;
GRANT SELECT ON broken TO clerk;
EOF

sub make_database
{
	my ($dbname) = @_;

	create_database($node, $dbname);
	$node->safe_psql($dbname, CLIENT);
	return;
}

# The next changes for a consumer: all of them, and their rows' keys.
sub changes
{
	my ($server, $dbname, $consumer, $max) = @_;
	return $server->safe_psql($dbname, "SELECT * FROM poser_datasync_changes('$consumer', $max)");
}

sub keys_of
{
	my ($server, $dbname, $consumer) = @_;
	return $server->safe_psql($dbname,
		"SELECT string_agg(payload_key, ' ') FROM poser_datasync_changes('$consumer')");
}

sub drain
{
	my ($server, $dbname, $consumer, $chunk) = @_;
	return $server->safe_psql($dbname, "SELECT drain('$consumer', $chunk)");
}

sub insert_widget
{
	my ($dbname, $uuid) = @_;
	$node->safe_psql($dbname, "INSERT INTO poser_widget (uuid, description) VALUES ('$uuid', '')");
	return;
}

# Each change of the history, as a consumer gets it.
my $versions = <<'EOF';
SELECT change_id, 'poser_widget' AS payload_type, uuid AS payload_key, operation_type = 2 AS deletion,
	to_jsonb(v) - ARRAY['operation_type', 'transaction_id', 'change_id'] AS payload
FROM poser_widget_version v
UNION ALL
SELECT change_id, 'poser_component', uuid, operation_type = 2,
	to_jsonb(v) - ARRAY['operation_type', 'transaction_id', 'change_id']
FROM poser_component_version v
EOF

# A test: a consumer has got each change of the history that it has not skipped, and
# nothing else; the changes of each row in order; none twice.  With "twice", changes may
# have come both before and after row "mark" of what it has stored.  The last change of
# each row makes a copy of the tables.
sub received_exact
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($server, $dbname, $consumer, $name, %params) = @_;
	my $mark = $params{mark} // 0;
	my $twice = $params{twice} ? ', later' : '';
	my $result = $server->safe_psql($dbname, <<"EOF");
WITH version AS (
$versions), live AS (
	SELECT 'poser_widget' AS payload_type, uuid AS payload_key, to_jsonb(w) AS payload FROM poser_widget w
	UNION ALL
	SELECT 'poser_component', uuid, to_jsonb(c) FROM poser_component c
), got AS (
	SELECT *, n > $mark AS later FROM received WHERE consumer = '$consumer'
), copy AS (
	SELECT payload_type, payload_key, payload
	FROM (SELECT DISTINCT ON (payload_type, payload_key) * FROM got
		  ORDER BY payload_type, payload_key, n DESC) g
	WHERE NOT deletion
)
SELECT 'nothing was received' WHERE NOT EXISTS (SELECT FROM got)
UNION ALL
SELECT format('change %s is lost', change_id) FROM version v
WHERE NOT EXISTS (SELECT FROM got WHERE got.change_id = v.change_id)
	AND NOT EXISTS (SELECT FROM poser_datasync_skipped s
		WHERE s.consumer = '$consumer' AND s.change_id = v.change_id)
UNION ALL
SELECT format('change %s is %s, was received as %s', change_id, v, g)
FROM got g LEFT JOIN version v USING (change_id)
WHERE (g.payload_type::text, g.payload_key, g.deletion, g.payload)
	IS DISTINCT FROM (v.payload_type, v.payload_key, v.deletion, v.payload)
UNION ALL
SELECT format('change %s came %s times', change_id, count(*))
FROM got GROUP BY change_id$twice HAVING count(*) > 1
UNION ALL
SELECT format('change %s came after %s', change_id, before)
FROM (SELECT change_id, lag(change_id) OVER (PARTITION BY payload_type, payload_key, later ORDER BY n) AS before
	  FROM got) g
WHERE before >= change_id
UNION ALL
SELECT format('the copy lacks %s', l) FROM (SELECT * FROM live EXCEPT ALL SELECT * FROM copy) l
UNION ALL
SELECT format('the copy has %s', c) FROM (SELECT * FROM copy EXCEPT ALL SELECT * FROM live) c
LIMIT 10
EOF
	is($result, '', "$name: $consumer has been given each change, and its copy is exact");
	return;
}

#
# Crashes
#
make_database('crash');
$node->safe_psql('crash', <<'EOF');
SELECT poser_datasync_add(c, 'beginning') FROM unnest('{half,open,all}'::name[]) c;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, 'Widget' FROM generate_series(1, 10) n;
BEGIN;
UPDATE poser_widget SET active = false WHERE uuid IN ('w1', 'w2');
SAVEPOINT s;
UPDATE poser_widget SET description = 'Nothing';
ROLLBACK TO s;
DELETE FROM poser_widget WHERE uuid = 'w3';
COMMIT;
EOF
my $status = q{SELECT consumer, pending, oldest, last_confirmed_at FROM poser_datasync_status ORDER BY 1};
is(drain($node, 'crash', 'all', 4), 13, 'a consumer has confirmed all');
is($node->safe_psql('crash', q{SELECT take('half', 8, 5)}), 5, 'five of eight changes are confirmed');
my $delivered = changes($node, 'crash', 'half', 8);
like($delivered, qr/\A\d+\|.*\|w6\|.*(\n.*){7}\z/, 'the next eight begin with the sixth');
my $first = changes($node, 'crash', 'open', 3);
my $session = $node->background_psql('crash');
$session->query_safe(q{BEGIN; SELECT take('open', 3, 3)});
$node->safe_psql('crash', 'CHECKPOINT');
my $before = $node->safe_psql('crash', $status);
$node->stop('immediate');
$session->quit;
$node->start;
is($node->safe_psql('crash', $status), $before, 'a crash does not move a consumer');
is(changes($node, 'crash', 'half', 8), $delivered, 'after a crash, delivered changes that were not confirmed come again');
is(changes($node, 'crash', 'open', 3), $first, 'after a crash, changes confirmed by a lost transaction come again');
is(drain($node, 'crash', 'all', 4), 0, 'after a crash, confirmed changes do not come again');
$node->safe_psql('crash', q{SELECT take('half', 2, 1)});
$node->stop('immediate');
$node->start;
is(changes($node, 'crash', 'half', 8), $delivered =~ s/\A.*\n//r, 'confirmed right before a crash is confirmed');
drain($node, 'crash', 'half', 3);
drain($node, 'crash', 'open', 100);
received_exact($node, 'crash', $_, 'crash at rest') foreach qw(half open all);

my $script = pgbench_file('load', <<'EOF');
\set w random(1, 2)
\set n random(1, 20)
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES (:client_id || ' ' || :n, 'w' || :w, :n::text, 'Part') ON CONFLICT (uuid) DO UPDATE SET active = NOT poser_component.active;
SAVEPOINT s;
DELETE FROM poser_component WHERE uuid = :client_id || ' ' || :n;
ROLLBACK TO s;
UPDATE poser_component SET description = 'Changed ' || :w WHERE uuid = :client_id || ' ' || :n;
PREPARE TRANSACTION 'load :client_id';
COMMIT PREPARED 'load :client_id';
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w' || :w, :n::text, 'Not to be');
ROLLBACK;
DELETE FROM poser_component WHERE uuid = :client_id || ' ' || (21 - :n);
EOF

# The postmaster and all its processes are killed under load.  Half of a window was
# confirmed.
foreach my $round (1, 2)
{
	my $load = IPC::Run::start(
		[ 'pgbench', '--no-vacuum', '-c', 8, '-j', 2, '-T', 600, '--file', $script, $node->connstr('crash') ],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
	my $drained = 0;
	$drained += drain($node, 'crash', 'half', 50) while $drained < 1000;
	my $more;
	do
	{
		drain($node, 'crash', 'half', 50);
		$more = $node->safe_psql('crash', q{SELECT take('half', 20, 10)});
	} until $more == 10 && ($delivered = changes($node, 'crash', 'half', 10000)) ne '';

	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @pids = ($postmaster,
		split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'));
	my $offset = -s $node->logfile;
	$node->kill9;
	kill 'KILL', @pids;
	$load->finish;
	foreach (1 .. 1800)
	{
		last unless kill 0, @pids;
		select undef, undef, undef, 0.1;
	}
	$node->start;
	like(slurp_file($node->logfile, $offset), qr/not properly shut down.*redo (?:done|is not required)/s,
		"killed server $round: it has recovered");
	is(changes($node, 'crash', 'half', 10000), $delivered, "killed server $round: delivered changes that were not confirmed come again");
	$node->safe_psql('crash', q{SELECT format('COMMIT PREPARED %L', gid) FROM pg_prepared_xacts \gexec});
	drain($node, 'crash', 'half', 1000);
	drain($node, 'crash', 'all', 10000) if $round == 2;
	received_exact($node, 'crash', 'half', "killed server $round");
}
received_exact($node, 'crash', 'all', 'killed servers');
counts_exact($node, 'crash', 'killed servers', widgets => 9);

#
# Prepared transactions
#
make_database('prepared');
$node->safe_psql('prepared', q{SELECT poser_datasync_add(c) FROM unnest('{c,other}'::name[]) c});
insert_widget('prepared', 'earlier');
my $writer = $node->background_psql('prepared');
$writer->query_safe(q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('first', '')});
insert_widget('prepared', 'between');
$writer->query_safe(q{INSERT INTO poser_widget (uuid, description) VALUES ('second', ''); PREPARE TRANSACTION 'held'});
$writer->quit;
insert_widget('prepared', 'later');
is(keys_of($node, 'prepared', 'c'), 'earlier between later', 'changes of a prepared transaction do not come, others do');
is(drain($node, 'prepared', 'c', 2), 3, 'changes after those of a prepared transaction can be confirmed');
is($node->safe_psql('prepared', q{SELECT pending FROM poser_datasync_status WHERE consumer = 'c'}), 0, 'a prepared transaction\'s changes are not pending');
$node->stop('immediate');
$node->start;
is(keys_of($node, 'prepared', 'c'), '', 'after a crash, changes of a prepared transaction do not come');
insert_widget('prepared', 'latest');
is(keys_of($node, 'prepared', 'c'), 'latest', 'after a crash, later changes come');
$node->safe_psql('prepared', q{COMMIT PREPARED 'held'; UPDATE poser_widget SET active = false WHERE uuid = 'first'});
is(keys_of($node, 'prepared', 'c'), 'latest', 'what was delivered does not become another for COMMIT PREPARED');
is(drain($node, 'prepared', 'c', 1), 4, 'after COMMIT PREPARED its changes come next');
is( $node->safe_psql('prepared', q{SELECT string_agg(payload_key, ' ' ORDER BY n) FROM received}),
	'earlier between later latest first second first', 'its changes come in their order');
is(keys_of($node, 'prepared', 'other'), 'earlier first between second later latest first',
	'another consumer gets all changes in the order of their ids');
received_exact($node, 'prepared', 'c', 'COMMIT PREPARED');

$node->safe_psql('prepared', q{BEGIN; DELETE FROM poser_widget; PREPARE TRANSACTION 'held'});
insert_widget('prepared', 'after');
is(drain($node, 'prepared', 'c', 1), 1, 'changes come while another transaction is prepared');
$node->safe_psql('prepared', q{ROLLBACK PREPARED 'held'});
is(keys_of($node, 'prepared', 'c'), '', 'ROLLBACK PREPARED: none of its changes comes');

# A consumer's own prepared transaction.
$node->safe_psql('prepared', q{UPDATE poser_widget SET active = NOT active WHERE uuid IN ('first', 'second', 'after')});
$delivered = changes($node, 'prepared', 'c', 10);
foreach my $end ('ROLLBACK', 'COMMIT')
{
	$node->safe_psql('prepared', <<'EOF');
BEGIN;
SELECT take('c', 2, 2);
PREPARE TRANSACTION 'consumer';
EOF
	foreach my $restarted ('', ', after a crash')
	{
		my ($rc, $stdout, $stderr) = $node->psql('prepared',
			"\\set VERBOSITY verbose\nSELECT * FROM poser_datasync_changes('c')");
		like($stderr, qr/ERROR:  55P03: .*^HINT:  /ms, "prepared by a consumer$restarted: no other worker can work for it");
		fails_as($node, 'prepared', 'postgres', '55P03', "SELECT poser_datasync_$_",
			"prepared by a consumer$restarted, poser_datasync_$_")
		  foreach q{confirm('c', 1)}, q{run('c')}, q{skip('c', 1, 'why')}, q{drop('c')};
		is($node->safe_psql('prepared', q{SELECT pending FROM poser_datasync_status WHERE consumer = 'c'}), 3,
			"prepared by a consumer$restarted: the status is as before");
		is(keys_of($node, 'prepared', 'other') =~ s/ .*//r, 'earlier', "prepared by a consumer$restarted: another consumer works");
		if (!$restarted)
		{
			$node->stop('immediate');
			$node->start;
		}
	}
	$node->safe_psql('prepared', "$end PREPARED 'consumer'");
	is(changes($node, 'prepared', 'c', 10),
		$end eq 'COMMIT' ? $delivered =~ s/\A(?:.*\n){2}//r : $delivered, "$end PREPARED: the consumer goes on from there");
}
drain($node, 'prepared', $_, 3) foreach 'c', 'other';
received_exact($node, 'prepared', $_, 'prepared by a consumer') foreach 'c', 'other';

#
# Long transactions
#
make_database('long');
create_database($node, 'neighbour');
$node->safe_psql('long', q{SELECT poser_datasync_add('c')});
my $elsewhere = $node->background_psql('neighbour');
$elsewhere->query_safe(q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('long', '')});
$node->safe_psql('neighbour', q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('prepared', '');
	PREPARE TRANSACTION 'elsewhere'});
my ($reader, $here, $younger) = map { $node->background_psql('long') } 1 .. 3;
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM poser_widget');
insert_widget('long', 'a');
is(drain($node, 'long', 'c', 1), 1, 'transactions in another database and readers delay no change');
$here->query_safe(q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('long', '')});
insert_widget('long', 'b');
is(drain($node, 'long', 'c', 1), 1, 'an open transaction in the same database delays no change of others');
$here->query_safe(q{UPDATE poser_widget SET active = false WHERE uuid IN ('a', 'long')});
insert_widget('long', 'c');
is(drain($node, 'long', 'c', 1), 1, 'a long transaction delays no change of others');
$here->query_safe('COMMIT');
is(keys_of($node, 'long', 'c'), 'long a long', 'a long transaction\'s changes come after its commit');
drain($node, 'long', 'c', 1);

# The youngest of three transactions makes a row, the oldest changes it, and only the
# third one is still open.
$here->query_safe('BEGIN; SELECT pg_current_xact_id()');
$younger->query_safe('BEGIN; SELECT pg_current_xact_id()');
insert_widget('long', 'row');
$here->query_safe(q{UPDATE poser_widget SET description = 'Changed' WHERE uuid = 'row'; COMMIT});
is(keys_of($node, 'long', 'c'), 'row row', 'the change of an older transaction comes after the change that it has seen');
drain($node, 'long', 'c', 1);
$younger->query_safe(q{UPDATE poser_widget SET description = 'Changed again' WHERE uuid = 'row'; COMMIT});
is(drain($node, 'long', 'c', 1), 1, 'one more change comes after both');
received_exact($node, 'long', 'c', 'long transactions');
$elsewhere->query_safe('COMMIT');
$node->safe_psql('neighbour', q{COMMIT PREPARED 'elsewhere'});
$_->quit foreach $elsewhere, $reader, $here, $younger;

#
# Many transactions
#

# Their rows are read ahead, and more of them than are kept.  The changes of a long
# transaction lie between those of many others, and so do changes that are rolled back.
make_database('many');
$node->safe_psql('many', q{SELECT poser_datasync_add('c')});
my $wide = $node->background_psql('many');
$wide->query_safe(q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('wide', '')});
foreach my $n (1 .. 3)
{
	$node->safe_psql('many', <<"EOF");
DO \$\$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		PERFORM set_config('poser.runas', 'user ' || i / 3, false);
		INSERT INTO poser_widget (uuid, description) VALUES ($n || ' ' || i, repeat('x', i % 200));
		IF i % 10 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
	END LOOP;
END
\$\$
EOF
	$wide->query_safe(qq{UPDATE poser_widget SET description = '$n' WHERE uuid = 'wide'});
	next unless $n == 1;
	is(drain($node, 'many', 'c', 500), 900, 'a part is delivered');
	$node->safe_psql('many', q{SELECT poser_datasync_add('half')});
}
$wide->query_safe('COMMIT');
$node->safe_psql('many', q{DELETE FROM poser_widget WHERE uuid IN ('wide', '2 7')});
is($node->safe_psql('many', <<'EOF'), 't', 'each change has the time and the user of its transaction');
SELECT bool_and(t.issued_at = c.issued_at AND t.username = c.username)
FROM poser_datasync_changes('c', 100000) AS c LEFT JOIN poser_transaction AS t ON t.id = c.transaction_id
EOF

is(drain($node, 'many', 'c', 700), 1806, 'the rest is delivered');
received_exact($node, 'many', 'c', 'many transactions');

# Pruning stops at the first transaction that a consumer needs, and does not read the others for this.
$node->safe_psql('many', q{SELECT poser_datasync_add('behind', 'beginning')});
foreach my $consumer ('behind', 'half')
{
	is($node->safe_psql('many', <<'EOF'), 't', "$consumer: pruning reads few of the pending changes");
CREATE TEMPORARY TABLE n AS SELECT 0::bigint AS before, 0::bigint AS after;
BEGIN;
UPDATE n SET before = pg_stat_get_xact_tuples_returned('poser_widget_version_pkey'::regclass)
	+ pg_stat_get_xact_tuples_returned('poser_widget_version'::regclass);
DO $$BEGIN PERFORM poser_prune_versions('0', 1); END$$;
UPDATE n SET after = pg_stat_get_xact_tuples_returned('poser_widget_version_pkey'::regclass)
	+ pg_stat_get_xact_tuples_returned('poser_widget_version'::regclass);
COMMIT;
SELECT after - before < 500 FROM n;
EOF
	$node->safe_psql('many', "SELECT poser_datasync_drop('$consumer')");
}
$wide->quit;

#
# Polls beside long transactions
#
make_database('polls');
$node->safe_psql('polls', <<'EOF');
CREATE FUNCTION scans(consumer name) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	before bigint := pg_stat_get_xact_numscans('poser_transaction_idx_xact'::regclass);
BEGIN
	PERFORM FROM poser_datasync_changes(consumer);
	RETURN pg_stat_get_xact_numscans('poser_transaction_idx_xact'::regclass) - before;
END
$$;
SELECT poser_datasync_add('c');
EOF
sub prepare
{
	my ($name, $statement) = @_;
	$node->safe_psql('polls', "BEGIN; $statement; PREPARE TRANSACTION '$name'");
	return;
}

# The transactions run when the position is taken: one writes, the others do not.
prepare('writer', q{INSERT INTO poser_widget (uuid, description) VALUES ('before', '')});
prepare("long $_", 'SELECT pg_current_xact_id()') foreach 1 .. 6;
insert_widget('polls', 'first');
is(drain($node, 'polls', 'c', 1), 1, 'they delay no change');
my $poller = $node->background_psql('polls');
my $poll = q{SELECT string_agg(payload_key, ' ') FROM poser_datasync_changes('c')};
is($poller->query_safe(q{SELECT scans('c')}), 1, 'a poll does not look up transactions that are running');
is($poller->query_safe(q{SELECT scans('c')}), 1, 'nor does the next one');
prepare('later writer', q{INSERT INTO poser_widget (uuid, description) VALUES ('after', '')});
is($poller->query_safe($poll), '', 'nothing is new');

# Each one that ends is looked up once by the session, and nothing is written for it.
$node->safe_psql('polls', "COMMIT PREPARED 'long $_'") foreach 1 .. 5;
my $position = $node->safe_psql('polls', 'SELECT ctid, from_snapshot FROM poser_datasync_consumer');
cmp_ok($poller->query_safe(q{SELECT scans('c')}), '>', 1, 'those that have ended are looked up');
is($poller->query_safe(q{SELECT scans('c')}), 1, 'and only once');
is($node->safe_psql('polls', 'SELECT ctid, from_snapshot FROM poser_datasync_consumer'), $position, 'a poll with nothing new writes nothing');

# What was running then is found when it ends, in whatever order, by old sessions and by new ones.
$node->safe_psql('polls', q{ROLLBACK PREPARED 'long 6'});
is($poller->query_safe($poll), '', 'nothing comes of a transaction that wrote nothing');
$node->safe_psql('polls', q{COMMIT PREPARED 'writer'});
is($poller->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"), 1, 'a snapshot is taken');
$node->safe_psql('polls', q{COMMIT PREPARED 'later writer'});
is($poller->query_safe($poll), 'before', 'an older snapshot has the changes of the first writer');
is($poller->query_safe("ROLLBACK; $poll"), 'before after', 'and a newer one those of both');
is($node->safe_psql('polls', $poll), 'before after', 'another session gets the same');
is(drain($node, 'polls', 'c', 1), 2, 'both are confirmed');
is($poller->query_safe($poll), '', 'and the session gets them no more');

# A session remembers what it has polled for each consumer.
$node->safe_psql('polls', 'SELECT poser_datasync_add(name) FROM unnest(ARRAY[' . join(',', map { "'c$_'" } 1 .. 10) . ']::name[]) AS name');
foreach my $n (1 .. 3)
{
	$poller->query_safe("SELECT count(*) FROM poser_datasync_changes('c$_')") foreach 1 .. 10;
	insert_widget('polls', "row $n");
	is($poller->query_safe("SELECT string_agg(payload_key, ' ') FROM poser_datasync_changes('c$_')"), "row $n", "consumer $_ gets row $n") foreach 1 .. 10;
	$poller->query_safe("SELECT poser_datasync_confirm('c$_', (SELECT max(change_id) FROM poser_datasync_changes('c$_')))") foreach 1 .. 10;
}
drain($node, 'polls', 'c', 1);
received_exact($node, 'polls', 'c', 'polls');
$poller->quit;

#
# NOTIFY
#
make_database('notify');
my $listener = $node->background_psql('notify');
$listener->query_safe('LISTEN poser_datasync');
$writer = $node->background_psql('notify');
my $newest = 'SELECT max(id) FROM poser_transaction';
my $marks = 0;

# The payloads that the listener has got since the last call: all before a mark.
sub heard
{
	my $mark = 'mark ' . ++$marks;
	my $output = '';

	$node->safe_psql('notify', "NOTIFY poser_datasync, '$mark'");
	$output .= $listener->query('SELECT') . "\n" until $output =~ /"$mark"/;
	return join ' ', grep { $_ ne $mark } $output =~ /"poser_datasync" with payload "([^"]*)"/g;
}

# A test of what is heard after the writer, a session that has seen all earlier changes,
# has run this: the id of the newest transaction, or nothing.
sub hears
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($sql, $expected, $name) = @_;

	$writer->query_safe($sql);
	is(heard(), $expected ? $node->safe_psql('notify', $newest) : '', "NOTIFY: $name");
	return;
}

my $insert = q{INSERT INTO poser_widget (description) VALUES ('')};
hears($insert, 0, 'no consumer: no notification');
$node->safe_psql('notify', q{SELECT poser_datasync_add('quiet', notify => false)});
hears($insert, 0, 'a consumer that does not ask for it: no notification');
$node->safe_psql('notify', q{SELECT poser_datasync_add('alert', notify => true)});
hears($insert, 1, 'a consumer asks for it: a transaction notifies');
is($node->safe_psql('notify', q{SELECT max(transaction_id) FROM poser_datasync_changes('alert')}),
	$node->safe_psql('notify', $newest), 'NOTIFY: its changes come');
hears("BEGIN; $insert; $insert; UPDATE poser_widget SET active = NOT active; DELETE FROM poser_widget; COMMIT",
	1, 'a transaction notifies once for all its changes');
hears("BEGIN; SET LOCAL poser.runas = 'alice'; $insert; SET LOCAL poser.runas = 'bob'; $insert; COMMIT",
	1, 'a transaction in several names notifies once, of the newest');
is($node->safe_psql('notify', 'SELECT count(*) FROM poser_transaction GROUP BY xact ORDER BY xact::text::bigint DESC LIMIT 1'),
	2, 'NOTIFY: the transaction had two names');
hears("BEGIN; $insert; ROLLBACK", 0, 'a rollback notifies of nothing');
hears("BEGIN; SAVEPOINT s; $insert; ROLLBACK TO s; COMMIT", 0, 'a savepoint that was rolled back notifies of nothing');
hears("BEGIN; SET LOCAL poser.runas = 'alice'; $insert; SAVEPOINT s; SET LOCAL poser.runas = 'bob'; $insert; ROLLBACK TO s; COMMIT",
	1, 'the changes before a savepoint that was rolled back notify');
hears("BEGIN; SAVEPOINT s; $insert; RELEASE s; SAVEPOINT s; $insert; ROLLBACK TO s; COMMIT", 1, 'the changes in a released savepoint notify');
hears('CREATE TABLE mine AS SELECT 1', 0, 'other tables notify of nothing');
hears("BEGIN; $insert; PREPARE TRANSACTION 'notify'", 0, 'PREPARE TRANSACTION is possible');
hears(q{COMMIT PREPARED 'notify'}, 0, 'COMMIT PREPARED does not notify');
hears($insert, 1, 'the next transaction notifies');
$node->safe_psql('notify', q{SELECT poser_datasync_add('alarm', notify => true)});
hears($insert, 1, 'several consumers that ask for it: one notification');
$node->safe_psql('notify', q{UPDATE poser_datasync_consumer SET notify = false WHERE consumer = 'alert'});
hears($insert, 1, 'one consumer that still asks for it: a notification');
$node->safe_psql('notify', q{SELECT poser_datasync_drop('alarm')});
hears($insert, 0, 'no consumer asks for it any more: no notification');
$node->safe_psql('notify', q{UPDATE poser_datasync_consumer SET notify = true WHERE consumer = 'alert'});
hears($insert, 1, 'a consumer asks for it again: a notification');
drain($node, 'notify', $_, 5) foreach 'quiet', 'alert';
is(heard(), '', 'NOTIFY: consuming does not notify');
$_->quit foreach $listener, $writer;

#
# Dump and restore
#
make_database('source');
make_history($node, 'source', 'postgres');

# Changes of all kinds, to rows with names of their own.
sub write_some
{
	my ($server, $dbname, $tag) = @_;

	$server->safe_psql($dbname, <<"EOF");
SET poser.runas = 'writer of $tag';
INSERT INTO poser_widget (uuid, description) SELECT '$tag' || n, 'Made' FROM generate_series(1, 4) n;
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT '$tag' || n, '$tag' || n, E'a\\t\\\\' || n, '' FROM generate_series(1, 4) n;
UPDATE poser_widget SET description = 'Poison' WHERE uuid = '${tag}2';
SAVEPOINT s;
DELETE FROM poser_component WHERE uuid LIKE '$tag%';
ROLLBACK TO s;
DELETE FROM poser_component WHERE uuid = '${tag}3';
COMMIT;
UPDATE poser_widget SET description = 'Made again', active = false WHERE uuid = '${tag}2';
UPDATE poser_component SET uuid = '$tag moved', widget_uuid = '${tag}2' WHERE uuid = '${tag}1';
DELETE FROM poser_widget WHERE uuid IN ('${tag}1', '${tag}3');
BEGIN;
UPDATE poser_widget SET description = 'Not to be';
ROLLBACK;
EOF
	return;
}

my $written = 4 + 4 + 1 + 1 + 1 + 2 + 2;

# Consumers in all states: "never" has polled nothing; "half" has confirmed half of a
# window; "all" has confirmed all; "worker" has a handler that fails; "skipper" has
# skipped a change and goes on; "now" begins with a copy of the tables; "across" has
# confirmed a change that was made after one that it has not got.
$node->safe_psql('source', <<'EOF');
SELECT poser_datasync_add(c, 'beginning') FROM unnest('{never,half,all,skipper,across}'::name[]) c;
SELECT poser_datasync_add('worker', 'beginning', 'work(poser_change)', 'datasync', notify => true);
SELECT poser_datasync_grant('worker', 'clerk');
GRANT SELECT ON poser_datasync_status TO clerk;
INSERT INTO broken VALUES ('Poison');
SELECT take('half', 10, 5);
SELECT drain(c, 10) FROM unnest('{all,skipper,across}'::name[]) c;
EOF
lines_as($node, 'source', 'clerk', q{SELECT poser_datasync_run('worker')});
write_some($node, 'source', 'first');
$node->safe_psql('source', <<"EOF");
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT poser_datasync_add('now');
INSERT INTO received (consumer, change_id, payload_type, payload_key, deletion, payload)
SELECT 'now', * FROM ($versions) v ORDER BY change_id;
COMMIT;
SELECT poser_datasync_add('idle');
EOF
write_some($node, 'source', 'second');
lines_as($node, 'source', 'clerk', qq{SET client_min_messages = error;\nSELECT poser_datasync_run('worker', 7);\n} x 3);
my $poison = $node->safe_psql('source', <<'EOF');
SELECT take('skipper', 1000, (SELECT min(ordinality)::integer - 1
	FROM poser_datasync_changes('skipper', 1000) WITH ORDINALITY WHERE payload->>'description' = 'Poison')) \g /dev/null
SELECT change_id FROM poser_datasync_changes('skipper', 1);
EOF
$node->safe_psql('source', qq{SELECT poser_datasync_skip('skipper', $poison, E'it\\tis "poisonous", \\\\N');
	SELECT take('skipper', 5, 2)});

# The first session's change is later than the second's, and commits while the second
# is open.
my ($one, $two) = map { $node->background_psql('source') } 1, 2;
$one->query_safe('BEGIN; SELECT pg_current_xact_id()');
$two->query_safe(q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('two', 'Made before')});
$one->query_safe(q{INSERT INTO poser_widget (uuid, description) VALUES ('one', 'Made after'); COMMIT});
drain($node, 'source', 'across', 100);
$two->query_safe('COMMIT');
$_->quit foreach $one, $two;
is( $node->safe_psql('source', q{SELECT string_agg(payload_key, ' ') FROM received
	WHERE consumer = 'across' AND payload_key IN ('one', 'two')}),
	'one', 'a change is confirmed, and one before it is not');
drain($node, 'source', 'all', 10);
is(drain($node, 'source', 'all', 10), 0, 'no change comes without writers');
received_exact($node, 'source', 'all', 'before a dump');
my $consumers = q{SELECT consumer, handler, runas, notify, own_changes, roles FROM poser_datasync_consumer ORDER BY 1};
my $skipped = 'SELECT * FROM poser_datasync_skipped';
is($node->safe_psql('source', q{SELECT handler, attempts, last_error FROM poser_datasync_status WHERE consumer = 'worker'}),
	'public.work|2|broken at Poison', 'a handler has failed');
is($node->safe_psql('source', $skipped) =~ /^skipper\|$poison\|it\tis "poisonous", \\N\|/, 1, 'a change was skipped');

my $other = new_node('other');
$other->safe_psql('postgres', 'CREATE ROLE clerk LOGIN; CREATE ROLE writer LOGIN');
my $directory = PostgreSQL::Test::Utils::tempdir();
my %restore = (
	'psql' => [ [ '-f', "$directory/plain" ],
		sub { [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$directory/plain", $_[0] ] } ],
	'pg_restore -j 2' => [ [ '-Fc', '-f', "$directory/custom" ],
		sub { [ 'pg_restore', '-j', 2, '--exit-on-error', '-d', $_[0], "$directory/custom" ] } ],
	'--data-only' => [ [ '--data-only', '-f', "$directory/data" ],
		sub { [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$directory/data", $_[0] ] } ]);
foreach my $form (sort keys %restore)
{
	command_ok([ 'pg_dump', @{ $restore{$form}[0] }, $node->connstr('source') ], "pg_dump for $form");
}

# The dump's cluster has greater transaction ids than the dump, the other cluster has
# smaller ones.
foreach my $server ($node, $other)
{
	foreach my $form (sort keys %restore)
	{
		my $name = $server->name . ", $form";
		my $query = sub { $server->safe_psql('target', $_[0]) };

		$server->safe_psql('postgres', 'DROP DATABASE IF EXISTS target');
		if ($form eq '--data-only')
		{
			create_database($server, 'target');
			$server->safe_psql('target', CLIENT . 'GRANT SELECT ON poser_datasync_status TO clerk');
		}
		else
		{
			$server->safe_psql('postgres', 'CREATE DATABASE target TEMPLATE template0');
		}
		command_ok($restore{$form}[1]->($server->connstr('target')), "$name: restore");
		is($query->('SELECT * FROM poser_check()'), '', "$name: poser_check() finds nothing");
		is($query->($_), $node->safe_psql('source', $_), "$name: consumers are as they were")
		  foreach $consumers, $skipped;
		is( lines_as($server, 'target', 'clerk', q{SELECT pending > 0, attempts > 0, last_error
				FROM poser_datasync_status WHERE consumer = 'worker'}),
			't|t|broken at Poison', "$name: the status has its privileges and the handler's error");
		is($query->(q{SELECT string_agg(consumer, ' ' ORDER BY consumer) FROM poser_datasync_status WHERE pending = 0}),
			'all', "$name: a consumer without changes to get");
		is($query->(q{SELECT poser_prune_versions('0')}), 0, "$name: pruning keeps pending changes");

		my $mark = $query->('SELECT max(n) FROM received');
		is(drain($server, 'target', 'all', 10), 0, "$name: a consumer that has confirmed all gets nothing");
		is(drain($server, 'target', 'idle', 10), $written + 2, "$name: a consumer that began later gets what came after that");
		drain($server, 'target', $_, 10) foreach qw(never half skipper across now);
		fails_as($server, 'target', 'clerk', '42501', q{SELECT * FROM poser_datasync_changes('never')},
			"$name: a role without a grant on the consumer");
		$query->('DELETE FROM broken');
		is(lines_as($server, 'target', 'clerk', q{SELECT poser_datasync_run('worker', 100000)}),
			$query->(qq{SELECT count(*) FROM received WHERE consumer = 'worker' AND n > $mark}),
			"$name: the handler goes on, for the role with a grant");
		received_exact($server, 'target', $_, $name, mark => $mark, twice => 1)
		  foreach qw(never half all skipper across now worker);
		is( $query->(q{SELECT count(*), max(last_error), max(attempts) FROM poser_datasync_status WHERE pending > 0}),
			'0||', "$name: no consumer has anything left to do");
		is($query->(q{SELECT max(attempts), count(last_error) FROM poser_datasync_status}), '0|0', "$name: no consumer has an error");

		# From here on everything is as usual.
		$mark = $query->('SELECT max(n) FROM received');
		write_some($server, 'target', 'third');
		is(drain($server, 'target', $_, 4), $written, "$name: $_ gets new changes once")
		  foreach qw(never half all skipper across now idle);
		is($query->(q{SELECT poser_datasync_run('worker')}), $written, "$name: worker, too");
		received_exact($server, 'target', $_, "$name, written to", mark => $mark, twice => 1)
		  foreach qw(never all now worker);
		counts_exact($server, 'target', $name, widgets => 5);
		history_exact($server, 'target', $name, versions => 3 * $written);
		cmp_ok($query->(q{SELECT poser_prune_versions('0')}), '>', 0, "$name: no consumer holds pruning back");
	}
}

#
# Failover
#
make_database('failover');
$node->safe_psql('failover', q{SELECT poser_datasync_add(c, 'beginning') FROM unnest('{half,never,all}'::name[]) c;
	SELECT poser_datasync_add('worker', 'beginning', 'work(poser_change)');
	INSERT INTO broken VALUES ('Poison')});
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;

write_some($node, 'failover', 'first');
drain($node, 'failover', 'all', 100);
$node->safe_psql('failover', q{SET client_min_messages = error; SELECT poser_datasync_run('worker'); SELECT take('half', 10, 4)});
$writer = $node->background_psql('failover');
$writer->query_safe(q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('lost', '')});
$node->safe_psql('failover', q{BEGIN; INSERT INTO poser_widget (uuid, description) VALUES ('prepared', '');
	PREPARE TRANSACTION 'failover'});
write_some($node, 'failover', 'second');
is(drain($node, 'failover', 'all', 100), $written, 'changes come while one transaction is open and another is prepared');
$delivered = changes($node, 'failover', 'half', 1000);

$node->wait_for_catchup($standby);
$status = q{SELECT consumer, handler, notify, pending, oldest, stale, holds_pruning, last_confirmed_at, attempts,
	last_error, last_failed_at, failed_change_id FROM poser_datasync_status ORDER BY 1};
is($standby->safe_psql('failover', $status), $node->safe_psql('failover', $status), 'the status can be read on a standby');
is($standby->safe_psql('failover', q{SELECT * FROM poser_datasync_stale('0')}), "half\nnever\nworker",
	'stale consumers can be read on a standby');
foreach (
	[ 'changes', q{('half')} ],
	[ 'confirm', q{('half', 1)} ],
	[ 'run',     q{('worker')} ],
	[ 'skip',    q{('half', 1, 'why')} ],
	[ 'add',     q{('new')} ],
	[ 'drop',    q{('half')} ],
	[ 'grant',   q{('half', 'clerk')} ],
	[ 'revoke',  q{('half', 'clerk')} ])
{
	my ($function, $arguments) = @$_;
	my ($rc, $stdout, $stderr) = $standby->psql('failover',
		"\\set VERBOSITY verbose\nSELECT poser_datasync_$function$arguments");

	like($stderr, qr/ERROR:  25006: cannot execute poser_datasync_$function\(\) (?:in a read-only transaction|during recovery)$/m,
		"poser_datasync_$function() on a standby fails with a clear message");
}

$node->stop('immediate');
eval { $writer->quit };
$standby->promote;
is(changes($standby, 'failover', 'half', 1000), $delivered, 'promoted: delivered changes that were not confirmed come again');
is(drain($standby, 'failover', 'all', 100), 0, 'promoted: confirmed changes do not come again');
is(drain($standby, 'failover', 'half', 3), 2 * $written - 4, 'promoted: the rest of a window comes, and the next window');
$standby->safe_psql('failover', q{COMMIT PREPARED 'failover'; DELETE FROM broken});
is(drain($standby, 'failover', $_, 5), 1, "promoted: $_ gets the prepared transaction's changes") foreach 'half', 'all';
is(drain($standby, 'failover', 'never', 5), 1 + 2 * $written, 'promoted: "never" gets all changes');
cmp_ok($standby->safe_psql('failover', q{SELECT poser_datasync_run('worker')}), '>', $written, 'promoted: the handler goes on');
write_some($standby, 'failover', 'third');
is(drain($standby, 'failover', $_, 5), $written, "promoted: $_ gets new changes") foreach qw(half all never);
is($standby->safe_psql('failover', q{SELECT poser_datasync_run('worker')}), $written, 'worker, too');
received_exact($standby, 'failover', $_, 'promoted') foreach qw(half all never worker);
is($standby->safe_psql('failover', q{SELECT count(*) FROM received WHERE payload_key = 'lost'}), 0, 'promoted: no change of the lost transaction comes');
counts_exact($standby, 'failover', 'promoted', widgets => 5);
history_exact($standby, 'failover', 'promoted', versions => 3 * $written);

done_testing();
