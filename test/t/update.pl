# A database that is updated from any earlier version with rows in it has the same
# catalogs as a new one, its counts are right, each row has a first version, it has
# batches, and a consumer gets all of that.  A rolled back update changes nothing, and
# writers wait for an update.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

# An update waits for no lock while it holds another one, not even for autovacuum's.
my $node = new_node('update', conf => 'autovacuum = off');
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN');

# All that the catalogs know of the extension, one fact a line, without OIDs, and without
# pg_attver, with which newer minor releases mark each relation's columns.
my $facts = <<'EOF';
SET search_path = pg_catalog;
SET jit = off;
CREATE TEMP VIEW member AS
	SELECT classid, objid,
		pg_describe_object(classid, objid, 0) AS name
	FROM pg_depend, pg_extension e
	WHERE refclassid = 'pg_extension'::regclass AND refobjid = e.oid
		AND deptype = 'e' AND extname = 'poser';
CREATE TEMP VIEW rel AS
	SELECT c.*, name FROM member JOIN pg_class c ON c.oid = objid
	WHERE classid = 'pg_class'::regclass
	UNION ALL
	SELECT c.*, name FROM member JOIN pg_type t ON t.oid = objid JOIN pg_class c ON c.oid = typrelid
	WHERE classid = 'pg_type'::regclass AND relkind = 'c';
CREATE TEMP VIEW named_acl (classid, objid, subid, what, acl) AS
	SELECT 'pg_class'::regclass, oid, 0, 'privileges',
		coalesce(relacl, acldefault('r', relowner)) FROM pg_class
	UNION ALL
	SELECT 'pg_class'::regclass, attrelid, attnum, 'privileges', attacl FROM pg_attribute
	UNION ALL
	SELECT 'pg_proc'::regclass, oid, 0, 'privileges',
		coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
	UNION ALL
	SELECT 'pg_type'::regclass, oid, 0, 'privileges',
		coalesce(typacl, acldefault('T', typowner)) FROM pg_type
	UNION ALL
	SELECT classoid, objoid, objsubid, 'initial privileges ' || privtype::text,
		initprivs FROM pg_init_privs;

CREATE TEMP VIEW fact (fact) AS
	SELECT concat_ws(' | ', 'extension', extversion, extrelocatable,
		extnamespace::regnamespace, extowner::regrole)
	FROM pg_extension WHERE extname = 'poser'
UNION ALL
	SELECT concat_ws(' | ', 'config table', t.oid::regclass, t.condition)
	FROM pg_extension, unnest(extconfig, extcondition) AS t (oid, condition)
	WHERE extname = 'poser'
UNION ALL
	SELECT concat_ws(' | ', 'member', name) FROM member
UNION ALL
	SELECT concat_ws(' | ', 'relation', name, relowner::regrole, relkind,
		relpersistence, relrowsecurity, relforcerowsecurity, relreplident,
		relispartition, reloptions, coalesce(amname, '-'), reltablespace,
		(SELECT reloptions FROM pg_class t WHERE t.oid = rel.reltoastrelid))
	FROM rel LEFT JOIN pg_am a ON a.oid = relam
UNION ALL
	SELECT concat_ws(' | ', 'column', name, attnum, attname, attisdropped,
		format_type(atttypid, atttypmod), attnotnull, attstorage,
		coalesce(nullif(attcompression, ''), '-'),
		attidentity, attgenerated, coalesce(attcollation::regcollation::text, '-'),
		attstattarget,
		(SELECT array_agg(o) FROM unnest(attoptions) o WHERE o !~ '^pg_attver='),
		'default: ' || pg_get_expr(adbin, adrelid))
	FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0
	LEFT JOIN pg_attrdef ON adrelid = rel.oid AND adnum = attnum
UNION ALL
	SELECT concat_ws(' | ', 'constraint', name, conname, contype, condeferrable,
		condeferred, convalidated, pg_get_constraintdef(c.oid))
	FROM rel JOIN pg_constraint c ON conrelid = rel.oid
UNION ALL
	SELECT concat_ws(' | ', 'index', name, i.oid::regclass, pg_get_indexdef(i.oid),
		indisprimary, indisunique, indisclustered, indisvalid, indisreplident,
		i.reloptions, i.relowner::regrole)
	FROM rel JOIN pg_index ON indrelid = rel.oid JOIN pg_class i ON i.oid = indexrelid
UNION ALL
	SELECT concat_ws(' | ', 'trigger', name, tgenabled,
		CASE WHEN tgisinternal THEN concat_ws(' ', conname, tgfoid::regprocedure, tgtype)
			ELSE pg_get_triggerdef(t.oid) END)
	FROM rel JOIN pg_trigger t ON tgrelid = rel.oid
	LEFT JOIN pg_constraint c ON c.oid = tgconstraint
UNION ALL
	SELECT concat_ws(' | ', 'view', name, pg_get_viewdef(oid))
	FROM rel WHERE relkind IN ('v', 'm')
UNION ALL
	SELECT concat_ws(' | ', 'rule', name, ev_enabled, pg_get_ruledef(r.oid))
	FROM rel JOIN pg_rewrite r ON ev_class = rel.oid
UNION ALL
	SELECT concat_ws(' | ', 'policy', name, polname, polcmd, polpermissive, polroles,
		pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
	FROM rel JOIN pg_policy ON polrelid = rel.oid
UNION ALL
	SELECT concat_ws(' | ', 'statistics', name, pg_get_statisticsobjdef(s.oid))
	FROM rel JOIN pg_statistic_ext s ON stxrelid = rel.oid
UNION ALL
	SELECT concat_ws(' | ', 'sequence', name, to_jsonb(s) - 'seqrelid')
	FROM rel JOIN pg_sequence s ON seqrelid = rel.oid
UNION ALL
	SELECT concat_ws(' | ', 'function', name, proowner::regrole, pg_get_functiondef(p.oid))
	FROM member JOIN pg_proc p ON p.oid = objid WHERE classid = 'pg_proc'::regclass
UNION ALL
	SELECT concat_ws(' | ', 'type', name, typowner::regrole,
		to_jsonb(t) - ARRAY['oid', 'typnamespace', 'typowner', 'typrelid', 'typarray', 'typelem', 'typacl'])
	FROM member JOIN pg_type t ON t.oid = objid WHERE classid = 'pg_type'::regclass
UNION ALL
	SELECT concat_ws(' | ', 'comment', name, attname, description)
	FROM member JOIN pg_description ON classoid = classid AND objoid = objid
	LEFT JOIN pg_attribute ON attrelid = objid AND attnum = objsubid AND attnum > 0
UNION ALL
	SELECT concat_ws(' | ', 'comment', name, attname, description)
	FROM rel JOIN pg_description ON classoid = 'pg_class'::regclass AND objoid = oid
	LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid
	WHERE relkind = 'c'
UNION ALL
	SELECT concat_ws(' | ', 'comment', name, pg_describe_object(classoid, objoid, 0), description)
	FROM rel, LATERAL (
		SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = rel.oid
		UNION ALL
		SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid = rel.oid
		UNION ALL
		SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class = rel.oid
		UNION ALL
		SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = rel.oid
	) part (classid, objid) JOIN pg_description ON classoid = classid AND objoid = objid
UNION ALL
	SELECT concat_ws(' | ', what, name, attname, grantor::regrole,
		CASE grantee WHEN 0 THEN 'public' ELSE grantee::regrole::text END,
		privilege_type, is_grantable)
	FROM member m JOIN named_acl n USING (classid, objid)
	LEFT JOIN pg_attribute ON attrelid = objid AND attnum = subid AND attnum > 0,
	LATERAL aclexplode(acl)
UNION ALL
	SELECT concat_ws(' | ', 'depends', name, deptype,
		pg_describe_object(refclassid, refobjid, refobjsubid))
	FROM member m JOIN pg_depend d USING (classid, objid)
UNION ALL
	SELECT concat_ws(' | ', 'depends', name, deptype,
		pg_describe_object(d.classid, d.objid, d.objsubid))
	FROM member m JOIN pg_depend d ON refclassid = m.classid AND refobjid = m.objid
	WHERE d.classid NOT IN ('pg_type'::regclass, 'pg_trigger'::regclass)
;
SELECT regexp_replace(replace(fact, E'\n', ' '), 'pg_toast_\d+', 'pg_toast_N') FROM fact
ORDER BY fact COLLATE "C";
EOF

sub facts
{
	my ($dbname) = @_;
	return split /\n/, $node->safe_psql($dbname, $facts);
}

# The lines that only one of two lists has, marked with the list.
sub differences
{
	my ($left, $right) = @_;
	my %left = map { $_ => 1 } @$left;
	my %right = map { $_ => 1 } @$right;
	return join "\n",
	  (map { "- $_" } grep { !$right{$_} } @$left),
	  (map { "+ $_" } grep { !$left{$_} } @$right);
}

my $rows = <<'EOF';
INSERT INTO poser_widget (description, active)
SELECT 'Widget ' || n, n % 2 = 0 FROM generate_series(1, 100) n;
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT uuid, n, 'Part ' || n, n % 3 > 0
FROM poser_widget, generate_series(1, 20) n
WHERE n <= substring(poser_widget.description FROM '^Widget (\d+)$')::int - 50;
EOF
my $contents = 'SELECT * FROM poser_widget ORDER BY uuid; SELECT * FROM poser_component ORDER BY uuid';

foreach (
	[ 'public', 'postgres', '1.0' ],
	[ 'Stock Room', 'postgres', '1.1' ],
	[ 'public', 'owner', '1.1' ],
	[ 'Stock Room', 'owner', '1.2' ],
	[ 'Stock Room', 'postgres', '1.3' ],
	[ 'public', 'owner', '1.3' ],
	[ 'public', 'postgres', '1.4' ],
	[ 'Stock Room', 'owner', '1.4' ],
	[ 'public', 'postgres', '1.5' ],
	[ 'Stock Room', 'owner', '1.5' ],
	[ 'public', 'owner', '1.6' ],
	[ 'Stock Room', 'postgres', '1.6' ])
{
	my ($schema, $role, $version) = @$_;
	my $about = "from $version, schema $schema, by $role";
	my ($fresh, $updated) = ('fresh', 'updated');

	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $_") foreach ($fresh, $updated);
	create_database($node, $fresh, schema => $schema, owner => $role);
	create_database($node, $updated, schema => $schema, owner => $role, version => $version);
	lines_as($node, $updated, $role, $rows);

	# An update that is rolled back.
	my @before = facts($updated);
	my $before = lines_as($node, $updated, $role, $contents);
	is( lines_as($node, $updated, $role, <<'EOF'), '100|810', "$about: an update in a transaction shows the counts");
BEGIN;
ALTER EXTENSION poser UPDATE;
SELECT count(*), sum(component_count) FROM poser_widget_summary;
ROLLBACK;
EOF
	is(differences(\@before, [ facts($updated) ]), '', "$about: a rolled back update leaves the catalogs as before");
	is(lines_as($node, $updated, $role, $contents), $before, "$about: a rolled back update leaves the rows as before");
	lines_as($node, $updated, $role, <<'EOF');
BEGIN;
ALTER EXTENSION poser UPDATE;
ROLLBACK;
INSERT INTO poser_widget (uuid, description) VALUES ('late', 'After a dry run');
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('late', '1', 'In the same session');
EOF
	$before = lines_as($node, $updated, $role, $contents);

	# Each version on the way has the same catalogs as a new database.
	foreach my $between ($version eq '1.0' ? ('1.1', '1.2', '1.3', '1.4', '1.5', '1.6') : ())
	{
		my $between_fresh = "fresh_$between" =~ tr/./_/r;
		create_database($node, $between_fresh, schema => $schema, owner => $role, version => $between);
		lines_as($node, $updated, $role, "ALTER EXTENSION poser UPDATE TO '$between'");
		is(differences([ facts($between_fresh) ], [ facts($updated) ]),
			'', "$about to $between: new and updated are identical");
	}

	# The update.
	lines_as($node, $updated, $role, 'ALTER EXTENSION poser UPDATE');
	is(lines_as($node, $updated, $role, $contents), $before, "$about: updated, the rows are as before");
	counts_exact($node, $updated, "$about: updated", widgets => 101);
	is($node->safe_psql($updated, 'SELECT count(*) FROM poser_component_count_delta'),
		0, "$about: updated, all counts are settled");
	is($node->safe_psql($updated, q{SELECT component_count, active_component_count
		FROM poser_widget_get((SELECT uuid FROM poser_widget WHERE description = 'Widget 60'))}),
		'10|7', "$about: a count after the update");

	# versions were recorded from 1.2 on
	my ($transactions, $comment) =
	  $version ge '1.2' ? (4, '') : (1, 'history begins with version 1.2 of extension "poser"');
	is( $node->safe_psql($updated, <<'EOF'), "912|912|0|$transactions", "$about: each row has one first version");
SELECT count(*), count(DISTINCT uuid), max(operation_type), count(DISTINCT transaction_id)
FROM (SELECT uuid, operation_type, transaction_id FROM poser_widget_version
	  UNION ALL
	  SELECT uuid, operation_type, transaction_id FROM poser_component_version) v
EOF
	is( $node->safe_psql($updated, 'SELECT DISTINCT username, role_name, comment FROM poser_transaction'),
		"$role|$role|$comment", "$about: the update's transactions have a comment");
	history_exact($node, $updated, "$about: updated", versions => 912);
	is( lines_as($node, $updated, $role, <<'EOF'), '912|912|t|0', "$about: a consumer gets each version, in order");
SELECT poser_datasync_add('updated', 'beginning') \gset
SELECT count(*), count(DISTINCT payload_key), bool_and(change_id > before AND NOT deletion),
	(SELECT count(*) FROM (
		SELECT 'poser_widget', uuid, to_jsonb(w) FROM poser_widget w
		UNION ALL
		SELECT 'poser_component', uuid, to_jsonb(c) FROM poser_component c
		EXCEPT
		SELECT payload_type, payload_key, payload FROM poser_datasync_changes('updated', 10000)) other)
FROM (SELECT *, lag(change_id, 1, 0::bigint) OVER (ORDER BY ordinality) AS before
	  FROM poser_datasync_changes('updated', 10000) WITH ORDINALITY) c;
SELECT poser_datasync_drop('updated') \gset
EOF

	my @fresh = facts($fresh);
	my @kinds = ('config table', qw(column comment constraint depends function index member policy
		privileges relation sequence trigger type view));
	is( join(' ', grep { my $k = $_; grep { /^$k \|/ } @fresh } @kinds),
		"@kinds", "$about: the comparison has all kinds of objects");
	is(differences(\@fresh, [ facts($updated) ]), '', "$about: new and updated are identical");

	# Both work in the same way.
	foreach my $dbname ($fresh, $updated)
	{
		lines_as($node, $dbname, $role, $rows);
		lines_as($node, $dbname, $role, 'UPDATE poser_component SET active = NOT active');
		counts_exact($node, $dbname, "$about: $dbname, written to", widgets => 100);
		history_exact($node, $dbname, "$about: $dbname, written to", versions => 1720);
		history_goes_on($node, $dbname, "$about: $dbname", role => $role);
		make_batches($node, $dbname, $role);
		make_consumers($node, $dbname, $role);
		batches_go_on($node, $dbname, "$about: $dbname", role => $role);
		consumers_go_on($node, $dbname, "$about: $dbname", role => $role);
	}
}

# Batches of versions 1.3 and 1.4.  What depends on the old key, or on the function that
# gets another argument, stops the update with an error that names it.
foreach my $version ('1.3', '1.4')
{
	my $dbname = 'batches_' . $version =~ tr/./_/r;
	my $about = "from $version: batches";
	my $batches = <<'EOF';
SELECT to_jsonb(b) - 'unchanged_count' FROM poser_batch b ORDER BY id;
SELECT to_jsonb(r) - 'row_id' FROM poser_batch_row r ORDER BY batch_uuid COLLATE "C", sequence;
EOF

	create_database($node, $dbname, version => $version);
	make_batches($node, $dbname, 'postgres');
	$node->safe_psql($dbname, <<'EOF');
INSERT INTO poser_batch (uuid, target) VALUES ('large', 'poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, key, new)
SELECT 'large', n, jsonb_build_object('uuid', n), '{}' FROM generate_series(1, 20000) n;
CREATE TABLE note (batch_uuid varchar(32), sequence bigint,
	CONSTRAINT note_fk_row FOREIGN KEY (batch_uuid, sequence) REFERENCES poser_batch_row);
CREATE VIEW latest AS SELECT r.* FROM poser_batch_row r GROUP BY batch_uuid, sequence;
CREATE FUNCTION nightly(batch varchar) RETURNS bigint BEGIN ATOMIC SELECT poser_batch_populate(batch, 'batch_source'); END;
CREATE ROLE populater;
REVOKE EXECUTE ON FUNCTION poser_batch_populate FROM PUBLIC;
GRANT EXECUTE ON FUNCTION poser_batch_populate TO populater;
EOF
	my $before = $node->safe_psql($dbname, $batches);
	foreach (
		[ 'constraint note_fk_row on table note', 'ALTER TABLE note DROP CONSTRAINT note_fk_row' ],
		[ 'view latest', 'DROP VIEW latest' ],
		[ 'function nightly', 'DROP FUNCTION nightly' ])
	{
		my ($object, $sql) = @$_;
		my @facts = facts($dbname);
		my ($rc, $stdout, $stderr) = $node->psql($dbname, "\\set VERBOSITY verbose\nALTER EXTENSION poser UPDATE");

		like($stderr, qr/ERROR:  2BP01.*\Q$object\E/s, "$about: $object stops the update");
		is($node->safe_psql($dbname, $batches), $before, "$about: nothing has changed");
		is(differences(\@facts, [ facts($dbname) ]), '', "$about: the catalogs are as before");
		$node->safe_psql($dbname, $sql);
	}
	$node->safe_psql($dbname, 'ALTER EXTENSION poser UPDATE');
	is($node->safe_psql($dbname, $batches), $before, "$about: updated, the rows are as before");
	is( $node->safe_psql($dbname, <<'EOF'), "t|t|t|0\nt|t|f", "$about: updated, each row has its key");
SELECT count(*) > 20000, count(*) = count(DISTINCT row_id), bool_and(row_id = batch_uuid || '.' || sequence),
	(SELECT sum(unchanged_count) FROM poser_batch)
FROM poser_batch_row;
SELECT has_function_privilege('populater', oid, 'EXECUTE'), pronargs = 6, has_function_privilege('reader', oid, 'EXECUTE')
FROM pg_proc WHERE proname = 'poser_batch_populate';
EOF
	$node->safe_psql($dbname, <<'EOF');
GRANT EXECUTE ON FUNCTION poser_batch_populate TO PUBLIC;
DROP OWNED BY populater;
DROP ROLE populater;
ALTER TABLE note ADD FOREIGN KEY (batch_uuid, sequence) REFERENCES poser_batch_row (batch_uuid, sequence);
INSERT INTO note VALUES ('large', 7);
DELETE FROM poser_batch_row WHERE row_id = 'large.8';
EOF
	is($node->safe_psql($dbname, q{SELECT row_count FROM poser_batch WHERE uuid = 'large'}),
		19999, "$about: a row is deleted by its key");
	batches_go_on($node, $dbname, $about);
}

# Users' objects do not stop the update.  It fires no trigger of theirs, and sees rows
# that policies hide.
create_database($node, 'lived_in', version => '1.0', owner => 'owner');
lines_as($node, 'lived_in', 'owner', $rows . <<'EOF');
CREATE INDEX ON poser_component (widget_uuid);
CREATE INDEX ON poser_component (widget_uuid, active);
CREATE VIEW counted AS SELECT widget_uuid, count(*) FROM poser_component GROUP BY widget_uuid;
ALTER TABLE poser_component ADD colour text DEFAULT 'red';
ALTER TABLE poser_component DROP COLUMN colour;
ALTER TABLE poser_component ADD size int;
ALTER TABLE poser_widget ADD operation_type text DEFAULT 'own', ADD change_id text DEFAULT 'own';
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE 'fired'; END$$;
CREATE TRIGGER aaa BEFORE INSERT OR UPDATE OR DELETE ON poser_widget FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER zzz AFTER INSERT OR UPDATE OR DELETE ON poser_component FOR EACH STATEMENT EXECUTE FUNCTION refuse();
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
EOF
my ($rc, $stdout, $stderr) = $node->psql('lived_in', 'ALTER EXTENSION poser UPDATE',
	connstr => $node->connstr('lived_in') . ' user=owner');
is($stderr, '', 'a database with users\' indexes, view, columns, triggers and policies is updated');
my $unrecorded = 'is not recorded: poser_%s_version has no such column of its type';
my @problems = map { "column $_->[1] of poser_$_->[0]|" . sprintf($unrecorded, $_->[0]) }
  [ 'widget', 'operation_type' ], [ 'widget', 'change_id' ], [ 'component', 'size' ];
counts_exact($node, 'lived_in', 'objects of the users', widgets => 100,
	problems => join("\n", @problems));
history_exact($node, 'lived_in', 'objects of the users', versions => 910);
lines_as($node, 'lived_in', 'owner', <<'EOF');
DROP TRIGGER aaa ON poser_widget;
DROP TRIGGER zzz ON poser_component;
UPDATE poser_component SET size = 1 WHERE item_code = '1';
ALTER TABLE poser_component_version ADD size int;
EOF
is(lines_as($node, 'lived_in', 'owner', 'SELECT poser_record_versions()'),
	50, 'a column that the versions get later is recorded from then on');
counts_exact($node, 'lived_in', 'a column of history', widgets => 100,
	problems => join("\n", @problems[0, 1]));
history_exact($node, 'lived_in', 'a column of history', versions => 960);

# The comment that the script sets for its own transaction is not used later.
create_database($node, 'commented', version => '1.1');
$node->safe_psql('commented', <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock');
SET poser.comment = 'own';
BEGIN;
ALTER EXTENSION poser UPDATE;
UPDATE poser_widget SET description = 'Wall clock';
COMMIT;
EOF
is( $node->safe_psql('commented', q{SELECT description, comment FROM poser_widget_history('a')}),
	qq{Wall clock|own\nClock|history begins with version 1.2 of extension "poser"},
	'after the update the comment is the session\'s own again');
$node->safe_psql('commented', <<'EOF');
BEGIN;
DROP EXTENSION poser;
CREATE EXTENSION poser;
INSERT INTO poser_widget (uuid, description) VALUES ('b', 'Bell');
COMMIT;
EOF
is( $node->safe_psql('commented', q{SELECT operation, coalesce(comment, 'none') FROM poser_widget_history('b')}),
	'insert|none', 'after CREATE EXTENSION there is none if the session has none');

# What users have granted and revoked stays, also on functions that the update replaces:
# grants with grant option, grants of other grantors, and owners.  A dump has it, too.
# (Version 1.6 grants two trigger functions to all, so that every owner can restore.)
# Functions are compared by name, because their arguments may have changed.
$node->safe_psql('postgres', 'CREATE ROLE granted');
create_database($node, 'granting', version => '1.5', owner => 'owner');
$node->safe_psql('granting', <<'EOF');
CREATE TABLE before AS SELECT proname AS name FROM pg_proc WHERE proname LIKE 'poser%';
CREATE VIEW privileges AS
	SELECT DISTINCT proname, proowner::regrole AS owner,
		CASE grantor WHEN proowner THEN 'the owner' ELSE grantor::regrole::text END AS grantor,
		CASE grantee WHEN 0 THEN 'public' WHEN proowner THEN 'the owner' ELSE grantee::regrole::text END AS grantee,
		is_grantable
	FROM pg_proc, LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner)))
	WHERE proname IN (SELECT name FROM before)
		AND (grantee > 0 OR proname NOT IN ('poser_version', 'poser_arrive'));
DO $$
DECLARE
	f regprocedure;
BEGIN
	FOR f IN SELECT oid FROM pg_proc WHERE proname LIKE 'poser%' ORDER BY oid LOOP
		EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO granted WITH GRANT OPTION', f);
		SET ROLE granted;
		EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO reader', f);
		RESET ROLE;
		IF f::text LIKE 'poser_batch_p%' THEN
			EXECUTE format('ALTER FUNCTION %s OWNER TO owner', f);
		END IF;
	END LOOP;
END
$$;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC, reader;
EOF
my $privileges = 'SELECT * FROM privileges ORDER BY 1, 2, 3, 4, 5';
my $granted = $node->safe_psql('granting', $privileges);
like($granted, qr/^poser_batch_populate\|owner\|granted\|reader\|f$/m, 'roles have granted functions');
unlike($granted, qr/\|public\|/, '... and have revoked them from PUBLIC');
lines_as($node, 'granting', 'owner', 'ALTER EXTENSION poser UPDATE');
is($node->safe_psql('granting', $privileges), $granted, 'the update leaves grants and owners as they were');
my $dump = $node->basedir . '/granting.sql';
$node->command_ok([ 'pg_dump', '--file' => $dump, '--dbname' => $node->connstr('granting') ], 'a dump after the update');
$node->safe_psql('postgres', 'CREATE DATABASE granting_restored OWNER owner TEMPLATE template0');
$node->command_ok([ 'psql', '--no-psqlrc', '--quiet', '-v' => 'ON_ERROR_STOP=1', '--file' => $dump,
	'--dbname' => $node->connstr('granting_restored') ], '... is restored');
# a dump does not have the owners of an extension's functions
$privileges = q{SELECT proname, grantor, grantee, is_grantable FROM privileges
	WHERE grantee IN ('public', 'granted', 'reader') ORDER BY 1, 2, 3, 4};
is($node->safe_psql('granting_restored', $privileges), $node->safe_psql('granting', $privileges), '... with these grants');

# The update waits for a transaction that has written, and later writers wait for the
# update, with a prepared statement, too.  No change is lost.
foreach (
	[ '1.1', "a|0|prepared|f\na|1|executed|t\nfirst|0||f\nthird|0||t" ],
	[ '1.4', "a|0|Clock|t\na|1|prepared|t\na|1|executed|t\nfirst|0||t\nthird|0||t" ])
{
	my ($version, $recorded) = @$_;
	my $about = "from $version: writers that waited";
	my $dbname = 'waiting_' . $version =~ tr/./_/r;

	create_database($node, $dbname, version => $version);
	$node->safe_psql($dbname, q{INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock')});
	my ($first, $second, $third, $updater) = map { $node->background_psql($dbname) } 1 .. 4;
	$first->query_safe(q{SET application_name = 'first'; BEGIN;
		INSERT INTO poser_widget (uuid, description) VALUES ('first', '')});
	$second->query_safe(q{SET application_name = 'second'; PREPARE change (text) AS
		UPDATE poser_widget SET description = $1 WHERE uuid = 'a'; EXECUTE change('prepared')});
	$third->query_safe(q{SET application_name = 'third'; BEGIN ISOLATION LEVEL REPEATABLE READ;
		SELECT count(*) FROM poser_widget});
	$updater->query_until(qr/begun/, q{
		SET application_name = 'updater';
		BEGIN;
		\echo begun
		ALTER EXTENSION poser UPDATE;
		\echo updated
	});
	waits_for_lock($node, 'updater');
	$second->query_until(qr/begun/, q{
		\echo begun
		EXECUTE change('executed');
	});
	waits_for_lock($node, 'second');
	$first->query_safe('COMMIT');
	$updater->query_until(qr/updated/, "\n");
	$third->query_until(qr/begun/, q{
		\echo begun
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('third', 'a', '', '');
		COMMIT;
	});
	waits_for_lock($node, 'third');
	$updater->query_safe(q{SELECT poser_datasync_add('c', 'beginning'); COMMIT});
	$_->query_safe('SELECT') foreach $second, $third;
	$_->quit foreach $first, $second, $third, $updater;
	is( $node->safe_psql($dbname, <<'EOF'), $recorded, "$about are recorded");
SELECT uuid, operation_type, description, comment IS NULL
FROM (SELECT uuid, operation_type, description, transaction_id, change_id FROM poser_widget_version
	  UNION ALL
	  SELECT uuid, operation_type, description, transaction_id, change_id FROM poser_component_version) v
JOIN poser_transaction ON id = transaction_id
ORDER BY uuid, change_id
EOF
	is( $node->safe_psql($dbname, <<'EOF'), '0', "$about: a consumer made in the update's transaction gets all changes");
SELECT count(*)
FROM (SELECT change_id FROM poser_widget_version UNION ALL SELECT change_id FROM poser_component_version) v
FULL JOIN poser_datasync_changes('c') c USING (change_id)
WHERE v.change_id IS NULL OR c.change_id IS NULL
EOF
	counts_exact($node, $dbname, $about, widgets => 2);
	history_exact($node, $dbname, $about, versions => 4);
}

# The comparison of catalogs notices each of these changes.
my @base = facts('updated');
foreach (
	'ALTER TABLE poser_component ADD colour text',
	'ALTER TABLE poser_component ALTER active DROP DEFAULT',
	'ALTER TABLE poser_component ALTER description SET STORAGE plain',
	'ALTER TABLE poser_component ALTER description DROP NOT NULL',
	'ALTER TABLE poser_component DROP CONSTRAINT poser_component_fk_widget',
	'ALTER TABLE poser_component_count SET (fillfactor = 33)',
	'ALTER TABLE poser_component DISABLE TRIGGER USER',
	'ALTER TABLE poser_component OWNER TO reader',
	'CREATE INDEX ON poser_component (item_code)',
	'GRANT SELECT ON poser_component TO reader',
	'GRANT UPDATE (active) ON poser_component TO reader',
	'REVOKE EXECUTE ON FUNCTION poser_uuid() FROM public',
	'ALTER FUNCTION poser_uuid() COST 77',
	q{COMMENT ON TABLE poser_component_count IS 'other'},
	q{COMMENT ON COLUMN poser_component.active IS 'other'},
	q{COMMENT ON FUNCTION poser_uuid() IS 'other'},
	q{COMMENT ON CONSTRAINT poser_component_fk_widget ON poser_component IS 'other'},
	'ALTER VIEW poser_widget_summary RESET (security_invoker)',
	'ALTER TABLE poser_transaction ENABLE TRIGGER poser_transaction_arrive',
	'ALTER TABLE poser_widget DISABLE TRIGGER poser_version_insert',
	'ALTER TABLE poser_transaction REPLICA IDENTITY FULL',
	'ALTER TABLE poser_component_version ALTER uuid SET NOT NULL',
	'ALTER TABLE poser_version_horizon OWNER TO reader',
	'ALTER SEQUENCE poser_change_id_seq CACHE 2',
	'ALTER SEQUENCE poser_change_id_seq OWNER TO reader',
	'GRANT SELECT ON poser_transaction TO reader',
	'GRANT USAGE ON SEQUENCE poser_change_id_seq TO reader',
	'REVOKE EXECUTE ON FUNCTION poser_record_versions(regclass, bigint) FROM public',
	'DROP INDEX poser_widget_version_idx_key',
	q{COMMENT ON COLUMN poser_transaction.xact IS 'other'},
	q{COMMENT ON SEQUENCE poser_change_id_seq IS 'other'},
	'ALTER TABLE poser_batch DISABLE ROW LEVEL SECURITY',
	'ALTER TABLE poser_batch_row FORCE ROW LEVEL SECURITY',
	'ALTER POLICY poser_batch_policy ON poser_batch USING (true)',
	'ALTER POLICY poser_batch_row_policy ON poser_batch_row TO reader',
	'ALTER TABLE poser_batch ALTER id SET GENERATED BY DEFAULT',
	'ALTER TABLE poser_batch ALTER is_mutable DROP EXPRESSION',
	'ALTER TABLE poser_batch DISABLE TRIGGER poser_batch_guard',
	'ALTER TABLE poser_batch_row DROP CONSTRAINT poser_batch_row_ck_operation',
	'ALTER TABLE poser_batch_row DROP CONSTRAINT poser_batch_row_fk_batch',
	'ALTER SEQUENCE poser_batch_id_seq CACHE 2',
	'GRANT SELECT ON poser_batch TO reader',
	'GRANT USAGE ON SEQUENCE poser_batch_id_seq TO reader',
	'GRANT EXECUTE ON FUNCTION poser_batch_row_guard() TO reader',
	'REVOKE EXECUTE ON FUNCTION poser_batch_create(regclass, text, jsonb) FROM public',
	'ALTER FUNCTION poser_batch_purge(interval) RESET search_path',
	q{COMMENT ON FUNCTION poser_batch_execute(varchar, boolean) IS 'other'},
	'ALTER TABLE poser_datasync_consumer ALTER notify DROP DEFAULT',
	'ALTER TABLE poser_datasync_consumer ALTER roles DROP NOT NULL',
	'ALTER TABLE poser_datasync_consumer RESET (fillfactor)',
	'ALTER TABLE poser_datasync_consumer DISABLE TRIGGER poser_datasync_changed',
	'ALTER TABLE poser_datasync_consumer ENABLE TRIGGER poser_datasync_arrive',
	'ALTER TABLE poser_datasync_consumer ENABLE ALWAYS TRIGGER poser_datasync_arrive_update',
	'ALTER TABLE poser_datasync_consumer OWNER TO reader',
	'GRANT UPDATE (handler) ON poser_datasync_consumer TO reader',
	'ALTER TABLE poser_datasync_skipped REPLICA IDENTITY NOTHING',
	'GRANT INSERT ON poser_datasync_skipped TO reader',
	'ALTER TABLE poser_transaction DROP consumer',
	'DROP INDEX poser_transaction_idx_xact',
	'ALTER INDEX poser_transaction_idx_xact SET (fillfactor = 50)',
	'ALTER TYPE poser_change ADD ATTRIBUTE colour text',
	'ALTER TYPE poser_change RENAME ATTRIBUTE payload TO content',
	'ALTER TYPE poser_change ALTER ATTRIBUTE payload TYPE json',
	'ALTER TYPE poser_change OWNER TO reader',
	'REVOKE USAGE ON TYPE poser_change FROM public',
	'ALTER VIEW poser_datasync_status OWNER TO reader',
	'ALTER VIEW poser_datasync_status SET (security_invoker = true)',
	'ALTER VIEW poser_datasync_status RENAME COLUMN age TO years',
	'GRANT SELECT ON poser_datasync_status TO reader',
	'REVOKE EXECUTE ON FUNCTION poser_datasync_changes(name, integer) FROM public',
	'GRANT EXECUTE ON FUNCTION poser_datasync_arrive() TO reader',
	'ALTER FUNCTION poser_datasync_pending(name) VOLATILE',
	'ALTER FUNCTION poser_widget_get(varchar) PARALLEL RESTRICTED',
	'GRANT EXECUTE ON FUNCTION poser_lock_tables(text[]) TO reader',
	q{COMMENT ON TYPE poser_change IS 'other'},
	q{COMMENT ON COLUMN poser_change.payload IS 'other'},
	q{COMMENT ON COLUMN poser_datasync_consumer.handler IS 'other'},
	q{COMMENT ON COLUMN poser_datasync_status.age IS 'other'},
	q{COMMENT ON VIEW poser_datasync_status IS 'other'},
	q{COMMENT ON FUNCTION poser_datasync_run(name, integer) IS 'other'},
	q{UPDATE pg_extension SET extcondition[cardinality(extcondition)] = 'WHERE false' WHERE extname = 'poser'},
	q{UPDATE pg_extension SET extconfig = extconfig[:3], extcondition = extcondition[:3] WHERE extname = 'poser'},
	'DELETE FROM pg_init_privs',
	q{UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'poser'})
{
	my $change = $_;
	my $changed = $node->safe_psql('updated', "SET allow_system_table_mods = on;
		BEGIN; $change;\n$facts\nROLLBACK;");
	isnt(differences(\@base, [ split /\n/, $changed ]), '', "the comparison notices: $change");
}

done_testing();
