# The library works with the schema of every version.  After the library is
# installed, and before ALTER EXTENSION ... UPDATE, a database reads and writes as
# before, and each function of the old version does what it did.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('older', conf => 'track_functions = all');

# Each: the first version to which it applies, a description, statements, their output; and
# a version from which the output is another one, with that output.
my @statements = (
	[ '1.0', 'rows are written', <<'EOF', "32\n0" ],
INSERT INTO poser_widget (uuid, description) VALUES ('w1', 'one'), ('w2', 'two'), ('w3', 'three');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES
	('c1', 'w1', '1', 'a'), ('c2', 'w1', '2', 'b'), ('c3', 'w2', '3', 'c'), ('c4', 'w3', '4', 'd');
INSERT INTO poser_widget (description) VALUES ('') RETURNING length(uuid);
DELETE FROM poser_widget WHERE description = '';
UPDATE poser_component SET active = false WHERE uuid = 'c2';
UPDATE poser_component SET widget_uuid = 'w1' WHERE uuid = 'c3';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('c1', 'w1', '', '')
	ON CONFLICT (uuid) DO UPDATE SET description = 'A';
BEGIN;
TRUNCATE poser_component, poser_widget;
ROLLBACK;
BEGIN;
UPDATE poser_widget SET uuid = 'w4' WHERE uuid = 'w2';
SAVEPOINT s;
DELETE FROM poser_component;
ROLLBACK TO s;
COMMIT;
DELETE FROM poser_component WHERE uuid = 'c4';
DELETE FROM poser_widget WHERE uuid = 'w3';
SELECT count(*) FROM poser_widget WHERE uuid = poser_uuid();
EOF
	[ '1.0', 'rows are read', <<'EOF', "w1|one|t\nw4|two|t\nc1|w1|A|t\nc2|w1|b|f\nc3|w1|c|t" ],
SELECT uuid, description, active FROM poser_widget ORDER BY uuid;
SELECT uuid, widget_uuid, description, active FROM poser_component ORDER BY uuid;
EOF
	[ '1.1', 'counts are read', <<'EOF', "w1|3|2\nw4|0|0\nw1|3|2\nw1|3\nw4|0\nw4|0\nt" ],
SELECT uuid, component_count, active_component_count FROM poser_widget_summary ORDER BY uuid;
SELECT uuid, component_count, active_component_count FROM poser_widget_get('w1');
SELECT uuid, component_count FROM poser_widget_list();
SELECT uuid, component_count FROM poser_widget_list('TWO', true, page_size => 1);
SELECT poser_component_live_from('poser_widget', 'poser_component') IS NULL;
EOF
	[ '1.1', 'counts are repaired', <<'EOF', "0\nwidget w1|component_count is 3 instead of 2\n1\n2" ],
SELECT poser_recount();
SET session_replication_role = replica;
DELETE FROM poser_component WHERE uuid = 'c2';
RESET session_replication_role;
SELECT * FROM poser_check() WHERE problem LIKE 'component_count%';
SELECT poser_recount();
SELECT component_count FROM poser_widget_get('w1');
EOF
	[ '1.2', 'history is repaired', <<'EOF', "component c2|is gone, but its history does not end in a delete\n1\n0" ],
SELECT * FROM poser_check();
SELECT poser_record_versions();
SELECT poser_record_versions();
EOF
	[ '1.2', 'history is read', <<'EOF', "insert|one\nupdate|poser_component|c3\ndelete|c2\nupdate|c2\ninsert|c2\nw1|one\nw4|two\n0" ],
SELECT operation, description FROM poser_widget_history('w1');
SELECT operation, relation, uuid FROM poser_widget_history('w1', true) WHERE uuid = 'c3' AND operation = 'update';
SELECT operation, uuid FROM poser_component_history('c2');
SELECT uuid, description FROM poser_widget_as_of('infinity') ORDER BY uuid;
SELECT count(*) FROM poser_component_as_of('2000-01-01');
EOF
	[ '1.2', 'rows go back in history', <<'EOF', "2\nc1|a\nc2|b\nc3|c" ],
SELECT poser_widget_revert('w1', max(transaction_id), true) FROM poser_component_version WHERE uuid = 'c3';
SELECT uuid, description FROM poser_component ORDER BY uuid;
EOF
	[ '1.2', 'history is pruned', <<'EOF', "t\nc2|1\nc3|1" ],
SELECT poser_prune_versions('0') > 0;
SELECT uuid, count(*) FROM poser_component_version WHERE operation_type <> 2 AND uuid > 'c1' GROUP BY uuid ORDER BY uuid;
BEGIN;
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (0, now(), '', '', '3');
ROLLBACK;
EOF
	[ '1.3', 'imports are made', <<'EOF', qq{update|{"uuid": "w1"}\ncreate|{"uuid": "w5"}\n1|1|0|0} ],
CREATE TABLE source (uuid varchar(32), description varchar(255));
INSERT INTO source VALUES ('w1', 'One'), ('w5', 'five');
SELECT operation, key FROM poser_import_diff('source', 'poser_widget') ORDER BY key;
SELECT * FROM poser_import('source', 'poser_widget');
EOF
	[ '1.3', 'batches are executed', <<'EOF', "2\n0\n1|a batch|2\n0|1|0|1|0\nt\n1\nFIVE", '1.5', "1\n0\n1|a batch|1\n0|1|0|1|0\nt\n1\nFIVE" ],
UPDATE source SET description = 'FIVE' WHERE uuid = 'w5';
SELECT poser_batch_create('poser_widget', 'a batch') AS batch \gset
SELECT poser_batch_populate(:'batch', 'source');
UPDATE poser_batch_row SET removed = false;
SELECT poser_batch_refresh(:'batch');
SELECT id, description, row_count FROM poser_batch;
SELECT * FROM poser_batch_execute(:'batch');
SELECT executed IS NOT NULL FROM poser_batch;
SELECT poser_batch_purge('0');
SELECT description FROM poser_widget WHERE uuid = 'w5';
EOF
	[ '1.4', 'consumers are given changes', <<'EOF', "||||\nc|0|f\nh|0|f\nw6|f|six\nw6|t|six\nc|2\nh|2\n2\nc|1|f\nc|0" ],
CREATE FUNCTION handle(change poser_change) RETURNS void LANGUAGE sql AS '';
SELECT poser_datasync_add('c'), poser_datasync_add('h', handler => 'handle(poser_change)'), poser_datasync_add('gone'),
	poser_datasync_grant('c', 'public'), poser_datasync_revoke('c', 'public');
SELECT poser_datasync_drop('gone') \gset
SELECT consumer, pending, stale FROM poser_datasync_status ORDER BY consumer;
INSERT INTO poser_widget (uuid, description) VALUES ('w6', 'six');
DELETE FROM poser_widget WHERE uuid = 'w6';
SELECT payload_key, deletion, payload ->> 'description' FROM poser_datasync_changes('c');
SELECT consumer, pending FROM poser_datasync_status ORDER BY consumer;
SELECT poser_datasync_run('h');
SELECT poser_datasync_skip('c', min(change_id), 'for the test') FROM poser_datasync_changes('c') \gset
SELECT consumer, pending, stale FROM poser_datasync_status WHERE consumer = 'c';
SELECT poser_datasync_confirm('c', max(change_id)) FROM poser_datasync_changes('c') \gset
SELECT poser_datasync_stale('0');
SELECT 'c', (poser_datasync_pending('c')).pending;
EOF
	[ '1.5', 'tables are changed', <<'EOF', "\nALTER TABLE public.poser_component ALTER COLUMN description TYPE text;\n\n0" ],
SELECT poser_alter_type('poser_component', 'description', 'text');
SELECT statement FROM poser_local_changes();
SELECT poser_alter_type('poser_component', 'description', 'varchar(255)');
SELECT count(*) FROM poser_local_changes();
EOF
	[ '1.5', 'history arrives', <<'EOF', "9000\ninsert|arrived" ],
BEGIN;
INSERT INTO poser_transaction (id, issued_at, username, role_name, xact) VALUES (9000, now(), 'u', 'r', '3') RETURNING id;
INSERT INTO poser_widget_version VALUES ('arrived', 'Arrived', true, 0, 9000, 9001);
SELECT operation, uuid FROM poser_widget_history('arrived');
ROLLBACK;
EOF
	[ '1.5', 'a script can be run', <<'EOF', "\n\n\n\npostgres=X/postgres" ],
BEGIN;
SELECT poser_lock_tables('{{poser_widget,ACCESS SHARE}}');
SELECT poser_check_column('poser_widget', 'uuid', 'varchar');
SELECT poser_set_replica_identity('poser_widget_pkey');
CREATE FUNCTION replacement() RETURNS void LANGUAGE sql AS '';
SELECT poser_carry_grants('poser_transaction_arrive()', 'replacement()');
SELECT unnest(proacl) FROM pg_proc WHERE oid = 'replacement()'::regprocedure;
ROLLBACK;
EOF
	[ '1.6', 'a function is granted to all', <<'EOF', "\n=X/postgres" ],
BEGIN;
SELECT poser_grant_to_public('poser_count_child()');
SELECT acl FROM pg_proc, unnest(proacl) AS acl WHERE proname = 'poser_count_child' AND acl::text LIKE '=%';
ROLLBACK;
EOF
	[ '1.6', 'own tables have a history', <<'EOF', "own_version\nown|own_version|{id}|t\nupdate|{\"id\": 1, \"mail\": \"b\"}\ninsert|{\"id\": 1, \"mail\": \"a\"}\n1|b\n1\na\nt\no|0|0\n0\n" ],
SET client_min_messages = warning;
SELECT count(poser_datasync_drop(consumer)) AS dropped FROM poser_datasync_consumer \gset
CREATE TABLE own (id int PRIMARY KEY, email text);
CREATE EVENT TRIGGER follow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION poser_follow();
SELECT poser_track('own');
INSERT INTO own VALUES (1, 'a');
ALTER TABLE own RENAME email TO mail;
UPDATE own SET mail = 'b';
SELECT target, versions, key, recording FROM poser_tables WHERE target = 'own'::regclass;
SELECT operation, new FROM poser_history('own');
SELECT * FROM poser_as_of(NULL::own, 'infinity');
SELECT poser_revert('own', '{"id": 1}', min(transaction_id)) FROM own_version;
SELECT mail FROM own;
DO $$ BEGIN DELETE FROM own_version; EXCEPTION WHEN object_not_in_prerequisite_state THEN END $$;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nothing AFTER DELETE ON own_version FOR EACH STATEMENT EXECUTE FUNCTION nothing();
SELECT poser_prune_versions('0', target => 'own') > 0;
SELECT poser_datasync_add('o') \gset
UPDATE poser_datasync_consumer SET tables = '{own}' WHERE consumer = 'o';
SELECT consumer, pending, (SELECT count(*) FROM poser_check()) FROM poser_datasync_status;
SELECT poser_datasync_drop('o') \gset
SELECT count(*) FROM poser_check('own');
SELECT poser_untrack('own');
DROP EVENT TRIGGER follow;
EOF
	[ '1.7', 'views are maintained', <<'EOF', "\n1|1|1.50\n2|1|NaN\nsums|t|\nt|t|1.0\n0|0\n\n1|1|1.50\n2|1|NaN" ],
SET client_min_messages = warning;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, n numeric);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (1, 1, 1.50);
CREATE VIEW sums AS
SELECT p.id, count(c.id) AS children, sum(c.n) AS n FROM parent p LEFT JOIN child c ON c.parent = p.id GROUP BY p.id;
SELECT poser_maintain('sums');
INSERT INTO child VALUES (2, 2, 'NaN');
SELECT * FROM sums ORDER BY id;
SELECT view, served, problem FROM poser_views;
SELECT poser_serves('sums_query'), poser_live_from('sums_query') IS NULL, poser_sum_of(1.0, poser_tally(1.0));
INSERT INTO sums_maintained (id) VALUES (7);
SELECT poser_recount('sums'), (SELECT count(*) FROM poser_check('sums'));
SELECT poser_unmaintain('sums');
SELECT * FROM sums ORDER BY id;
DROP TABLE parent, child CASCADE;
EOF
);

my @versions = ('1.0', '1.1', '1.2', '1.3', '1.4', '1.5', '1.6', '1.7');
my %number = map { $versions[$_] => $_ } 0 .. $#versions;
my $rows = q{SELECT to_json(w) FROM poser_widget w ORDER BY uuid;
	SELECT to_json(c) FROM poser_component c ORDER BY uuid};

foreach my $version (@versions)
{
	my $dbname = 'version_' . $version =~ tr/./_/r;

	create_database($node, $dbname, version => $version);
	foreach (@statements)
	{
		my ($since, $what, $sql, $expected, $changed, $expected_then) = @$_;

		next if $number{$since} > $number{$version};
		$expected = $expected_then if $changed && $number{$changed} <= $number{$version};
		is($node->safe_psql($dbname, $sql), $expected, "in $version $what");
	}
	# psql does not wait until its session's statistics have arrived
	ok( $node->poll_query_until($dbname, <<'EOF', ''), "in $version each function was called");
SELECT p.oid::regprocedure
FROM pg_depend JOIN pg_extension e ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid
JOIN pg_proc p ON classid = 'pg_proc'::regclass AND objid = p.oid
WHERE deptype = 'e' AND extname = 'poser' AND coalesce(pg_stat_get_function_calls(p.oid), 0) = 0
EOF
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'), '', "in $version nothing is wrong")
	  if $version ne '1.0';

	my $before = $node->safe_psql($dbname, $rows);
	$node->safe_psql($dbname, 'SET client_min_messages = warning; ALTER EXTENSION poser UPDATE');
	is($node->safe_psql($dbname, $rows), $before, "updated from $version rows are as they were");
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'), '', "updated from $version nothing is wrong");
	is( $node->safe_psql($dbname, <<'EOF'), "1\nupdate|updated\nw1|1", "updated from $version writing goes on");
SELECT poser_datasync_add('updated') \gset
UPDATE poser_widget SET description = 'updated' WHERE uuid = 'w1';
SELECT count(*) FROM poser_datasync_changes('updated');
SELECT operation, description FROM poser_widget_history('w1') LIMIT 1;
DELETE FROM poser_component WHERE uuid <> 'c1';
SELECT uuid, component_count FROM poser_widget_get('w1');
EOF
	is($node->safe_psql($dbname, 'SELECT * FROM poser_check()'), '', "updated from $version nothing is wrong later");
}

done_testing();
