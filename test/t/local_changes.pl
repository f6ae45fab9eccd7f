# What users have changed in Poser's tables is not in a dump.  poser_local_changes() gives
# it as statements, and the commands of the manual's chapter "Backup" run them in a
# restore: the restored database has the same columns, constraints, indexes, triggers,
# policies, settings and owners, the same rows, and a role that sees a part of the rows
# sees the same part.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('local_changes', conf => 'wal_level = logical');
my $directory = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', <<'EOF');
CREATE ROLE shopkeeper LOGIN;
CREATE ROLE "auditor ""1""";
CREATE ROLE reader LOGIN;
GRANT "auditor ""1""" TO shopkeeper;
EOF

# The shell commands of the manual: those of a backup, those of a restore, and the one for
# an extension that another role owns.
my ($chapter) = slurp_file("$FindBin::RealBin/../../doc/poser.md") =~ /^### A backup with local changes$(.*?)^### /ms;
my ($backup, $restore, $as_owner) = $chapter =~ /^```sh\n(.*?)^```$/msg;

# Runs commands in the test's directory, on the test's cluster.  A test.
sub commands_ok
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($commands, $name) = @_;
	my $file = "$directory/commands.sh";

	unlink $file;
	append_to_file($file, $commands);
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	command_ok([ 'sh', '-e', '-c', "cd '$directory' && . ./commands.sh" ], $name);
	return;
}

# Makes a backup of database shop, and restores it as database restored, with the manual's
# commands, by "role" or by a superuser.  With "owner" a superuser gives the extension to
# shopkeeper.  Two tests.
sub backup_and_restore
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, %params) = @_;
	my $commands = $restore;

	local $ENV{PGUSER} = $params{role} // 'postgres';
	$commands =~ s/^createdb /createdb -U postgres -O $params{role} /m if $params{role};

	$commands =~ s/^createdb .*\n/createdb -T template0 -O shopkeeper restored\n$as_owner/m if $params{owner};
	system("rm -rf '$directory/shop.dump'");
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS restored');
	commands_ok($backup, "$name: the manual's backup");
	commands_ok($commands, "$name: the manual's restore");
	$node->safe_psql('postgres', 'ALTER DATABASE restored SET search_path = '
		  . $node->safe_psql('shop', 'SHOW search_path'));
	return;
}

# What poser_local_changes() returns.
sub local_changes
{
	my ($dbname, $role) = @_;

	return lines_as($node, $dbname, $role // 'postgres', 'SELECT * FROM poser_local_changes()');
}

# All that the catalogs know of the extension's tables, views and sequences, one fact a
# line, without OIDs, and without pg_attver, with which newer minor releases mark columns.
sub facts
{
	my ($dbname) = @_;

	return $node->safe_psql($dbname, <<'EOF');
SET search_path = pg_catalog;
CREATE TEMP VIEW rel AS
	SELECT c.*, c.oid::regclass::text AS name FROM pg_class c
	WHERE relkind IN ('r', 'v', 'S') AND relname ~ '^poser_';
SELECT 'relation', name, relkind, relowner::regrole, relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
	reloptions, (SELECT reloptions FROM pg_class t WHERE t.oid = rel.reltoastrelid), obj_description(oid, 'pg_class')
FROM rel ORDER BY name;
SELECT 'privilege', name, a FROM rel,
	LATERAL (SELECT format('%s %s %s %s', grantor::regrole, grantee::regrole, privilege_type, is_grantable) AS a
		FROM aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)))) x ORDER BY name, a;
SELECT 'column', name, row_number() OVER (PARTITION BY rel.oid ORDER BY attnum), attname, format_type(atttypid, atttypmod), attcollation::regcollation,
	attnotnull, attidentity, attgenerated, pg_get_expr(adbin, adrelid), attstorage, attcompression, attstattarget,
	(SELECT array_agg(o) FROM unnest(attoptions) o WHERE o !~ '^pg_attver='), col_description(rel.oid, attnum), attacl
FROM rel JOIN pg_attribute ON attrelid = rel.oid AND attnum > 0 AND NOT attisdropped AND relkind <> 'S'
LEFT JOIN pg_attrdef ON adrelid = rel.oid AND adnum = attnum ORDER BY name, attnum;
SELECT 'view', name, pg_get_viewdef(oid) FROM rel WHERE relkind = 'v' ORDER BY name;
SELECT 'constraint', name, conname, convalidated, pg_get_constraintdef(c.oid), obj_description(c.oid, 'pg_constraint')
FROM rel JOIN pg_constraint c ON conrelid = rel.oid ORDER BY name, conname;
SELECT 'index', name, pg_get_indexdef(i.oid), indisclustered, indisreplident, i.reloptions, i.relowner::regrole, obj_description(i.oid, 'pg_class'),
	(SELECT array_agg(attstattarget ORDER BY attnum) FROM pg_attribute WHERE attrelid = i.oid)
FROM rel JOIN pg_index ON indrelid = rel.oid JOIN pg_class i ON i.oid = indexrelid ORDER BY name, i.relname;
SELECT 'trigger', name, tgenabled, pg_get_triggerdef(t.oid), obj_description(t.oid, 'pg_trigger')
FROM rel JOIN pg_trigger t ON tgrelid = rel.oid AND NOT tgisinternal ORDER BY name, tgname;
SELECT 'rule', name, ev_enabled, pg_get_ruledef(r.oid), obj_description(r.oid, 'pg_rewrite')
FROM rel JOIN pg_rewrite r ON ev_class = rel.oid ORDER BY name, rulename;
SELECT 'policy', name, polname, polcmd, polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid),
	obj_description(p.oid, 'pg_policy')
FROM rel JOIN pg_policy p ON polrelid = rel.oid ORDER BY name, polname;
SELECT 'statistics', name, pg_get_statisticsobjdef(s.oid), stxstattarget, obj_description(s.oid, 'pg_statistic_ext')
FROM rel JOIN pg_statistic_ext s ON stxrelid = rel.oid ORDER BY name, stxname;
SELECT 'sequence', name, to_jsonb(s) - 'seqrelid', pg_sequence_last_value(rel.oid),
	(SELECT pg_describe_object(refclassid, refobjid, refobjsubid) FROM pg_depend d
	 WHERE d.classid = 'pg_class'::regclass AND d.objid = rel.oid AND deptype IN ('a', 'i'))
FROM rel JOIN pg_sequence s ON seqrelid = rel.oid ORDER BY name;
SELECT 'label', objname, provider, label FROM pg_seclabels ORDER BY objname;
SELECT 'parent', name, inhparent::regclass FROM rel JOIN pg_inherits ON inhrelid = rel.oid ORDER BY name, inhparent::regclass::text;
SELECT 'publication', pubname, tablename, attnames, rowfilter FROM pg_publication_tables ORDER BY pubname, tablename;
SELECT 'member', pg_describe_object(classid, objid, 0) FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser') AND deptype = 'e'
	AND classid = 'pg_class'::regclass ORDER BY 1;
EOF
}

# A test: two lists of lines are equal.  If not, it shows the lines that only one has.
sub same_lines
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($got, $expected, $name) = @_;
	my %got = map { $_ => 1 } split /\n/, $got;
	my %expected = map { $_ => 1 } split /\n/, $expected;

	ok($got eq $expected, $name)
	  or diag(join "\n",
		(map { "only got: $_" } grep { !$expected{$_} } split /\n/, $got),
		(map { "only expected: $_" } grep { !$got{$_} } split /\n/, $expected));
	return;
}

# All rows that a role sees.
my $visible = <<'EOF';
SELECT * FROM poser_widget ORDER BY uuid COLLATE "C";
SELECT * FROM poser_component ORDER BY uuid COLLATE "C";
SELECT * FROM poser_widget_version ORDER BY change_id;
SELECT * FROM poser_component_version ORDER BY change_id;
SELECT * FROM poser_widget_summary ORDER BY uuid COLLATE "C";
SELECT * FROM poser_batch ORDER BY uuid COLLATE "C";
SELECT * FROM poser_batch_row ORDER BY batch_uuid COLLATE "C", sequence;
EOF

# A new database has no changes, however it came to its version.
my $latest = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'poser'});
create_database($node, 'fresh');
is(local_changes('fresh'), '', 'a new database has no local changes');
foreach my $version ('1.0', '1.1', '1.2', '1.3', '1.4', '1.5', '1.6')
{
	my $dbname = 'from_' . $version =~ tr/./_/r;

	create_database($node, $dbname, version => $version, schema => 'Stock Room', owner => 'shopkeeper');
	lines_as($node, $dbname, 'shopkeeper', 'SET client_min_messages = warning; ALTER EXTENSION poser UPDATE');
	is(local_changes($dbname), '', "a database that was updated from $version has no local changes");
}
is(local_changes('fresh', 'reader'), '', 'every role can call the function');

# Settings of the session do not change the result.
is( $node->safe_psql('fresh', <<'EOF'), '', 'nor has it under other settings');
SET quote_all_identifiers = on;
SET datestyle = 'SQL, DMY';
SET search_path = '';
SELECT * FROM public.poser_local_changes();
EOF

# Each table, view and sequence of the extension is known: a column or an owner of it is returned.
$node->safe_psql('postgres', 'CREATE DATABASE known TEMPLATE fresh');
is( $node->safe_psql('known', <<'EOF'), '', 'the function knows all relations of the extension');
SET client_min_messages = warning;
CREATE TEMP VIEW member AS
	SELECT objid::regclass AS name, relkind FROM pg_depend JOIN pg_class c ON c.oid = objid
	WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'poser')
		AND deptype = 'e' AND classid = 'pg_class'::regclass AND relname <> 'poser_batch_id_seq';
SELECT format('ALTER TABLE %s ADD COLUMN extra text', name) FROM member WHERE relkind = 'r' \gexec
SELECT format('ALTER TABLE %s OWNER TO shopkeeper', name) FROM member \gexec
SELECT name FROM member
WHERE NOT EXISTS (SELECT FROM poser_local_changes() WHERE statement = format('ALTER TABLE public.%s OWNER TO shopkeeper;', name))
	OR (relkind = 'r' AND NOT EXISTS (
		SELECT FROM poser_local_changes() WHERE statement = format('ALTER TABLE public.%s ADD COLUMN extra text;', name)));
EOF

#
# A database with changes of every kind, which Poser works with
#

create_database($node, 'shop');
make_history($node, 'shop', 'postgres');
make_batches($node, 'shop', 'postgres');
make_consumers($node, 'shop', 'postgres');
my $before_changes = facts('shop');

$node->safe_psql('shop', <<'EOF');
SET client_min_messages = warning;
CREATE TYPE "Colour ""s" AS ENUM ('red', 'it''s', E'back\\slash');
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE >= 0);
CREATE COLLATION "by code" (provider = libc, locale = 'C');
CREATE FUNCTION fits(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT length($1) < 1000';
CREATE FUNCTION twice(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1 || $1';
CREATE FUNCTION "it's noted"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.price := coalesce(NEW.price, 1);
	RETURN NEW;
END
$$;
CREATE FUNCTION unused() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TABLE shelf (id integer PRIMARY KEY);
INSERT INTO shelf VALUES (1), (2);

-- columns, most of them recorded
SELECT poser_alter_type('poser_widget', 'description', 'varchar(400)');
SELECT poser_alter_type('poser_widget_version', 'description', 'varchar(400)');
ALTER TABLE poser_widget
	ADD COLUMN "Colour ""of"" it's" "Colour ""s" NOT NULL DEFAULT 'red',
	ADD COLUMN price price,
	ADD COLUMN code text COLLATE "by code",
	ADD COLUMN shelf integer DEFAULT 1,
	ADD COLUMN doubled text GENERATED ALWAYS AS (twice(description)) STORED,
	ADD COLUMN serial_no serial,
	ADD COLUMN number bigint GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY 5);
ALTER TABLE poser_widget_version
	ADD COLUMN "Colour ""of"" it's" "Colour ""s",
	ADD COLUMN price price,
	ADD COLUMN code text COLLATE "by code",
	ADD COLUMN shelf integer,
	ADD COLUMN doubled text,
	ADD COLUMN serial_no integer,
	ADD COLUMN number bigint;
ALTER TABLE poser_transaction ADD COLUMN "Ticket" text;
ALTER TABLE poser_component ALTER COLUMN item_code TYPE varchar(40);
ALTER TABLE poser_component_version ALTER COLUMN item_code TYPE varchar(40);
SELECT poser_record_versions();
ALTER TABLE poser_widget ALTER COLUMN code SET STORAGE EXTERNAL, ALTER COLUMN code SET COMPRESSION pglz;
ALTER TABLE poser_widget ALTER COLUMN active SET DEFAULT false;

-- constraints, indexes, statistics
ALTER TABLE poser_widget
	ADD CONSTRAINT "one code" UNIQUE (code) WITH (fillfactor = 70),
	ADD CONSTRAINT two_codes UNIQUE NULLS NOT DISTINCT (code, serial_no) DEFERRABLE INITIALLY DEFERRED,
	ADD CONSTRAINT fits CHECK (fits(description)),
	ADD CONSTRAINT "fits; later" CHECK (fits(code)) NOT VALID,
	ADD CONSTRAINT in_shelf FOREIGN KEY (shelf) REFERENCES shelf ON UPDATE CASCADE;
ALTER TABLE poser_component
	DROP CONSTRAINT poser_component_fk_widget,
	ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid) ON DELETE CASCADE;
CREATE INDEX "Index ""of"" widgets" ON poser_widget (lower(description), price DESC) INCLUDE (code) WITH (fillfactor = 60) WHERE active;
ALTER INDEX "Index ""of"" widgets" ALTER COLUMN 1 SET STATISTICS 77;
CREATE UNIQUE INDEX poser_widget_idx_serial ON poser_widget (serial_no);
ALTER TABLE poser_widget CLUSTER ON poser_widget_idx_serial;
ALTER TABLE poser_widget REPLICA IDENTITY USING INDEX poser_widget_idx_serial;
ALTER TABLE poser_component_version REPLICA IDENTITY FULL;
CREATE STATISTICS "Statistics ""of"" widgets" (ndistinct) ON description, code FROM poser_widget;
ALTER STATISTICS "Statistics ""of"" widgets" SET STATISTICS 33;
ALTER TABLE poser_widget ALTER COLUMN description SET STATISTICS 500, ALTER COLUMN uuid SET (n_distinct = -0.5);
ALTER TABLE poser_component_count ALTER COLUMN total SET STATISTICS -1;

-- triggers, rules
CREATE TRIGGER "it's noted" BEFORE INSERT OR UPDATE OF description ON poser_widget FOR EACH ROW WHEN (NEW.price IS NULL) EXECUTE FUNCTION "it's noted"();
CREATE TRIGGER disabled AFTER DELETE ON poser_component FOR EACH STATEMENT EXECUTE FUNCTION unused('a''b', E'c\\d');
ALTER TABLE poser_component DISABLE TRIGGER disabled;
CREATE CONSTRAINT TRIGGER always AFTER INSERT ON poser_batch DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION unused();
ALTER TABLE poser_batch ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER instead INSTEAD OF UPDATE ON poser_widget_summary FOR EACH ROW EXECUTE FUNCTION unused();
CREATE RULE told AS ON DELETE TO poser_version_horizon DO ALSO NOTIFY "Horizon";
ALTER TABLE poser_version_horizon DISABLE RULE told;
ALTER TABLE poser_component ENABLE ALWAYS TRIGGER poser_count_insert;

-- options and owners
ALTER TABLE poser_widget SET (fillfactor = 80, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE poser_component_count SET (fillfactor = 50);
ALTER TABLE poser_component_count_delta RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE poser_batch OWNER TO "auditor ""1""";
ALTER TABLE poser_batch_row OWNER TO "auditor ""1""";
ALTER SEQUENCE poser_batch_id_seq CACHE 3;

-- what roles see
GRANT SELECT ON poser_widget, poser_component, poser_widget_version, poser_component_version, poser_widget_summary,
	poser_batch, poser_batch_row TO reader;
GRANT UPDATE ("Colour ""of"" it's") ON poser_widget TO reader;
REVOKE DELETE ON poser_component FROM writer;
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_component_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY "it's red" ON poser_widget FOR SELECT TO reader, "auditor ""1""" USING ("Colour ""of"" it's" = 'red');
CREATE POLICY part ON poser_component USING (EXISTS (SELECT FROM poser_widget w WHERE w.uuid = widget_uuid)) WITH CHECK (fits(description));
CREATE POLICY part ON poser_widget_version TO reader USING ("Colour ""of"" it's" = 'red');
CREATE POLICY part ON poser_component_version TO reader USING (uuid LIKE '%1');
CREATE POLICY "only open" ON poser_batch AS RESTRICTIVE TO reader USING (uuid = 'open');
CREATE POLICY shown ON poser_batch TO reader USING (true);
CREATE POLICY shown ON poser_batch_row TO reader USING (sequence < 4);

-- notes, and others
COMMENT ON TABLE poser_widget IS E'it''s a\nwidget \\';
COMMENT ON COLUMN poser_widget."Colour ""of"" it's" IS 'its colour';
COMMENT ON CONSTRAINT "one code" ON poser_widget IS 'one';
COMMENT ON INDEX "Index ""of"" widgets" IS 'two';
COMMENT ON TRIGGER "it's noted" ON poser_widget IS 'three';
COMMENT ON POLICY "it's red" ON poser_widget IS 'four';
COMMENT ON RULE told ON poser_version_horizon IS 'five';
COMMENT ON STATISTICS "Statistics ""of"" widgets" IS 'six';
CREATE PUBLICATION "Some ""widgets""" FOR TABLE poser_widget (uuid, serial_no) WHERE (serial_no > 3), poser_transaction;

-- objects of the user's that need the changes
CREATE TABLE priced (code text REFERENCES poser_widget (code));
CREATE VIEW a_view AS SELECT uuid, "Colour ""of"" it's", price, code FROM poser_widget;
CREATE MATERIALIZED VIEW coloured AS SELECT uuid, "Colour ""of"" it's" FROM poser_widget;
CREATE FUNCTION number_of_shelves() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM a_view, shelf; END;

-- rows
UPDATE poser_widget SET "Colour ""of"" it's" = CASE WHEN uuid LIKE 'history %' THEN 'it''s' ELSE E'back\\slash' END::"Colour ""s",
	code = uuid, description = rpad(description, 300, ' x') WHERE uuid !~ '[1357]';
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('long', 'history 1', repeat('9', 40), 'Long');
INSERT INTO priced VALUES ('history 2');
EOF
isnt(facts('shop'), $before_changes, 'the shop is changed');
is($node->safe_psql('shop', 'SELECT * FROM poser_check()'), '', 'poser_check() finds nothing after the changes');

my $facts = facts('shop');
my $changes = local_changes('shop');
my $contents = contents($node, 'shop');
my $seen = lines_as($node, 'shop', 'reader', $visible);
cmp_ok($seen =~ tr/\n//, '>', 5, 'a reader sees rows');
isnt($seen, $node->safe_psql('shop', $visible), 'and not all');
backup_and_restore('changes of every kind');
same_lines(local_changes('restored'), $changes, 'the restored database has the same local changes');
same_lines(facts('restored'), $facts, 'the catalogs are equal');
same_lines(contents($node, 'restored'), $contents, 'all contents are equal');
same_lines(lines_as($node, 'restored', 'reader', $visible), $seen, 'a reader sees what it saw');
is($node->safe_psql('restored', 'SELECT * FROM poser_check()'), '', 'poser_check() finds nothing after the restore');
fails_as($node, 'restored', 'postgres', '23514',
	q{INSERT INTO poser_widget (uuid, description) SELECT 'long', 'x'; UPDATE poser_widget SET price = -1}, 'a domain');
is( $node->safe_psql('restored', <<'EOF'), "f|1.00|1|it's\n0", 'the columns, the trigger and the foreign key work');
INSERT INTO poser_widget (uuid, description, "Colour ""of"" it's") VALUES ('new', 'New', 'it''s');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('new', '1', 'Part');
SELECT active, price, shelf, "Colour ""of"" it's" FROM poser_widget_version WHERE uuid = 'new';
DELETE FROM poser_widget WHERE uuid = 'new';
SELECT count(*) FROM poser_component WHERE widget_uuid = 'new';
EOF

# A role that is not the owner reads the same changes, if it may read the sequences.
$node->safe_psql('shop', 'CREATE ROLE backup LOGIN BYPASSRLS; GRANT pg_read_all_data TO backup');
same_lines(local_changes('shop', 'backup'), $changes, 'a role for backups reads the same local changes');
same_lines(local_changes('shop', 'reader'), $changes =~ s/.*setval.*\n//r, 'a role without privileges reads all but the value of a sequence');

#
# Roles for backups
#

command_ok([ 'pg_dump', '-f', "$directory/superuser.sql", $node->connstr('shop') ], 'pg_dump by a superuser');
command_ok([ 'pg_dump', '-f', "$directory/backup.sql", $node->connstr('shop') . ' user=backup' ],
	'a role with pg_read_all_data and BYPASSRLS dumps the database');
# newer minor releases begin and end a dump with a key, which is another one each time
is( slurp_file("$directory/backup.sql") =~ s/^\\(un)?restrict .*$//mgr,
	slurp_file("$directory/superuser.sql") =~ s/^\\(un)?restrict .*$//mgr, 'and dumps all that a superuser does');
$node->safe_psql('postgres', 'ALTER ROLE backup NOBYPASSRLS');
command_fails_like([ 'pg_dump', '-f', "$directory/partial.sql", $node->connstr('shop') . ' user=backup' ],
	qr/query would be affected by row-level security policy for table "poser_/, 'without BYPASSRLS it is an error');
command_fails_like([ 'pg_dump', '-f', "$directory/partial.sql", $node->connstr('fresh') . ' user=backup' ],
	qr/query would be affected by row-level security policy for table "poser_batch"/, 'in a new database, too');

#
# Changes of what Poser's scripts have made, in a schema and with an owner of its own
#

$node->safe_psql('postgres', 'DROP DATABASE shop');
create_database($node, 'shop', owner => 'shopkeeper', schema => 'stock');
make_history($node, 'shop', 'shopkeeper');
make_batches($node, 'shop', 'shopkeeper');
lines_as($node, 'shop', 'shopkeeper', <<'EOF');
ALTER TABLE poser_widget ALTER COLUMN description DROP NOT NULL;
ALTER TABLE poser_batch ALTER COLUMN created DROP DEFAULT;
ALTER TABLE poser_batch ALTER COLUMN id SET GENERATED BY DEFAULT;
ALTER TABLE poser_batch_row DROP COLUMN status_text;
ALTER TABLE poser_batch_row ALTER COLUMN operation DROP DEFAULT, ALTER COLUMN operation TYPE text COLLATE "C";
ALTER TABLE poser_batch_row SET UNLOGGED;
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget;
ALTER TABLE poser_widget DROP CONSTRAINT poser_widget_pkey;
ALTER TABLE poser_widget ADD CONSTRAINT poser_widget_pkey PRIMARY KEY (uuid) INCLUDE (description);
ALTER TABLE poser_component ADD CONSTRAINT poser_component_fk_widget FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid);
ALTER TABLE poser_batch RENAME CONSTRAINT poser_batch_uq_id TO one_id;
ALTER TABLE poser_batch_row DROP CONSTRAINT poser_batch_row_ck_status;
DROP INDEX poser_component_idx_widget;
CREATE INDEX poser_component_idx_widget ON poser_component (widget_uuid, active);
ALTER INDEX poser_widget_version_idx_key RENAME TO by_widget;
DROP INDEX poser_component_version_idx_widget;
ALTER TABLE poser_component DISABLE TRIGGER poser_version_insert;
DROP TRIGGER poser_count_truncate ON poser_widget;
DROP TRIGGER poser_datasync_arrive ON poser_datasync_consumer;
CREATE TRIGGER poser_datasync_arrive BEFORE INSERT OR UPDATE ON poser_datasync_consumer FOR EACH ROW EXECUTE FUNCTION poser_datasync_arrive();
ALTER TABLE poser_datasync_consumer ENABLE ALWAYS TRIGGER poser_datasync_arrive;
ALTER TABLE poser_transaction ENABLE TRIGGER poser_transaction_arrive;
ALTER TABLE poser_component_count_delta REPLICA IDENTITY NOTHING;
ALTER TABLE poser_datasync_skipped REPLICA IDENTITY DEFAULT;
ALTER TABLE poser_datasync_consumer RESET (fillfactor);
ALTER VIEW poser_widget_summary SET (security_barrier = true);
ALTER VIEW poser_widget_summary RESET (security_invoker);
ALTER VIEW poser_widget_summary ALTER COLUMN active SET DEFAULT true;
ALTER SEQUENCE poser_change_id_seq INCREMENT 2 MAXVALUE 1000000 CYCLE;
DROP POLICY poser_batch_policy ON poser_batch;
CREATE POLICY poser_batch_policy ON poser_batch FOR SELECT USING (role_name = CURRENT_USER);
ALTER TABLE poser_batch_row DISABLE ROW LEVEL SECURITY;
ALTER TABLE poser_component_version FORCE ROW LEVEL SECURITY;
CREATE TABLE "known ""by"" uuid" (uuid varchar(32) NOT NULL, price numeric CONSTRAINT "not too dear" CHECK (price < 1000));
CREATE TABLE noted (notes text);
ALTER TABLE poser_batch ADD COLUMN price numeric CONSTRAINT "not too dear" CHECK (price < 1000);
ALTER TABLE poser_batch INHERIT "known ""by"" uuid", INHERIT noted;
GRANT CREATE, USAGE ON SCHEMA stock TO "auditor ""1""";
ALTER TABLE poser_component OWNER TO "auditor ""1""";
EOF
$facts = facts('shop');
$changes = local_changes('shop');
$contents = $node->safe_psql('shop', $visible =~ s/.*poser_widget_summary.*\n//r);
my $problems = $node->safe_psql('shop', 'SELECT * FROM poser_check()');
backup_and_restore('changes of what the scripts have made', owner => 1);
same_lines(local_changes('restored'), $changes, 'the restored database has the same changes of what the scripts have made');
same_lines(facts('restored'), $facts, 'the catalogs are equal');
same_lines($node->safe_psql('restored', $visible =~ s/.*poser_widget_summary.*\n//r), $contents, 'all rows are equal');
same_lines($node->safe_psql('restored', 'SELECT * FROM poser_check()'), $problems, 'poser_check() reports the same problems');

#
# An owner that is no superuser
#

$node->safe_psql('postgres', 'DROP DATABASE shop');
create_database($node, 'shop', owner => 'shopkeeper');
make_history($node, 'shop', 'shopkeeper');
make_batches($node, 'shop', 'shopkeeper');
lines_as($node, 'shop', 'shopkeeper', <<'EOF');
SET client_min_messages = warning;
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE FUNCTION fits(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT length($1) < 1000';
CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
ALTER TABLE poser_widget ADD COLUMN colour colour DEFAULT 'red', ADD COLUMN number integer GENERATED ALWAYS AS IDENTITY,
	ADD UNIQUE (number), ADD CHECK (fits(description));
ALTER TABLE poser_widget_version ADD COLUMN colour colour, ADD COLUMN number integer;
SELECT poser_alter_type('poser_widget', 'description', 'varchar(400)');
ALTER TABLE poser_widget_version ALTER COLUMN description TYPE varchar(400);
SELECT poser_record_versions();
ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget, ADD CONSTRAINT poser_component_fk_widget
	FOREIGN KEY (widget_uuid) REFERENCES poser_widget (uuid) ON DELETE CASCADE;
CREATE INDEX ON poser_widget (colour);
CREATE TRIGGER same BEFORE UPDATE ON poser_widget FOR EACH ROW EXECUTE FUNCTION same();
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
ALTER TABLE poser_widget_version ENABLE ROW LEVEL SECURITY;
CREATE POLICY blue ON poser_widget TO reader USING (colour = 'blue');
CREATE POLICY blue ON poser_widget_version TO reader USING (colour = 'blue');
CREATE POLICY blue ON poser_batch TO reader USING (uuid = 'open');
GRANT SELECT ON poser_widget, poser_widget_version, poser_component, poser_component_version, poser_widget_summary,
	poser_batch, poser_batch_row TO reader;
UPDATE poser_widget SET colour = 'blue' WHERE uuid ~ '[246]';
EOF
is($node->safe_psql('shop', 'SELECT * FROM poser_check()'), '', 'poser_check() finds nothing after the changes of an owner');
$facts = facts('shop');
$changes = local_changes('shop');
$contents = contents($node, 'shop', role => 'shopkeeper');
$seen = lines_as($node, 'shop', 'reader', $visible);
backup_and_restore('changes of an owner', role => 'shopkeeper');
same_lines(local_changes('restored'), $changes, 'the restored database has the same changes of an owner');
same_lines(facts('restored'), $facts, 'the catalogs are equal');
same_lines(contents($node, 'restored', role => 'shopkeeper'), $contents, 'all contents are equal');
same_lines(lines_as($node, 'restored', 'reader', $visible), $seen, 'a reader sees what it saw');
is($node->safe_psql('restored', 'SELECT * FROM poser_check()'), '', 'poser_check() finds nothing after the restore of an owner');

# All relations and the type have another owner than the extension, as after pg_upgrade.
create_database($node, $_) foreach 'given', 'taken';
$node->safe_psql('given', <<'EOF');
SELECT format('ALTER %s %s OWNER TO shopkeeper', CASE relkind WHEN 'c' THEN 'TYPE' WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass)
FROM pg_class c WHERE relname ~ '^poser_' AND relkind IN ('r', 'v', 'c', 'S') AND relname <> 'poser_batch_id_seq' \gexec
EOF
$facts = facts('given');
$changes = local_changes('given');
cmp_ok($changes =~ tr/\n//, '>', 15, 'each relation has another owner');
$node->safe_psql('taken', $node->safe_psql('given', 'SELECT statement FROM poser_local_changes()'));
same_lines(local_changes('taken'), $changes, 'the statements give all relations this owner');
same_lines(facts('taken'), $facts, 'the catalogs are equal');

# A label needs a module that gives it its meaning, so this one is not restored.
is( $node->safe_psql('fresh', <<'EOF'), q{SECURITY LABEL FOR "A mask" ON COLUMN public.poser_widget.description IS 'it''s hidden';}, 'a security label');
INSERT INTO pg_seclabel SELECT attrelid, 'pg_class'::regclass, attnum, 'A mask', 'it''s hidden'
FROM pg_attribute WHERE attrelid = 'poser_widget'::regclass AND attname = 'description';
SELECT statement FROM poser_local_changes();
EOF

done_testing();
