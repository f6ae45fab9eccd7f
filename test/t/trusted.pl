# A database owner who is no superuser creates, uses, grants, protects, updates,
# dumps and drops the extension.

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

# Who owns each of the extension's members.
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

# Others read when he says so, and only then.
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

# A writer needs nothing on the bookkeeping, and gets nothing on it.
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
fails_as($node, 'db', 'writer', '42501', 'SELECT poser_recount()', 'a writer, poser_recount()');

# Row-level security: each sees the counts of what he may see.
lines_as($node, 'db', 'owner', <<'EOF');
INSERT INTO poser_component (widget_uuid, item_code, description, active)
VALUES ('a', '6', 'Bezel', false), ('a', '7', 'Glass', true);
ALTER TABLE poser_component ENABLE ROW LEVEL SECURITY;
CREATE POLICY active_only ON poser_component FOR SELECT TO reader USING (active);
EOF
is(lines_as($node, 'db', 'owner', $get), '3|2', 'the owner counts all components');
is(lines_as($node, 'db', 'reader', $get), '2|2', 'a reader those that a policy shows him');
is(lines_as($node, 'db', 'second', $get), '0|0', 'another, for whom there is no policy, none');
lines_as($node, 'db', 'owner', <<'EOF');
ALTER TABLE poser_widget ENABLE ROW LEVEL SECURITY;
CREATE POLICY clock_only ON poser_widget FOR SELECT TO reader USING (uuid = 'a');
EOF
is(lines_as($node, 'db', 'reader', $_), '2|2', "a policy on widgets, $_") foreach ($count, $list);
is(lines_as($node, 'db', 'reader', q{SELECT count(*) FROM poser_widget_get('b')}),
	0, 'and a widget hidden by it is not there');
counts_exact($node, 'db', 'row-level security', widgets => 2);

# Dump and drop.
command_ok(
	[ 'pg_dump', '-f', PostgreSQL::Test::Utils::tempdir() . '/owner.sql',
		'-U', 'owner', $node->connstr('db') ],
	'the owner dumps his database');
lines_as($node, 'db', 'owner', 'DROP EXTENSION poser');
is( $node->safe_psql('db', q{SELECT relname FROM pg_class WHERE relname LIKE '%poser%'
	UNION ALL SELECT proname FROM pg_proc WHERE proname LIKE '%poser%'
	UNION ALL SELECT typname FROM pg_type WHERE typname LIKE '%poser%'}),
	'', 'and drops the extension, of which nothing stays');
is( lines_as($node, 'db', 'owner', <<'EOF'), 'f', 'and creates it again, with no rows');
CREATE EXTENSION poser;
SELECT EXISTS (SELECT FROM poser_widget_summary);
EOF

# Whoever updates it, and whatever way it came, the same roles own the same.
create_database($node, 'fresh', owner => 'owner');
create_database($node, 'by_superuser', owner => 'owner', version => '1.0');
$node->safe_psql('by_superuser', q{ALTER EXTENSION poser UPDATE});
create_database($node, 'by_owner', owner => 'owner', version => '1.0');
lines_as($node, 'by_owner', 'owner', q{ALTER EXTENSION poser UPDATE});
like(owners('fresh'), qr/^table poser_widget\|owner$/m, 'the owner owns the tables');
is(owners('by_owner'), owners('fresh'), 'owners after the owner\'s update');
is(owners('by_superuser'), owners('fresh'), 'owners after a superuser\'s update');

# The script runs as a superuser, but nothing of the owner's does.
create_database($node, 'hostile', owner => 'owner', version => '1.0');
lines_as($node, 'hostile', 'owner', <<'EOF');
CREATE TYPE flag AS ENUM ('yes', 'no');
CREATE FUNCTION become_superuser(flag) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		ALTER ROLE owner SUPERUSER;
	END IF;
	RETURN true;
END
$$;
CREATE CAST (flag AS boolean) WITH FUNCTION become_superuser(flag) AS IMPLICIT;
ALTER TABLE poser_component ALTER COLUMN active DROP DEFAULT, ALTER COLUMN active TYPE flag USING 'yes';
INSERT INTO poser_widget (uuid, description) VALUES ('a', '');
INSERT INTO poser_component (widget_uuid, item_code, description, active) VALUES ('a', '', '', 'yes');
EOF
fails_as($node, 'hostile', 'owner', '42804', q{ALTER EXTENSION poser UPDATE TO '1.1'},
	'update with a flag that is no boolean');
is($node->safe_psql('hostile', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'owner'}),
	'f', 'and the owner is no superuser');

# A column that is only recorded does not keep it from being updated; it is not
# recorded then.
create_database($node, 'recorded', owner => 'owner', version => '1.1');
lines_as($node, 'recorded', 'owner', <<'EOF');
CREATE TYPE code AS ENUM ('1', '2');
CREATE FUNCTION become_superuser(code) RETURNS varchar LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		ALTER ROLE owner SUPERUSER;
	END IF;
	RETURN 'cast';
END
$$;
CREATE CAST (code AS varchar) WITH FUNCTION become_superuser(code) AS IMPLICIT;
ALTER TABLE poser_component ALTER COLUMN item_code TYPE code USING '1';
INSERT INTO poser_widget (uuid, description) VALUES ('a', '');
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('a', '2', '');
EOF
foreach my $role ('owner', 'postgres')
{
	my $end = $role eq 'owner' ? 'ROLLBACK' : 'COMMIT';
	lines_as($node, 'recorded', $role, <<"EOF");
BEGIN;
ALTER EXTENSION poser UPDATE;
UPDATE poser_component SET description = 'changed';
SELECT * FROM poser_check();
SELECT poser_record_versions();
$end;
EOF
	is($node->safe_psql('recorded', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'owner'}),
		'f', "updated by $role, the owner is no superuser");
}
is( $node->safe_psql('recorded', q{SELECT operation, item_code IS NULL FROM
	poser_component_history((SELECT uuid FROM poser_component))}),
	"update|t\ninsert|t", 'and the rest is recorded');

done_testing();
