# Queries over whole tables can run in parallel, a query of an import is planned once, and
# the header of a batch is found where it was last.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my ($pkglibdir) = run_command([ 'pg_config', '--pkglibdir' ]);
foreach my $library ('auto_explain', 'pg_stat_statements')
{
	plan skip_all => "$library is not installed" unless -e "$pkglibdir/$library.so";
}

my $node = new_node('plans', conf => <<'EOF');
shared_preload_libraries = 'auto_explain, pg_stat_statements'
auto_explain.log_nested_statements = on
auto_explain.log_level = notice
pg_stat_statements.track = all
pg_stat_statements.track_planning = on
parallel_setup_cost = 0
parallel_tuple_cost = 0
min_parallel_table_scan_size = 0
min_parallel_index_scan_size = 0
EOF
create_database($node, 'db');
$node->safe_psql('db', <<'EOF');
CREATE EXTENSION pg_stat_statements;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, '' FROM generate_series(1, 2000) AS n;
SELECT poser_datasync_add('c', 'beginning');
INSERT INTO poser_batch (target) VALUES ('poser_widget');
INSERT INTO poser_batch_row (batch_uuid, sequence, operation, key, new)
SELECT uuid, n, 'update', jsonb_build_object('uuid', 'w' || n), '{"description": "x"}'
FROM poser_batch, generate_series(1, 2000) AS n;
CREATE TABLE source AS SELECT uuid, description FROM poser_widget;
VACUUM ANALYZE;
EOF

# The statement runs a query with this text, and its plan has workers.
sub runs_in_parallel
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($statement, $query, $name) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('db', "SET auto_explain.log_min_duration = 0; $statement");
	my @plans = grep { /^Query Text: .*$query/s } split /^.*NOTICE:  duration: .* plan:\n/m, $stderr;

	is($rc, 0, $name);
	isnt(scalar(@plans), 0, "$name: there is a plan");
	like(join('', @plans), qr/Gather/, "$name: the plan has workers");
	return;
}

runs_in_parallel('SELECT * FROM poser_check()', 'AS compared', 'poser_check()');
runs_in_parallel(q{SELECT * FROM poser_datasync_pending('c')}, 'min\(t.issued_at\)', 'poser_datasync_pending()');
runs_in_parallel('SELECT poser_batch_refresh(uuid) FROM poser_batch', 'jsonb_object_keys', 'poser_batch_refresh()');

# A transaction that changes rows of a batch one by one reads the header's newest version
# and not those before it, although a table with one page is otherwise read as a whole.
my ($rc, $stdout, $stderr) = $node->psql('db', <<'EOF');
BEGIN;
UPDATE poser_batch_row SET removed = true WHERE sequence = 1;
SET LOCAL auto_explain.log_min_duration = 0;
UPDATE poser_batch_row SET removed = true WHERE sequence = 2;
UPDATE poser_batch_row SET status_text = 'seen' WHERE sequence = 3;
SELECT row_count FROM poser_batch;
ROLLBACK;
EOF
my @plans = grep { /^Query Text: [^\n]*(FROM|UPDATE) [^ ]*\.poser_batch /m }
  split /^.*NOTICE:  duration: .* plan:\n/m, $stderr;
is($stdout, 1998, 'rows of a batch are removed one by one');
is(scalar(@plans), 2, 'the header is read once for each statement');
is(scalar(grep { /Tid Scan on poser_batch/ } @plans), 2, 'the header is found where it was last');

# The tables that a query reads are found by its plan, and the query runs by the same plan.
foreach (
	[ 'READ COMMITTED', q{SELECT FROM poser_import_diff('source', 'poser_widget')} ],
	[ 'REPEATABLE READ', q{SELECT FROM poser_import('source', 'poser_widget')} ])
{
	my ($isolation, $statement) = @$_;

	$node->safe_psql('db', 'SELECT pg_stat_statements_reset()');
	$node->safe_psql('db', "BEGIN ISOLATION LEVEL $isolation; $statement; COMMIT");
	is( $node->safe_psql('db', q{
			SELECT count(*), max(plans) FROM pg_stat_statements
			WHERE query ~ '(FROM public.source|FROM poser_import_row) '}),
		'2|1', "the queries of an import are planned once, $isolation");
}

done_testing();
