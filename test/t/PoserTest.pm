# Shared by the TAP tests: a cluster, statements as another role; a history, batches
# and consumers; the checks that most tests make: all counts are exact, and the history
# is what has happened; and a source with all of it, with the checks of a restore.

package PoserTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The superuser is called postgres, whatever the name of the system's user.
$ENV{PGUSER} = 'postgres';

our @EXPORT = qw(
  new_node create_database lines_as fails_as
  start_session sqlstate waits_for_lock pgbench_file
  counts_exact history_exact contents same_contents
  make_deltas make_history make_many_transactions history_goes_on make_batches batches_go_on
  make_consumers consumers_go_on
  make_source source_of new_target restored_exact config_tables
  MAINTAINED BATCH_TABLES CONSUMER_OBJECTS
);

# The maintained sums: settled row and deltas together.
use constant MAINTAINED => q{
	SELECT widget_uuid, sum(total) AS total, sum(active) AS active
	FROM (SELECT widget_uuid, total, active FROM poser_component_count
		  UNION ALL
		  SELECT widget_uuid, total, active FROM poser_component_count_delta) s
	GROUP BY widget_uuid};

# All ids in the tables that come from the one sequence.
use constant IDS => q{
	SELECT id FROM poser_transaction
	UNION ALL
	SELECT change_id FROM poser_widget_version
	UNION ALL
	SELECT change_id FROM poser_component_version};

# Target and source of batches, beside widgets and components.
use constant BATCH_TABLES => q{
	CREATE TABLE "batch ""target""" (id int, day date, price numeric(10,2), tags text[],
		PRIMARY KEY (day, id));
	CREATE TABLE batch_source (uuid varchar(32), description text);};

# What consumers have got, stored by a client (take_changes) and by a handler
# (keep_change).  given_from has the last change before a consumer that begins now.
use constant CONSUMER_OBJECTS => q{
	CREATE TABLE given (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, consumer name, change_id bigint);
	CREATE TABLE given_from (consumer name PRIMARY KEY, change_id bigint);
	CREATE FUNCTION take_changes(consumer name, max_changes integer) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		taken bigint;
		last bigint;
	BEGIN
		WITH kept AS (
			INSERT INTO given (consumer, change_id)
			SELECT take_changes.consumer, c.change_id
			FROM poser_datasync_changes(take_changes.consumer, max_changes) c
			RETURNING given.change_id)
		SELECT count(*), max(change_id) INTO taken, last FROM kept;
		PERFORM poser_datasync_confirm(consumer, last);
		RETURN taken;
	END
	$$;
	CREATE FUNCTION keep_change(change poser_change) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('test.broken', true) = 'on' THEN
			RAISE EXCEPTION 'broken at %', change.payload_key;
		END IF;
		INSERT INTO given (consumer, change_id) VALUES ('handled', change.change_id);
	END
	$$;};

#
# Clusters, statements and sessions
#

# A started cluster.  Extra arguments go to init(), "conf" goes to postgresql.conf.
sub new_node
{
	my ($name, %params) = @_;
	my $conf = delete $params{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--encoding=UTF8', '--locale=C', '--username=postgres' ], %params);
	$node->append_conf('postgresql.conf', <<"EOF");
log_statement = none
autovacuum_naptime = 1s
max_prepared_transactions = 10
$conf
EOF
	$node->start;
	return $node;
}

# A database with the extension in it.
sub create_database
{
	my ($node, $dbname, %params) = @_;
	my $owner = $params{owner} // 'postgres';
	my $schema = $params{schema} // 'public';
	my $version = $params{version} ? "VERSION '$params{version}'" : '';

	$node->safe_psql('postgres',
		qq{CREATE DATABASE $dbname OWNER "$owner" TEMPLATE template0});
	lines_as($node, $dbname, $owner, <<"EOF");
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS "$schema";
CREATE EXTENSION poser SCHEMA "$schema" $version;
EOF
	$node->safe_psql('postgres',
		qq{ALTER DATABASE $dbname SET search_path = "$schema"});
	return;
}

# The output of statements that a role runs.  The test dies if one fails.
sub lines_as
{
	my ($node, $dbname, $role, $sql) = @_;

	return $node->safe_psql($dbname, $sql,
		connstr => $node->connstr($dbname) . " user=$role");
}

# A test: the statement fails with that SQLSTATE when the role runs it.
sub fails_as
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $role, $sqlstate, $sql, $name) = @_;
	my ($rc, $stdout, $stderr) = $node->psql($dbname,
		"\\set VERBOSITY sqlstate\n$sql",
		connstr => $node->connstr($dbname) . " user=$role");

	isnt($rc, 0, "$name: an error");
	like($stderr, qr/ERROR:  $sqlstate$/m, "$name: $sqlstate");
	return;
}

# Starts a statement in a new session of database "db", under an application_name.
# It returns once the session has begun, and does not wait for the statement.
sub start_session
{
	my ($node, $name, $statement) = @_;
	my $session = $node->background_psql('db', on_error_stop => 0);

	$session->query_until(qr/begun/, join("\n",
		"SET application_name = '$name';", '\set VERBOSITY sqlstate', '\echo begun', "$statement;\n"));
	return $session;
}

# Waits until that statement has ended, and returns its SQLSTATE.
sub sqlstate
{
	my ($session) = @_;
	my $output = $session->query('\echo sqlstate :LAST_ERROR_SQLSTATE');
	return $output =~ /sqlstate (\w+)/ ? $1 : "no SQLSTATE: $output";
}

# Returns when a session of this application_name waits for a lock.
sub waits_for_lock
{
	my ($node, $application) = @_;

	$node->poll_query_until('postgres', <<"EOF") or die "$application does not wait";
SELECT count(*) > 0 FROM pg_stat_activity
WHERE application_name = '$application' AND wait_event_type = 'Lock'
EOF
	return;
}

# Writes a pgbench script into the test's temporary directory.
sub pgbench_file
{
	my ($name, $content) = @_;
	our $directory //= PostgreSQL::Test::Utils::tempdir();
	my $file = "$directory/$name";

	unlink $file;
	append_to_file($file, $content);
	return $file;
}

#
# Checks of a database
#

# Two tests: for each widget, the shown and the maintained counts are those of a live
# count, and there are at least "widgets" of them; poser_check() finds no problem.
sub counts_exact
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $name, %params) = @_;
	my $at_least = $params{widgets} // 1;
	my $kept = MAINTAINED;
	my $result = $node->safe_psql($dbname, <<"EOF");
WITH live AS (
	SELECT w.uuid, count(c.uuid) AS total,
		count(*) FILTER (WHERE c.active) AS active
	FROM poser_widget w LEFT JOIN poser_component c ON c.widget_uuid = w.uuid
	GROUP BY w.uuid
)
SELECT 'too few widgets: ' || count(*)
FROM poser_widget HAVING count(*) < $at_least
UNION ALL
SELECT format('widget %s: %s %s live, %s %s shown, %s %s kept', uuid,
	l.total, l.active, s.component_count, s.active_component_count,
	k.total, k.active)
FROM live l FULL JOIN poser_widget_summary s USING (uuid)
FULL JOIN ($kept) k ON k.widget_uuid = uuid
WHERE (l.total, l.active)
		IS DISTINCT FROM (s.component_count, s.active_component_count)
	OR (l.total, l.active)
		IS DISTINCT FROM (k.total::bigint, k.active::bigint);
EOF
	is($result, '', "$name: counts are exact");
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'),
		$params{problems} // '', "$name: poser_check() finds "
		  . ($params{problems} ? 'what is wrong, and nothing else' : 'nothing'));
	return;
}

# A test, without poser_check().  Each history ends in the row as it is, or in its
# delete.  Each operation can follow the one before, or versions before it were pruned.
# Each version has a transaction, of this cluster.  No id is there twice, and the
# sequence is past all of them.  There are at least "versions" versions.
sub history_exact
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $name, %params) = @_;
	my $at_least = $params{versions} // 1;
	my $behind = $params{sequence_behind} ? 'true' : 'false';
	my $ids = IDS;
	my $result = $node->safe_psql($dbname, <<"EOF");
WITH live (kind, uuid, content) AS (
	SELECT 'widget', uuid, to_jsonb(w) FROM poser_widget w
	UNION ALL
	SELECT 'component', uuid, to_jsonb(c) FROM poser_component c
), recorded (kind, uuid, operation, transaction_id, change_id, content) AS (
	SELECT 'widget', uuid, operation_type, transaction_id, change_id, to_jsonb(v)
	FROM poser_widget_version v
	UNION ALL
	SELECT 'component', uuid, operation_type, transaction_id, change_id, to_jsonb(v)
	FROM poser_component_version v
), version AS (
	SELECT *, lag(operation) OVER of_row AS before,
		lead(operation) OVER of_row IS NULL AS is_last
	FROM recorded WINDOW of_row AS (PARTITION BY kind, uuid ORDER BY change_id)
)
SELECT 'too few versions: ' || count(*)
FROM version HAVING count(*) < $at_least
UNION ALL
SELECT format('%s %s is %s, and was recorded as %s', kind, uuid, l.content, v.content)
FROM live l FULL JOIN (SELECT * FROM version WHERE is_last AND operation <> 2) v
USING (kind, uuid)
WHERE (l.content \@> (v.content - ARRAY['operation_type', 'transaction_id', 'change_id'])) IS NOT TRUE
UNION ALL
SELECT format('change %s of %s %s: operation %s after %s', change_id, kind, uuid,
	operation, before)
FROM version
WHERE CASE
	WHEN operation = 0 THEN before <> 2
	WHEN before IS NOT NULL THEN before = 2
	ELSE change_id > coalesce((SELECT max(change_id) FROM poser_version_horizon), 0)
	END
UNION ALL
SELECT format('change %s is of transaction %s, which is %s', change_id, transaction_id,
	CASE WHEN id IS NULL THEN 'missing' ELSE 'later' END)
FROM version LEFT JOIN poser_transaction ON id = transaction_id
WHERE (id < change_id) IS NOT TRUE
UNION ALL
SELECT format('transaction %s has not begun: %s', id, xact)
FROM poser_transaction WHERE NOT pg_visible_in_snapshot(xact, pg_current_snapshot())
UNION ALL
SELECT format('id %s is there %s times', id, count(*))
FROM ($ids) i GROUP BY id HAVING count(*) > 1
UNION ALL
SELECT format('the sequence is at %s', last_value)
FROM poser_change_id_seq
WHERE NOT $behind
	AND last_value + is_called::int <= (SELECT max(id) FROM ($ids) i);
EOF
	is($result, '', "$name: history is what has happened");
	return;
}

# The extension's tables that pg_dump dumps, in the order of pg_extension.extconfig.
sub config_tables
{
	my ($node, $dbname) = @_;

	return split /\n/, $node->safe_psql($dbname, <<'EOF');
SELECT relname FROM pg_extension, unnest(extconfig) WITH ORDINALITY c (oid, n) JOIN pg_class USING (oid)
WHERE extname = 'poser' AND relkind = 'r' ORDER BY n
EOF
}

# Statements that read all that pg_dump dumps of Poser, and what follows from it: the
# columns of each table and the sequences' positions; counts as sums, settled or not.
# They are made for the tables and columns of this database, and run in others, too.
# Without "xact", xact and the consumers' positions are left out; with "no_sequence",
# the sequences.
sub contents_query
{
	my ($node, $dbname, %params) = @_;
	my $kept = MAINTAINED;
	my $without = $params{xact} ? '' : q{poser_transaction.xact,
		poser_datasync_consumer.from_snapshot, poser_datasync_consumer.to_snapshot,
		poser_datasync_consumer.confirmed, poser_datasync_consumer.delivered,
		poser_datasync_consumer.last_change, poser_datasync_consumer.settled,
		poser_datasync_consumer.next_settled, poser_datasync_consumer.next_settled_xact} =~ s/\s//gr;
	my $kinds = $params{no_sequence} ? 'r' : 'rS';
	my $query = $node->safe_psql($dbname, <<"EOF");
SELECT CASE WHEN relkind = 'S' THEN format('SELECT %L, last_value, is_called FROM %I;', relname, relname)
	ELSE format('SELECT %L, to_jsonb(r) FROM (SELECT %s FROM %I) r ORDER BY to_jsonb(r)::text COLLATE "C";',
				relname, columns, relname)
	END
FROM pg_extension, unnest(extconfig) WITH ORDINALITY c (oid, n) JOIN pg_class USING (oid), LATERAL (
	SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS columns
	FROM pg_attribute
	WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
		AND relname || '.' || attname <> ALL ('{$without}')) a
WHERE extname = 'poser' AND relkind = ANY (string_to_array('$kinds', NULL)) ORDER BY n
EOF

	return $query . <<"EOF";

SELECT 'counts', to_jsonb(k) FROM ($kept) k ORDER BY widget_uuid COLLATE "C";
SELECT 'summary', to_jsonb(s) FROM poser_widget_summary s ORDER BY uuid COLLATE "C";
EOF
}

# The output of these statements, as a role sees it.
sub contents
{
	my ($node, $dbname, %params) = @_;

	return lines_as($node, $dbname, $params{role} // 'postgres', contents_query($node, $dbname, %params));
}

# A test: two such outputs are the same.  The lines that only one of them has are shown.
sub same_contents
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($got, $expected, $name) = @_;
	my @got = split /\n/, $got;
	my @expected = split /\n/, $expected;

	return if ok($got eq $expected, $name);
	foreach ([ 'unexpected', \@got, \@expected ], [ 'missing', \@expected, \@got ])
	{
		my ($what, $lines, $others) = @$_;
		my %in_others;

		$in_others{$_}++ foreach @$others;
		my @only = grep { --($in_others{$_} //= 0) < 0 } @$lines;
		diag(sprintf("%d lines are $what", scalar @only));
		diag("$what: $_") foreach @only[ 0 .. ($#only > 9 ? 9 : $#only) ];
	}
	return;
}

#
# Data, and what goes on with it
#

# Leaves deltas in a database: two prepared transactions lock the settled rows of all
# widgets and have added a component to each; a third transaction adds one more.  The
# names of the prepared ones begin with the database's name.  The caller ends them.
sub make_deltas
{
	my ($node, $dbname) = @_;
	my $insert = q{INSERT INTO poser_component (widget_uuid, item_code, description)
		SELECT uuid, 'delta', 'while others write' FROM poser_widget;};

	$node->safe_psql($dbname, <<"EOF");
SET lock_timeout = '20s';
BEGIN; $insert PREPARE TRANSACTION '${dbname}_1';
BEGIN; $insert PREPARE TRANSACTION '${dbname}_2';
$insert
EOF
	return;
}

# A role that is not the tables' owner, and may write widgets and components.
sub make_writer
{
	my ($node, $dbname, $role) = @_;

	$node->safe_psql($dbname, 'CREATE ROLE writer LOGIN')
	  if $node->safe_psql($dbname, q{SELECT to_regrole('writer') IS NULL}) eq 't';
	lines_as($node, $dbname, $role, <<'EOF');
SELECT format('GRANT USAGE ON SCHEMA %I TO writer', current_schema()) \gexec
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_widget, poser_component TO writer;
EOF
	return;
}

# Makes a history of its own widgets and components, by the tables' owner and by
# another role, in several names: all operations, changed keys, savepoints, reverts,
# and pruning in the middle.  Two tests.
sub make_history
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $role) = @_;

	make_writer($node, $dbname, $role);
	lines_as($node, $dbname, $role, <<'EOF');
SET poser.runas = 'alice';
SET poser.comment = E'first\tprices, \u20ac \\ \\N "net"';
BEGIN;
INSERT INTO poser_widget (uuid, description, active)
SELECT 'history ' || n, 'Made', n <> 2 FROM generate_series(1, 7) n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT format('history %s.%s', w, n), 'history ' || w, n, 'Made'
FROM generate_series(1, 4) w, generate_series(1, 3) n;
COMMIT;
SET poser.runas = 'bob';
RESET poser.comment;
UPDATE poser_widget SET description = 'Changed' WHERE uuid = 'history 1';
BEGIN;
UPDATE poser_component SET description = 'Changed' WHERE widget_uuid = 'history 1';
SAVEPOINT s;
DELETE FROM poser_component WHERE widget_uuid = 'history 1';
ROLLBACK TO s;
UPDATE poser_component SET active = false WHERE uuid = 'history 1.2';
DELETE FROM poser_component WHERE uuid = 'history 4.2';
COMMIT;
UPDATE poser_widget SET uuid = 'history 5 moved' WHERE uuid = 'history 5';
EOF
	lines_as($node, $dbname, 'writer', <<'EOF');
SET poser.comment = 'no longer made';
BEGIN;
DELETE FROM poser_component WHERE widget_uuid = 'history 3';
DELETE FROM poser_widget WHERE uuid IN ('history 3', 'history 7');
SET poser.runas = 'carol';
UPDATE poser_component SET uuid = 'history 4.1 moved', widget_uuid = 'history 2'
WHERE uuid = 'history 4.1';
COMMIT;
EOF
	is( lines_as($node, $dbname, $role, <<'EOF'), 4, "$dbname: a widget and its components come back");
SET poser.runas = 'dave';
SELECT poser_widget_revert('history 3',
	(SELECT min(transaction_id) FROM poser_widget_version WHERE uuid = 'history 3'), true);
EOF
	cmp_ok(
		lines_as($node, $dbname, $role, q{SELECT poser_prune_versions('0')}),
		'>', 0, "$dbname: old versions are pruned");
	lines_as($node, $dbname, 'writer', <<'EOF');
SET poser.runas = 'erin';
UPDATE poser_widget SET description = 'Changed again', active = NOT active
WHERE uuid IN ('history 1', 'history 2');
UPDATE poser_widget SET description = 'Changed once more' WHERE uuid = 'history 2';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
VALUES ('history 2.4', 'history 2', '4', 'Made later');
UPDATE poser_component SET widget_uuid = 'history 1' WHERE uuid = 'history 2.1';
DELETE FROM poser_widget WHERE uuid = 'history 6';
INSERT INTO poser_widget (uuid, description) VALUES ('history 7', 'Made again');
EOF
	lines_as($node, $dbname, $role, <<'EOF');
SET poser.comment = 'that was better';
SELECT poser_widget_revert('history 2',
	(SELECT min(id) FROM poser_transaction WHERE username = 'erin'), true);
EOF
	return;
}

# Makes a history of many transactions, some with a name of their own: rows that come
# back to their first values; rows that are deleted and inserted again as they were, in
# one transaction and in two; rows that come and go in one transaction; a transaction
# that commits after others that have greater ids.  The names of all rows begin with
# "prefix".
sub make_many_transactions
{
	my ($node, $dbname, $role, $prefix) = @_;

	make_writer($node, $dbname, $role);
	lines_as($node, $dbname, $role, <<"EOF");
SET poser.runas = 'grace';
INSERT INTO poser_widget (uuid, description) SELECT '$prefix ' || n, 'A' FROM generate_series(1, 6) n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT '$prefix ' || n, '$prefix ' || n, n, 'A' FROM generate_series(1, 6) n;
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('$prefix 7', 'A');
SET LOCAL poser.runas = 'heidi';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('$prefix 7', '$prefix 7', '7', 'A');
PREPARE TRANSACTION '${dbname}_$prefix';
UPDATE poser_widget SET description = 'B' WHERE uuid = '$prefix 1';
UPDATE poser_component SET description = 'B' WHERE uuid IN ('$prefix 1', '$prefix 2');
UPDATE poser_component SET description = 'A' WHERE uuid = '$prefix 1';
UPDATE poser_widget SET description = 'A' WHERE uuid = '$prefix 1';
UPDATE poser_widget SET description = description WHERE uuid = '$prefix 2';
CREATE TEMP TABLE gone AS SELECT * FROM poser_component WHERE uuid IN ('$prefix 2', '$prefix 3');
DELETE FROM poser_component WHERE uuid = '$prefix 2';
INSERT INTO poser_component SELECT * FROM gone WHERE uuid = '$prefix 2';
BEGIN;
DELETE FROM poser_component WHERE uuid = '$prefix 3';
INSERT INTO poser_component SELECT * FROM gone WHERE uuid = '$prefix 3';
COMMIT;
BEGIN;
SAVEPOINT s;
INSERT INTO poser_widget (uuid, description) VALUES ('$prefix 8', 'A');
ROLLBACK TO s;
INSERT INTO poser_widget (uuid, description) VALUES ('$prefix 8', 'B');
DELETE FROM poser_widget WHERE uuid = '$prefix 8';
INSERT INTO poser_widget (uuid, description) VALUES ('$prefix 9', 'A');
DELETE FROM poser_widget WHERE uuid = '$prefix 9';
INSERT INTO poser_widget (uuid, description) VALUES ('$prefix 9', 'A');
COMMIT;
COMMIT PREPARED '${dbname}_$prefix';
EOF
	lines_as($node, $dbname, 'writer', <<"EOF");
DO \$\$
BEGIN
	FOR n IN 1 .. 60 LOOP
		PERFORM set_config('poser.comment', 'number ' || n, true);
		UPDATE poser_component SET active = NOT active WHERE uuid = '$prefix 4';
		COMMIT;
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
		VALUES ('$prefix 5 ' || n, '$prefix 5', n, 'A');
		COMMIT;
	END LOOP;
END
\$\$;
DELETE FROM poser_component WHERE widget_uuid = '$prefix 6';
DELETE FROM poser_widget WHERE uuid = '$prefix 6';
EOF
	return;
}

# Two tests: new writes are recorded, under new ids.
sub history_goes_on
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $name, %params) = @_;
	my $role = $params{role} // 'postgres';
	my $ids = IDS;
	my $before = lines_as($node, $dbname, $role,
		"SELECT coalesce(max(id), 0) FROM ($ids) i");
	my $comment = "goes on after $before";

	lines_as($node, $dbname, $role, <<"EOF");
SET poser.comment = '$comment';
INSERT INTO poser_widget (uuid, description) VALUES ('goes on', 'first');
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
VALUES ('goes on', 'goes on', '', 'first');
UPDATE poser_component SET description = 'second' WHERE uuid = 'goes on';
COMMIT;
UPDATE poser_widget SET description = 'second' WHERE uuid = 'goes on';
DELETE FROM poser_component WHERE uuid = 'goes on';
DELETE FROM poser_widget WHERE uuid = 'goes on';
EOF
	is( lines_as($node, $dbname, $role, <<"EOF"), <<'EOF' =~ s/\n\z//r, "$name: history goes on");
SELECT relation, operation, description FROM poser_widget_history('goes on', true)
WHERE comment = '$comment';
EOF
poser_widget|delete|second
poser_component|delete|second
poser_widget|update|second
poser_component|update|second
poser_component|insert|first
poser_widget|insert|first
EOF
	is( lines_as($node, $dbname, $role, <<"EOF"), 5, "$name: new changes have greater ids");
SELECT count(DISTINCT t.id) FROM poser_transaction t
JOIN (SELECT transaction_id, change_id FROM poser_widget_version
	  UNION ALL
	  SELECT transaction_id, change_id FROM poser_component_version) v ON v.transaction_id = t.id
WHERE comment = '$comment' AND t.id > $before AND change_id > t.id;
EOF
	return;
}

# Makes batches, by the tables' owner and by another role: an open one with edits,
# errors, a conflict and a removed row; one of another table; a complete one; one that
# was executed without its conflict; an empty one.  A test.
sub make_batches
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $role) = @_;

	make_writer($node, $dbname, $role);
	lines_as($node, $dbname, $role, BATCH_TABLES . <<'EOF');
GRANT SELECT ON batch_source TO writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO writer;
INSERT INTO "batch ""target""" VALUES
	(1, '2024-01-31', 1.50, '{a}'), (2, '2024-01-31', 2, NULL), (3, '2024-01-31', 3, '{}');
INSERT INTO poser_widget (uuid, description) SELECT 'batch ' || n, 'Old' FROM generate_series(1, 4) n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'batch ' || n, 'batch 1', n, 'Old' FROM generate_series(1, 4) n;
INSERT INTO batch_source VALUES
	('batch 1', E'a\ttab, a\nnewline, \\ \\N \\. "quoted" \u20ac'), ('batch 2', ''), ('batch 3', 'New'),
	('batch 4', 'Old'), ('batch 5', 'Made'), (NULL, 'No key'), ('batch 7', repeat('x', 256));
INSERT INTO poser_batch (uuid, target, key)
VALUES ('complete', 'poser_component', '{item_code,widget_uuid}');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new)
VALUES ('complete', 1, '{"widget_uuid": "batch 1", "item_code": "1"}', '{"active": false}');
UPDATE poser_batch SET complete = true WHERE uuid = 'complete';
INSERT INTO poser_batch (uuid, target) VALUES ('other', '"batch ""target"""');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new) VALUES
	('other', 1, 'update', '{"id": 1, "day": "2024-01-31"}', '{"price": 1.5, "tags": ["a", "b\"", null]}'),
	('other', 2, 'delete', '{"id": 2, "day": "2024-01-31"}', NULL),
	('other', 3, 'create', '{"id": 4, "day": "2024-02-29"}', '{"price": 10, "tags": []}');
SELECT poser_batch_refresh('other');
INSERT INTO poser_batch (uuid, target) VALUES ('empty', 'poser_widget');
EOF
	lines_as($node, $dbname, 'writer', <<'EOF');
SET poser.runas = 'frank';
INSERT INTO poser_batch (uuid, target, description, params, notes)
VALUES ('open', 'poser_widget', E'November\tprices, \u20ac \\ \\N', '{"list": [1, 2.50, null, "\""]}', '');
SELECT poser_batch_populate('open', 'batch_source');
UPDATE poser_batch_row SET new = '{"description": "Edited"}' WHERE batch_uuid = 'open' AND sequence = 5;
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'open' AND sequence = 2;
INSERT INTO poser_batch (uuid, target) VALUES ('executed', 'poser_component');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, old, new) VALUES
	('executed', 1, 'update', '{"uuid": "batch 2"}', '{"description": "Old"}', '{"description": "New"}'),
	('executed', 2, 'update', '{"uuid": "batch 3"}', '{"description": "Older"}', '{"description": "New"}');
SELECT * FROM poser_batch_execute('executed', skip_conflicts => true);
BEGIN;
SELECT poser_batch_create('poser_widget');
ROLLBACK;
EOF
	lines_as($node, $dbname, $role,
		q{UPDATE poser_widget SET description = 'Theirs' WHERE uuid = 'batch 3'});
	is( lines_as($node, $dbname, 'writer', q{SELECT poser_batch_refresh('open')}),
		3, "$dbname: a batch has a row in conflict and two with errors");
	return;
}

# Tests: these batches are edited, compared and executed.  The number of widgets and
# components is the same at the end.  A row of the source that was the same is staged if
# the batch was made before version 1.5, and counted otherwise.
sub batches_go_on
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $name, %params) = @_;
	my $role = $params{role} // 'postgres';

	make_writer($node, $dbname, $role);
	lines_as($node, $dbname, $role,
		'GRANT SELECT, INSERT, UPDATE, DELETE ON poser_batch, poser_batch_row TO writer');
	fails_as($node, $dbname, 'writer', '55000', $_->[0], "$name: $_->[1]")
	  foreach (
		[ q{UPDATE poser_batch SET notes = 'x' WHERE uuid = 'executed'}, 'an executed batch' ],
		[ q{UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'executed'}, 'its rows' ],
		[ q{SELECT poser_batch_execute('executed', true)}, 'executing it again' ],
		[ q{UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'complete'}, 'a complete one' ],
		[ q{SELECT poser_batch_execute('open')}, 'executing one with errors' ]);
	is( lines_as($node, $dbname, 'writer', <<'EOF'), <<'EOF' =~ s/\n\z//r, "$name: a batch goes on");
SELECT poser_batch_refresh('open');
SELECT row_count + unchanged_count FROM poser_batch WHERE uuid = 'open';
UPDATE poser_batch_row SET removed = true WHERE batch_uuid = 'open' AND sequence = 6;
SELECT poser_batch_refresh('open');
SELECT row_count + unchanged_count FROM poser_batch WHERE uuid = 'open';
UPDATE poser_batch_row SET old = NULL WHERE batch_uuid = 'open' AND status = 'conflict';
DELETE FROM poser_batch_row WHERE batch_uuid = 'open' AND sequence = 7;
SELECT poser_batch_refresh('open');
SELECT row_count + unchanged_count FROM poser_batch WHERE uuid = 'open';
SELECT * FROM poser_batch_execute('open');
SELECT uuid, description FROM poser_widget WHERE uuid ~ 'batch [2-7]' ORDER BY uuid;
EOF
3
6
2
5
0
4
1|2|0|1|0
batch 2|Old
batch 3|New
batch 4|Old
batch 5|Edited
EOF
	is( lines_as($node, $dbname, $role, <<'EOF'), "1|1|1|0|0\n0|1|0|0|0\nt", "$name: other batches go on");
SELECT * FROM poser_batch_execute('other');
SELECT * FROM poser_batch_execute('complete');
DELETE FROM poser_widget WHERE uuid = 'batch 5';
SELECT max(id) AS last FROM poser_batch \gset
INSERT INTO poser_batch (uuid, target) VALUES ('goes on', 'poser_widget');
SELECT id > :last FROM poser_batch WHERE uuid = 'goes on';
DELETE FROM poser_batch WHERE uuid = 'goes on';
EOF
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'),
		'', "$name: poser_check() finds nothing after the batches went on");
	return;
}

# Makes consumers, by the tables' owner: "polled" has confirmed a part of what it got,
# the handler of "handled" has stored, skipped and failed, and "late" begins now.  There
# must be a history.  A test.
sub make_consumers
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $role) = @_;

	make_writer($node, $dbname, $role);
	lines_as($node, $dbname, $role, CONSUMER_OBJECTS . <<'EOF');
SELECT poser_datasync_add('polled', 'beginning'),
	poser_datasync_add('handled', 'beginning', 'keep_change(poser_change)', 'robot', notify => true),
	poser_datasync_add('late', own_changes => true);
INSERT INTO given_from SELECT 'late', max(change_id)
FROM (SELECT change_id FROM poser_widget_version UNION ALL SELECT change_id FROM poser_component_version) v;
SELECT poser_datasync_grant('polled', 'writer');
SELECT take_changes('polled', 5);
SELECT poser_datasync_run('handled', 5);
SELECT poser_datasync_skip('handled', change_id, E'of no\tinterest, \u20ac') FROM poser_datasync_changes('handled', 1);
SET test.broken = 'on';
SET client_min_messages = error;
SELECT poser_datasync_run('handled');
SELECT poser_datasync_run('handled', 1);
EOF
	is( lines_as($node, $dbname, 'writer', q{SELECT count(*) FROM poser_datasync_changes('polled', 3)}),
		3, "$dbname: a consumer gets what it does not confirm");
	return;
}

# Tests: these consumers go on, and get all changes of the history, those of a row in
# order, and none twice unless "twice" is set, as after a restore.  "attempts" is the
# number of times that the handler has failed.
sub consumers_go_on
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $name, %params) = @_;
	my $role = $params{role} // 'postgres';
	my $once = $params{twice} ? 'false' : 'true';
	my $attempts = $params{attempts} // 2;

	is( lines_as($node, $dbname, $role, <<'EOF'), "handled|$attempts|t\nlate|0|f\npolled|0|f\n1", "$name: consumers are as they were");
SELECT consumer, attempts, (last_error LIKE 'broken at %') = (attempts > 0) IS NOT FALSE AND last_failed_at IS NOT NULL
FROM poser_datasync_status ORDER BY consumer;
SELECT count(*) FROM poser_datasync_skipped WHERE consumer = 'handled' AND reason = E'of no\tinterest, \u20ac';
EOF
	lines_as($node, $dbname, $role, <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('consumers', 'first');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('consumers', 'consumers', '', 'first');
UPDATE poser_widget SET description = 'second' WHERE uuid = 'consumers';
DELETE FROM poser_component WHERE uuid = 'consumers';
DELETE FROM poser_widget WHERE uuid = 'consumers';
DO $$ BEGIN
	WHILE take_changes('late', 4) > 0 LOOP END LOOP;
	WHILE take_changes('polled', 1000) > 0 LOOP END LOOP;
	WHILE poser_datasync_run('handled', 100) > 0 LOOP END LOOP;
END $$;
EOF
	is( lines_as($node, $dbname, $role, <<"EOF"), '', "$name: consumers get all that they have not confirmed");
WITH version AS (
	SELECT change_id, 'widget' AS kind, uuid FROM poser_widget_version
	UNION ALL
	SELECT change_id, 'component', uuid FROM poser_component_version
), wanted AS (
	SELECT c.consumer, v.*
	FROM poser_datasync_consumer c LEFT JOIN given_from f USING (consumer), version v
	WHERE v.change_id > coalesce(f.change_id, 0)
		AND NOT EXISTS (SELECT FROM poser_datasync_skipped s
			WHERE s.consumer = c.consumer AND s.change_id = v.change_id)
)
SELECT format('%s is not given to %s', change_id, w.consumer)
FROM wanted w LEFT JOIN given g USING (consumer, change_id) WHERE g.n IS NULL
UNION ALL
SELECT format('%s is given to %s %s times', change_id, consumer, count(*))
FROM given WHERE $once GROUP BY consumer, change_id HAVING count(*) > 1
UNION ALL
SELECT format('%s is given to %s before %s', change_id, consumer, next)
FROM (SELECT *, lead(change_id) OVER (PARTITION BY consumer, kind, uuid ORDER BY n) AS next
	  FROM (SELECT consumer, change_id, max(n) AS n FROM given GROUP BY consumer, change_id) g
	  JOIN version USING (change_id)) o
WHERE next < change_id
UNION ALL
SELECT format('%s of %s are pending', pending, consumer) FROM poser_datasync_status WHERE pending <> 0 OR attempts <> 0
UNION ALL
SELECT format('%s is stale', consumer) FROM poser_datasync_stale('0')
UNION ALL
SELECT format('consumers are %s', string_agg(consumer, ', ' ORDER BY consumer)) FROM poser_datasync_consumer
HAVING count(*) <> 3;
EOF
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'), '', "$name: poser_check() finds nothing after the consumers went on");
	return;
}

#
# Restores
#

# Fills a database with all that a restore must bring: widgets and components with
# values that text formats must escape, a history, batches, consumers that are at
# different changes.  At the end there are deltas.  Returns what restored_exact() compares.
sub make_source
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $role) = @_;

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
EOF
	make_history($node, $dbname, $role);
	make_batches($node, $dbname, $role);
	make_many_transactions($node, $dbname, $role, 'early');
	make_consumers($node, $dbname, $role);
	make_many_transactions($node, $dbname, $role, 'later');
	lines_as($node, $dbname, $role, q{SELECT take_changes('late', 10)});
	make_deltas($node, $dbname);
	$node->safe_psql($dbname, "COMMIT PREPARED '${dbname}_1'; COMMIT PREPARED '${dbname}_2'");
	return source_of($node, $dbname, role => $role);
}

# What restored_exact() compares with this database.  Parameters: the role that restores,
# and those of contents().
sub source_of
{
	my ($node, $dbname, %params) = @_;
	my $role = $params{role} // 'postgres';
	my $query = contents_query($node, $dbname, %params);
	my $contents = lines_as($node, $dbname, $role, $query);

	return {
		role         => $role,
		search_path  => $node->safe_psql($dbname, 'SHOW search_path'),
		query        => $query,
		contents     => $contents,
		widgets      => scalar(() = $contents =~ /^poser_widget\|/mg),
		versions     => scalar(() = $contents =~ /^poser_(?:widget|component)_version\|/mg),
		transactions => scalar(() = $contents =~ /^poser_transaction\|/mg)
	};
}

# Makes the empty database "dbname" for this source.  With "data", it has the extension,
# and what a dump of the data alone does not bring: the batches' targets, and the tables
# and functions of the consumers.
sub new_target
{
	my ($node, $dbname, $source, %params) = @_;

	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $dbname");
	$node->safe_psql('postgres', qq{CREATE DATABASE $dbname OWNER "$source->{role}" TEMPLATE template0});
	$node->safe_psql('postgres', "ALTER DATABASE $dbname SET search_path = $source->{search_path}");
	lines_as($node, $dbname, $source->{role}, <<"EOF" . BATCH_TABLES . CONSUMER_OBJECTS) if $params{data};
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS $source->{search_path};
CREATE EXTENSION poser SCHEMA $source->{search_path};
EOF
	return;
}

# Tests: all is there that the source had, and nothing else, but for lines that match
# "beside"; with "ahead" the sequence may be ahead; counts and history are exact; and batches, history and consumers go on.  With
# "subtransactions", rows have been restored by them, and xmin is not the transaction's.
sub restored_exact
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($node, $dbname, $source, $name, %params) = @_;
	my $role = $source->{role};
	my $contents = lines_as($node, $dbname, $role, $source->{query});

	$contents = join("\n", grep { $_ !~ $params{beside} } split /\n/, $contents) if $params{beside};
	# A parallel pg_restore can set the sequence before it loads rows, which are recorded first.
	if ($params{ahead} && $source->{contents} =~ /^poser_change_id_seq\|(\d+)\|t$/m)
	{
		my $last = $1;
		$contents =~ s/^poser_change_id_seq\|(\d+)\|t$/'poser_change_id_seq|' . ($1 > $last ? $last : $1) . '|t'/em;
	}
	same_contents($contents, $source->{contents}, "$name: all contents are equal");
	counts_exact($node, $dbname, $name, widgets => $source->{widgets});
	history_exact($node, $dbname, $name, versions => $source->{versions});
	# each row has the xact of the transaction that has inserted it
	is( $node->safe_psql($dbname, 'SELECT count(*), count(*) FILTER
			(WHERE xact::text <> xmin::text) FROM poser_transaction'),
		"$source->{transactions}|0", "$name: xact is of this cluster") if !$params{beside} && !$params{subtransactions};
	batches_go_on($node, $dbname, $name, role => $role);
	history_goes_on($node, $dbname, $name, role => $role);
	history_exact($node, $dbname, "$name, after more writes", versions => $source->{versions});
	consumers_go_on($node, $dbname, $name, role => $role, twice => 1);
	return;
}

1;
