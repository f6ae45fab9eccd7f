# What the TAP tests share: a cluster, statements as another role, and the one
# question that most of them ask, whether every count is exact.

package PoserTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Whoever runs the tests, the superuser is called postgres.
$ENV{PGUSER} = 'postgres';

our @EXPORT = qw(
  new_node create_database lines_as fails_as counts_exact make_deltas
  pgbench_file MAINTAINED
);

# The sums as they are kept, settled row and deltas together.
use constant MAINTAINED => q{
	SELECT widget_uuid, sum(total) AS total, sum(active) AS active
	FROM (SELECT widget_uuid, total, active FROM poser_component_count
		  UNION ALL
		  SELECT widget_uuid, total, active FROM poser_component_count_delta) s
	GROUP BY widget_uuid};

# A started cluster; extra arguments go to init(), "conf" to postgresql.conf.
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

# The output of statements run by a role; the test dies if one fails.
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

# Two tests: the counts that are shown and those that are kept are what a live
# count gives, for each of at least so many widgets; poser_check() is content.
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
		'', "$name: poser_check() finds nothing");
	return;
}

# Leaves deltas behind in a database: two prepared transactions hold the settled
# rows of all widgets, each having added a component to each, while another
# adds one more.  The names of the transactions begin with the database's; the
# caller ends them.
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

1;
