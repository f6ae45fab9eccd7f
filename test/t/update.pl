# A database updated from 1.0 or 1.1 with rows in place is, by the catalogs, what
# a new one is, its counts are right, and each row has a first version; an update
# rolled back leaves it as it was.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('update');
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN');

# All that the catalogs know of the extension, one fact a line, without OIDs and
# without the pg_attver with which newer minor releases mark each relation's
# columns.
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
	WHERE classid = 'pg_class'::regclass;
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
	SELECT concat_ws(' | ', 'policy', name, polname) FROM rel JOIN pg_policy ON polrelid = rel.oid
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
	SELECT concat_ws(' | ', 'comment', name, attname, description)
	FROM member JOIN pg_description ON classoid = classid AND objoid = objid
	LEFT JOIN pg_attribute ON attrelid = objid AND attnum = objsubid AND attnum > 0
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

# What only one of two lists has, marked with its side.
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
	[ 'public', 'owner', '1.1' ])
{
	my ($schema, $role, $version) = @$_;
	my $about = "from $version, schema $schema, by $role";
	my ($fresh, $updated) = ('fresh', 'updated');

	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $_") foreach ($fresh, $updated);
	create_database($node, $fresh, schema => $schema, owner => $role);
	create_database($node, $updated, schema => $schema, owner => $role, version => $version);
	lines_as($node, $updated, $role, $rows);

	# The dry run.
	my @before = facts($updated);
	my $before = lines_as($node, $updated, $role, $contents);
	is( lines_as($node, $updated, $role, <<'EOF'), '100|810', "$about: an update in a transaction shows the counts");
BEGIN;
ALTER EXTENSION poser UPDATE;
SELECT count(*), sum(component_count) FROM poser_widget_summary;
ROLLBACK;
EOF
	is(differences(\@before, [ facts($updated) ]), '', "$about: rolled back, the catalogs are as before");
	is(lines_as($node, $updated, $role, $contents), $before, "$about: and so are the rows");
	lines_as($node, $updated, $role, <<'EOF');
BEGIN;
ALTER EXTENSION poser UPDATE;
ROLLBACK;
INSERT INTO poser_widget (uuid, description) VALUES ('late', 'After a dry run');
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('late', '1', 'In the same session');
EOF
	$before = lines_as($node, $updated, $role, $contents);

	# The update.
	lines_as($node, $updated, $role, 'ALTER EXTENSION poser UPDATE');
	is(lines_as($node, $updated, $role, $contents), $before, "$about: updated, the rows are as before");
	counts_exact($node, $updated, "$about: updated", widgets => 101);
	is($node->safe_psql($updated, 'SELECT count(*) FROM poser_component_count_delta'),
		0, "$about: and all are settled");
	is($node->safe_psql($updated, q{SELECT component_count, active_component_count
		FROM poser_widget_get((SELECT uuid FROM poser_widget WHERE description = 'Widget 60'))}),
		'10|7', "$about: a count after the update");

	is( $node->safe_psql($updated, <<'EOF'), '912|912|0|1|t', "$about: each row has one first version, of one transaction that says so");
SELECT count(*), count(DISTINCT uuid), max(operation_type), count(DISTINCT transaction_id), bool_and(comment ~ 'begins')
FROM (SELECT uuid, operation_type, transaction_id FROM poser_widget_version
	  UNION ALL
	  SELECT uuid, operation_type, transaction_id FROM poser_component_version) v
JOIN poser_transaction ON id = transaction_id
EOF
	history_exact($node, $updated, "$about: updated", versions => 912);

	my @fresh = facts($fresh);
	my @kinds = ('config table', qw(column constraint function index member relation sequence trigger view));
	is( join(' ', grep { my $k = $_; grep { /^$k \|/ } @fresh } @kinds),
		"@kinds", "$about: the comparison sees all kinds of objects");
	is(differences(\@fresh, [ facts($updated) ]), '', "$about: new and updated are identical");

	# Both work alike.
	foreach my $dbname ($fresh, $updated)
	{
		lines_as($node, $dbname, $role, $rows);
		lines_as($node, $dbname, $role, 'UPDATE poser_component SET active = NOT active');
		counts_exact($node, $dbname, "$about: $dbname, written to", widgets => 100);
	}
}

# Nothing of the users' own is in the way of the update.
create_database($node, 'lived_in', version => '1.0');
$node->safe_psql('lived_in', $rows . <<'EOF');
CREATE INDEX ON poser_component (widget_uuid);
CREATE INDEX ON poser_component (widget_uuid, active);
CREATE VIEW counted AS SELECT widget_uuid, count(*) FROM poser_component GROUP BY widget_uuid;
ALTER TABLE poser_component ADD colour text DEFAULT 'red';
ALTER TABLE poser_component DROP COLUMN colour;
ALTER TABLE poser_component ADD size int;
EOF
my ($rc, $stdout, $stderr) = $node->psql('lived_in', 'ALTER EXTENSION poser UPDATE');
is($stderr, '', 'the users have indexes, a view and a column of their own: updated');
counts_exact($node, 'lived_in', 'objects of the users', widgets => 100,
	problems => 'column size of poser_component|is not recorded: poser_component_version has no such column of its type')
  if $rc == 0;

# None of these goes unnoticed.
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
	'ALTER SEQUENCE poser_change_id_seq CACHE 2',
	'DELETE FROM pg_init_privs',
	q{UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'poser'})
{
	my $change = $_;
	my $changed = $node->safe_psql('updated', "SET allow_system_table_mods = on;
		BEGIN; $change;\n$facts\nROLLBACK;");
	isnt(differences(\@base, [ split /\n/, $changed ]), '', "a difference is seen: $change");
}

done_testing();
