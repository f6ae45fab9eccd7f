# A database owner that is no superuser creates, uses, grants, protects, updates, dumps
# and drops the extension, and owns its history and its consumers.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('trusted');
$node->safe_psql('postgres', <<'EOF');
CREATE ROLE owner LOGIN;
CREATE ROLE reader LOGIN;
CREATE ROLE second LOGIN;
CREATE ROLE writer LOGIN;
CREATE ROLE stranger LOGIN;
EOF

# The owners of the extension's members.
sub owners
{
	my ($dbname) = @_;
	return $node->safe_psql($dbname, <<'EOF');
SELECT d.member, coalesce(o.rolname, '-')
FROM (SELECT classid, objid,
		  pg_describe_object(classid, objid, objsubid) AS member
	  FROM pg_depend
	  WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser')) d
LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
LEFT JOIN pg_roles o ON o.oid IN (c.relowner, p.proowner, t.typowner)
ORDER BY 1;
SELECT 'the extension', extowner::regrole FROM pg_extension WHERE extname = 'poser';
EOF
}

my $count = 'SELECT component_count, active_component_count FROM poser_widget_summary';
my $get = q{SELECT component_count, active_component_count FROM poser_widget_get('a')};
my $list = 'SELECT component_count, active_component_count FROM poser_widget_list()';
my @reads = ($count, $get, $list);

# The owner's own use.
create_database($node, 'db', owner => 'owner', version => '1.0');
is( lines_as($node, 'db', 'owner', <<'EOF'), "2|1\n2|1\n2|1\n0", 'the owner writes, updates and reads');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('a', '1', 'Hand');
ALTER EXTENSION poser UPDATE TO '1.1';
INSERT INTO poser_component (widget_uuid, item_code, description, active)
VALUES ('a', '2', 'Case', false);
SELECT component_count, active_component_count FROM poser_widget_summary;
SELECT component_count, active_component_count FROM poser_widget_get('a');
SELECT component_count, active_component_count FROM poser_widget_list();
SELECT poser_recount();
SELECT * FROM poser_check();
EOF
counts_exact($node, 'db', 'the owner\'s database');

# Of its database's settings, the owner can change only those that the server knows.
# It knows the extension's own in a session that has called one of its functions.
create_database($node, 'settings', owner => 'owner');
my $set_comment = q{ALTER DATABASE settings SET poser.comment = 'for the database'};
fails_as($node, 'settings', 'owner', '42501', $set_comment, 'a setting in a session that has not used the extension');
fails_as($node, 'settings', 'owner', '42501', "LOAD 'poser'", 'loading the library');
lines_as($node, 'settings', 'owner', "SELECT poser_uuid();\n$set_comment");
is( lines_as($node, 'settings', 'writer', 'SHOW poser.comment'), 'for the database', 'the setting holds in new sessions');
lines_as($node, 'settings', 'owner', 'SELECT poser_uuid(); ALTER DATABASE settings RESET poser.comment');
is( lines_as($node, 'settings', 'writer', q{SELECT coalesce(current_setting('poser.comment', true), 'none')}), 'none',
	'the owner resets the setting');

# That was version 1.1.  Since 1.2 there is a history.
lines_as($node, 'db', 'owner', 'ALTER EXTENSION poser UPDATE');
my @batches = ('poser_batch', 'poser_batch_row');
my @consumers = ('poser_datasync_consumer', 'poser_datasync_skipped');
my @history = ('poser_transaction', 'poser_widget_version', 'poser_component_version', 'poser_version_horizon');
is( lines_as($node, 'db', 'owner', <<'EOF'), <<'EOF' =~ s/\n\z//r, 'the owner uses the history');
SET poser.runas = 'importer';
UPDATE poser_widget SET description = 'Wall clock';
SELECT operation, changed, username, role_name FROM poser_widget_history('a');
SELECT poser_widget_revert('a', (SELECT min(id) FROM poser_transaction));
SELECT description FROM poser_widget_as_of('infinity');
SELECT poser_prune_versions('0');
SELECT poser_record_versions();
SELECT * FROM poser_check();
EOF
update|{description}|importer|owner
insert||owner|owner
1
Clock
2
0
EOF
counts_exact($node, 'db', 'the owner\'s database with history');
history_exact($node, 'db', 'the owner\'s database with history', versions => 3);

# Other roles read only with a grant.
fails_as($node, 'db', 'reader', '42501', $_, "without a grant, $_") foreach @reads;
lines_as($node, 'db', 'owner',
	'GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO reader WITH GRANT OPTION');
is(lines_as($node, 'db', 'reader', $_), '2|1', "with a grant, $_") foreach @reads;
lines_as($node, 'db', 'reader',
	'GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO second');
is(lines_as($node, 'db', 'second', $_), '2|1', "with a grant of a grant, $_") foreach @reads;
fails_as($node, 'db', 'stranger', '42501', $_, "a stranger, $_") foreach @reads;
lines_as($node, 'db', 'owner', 'GRANT SELECT ON poser_widget, poser_widget_summary TO stranger');
fails_as($node, 'db', 'stranger', '42501', $_, "without SELECT on components, $_") foreach @reads;
foreach my $table ('poser_component_count', 'poser_component_count_delta')
{
	fails_as($node, 'db', 'reader', '42501', "SELECT * FROM $table", "a reader, $table");
	fails_as($node, 'db', 'reader', '42501', "DELETE FROM $table", "a reader, delete from $table");
}
fails_as($node, 'db', 'reader', '42501', "SELECT * FROM $_", "a reader, $_") foreach @history, @batches, @consumers, 'poser_datasync_status';
fails_as($node, 'db', 'reader', '42501', q{SELECT * FROM poser_widget_history('a')}, 'a reader, history');
lines_as($node, 'db', 'owner', 'GRANT SELECT ON poser_widget_version TO reader');
is(lines_as($node, 'db', 'reader', q{SELECT operation, username FROM poser_widget_history('a')}),
	'update|importer', 'with a grant, a reader reads history');
fails_as($node, 'db', 'reader', '42501', q{SELECT * FROM poser_widget_history('a', true)},
	'a reader, history of components without a grant');
lines_as($node, 'db', 'owner', 'REVOKE SELECT ON poser_widget_version FROM reader');

# A writer needs no privilege on the bookkeeping, and gets none.
lines_as($node, 'db', 'owner',
	'GRANT INSERT, UPDATE, DELETE ON poser_widget, poser_component TO writer');
lines_as($node, 'db', 'writer', <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('b', 'Bell');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('b', '3', 'Clapper');
UPDATE poser_component SET active = true;
DELETE FROM poser_component;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('a', '4', 'Hand'), ('b', '5', 'Rope');
EOF
is(lines_as($node, 'db', 'reader', "$count ORDER BY uuid"), "1|1\n1|1", 'a writer\'s changes are counted');
counts_exact($node, 'db', 'with a writer', widgets => 2);
foreach my $table ('poser_component_count', 'poser_component_count_delta')
{
	fails_as($node, 'db', 'writer', '42501', "UPDATE $table SET total = 0", "a writer, $table");
}
fails_as($node, 'db', 'writer', '42501', $_, "a writer, $_")
  foreach (
	(map { ("INSERT INTO $_ DEFAULT VALUES", "DELETE FROM $_", "TRUNCATE $_") } @history, @batches, @consumers),
	(map { ("SELECT nextval('$_')", "SELECT setval('$_', 1)") } 'poser_change_id_seq', 'poser_batch_id_seq'),
	q{SELECT poser_batch_create('poser_widget')},
	q{SELECT poser_batch_purge('0')},
	'SELECT poser_recount()',
	'SELECT poser_record_versions()',
	q{SELECT poser_prune_versions('0')});
is( lines_as($node, 'db', 'owner', <<'EOF'), 'writer|writer|5|6', 'a writer\'s changes are recorded in its name');
SELECT min(username), max(role_name), count(DISTINCT t.id), count(DISTINCT v.uuid)
FROM poser_transaction t
JOIN (SELECT uuid, transaction_id FROM poser_widget_version
	  UNION ALL
	  SELECT uuid, transaction_id FROM poser_component_version) v ON v.transaction_id = t.id
WHERE role_name <> 'owner'
EOF
history_exact($node, 'db', 'with a writer', versions => 11);

# The owner makes and grants consumers.  A worker needs no other privilege.  A handler
# runs as the worker's role.
lines_as($node, 'db', 'owner', <<'EOF');
CREATE TABLE pushed (n bigint GENERATED ALWAYS AS IDENTITY, change poser_change, by name DEFAULT current_user);
GRANT INSERT ON pushed TO second;
CREATE FUNCTION push(change poser_change) RETURNS void LANGUAGE sql AS
'INSERT INTO pushed (change) VALUES (change)';
SELECT poser_datasync_add('client', 'beginning'), poser_datasync_add('hq', 'beginning', 'push(poser_change)', 'robot');
SELECT poser_datasync_grant('client', 'stranger'), poser_datasync_grant('hq', 'second');
EOF
my $client = q{SELECT count(*) FROM poser_datasync_changes('client')};
is(lines_as($node, 'db', 'owner', 'SELECT consumer, pending, holds_pruning FROM poser_datasync_status ORDER BY consumer'),
	"client|11|t\nhq|11|t", 'the owner has consumers');
is(lines_as($node, 'db', 'stranger', $client), 11, 'another role with a grant on a consumer gets the history');
fails_as($node, 'db', 'writer', '42501', $_, "a writer, $_")
  foreach ($client,
	q{SELECT poser_datasync_confirm('client', 1)},
	q{SELECT poser_datasync_run('hq')},
	q{SELECT poser_datasync_skip('hq', 1, 'why')},
	q{SELECT poser_datasync_add('mine')},
	q{SELECT poser_datasync_drop('client')},
	q{SELECT poser_datasync_grant('client', 'writer')},
	q{SELECT poser_datasync_revoke('client', 'stranger')},
	q{SELECT poser_datasync_stale()},
	'SELECT * FROM poser_datasync_status');
fails_as($node, 'db', 'stranger', '42501', $_, "a stranger, $_")
  foreach (q{SELECT poser_datasync_run('hq')}, q{SELECT poser_datasync_drop('client')},
	'SELECT * FROM poser_widget_version', 'SELECT * FROM poser_datasync_status');
is(lines_as($node, 'db', 'owner', q{SELECT poser_prune_versions('0')}), 0, 'pruning keeps changes that consumers have not confirmed');
is(lines_as($node, 'db', 'second', q{SELECT poser_datasync_run('hq')}), 11, 'the other role runs the handler');
is( lines_as($node, 'db', 'owner', <<'EOF'), 'second|11|t', 'the handler runs as the worker\'s role, for all changes in their order');
SELECT min(by), count(*), bool_and(change_id > before)
FROM (SELECT by, (change).change_id, lag((change).change_id, 1, 0::bigint) OVER (ORDER BY n) AS before FROM pushed) p;
EOF
lines_as($node, 'db', 'stranger', q{SELECT poser_datasync_confirm('client', max(change_id)) FROM poser_datasync_changes('client')});
cmp_ok(lines_as($node, 'db', 'owner', q{SELECT poser_prune_versions('0')}), '>', 0, 'pruning removes confirmed changes');
lines_as($node, 'db', 'owner', <<'EOF');
SELECT poser_datasync_revoke('client', 'stranger');
GRANT SELECT ON poser_datasync_status TO stranger;
UPDATE poser_widget SET description = 'Tower clock' WHERE uuid = 'a';
EOF
fails_as($node, 'db', 'stranger', '42501', $client, 'after it is revoked');
is(lines_as($node, 'db', 'stranger', q{SELECT consumer, pending FROM poser_datasync_status ORDER BY consumer}),
	"client|1\nhq|1", 'a role with a grant on the status sees it');
is(lines_as($node, 'db', 'stranger', q{SELECT consumer FROM poser_datasync_stale('0') ORDER BY 1}),
	"client\nhq", 'a role with a grant on the status sees stale consumers');
counts_exact($node, 'db', 'with consumers', widgets => 2);
is(lines_as($node, 'db', 'owner', 'SELECT * FROM poser_check()'), '', 'poser_check() of the owner finds nothing');
lines_as($node, 'db', 'owner', q{SELECT poser_datasync_drop('client'), poser_datasync_drop('hq'); DROP TABLE pushed; DROP FUNCTION push});

# Row-level security: each role sees the counts of the rows that it may see.
lines_as($node, 'db', 'owner', <<'EOF');
INSERT INTO poser_component (widget_uuid, item_code, description, active)
VALUES ('a', '6', 'Bezel', false), ('a', '7', 'Glass', true);
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY;
CREATE POLICY active_only ON poser_component FOR SELECT TO reader USING (active);
EOF
is(lines_as($node, 'db', 'owner', $get), '3|2', 'the owner counts all components');
is(lines_as($node, 'db', 'reader', $get), '2|2', 'a reader gets those that a policy shows');
is(lines_as($node, 'db', 'second', $get), '0|0', 'a reader without a policy gets none');
lines_as($node, 'db', 'owner', <<'EOF');
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY clock_only ON poser_widget FOR SELECT TO reader USING (uuid = 'a');
EOF
is(lines_as($node, 'db', 'reader', $_), '2|2', "a policy on widgets, $_") foreach ($count, $list);
is(lines_as($node, 'db', 'reader', q{SELECT count(*) FROM poser_widget_get('b')}),
	0, 'a widget that a policy hides cannot be read');
counts_exact($node, 'db', 'row-level security', widgets => 2);

# Dump and drop.
command_ok(
	[ 'pg_dump', '-f', PostgreSQL::Test::Utils::tempdir() . '/owner.sql',
		'-U', 'owner', $node->connstr('db') ],
	'the owner dumps the database');
lines_as($node, 'db', 'owner', 'DROP EXTENSION poser');
is( $node->safe_psql('db', q{SELECT relname FROM pg_class WHERE relname LIKE '%poser%'
	UNION ALL SELECT proname FROM pg_proc WHERE proname LIKE '%poser%'
	UNION ALL SELECT typname FROM pg_type WHERE typname LIKE '%poser%'}),
	'', 'the owner drops the extension, and nothing of it stays');
is( lines_as($node, 'db', 'owner', <<'EOF'), 'f', 'the owner creates it again, without rows');
CREATE EXTENSION poser;
SELECT EXISTS (SELECT FROM poser_widget_summary);
EOF

# Owners are the same after an update by any role, on any way.
create_database($node, 'fresh', owner => 'owner');
create_database($node, 'by_superuser', owner => 'owner', version => '1.0');
$node->safe_psql('by_superuser', q{ALTER EXTENSION poser UPDATE});
create_database($node, 'by_owner', owner => 'owner', version => '1.0');
lines_as($node, 'by_owner', 'owner', q{ALTER EXTENSION poser UPDATE});
create_database($node, 'by_superuser_later', owner => 'owner', version => '1.3');
$node->safe_psql('by_superuser_later', q{ALTER EXTENSION poser UPDATE});
like(owners('fresh'), qr/^$_\|owner$/m, "the owner owns $_")
  foreach ('table poser_widget', 'sequence poser_change_id_seq', 'sequence poser_batch_id_seq',
	'type poser_change', 'view poser_datasync_status', map { "table $_" } @history, @batches, @consumers);
is(owners('by_owner'), owners('fresh'), 'owners after the owner\'s update');
is(owners($_), owners('fresh'), "owners after a superuser's update: $_") foreach 'by_superuser', 'by_superuser_later';

# After an update by any role, the owner and roles with grants on the tables have
# batches, the owner purges them, and the owner has the consumers.
foreach my $dbname ('fresh', 'by_superuser', 'by_superuser_later')
{
	make_batches($node, $dbname, 'owner');
	make_consumers($node, $dbname, 'owner');
	batches_go_on($node, $dbname, $dbname, role => 'owner');
	is(lines_as($node, $dbname, 'owner', q{SELECT poser_prune_versions('0')}), 0, "$dbname: consumers hold pruning");
	consumers_go_on($node, $dbname, $dbname, role => 'owner');
	fails_as($node, $dbname, 'writer', '42501', q{SELECT poser_batch_purge('0')}, "$dbname: a writer, purge");
	is(lines_as($node, $dbname, 'owner', q{SELECT poser_batch_purge('0')}), 4, "$dbname: the owner purges");
	is(lines_as($node, $dbname, 'owner', 'SELECT uuid FROM poser_batch'), 'empty', "$dbname: what has not been executed stays");
	counts_exact($node, $dbname, "$dbname: batches");
	history_exact($node, $dbname, "$dbname: batches", versions => 10);
	cmp_ok(lines_as($node, $dbname, 'owner', q{SELECT poser_prune_versions('0')}), '>', 0, "$dbname: consumers that have confirmed all do not hold pruning");
}

# The script runs as a superuser, but none of the owner's code does.  Otherwise the trap
# would show it, also after a rollback: it takes a number from a sequence.
sub set_trap
{
	my ($dbname) = @_;
	lines_as($node, $dbname, 'owner', <<'EOF');
CREATE SEQUENCE trap;
CREATE FUNCTION become_superuser() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
		PERFORM pg_catalog.nextval('public.trap');
		ALTER ROLE owner SUPERUSER;
	END IF;
	RETURN true;
END
$$;
EOF
	return;
}

# A test: no code of the owner's has run as a superuser.
sub not_trapped
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $name) = @_;
	is( $node->safe_psql($dbname, q{SELECT is_called, (SELECT rolsuper FROM pg_roles WHERE rolname = 'owner')
		FROM trap}), 'f|f', $name);
	return;
}

create_database($node, 'hostile', owner => 'owner', version => '1.0');
set_trap('hostile');
lines_as($node, 'hostile', 'owner', <<'EOF');
CREATE TYPE flag AS ENUM ('yes', 'no');
CREATE FUNCTION to_boolean(flag) RETURNS boolean LANGUAGE plpgsql AS
$$BEGIN RETURN public.become_superuser(); END$$;
CREATE CAST (flag AS boolean) WITH FUNCTION to_boolean(flag) AS IMPLICIT;
ALTER TABLE poser_component ALTER COLUMN active DROP DEFAULT, ALTER COLUMN active TYPE flag USING 'yes';
INSERT INTO poser_widget (uuid, description) VALUES ('a', '');
INSERT INTO poser_component (widget_uuid, item_code, description, active) VALUES ('a', '', '', 'yes');
EOF
fails_as($node, 'hostile', 'owner', '42804', q{ALTER EXTENSION poser UPDATE TO '1.1'},
	'update with a flag that is no boolean');
not_trapped('hostile', 'a refused update: no code of the owner\'s ran as a superuser');

# A recorded column of another type does not stop an update.  The column is not recorded
# then.  The owner has made types, casts, policies, indexes, triggers and operators that
# are traps.
foreach my $role ('owner', 'postgres')
{
	my $dbname = "hostile_for_$role";
	create_database($node, $dbname, owner => 'owner', version => '1.1');
	set_trap($dbname);
	lines_as($node, $dbname, 'owner', <<'EOF');
CREATE FUNCTION springs(varchar) RETURNS varchar LANGUAGE plpgsql IMMUTABLE AS
$$BEGIN PERFORM public.become_superuser(); RETURN 'sprung'; END$$;
CREATE TYPE code AS ENUM ('1', '2');
CREATE FUNCTION to_varchar(code) RETURNS varchar LANGUAGE sql AS $$SELECT public.springs('')$$;
CREATE CAST (code AS varchar) WITH FUNCTION to_varchar(code) AS IMPLICIT;
ALTER TABLE poser_component ALTER COLUMN item_code TYPE code USING '1';
CREATE DOMAIN label AS varchar(255) CHECK (public.springs(VALUE) IS NOT NULL);
ALTER TABLE poser_component ALTER COLUMN description TYPE label;
INSERT INTO poser_widget (uuid, description) VALUES ('a', '');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('a1', 'a', '2', 'first');

CREATE FUNCTION springs_by_trigger() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM public.become_superuser(); RETURN NULL; END$$;
CREATE TRIGGER springs BEFORE INSERT OR UPDATE OR DELETE ON poser_component
	EXECUTE FUNCTION springs_by_trigger();
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY springs ON poser_widget USING (become_superuser());
CREATE POLICY springs ON poser_component USING (become_superuser());
CREATE INDEX ON poser_component (springs(uuid)) WHERE springs(widget_uuid) = 'sprung';
CREATE STATISTICS springs ON springs(uuid), springs(widget_uuid) FROM poser_component;
CREATE FUNCTION springs_by_operator(varchar, varchar) RETURNS boolean LANGUAGE sql AS
$$SELECT public.become_superuser()$$;
CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = springs_by_operator);
CREATE OPERATOR < (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = springs_by_operator);
CREATE OPERATOR <> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = springs_by_operator);
EOF
	lines_as($node, $dbname, $role, 'ALTER EXTENSION poser UPDATE');
	not_trapped($dbname, "updated by $role: no code of the owner's ran as a superuser");
	is( lines_as($node, $dbname, 'postgres', <<'EOF'), <<'EOF' =~ s/\n\z//r, "updated by $role: rows are recorded");
SELECT operation, widget_uuid, item_code, description, active FROM poser_component_history('a1');
SELECT poser_record_versions();
SELECT * FROM poser_check();
EOF
insert|a|||t
0
column description of poser_component|is of type public.label instead of character varying(255)
column item_code of poser_component|is of type public.code instead of character varying(20)
column item_code of poser_component|is not recorded: poser_component_version has no such column of its type
column description of poser_component|is not recorded: poser_component_version has no such column of its type
EOF
	lines_as($node, $dbname, 'owner', q{UPDATE poser_component SET description = 'second', item_code = '1', active = false});
	is( lines_as($node, $dbname, 'postgres', q{SELECT operation, changed, active
			FROM poser_component_history('a1')}),
		"update|{active}|f\ninsert||t", "updated by $role: recording goes on");
	not_trapped($dbname, 'no code of the owner\'s runs when a superuser reads, records and checks');
	$node->safe_psql($dbname, 'INSERT INTO poser_component (widget_uuid, item_code, description) '
		. q{VALUES ('a', '1', ''); ALTER ROLE owner NOSUPERUSER});
	is($node->safe_psql($dbname, 'SELECT is_called FROM trap'), 't', 'the trap does work');
}

# The script to 1.5 calls functions in the extension's schema.  Functions of the owner's
# with these names and other arguments are traps.
foreach my $role ('owner', 'postgres')
{
	my $dbname = "hostile_names_for_$role";
	create_database($node, $dbname, owner => 'owner', version => '1.4');
	set_trap($dbname);
	lines_as($node, $dbname, 'owner', <<'EOF');
SELECT format('CREATE FUNCTION %s(%s) RETURNS void LANGUAGE plpgsql AS %L',
	name, arguments, 'BEGIN PERFORM public.become_superuser(); END')
FROM unnest('{poser_lock_tables,poser_check_column,poser_set_replica_identity,poser_set_owner,poser_carry_grants,poser_grant_to_public}'::text[]) AS name,
	unnest('{text,"text, text",oid,"text, text, text","text, text[], text[]","text, text, regtype","text, regclass[], regprocedure[]",
		"text, regprocedure","regprocedure, text","VARIADIC text[]","anyelement, anyelement","anyarray"}'::text[]) AS arguments
WHERE (name, arguments) <> ('poser_lock_tables', 'VARIADIC text[]') \gexec
EOF
	lines_as($node, $dbname, $role, 'ALTER EXTENSION poser UPDATE');
	not_trapped($dbname, "updated by $role: no function with the name of one that the script calls ran as a superuser");
	is($node->safe_psql($dbname, q{SELECT extversion = default_version FROM pg_extension JOIN pg_available_extensions ON name = extname
		WHERE extname = 'poser'}), 't', "updated by $role: the script has run");
}

# It computes the key of a batch's row from two columns.  A cast of the owner's for a type
# that these have is a trap.
foreach my $column ('batch_uuid', 'sequence')
{
	my $dbname = "hostile_cast_of_$column";
	create_database($node, $dbname, owner => 'owner', version => '1.4');
	set_trap($dbname);
	lines_as($node, $dbname, 'owner', <<"EOF");
INSERT INTO poser_batch (uuid, target) VALUES ('1', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, key) VALUES ('1', 1, '{"uuid": "a"}');
CREATE TYPE code AS ENUM ('1');
CREATE FUNCTION to_text(code) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
\$\$BEGIN PERFORM public.become_superuser(); RETURN 'sprung'; END\$\$;
CREATE CAST (code AS text) WITH FUNCTION to_text(code) AS ASSIGNMENT;
DROP POLICY poser_batch_row_policy ON poser_batch_row;
ALTER TABLE poser_batch_row DROP CONSTRAINT poser_batch_row_fk_batch, ALTER COLUMN $column TYPE code USING '1';
EOF
	fails_as($node, $dbname, 'owner', '55000', 'ALTER EXTENSION poser UPDATE', "update with a $column of another type");
	not_trapped($dbname, "$column of another type: no code of the owner's ran as a superuser");
}

# The owner also owns the tables of history and consumers.  None of its code on them runs
# as the superuser that updates, or makes consumers and works for them.
foreach my $role ('owner', 'postgres')
{
	my $dbname = "hostile_history_for_$role";
	create_database($node, $dbname, owner => 'owner', version => '1.3');
	set_trap($dbname);
	lines_as($node, $dbname, 'owner', <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock');
CREATE FUNCTION springs(anyelement) RETURNS anyelement LANGUAGE plpgsql IMMUTABLE AS
$$BEGIN PERFORM public.become_superuser(); RETURN $1; END$$;
CREATE FUNCTION springs_by_trigger() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM public.become_superuser(); RETURN NULL; END$$;
CREATE DOMAIN id AS xid8 CHECK (public.springs(VALUE) IS NOT NULL);
CREATE TRIGGER springs BEFORE INSERT OR UPDATE OR DELETE ON poser_transaction EXECUTE FUNCTION springs_by_trigger();
CREATE INDEX ON poser_transaction (springs(id)) WHERE springs(username) IS NOT NULL;
CREATE STATISTICS springs ON springs(id), springs(issued_at) FROM poser_transaction;
ALTER TABLE poser_transaction ADD CONSTRAINT springs CHECK (springs(id) > 0) NOT VALID;
ALTER TABLE poser_transaction ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY springs ON poser_transaction USING (become_superuser());
CREATE POLICY springs ON poser_widget_version USING (become_superuser());
EOF
	lines_as($node, $dbname, $role, 'ALTER EXTENSION poser UPDATE');
	not_trapped($dbname, "1.3 updated by $role: no code of the owner's ran as a superuser");
	lines_as($node, $dbname, 'owner', <<'EOF');
CREATE TRIGGER springs BEFORE INSERT OR UPDATE OR DELETE ON poser_datasync_consumer EXECUTE FUNCTION springs_by_trigger();
CREATE TRIGGER springs AFTER INSERT ON poser_datasync_skipped EXECUTE FUNCTION springs_by_trigger();
CREATE INDEX ON poser_datasync_consumer (springs(consumer));
ALTER TABLE poser_datasync_consumer ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY springs ON poser_datasync_consumer USING (become_superuser());
ALTER TABLE poser_datasync_skipped ADD CONSTRAINT springs CHECK (springs(reason) > '');
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION to_json(mood) RETURNS json LANGUAGE plpgsql AS
$$BEGIN PERFORM public.become_superuser(); RETURN '"sprung"'; END$$;
CREATE CAST (mood AS json) WITH FUNCTION to_json(mood) AS IMPLICIT;
ALTER TABLE poser_widget ADD COLUMN mood mood;
ALTER TABLE poser_widget_version ADD COLUMN mood mood;
UPDATE poser_widget SET description = 'Wall clock', mood = 'good';
EOF
	is( lines_as($node, $dbname, 'postgres', <<'EOF'), <<'EOF' =~ s/\n\z//r, "1.3 updated by $role: a superuser has consumers");
SELECT poser_datasync_add('c', 'beginning') \gset
SELECT change_id AS last FROM poser_datasync_changes('c', 1) \gset
SELECT poser_datasync_skip('c', :last, 'poisonous') \gset
SELECT payload->>'description', payload->>'mood' FROM poser_datasync_changes('c', 1);
SELECT poser_datasync_confirm('c', max(change_id)) FROM poser_datasync_changes('c') \gset
SELECT poser_datasync_grant('c', 'owner'), poser_datasync_revoke('c', 'owner') \gset
SELECT * FROM poser_check();
SELECT poser_prune_versions('0') > 0;
SELECT poser_datasync_drop('c') \gset
EOF
Wall clock|good
table poser_datasync_consumer|has row-level security enabled
t
EOF
	not_trapped($dbname, 'no code of the owner\'s runs when a superuser makes consumers and works for them');
	$node->safe_psql($dbname, q{INSERT INTO poser_datasync_consumer (consumer) VALUES ('d'); ALTER ROLE owner NOSUPERUSER});
	is($node->safe_psql($dbname, 'SELECT is_called FROM trap'), 't', 'the trap does work');
}

done_testing();
