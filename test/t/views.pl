# Maintained views in dumps and restores: in all ways that pg_dump, pg_restore and psql
# offer, by superuser and by an owner.  At each moment a view has the rows of its query.
# Afterwards it reads its counts without a further step, writes keep them right, and
# poser_check() finds nothing.  Then a part of the tables, renamed partitions, a copy of the
# database, loads that bypass ordinary triggers, and DROP EXTENSION.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use PoserTest;
use PoserViews;
use Test::More;

my $node = new_node('views');
my $directory = PostgreSQL::Test::Utils::tempdir();
my @psql = ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1');
my @pg_restore = ('pg_restore', '--exit-on-error');
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE other LOGIN');

# Makes a dump of a database with these options, and returns its name.
sub dumped
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $role, $name, @options) = @_;
	my $file = "$directory/$dbname." . $name =~ tr/ /_/r;

	command_ok([ 'pg_dump', @options, '-f', $file, $node->connstr($dbname) . " user=$role" ], "$dbname: pg_dump @options");
	return $file;
}

sub new_database
{
	my ($dbname, $role) = @_;

	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $dbname");
	$node->safe_psql('postgres', "CREATE DATABASE $dbname OWNER $role TEMPLATE template0");
	return;
}

# A test: restores a file.  Returns whether it is restored.
sub restored
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $role, $name, $file, $program, @options) = @_;
	my $connstr = $node->connstr($dbname) . " user=$role";
	my @command = (@$program, @options, '-d', $connstr, $program->[0] eq 'psql' ? '-f' : (), $file);
	my $done = IPC::Run::run(\@command, '<', \undef, '>', '/dev/null', '2>', \my $errors);

	ok($done, "$name: $program->[0] @options") or diag(substr($errors, 0, 1000));
	return $done;
}

# The definitions of the views and of what belongs to them.
sub definition_of
{
	my ($dbname) = @_;

	return $node->safe_psql($dbname, <<'SQL');
SELECT c.oid::regclass, relkind, relowner::regrole, reloptions, relacl, CASE WHEN relkind = 'v' THEN pg_get_viewdef(c.oid) END
FROM pg_class c WHERE relkind IN ('v', 'r', 'p') AND relnamespace::regnamespace::text !~ '^pg_|information_schema'
	AND relname !~ '^poser_' ORDER BY c.oid::regclass::text COLLATE "C";
SELECT tgrelid::regclass, tgname, tgenabled, tgtype, tgnargs, obj_description(oid, 'pg_trigger') FROM pg_trigger
WHERE NOT tgisinternal AND tgname ~ 'maintain' ORDER BY tgrelid::regclass::text COLLATE "C", tgname;
SQL
}

#
# All ways
#

foreach my $role ('postgres', 'owner')
{
	my $all = $role eq 'postgres';
	my $source = "source_of_$role";

	create_database($node, $source, owner => $role);
	lines_as($node, $source, $role, VIEW_TABLES . MAINTAIN_VIEWS . VIEW_ROWS);
	lines_as($node, $source, $role, q{COMMENT ON VIEW customer_orders IS 'a comment'});
	# a transaction that is open at the time of the dump, so that another one leaves deltas
	$node->safe_psql($source, <<'SQL');
BEGIN; INSERT INTO orders (id, customer_id, total) SELECT 10000 + n, n, 1.5 FROM generate_series(1, 5) n; PREPARE TRANSACTION 'open';
INSERT INTO orders (id, customer_id, total) SELECT 20000 + n, n, 'NaN' FROM generate_series(1, 5) n;
SQL
	cmp_ok($node->safe_psql($source, 'SELECT count(*) FROM customer_orders_maintained WHERE delta <> 0'), '>', 0, "$source: there are deltas");
	views_exact($node, $source, $source);
	my $rows = view_rows_of($node, $source);
	my $definition = definition_of($source);
	my $plain = dumped($source, $role, 'plain');
	my $custom = dumped($source, $role, 'custom', '-Fc');
	my $parallel = dumped($source, $role, 'parallel', '-Fd', '-j4');
	my $schema = dumped($source, $role, 'schema', '--schema-only');
	my $only_data = dumped($source, $role, 'data', '--data-only');
	my @sections = map { "--section=$_" } 'pre-data', 'data', 'post-data';

	# Tests of a way: restores one file after the other into a new database.
	my $test = sub {
		my ($way, @restores) = @_;
		my $by = $way =~ /no-owner/ ? 'other' : $role;

		new_database('target', $by);
		foreach (@restores)
		{
			restored('target', $by, "$source: $way", @$_) or return;
			views_right($node, 'target', "$source: $way, on the way");
		}
		same_contents(view_rows_of($node, 'target'), $rows, "$source: $way: all rows are equal");
		same_contents(definition_of('target'), $definition, "$source: $way: views and triggers are equal") unless $way =~ /no-|triggers/;
		if ($way =~ /no-privileges/)
		{
			# a view that reads as its reader needs the privilege that poser_maintain() has granted
			lines_as($node, 'target', $by, 'GRANT SELECT ON customer, orders, customer_orders, open_orders, customer_orders_query, open_orders_query TO reader');
			my @remedies = $node->safe_psql('target', 'SELECT * FROM poser_check()') =~ /: (GRANT SELECT ON .*_served.* TO PUBLIC)$/mg;
			is(scalar @remedies, 5, "$source: $way: poser_check() says which grants are missing");
			lines_as($node, 'target', $by, join ';', @remedies);
		}
		if ($way =~ /without triggers/)
		{
			# each trigger is enabled in the ordinary way afterwards, which does not fire in all sessions
			like($node->safe_psql('target', 'SELECT * FROM poser_check()'), qr/fires in other sessions than it should/, "$source: $way: poser_check() says it");
			lines_as($node, 'target', $by, MAINTAIN_VIEWS);
		}
		is( lines_as($node, 'target', 'reader', 'SELECT sum(orders) FROM customer_orders; SELECT sum(n) FROM open_orders'),
			$node->safe_psql('target', 'SELECT sum(orders) FROM customer_orders_query; SELECT sum(n) FROM open_orders_query'),
			"$source: $way: a reader reads");
		views_exact($node, 'target', "$source: $way");
		views_go_on($node, 'target', "$source: $way", role => $by);
		return;
	};

	$test->('plain', [ $plain, \@psql ]);
	$test->('parallel', [ $parallel, \@pg_restore, '-j4' ]);
	$test->('definitions, then data', [ $schema, \@psql ], [ $only_data, \@psql ]);
	$test->('by sections', map { [ $custom, \@pg_restore, $_ ] } @sections);
	if (!$all)
	{
		$node->safe_psql($source, q{ROLLBACK PREPARED 'open'});
		next;
	}

	$test->('plain, one transaction', [ $plain, \@psql, '--single-transaction' ]);
	$test->('plain, INSERTs', [ dumped($source, $role, 'inserts', '--inserts'), \@psql ]);
	$test->('plain, row security', [ dumped($source, $role, 'rls', '--enable-row-security'), \@psql ]);
	$test->('plain, no-comments', [ dumped($source, $role, 'no comments', '--no-comments'), \@psql ]);
	$test->('custom, no-owner', [ $custom, \@pg_restore, '--no-owner' ]);
	$test->('custom, no-privileges', [ $custom, \@pg_restore, '--no-privileges' ]);
	$test->('custom, one transaction', [ $custom, \@pg_restore, '--single-transaction' ]);
	$test->('pre-data, post-data, then data', map { [ $custom, \@pg_restore, $_ ] } @sections[ 0, 2, 1 ]);
	$test->('definitions, then data in one transaction', [ $schema, \@psql ], [ $only_data, \@psql, '--single-transaction' ]);
	$test->('definitions, then INSERTs', [ $schema, \@psql ], [ dumped($source, $role, 'data inserts', '--data-only', '--rows-per-insert=1000'), \@psql ]);
	$test->('definitions, then data with row security', [ $schema, \@psql ],
		[ dumped($source, $role, 'data rls', '--data-only', '--enable-row-security'), \@psql ]);
	# without the extension's own tables, whose triggers it would enable in the ordinary way, too
	my @disable = ('--data-only', '--disable-triggers', '--exclude-table-data=poser_*');
	my $disabled = dumped($source, $role, 'disabled', '-Fd', @disable);
	$test->('definitions, then data without triggers', [ $schema, \@psql ], [ dumped($source, $role, 'data disable', @disable), \@psql ]);
	$test->('definitions, then data without triggers, by pg_restore', [ $schema, \@psql ], [ $disabled, \@pg_restore, @disable[ 0, 1 ] ]);
	$test->('definitions, then data without triggers, in parallel', [ $schema, \@psql ], [ $disabled, \@pg_restore, '-j4', @disable[ 0, 1 ] ]);
	$test->('definitions, then data by roots', [ $schema, \@psql ],
		[ dumped($source, $role, 'data roots', '--data-only', '--load-via-partition-root'), \@psql ]);

	# over what is there; PostgreSQL itself fails to drop constraints of partitions
	my $clean = dumped($source, $role, 'clean', '--clean', '--if-exists');
	new_database('target', $role);
	restored('target', $role, '--clean', $plain, \@psql);
	IPC::Run::run([ 'psql', '-Xq', '-d', $node->connstr('target'), '-f', $clean ], '>', '/dev/null', '2>', \my $said);
	is($said =~ s/^.*ERROR:  cannot drop inherited constraint .*\n//mgr, '', '--clean: restored');
	same_contents(view_rows_of($node, 'target'), $rows, '--clean: all rows are equal');
	views_exact($node, 'target', '--clean');
	views_go_on($node, 'target', '--clean');

	# entry by entry
	IPC::Run::run([ 'pg_restore', '-l', $custom ], '>', \my $list) or die;
	new_database('target', $role);
	my $n = 0;
	foreach my $entry (grep { /^\d/ } split /\n/, $list)
	{
		my $done;

		append_to_file("$directory/entry" . ++$n, "$entry\n");
		$done = IPC::Run::run([ @pg_restore, '-L', "$directory/entry$n", '-d', $node->connstr('target') . ' user=postgres', $custom ], '2>', \my $errors);
		if (!$done)
		{
			fail("entry by entry: $entry: $errors");
			last;
		}
		views_right($node, 'target', "entry by entry, after $entry") if $entry =~ / (?:VIEW|TRIGGER|TABLE DATA|CONSTRAINT|INDEX) .*(?:orders|customer)/;
	}
	views_exact($node, 'target', 'entry by entry');
	views_go_on($node, 'target', 'entry by entry');

	# each table's data alone, in several orders
	my @parts = ('orders', 'customer', 'customer_orders_maintained', 'open_orders_maintained', 'order_tree_maintained', 'depot_lots_maintained',
		'Sums "%_maintained', 'depot_n', 'depot_s', 'lot_0', 'lot_1', 'Bill "%', 'Line "n', 'line_s', 'customer_id_seq');
	foreach ([ 'bookkeeping first', @parts[ 2 .. 6, 1, 0, 7 .. 14 ] ], [ 'bookkeeping last', @parts[ 1, 0, 7 .. 14, 2 .. 6 ] ])
	{
		my ($order, @of) = @$_;

		IPC::Run::run([ 'pg_restore', '-l', '--data-only', $custom ], '>', \my $contents_list) or die;
		my $of_order = '';
		foreach my $part (@of)
		{
			my @lines = grep { /(?:TABLE DATA|SEQUENCE SET) (?:.* )?\Q$part\E \w+$/ } split /\n/, $contents_list;
			die "$part: " . @lines if @lines != 1;
			$of_order .= "$lines[0]\n";
		}
		append_to_file("$directory/list of $order", $of_order);
		$test->("data, $order", [ $schema, \@psql ], [ $custom, \@pg_restore, '--data-only', '-L', "$directory/list of $order" ]);
	}

	# a dump of what was restored
	new_database('once', $role);
	restored('once', $role, 'once', $plain, \@psql);
	$test->('a dump of a restored database', [ dumped('once', $role, 'twice', '-Fc'), \@pg_restore, '-j4' ]);
	$node->safe_psql($source, q{ROLLBACK PREPARED 'open'});
}

#
# Other databases
#

# CREATE DATABASE ... TEMPLATE
$node->safe_psql('postgres', 'CREATE DATABASE copied OWNER owner TEMPLATE source_of_owner');
views_exact($node, 'copied', 'a copy of the database');
views_go_on($node, 'copied', 'a copy of the database', role => 'owner');
# The owner can put a function of the server that runs SQL into the query.  If a writer evaluates
# it here, then not with the writer's rights.
$node->safe_psql('copied', <<'SQL');
SET ROLE owner;
CREATE FUNCTION public.tell() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE WARNING ''the query runs as %'', current_user; RETURN 0; END';
CREATE OR REPLACE VIEW open_orders_query WITH (security_invoker) AS
SELECT c.name, c.id, count(o.id) FILTER (WHERE ts_rewrite('a', 'SELECT ''a''::tsquery, ''b''::tsquery FROM public.tell()') IS NOT NULL) AS n, sum(o.total) AS total
FROM customer c LEFT JOIN orders o ON c.id = o.customer_id AND o.status = 'open' GROUP BY c.id, c.name;
SQL
my (undef, undef, $evaluated) = $node->psql('copied', q{INSERT INTO orders (id, customer_id, status, total) SELECT 7000, min(id), 'open', 1 FROM customer});
unlike($evaluated, qr/runs as (?!owner)/, 'a copy of the database: no condition runs with the rights of a writer');

# A part of the tables.  What is missing is said, and reads are right.
my $difference = <<'SQL';
SELECT * FROM ((TABLE open_orders EXCEPT ALL TABLE open_orders_query) UNION ALL (TABLE open_orders_query EXCEPT ALL TABLE open_orders)) d
SQL
my $write = <<'SQL';
INSERT INTO customer (id, name) VALUES (7000, 'new');
INSERT INTO orders (id, customer_id, status, total) VALUES (7000, 7000, 'open', 7), (7001, 7000, 'open', 8), (7002, 7000, 'closed', 9);
DELETE FROM orders WHERE id = 7001;
SQL
foreach my $extension ('with the extension', 'where the extension is')
{
	my @extension = $extension =~ /^with/ ? ('-e', 'poser') : ();

	foreach (
		[ 'the whole family', 'customer', 'orders', 'open_orders*' ],
		[ 'without the bookkeeping', 'customer', 'orders', 'open_orders', 'open_orders_query', 'open_orders_served' ],
		[ 'without the query', 'customer', 'orders', 'open_orders', 'open_orders_served', 'open_orders_maintained' ],
		[ 'without the view', 'customer', 'orders', 'open_orders_query', 'open_orders_served', 'open_orders_maintained' ],
		[ 'only the tables', 'customer', 'orders' ],
		[ 'only the child', 'orders' ])
	{
		my ($what, @names) = @$_;
		my $whole = $what =~ /whole/;
		my $name = "-t, $what, $extension";

		new_database('target', 'postgres');
		$node->safe_psql('target', 'CREATE DOMAIN money_amount AS numeric(20,4);' . (@extension ? '' : 'CREATE EXTENSION poser'));
		my $file = dumped('source_of_postgres', 'postgres', $name, @extension, map { ('-t', $_) } @names);
		# what refers to relations that are not there is not made
		IPC::Run::run([ 'psql', '-Xq', '-d', $node->connstr('target') . ' user=postgres', '-f', $file ], '>', '/dev/null', '2>', \my $errors);
		is($errors, '', "$name: restored") if $whole;
		is($node->safe_psql('target', q{SELECT poser_serves('open_orders_query')}), 't', "$name: the view reads its counts") if $whole;
		$node->safe_psql('target', $what =~ /child/ ? q{INSERT INTO orders (id, customer_id) VALUES (7000, 7000); DELETE FROM orders WHERE id < 10} : $write);
		is($node->safe_psql('target', $difference), '', "$name: the view has the rows of its query after a write") if $whole;
		is($node->safe_psql('target', q{SELECT total FROM open_orders WHERE id = 7000}), 7, "$name: the view after a write")
		  if $node->safe_psql('target', q{SELECT to_regclass('open_orders') IS NOT NULL}) eq 't';
		my $problems = $node->safe_psql('target', 'SELECT * FROM poser_check()');
		$whole ? is($problems, '', "$name: poser_check() finds nothing") : note("$name: poser_check() says: $problems");
	}
}

# Partitions that were renamed before the dump are found by their OIDs until then.
create_database($node, 'renamed');
$node->safe_psql('renamed', VIEW_TABLES . MAINTAIN_VIEWS . VIEW_ROWS . <<'SQL');
ALTER TABLE lot_0 RENAME TO lot_first;
ALTER TABLE line_s RENAME TO line_south;
SQL
is($node->safe_psql('renamed', q{SELECT poser_serves('depot_lots_query')}), 't', 'renamed partitions: the view reads its counts');
my $said = $node->safe_psql('renamed', 'SELECT * FROM poser_check()');
like($said, qr/depot_lots.*restore|restore.*depot_lots/s, 'renamed partitions: poser_check() says it before the dump');
new_database('target', 'postgres');
restored('target', 'postgres', 'renamed partitions', dumped('renamed', 'postgres', 'renamed'), \@psql);
views_right($node, 'target', 'renamed partitions');
is($node->safe_psql('target', q{SELECT poser_serves('depot_lots_query')}), 'f', 'renamed partitions: the view reads live');
$node->safe_psql('target', q{INSERT INTO lot VALUES (9000, 'n', 2, 5), (9001, 'n', 2, 6); DELETE FROM lot_first WHERE id % 3 = 0});
views_right($node, 'target', 'renamed partitions, written');
$node->safe_psql('target', MAINTAIN_VIEWS);
views_exact($node, 'target', 'renamed partitions, maintained again');

# Columns that were renamed before the dump: the query knows them.
create_database($node, 'columns');
$node->safe_psql('columns', VIEW_TABLES . MAINTAIN_VIEWS . VIEW_ROWS . <<'SQL');
ALTER TABLE orders RENAME status TO state;
ALTER TABLE orders RENAME customer_id TO buyer;
ALTER TABLE customer RENAME id TO number;
ALTER TABLE depot RENAME region TO area;
SQL
views_exact($node, 'columns', 'renamed columns');
new_database('target', 'postgres');
restored('target', 'postgres', 'renamed columns', dumped('columns', 'postgres', 'columns', '-Fc'), \@pg_restore, '-j2');
views_exact($node, 'target', 'renamed columns, restored');
$node->safe_psql('target', q{INSERT INTO customer (number) VALUES (8000); INSERT INTO orders (id, buyer, state, total) SELECT 8000 + n, 8000, 'open', n FROM generate_series(1, 5) n;
	UPDATE orders SET state = 'closed' WHERE id = 8001; UPDATE customer SET number = 8001 WHERE number = 8000});
views_exact($node, 'target', 'renamed columns, restored and written');

# After a restore, or in a copy of the database, a partition is renamed for a while.  Meanwhile new
# partitions come and go, also under its name, and their rows are not counted.
create_database($node, 'bound');
$node->safe_psql('bound', VIEW_TABLES . MAINTAIN_VIEWS . VIEW_ROWS . <<'SQL');
CREATE TABLE line_x PARTITION OF "Odd %s ""x"."Line ""%" FOR VALUES IN ('x');
SELECT poser_maintain('"Odd %s ""x"."Sums ""%"');
SQL
new_database('target', 'postgres');
restored('target', 'postgres', 'a partition loses its name', dumped('bound', 'postgres', 'bound'), \@psql);
$node->safe_psql('postgres', 'CREATE DATABASE bound_copy TEMPLATE bound');
foreach my $database ('target', 'bound_copy')
{
	foreach my $renamed ('line_s', 'line_x')
	{
		foreach my $new ('line_y', $renamed)
		{
			$node->safe_psql($database, <<"SQL");
ALTER TABLE $renamed RENAME TO line_of_old;
CREATE TABLE $new PARTITION OF "Odd %s ""x"."Line ""%" FOR VALUES IN ('y');
INSERT INTO "Odd %s ""x"."Line ""%" SELECT 8000 + n, "Key 1", k2, region, n
	FROM "Odd %s ""x"."Bill ""%", unnest('{n,s,x,y}'::text[]) WITH ORDINALITY AS u (region, n) WHERE "Key 1" LIKE '%\\\\3';
INSERT INTO $new SELECT id + 1000, "to 1", to2, region, 7 FROM $new;
DROP TABLE $new;
DELETE FROM "Odd %s ""x"."Line ""%" WHERE id = 8001;
ALTER TABLE line_of_old RENAME TO $renamed;
SQL
			views_exact($node, $database, "$database: $renamed has lost its name while there was $new");
			$node->safe_psql($database, q{DELETE FROM "Odd %s ""x"."Line ""%" WHERE id >= 8000});
		}
	}
}

# What is changed after a restore, under names that are in the bindings: a partition that was
# detached and attached again, or made anew, and another query.
new_database('target', 'postgres');
restored('target', 'postgres', 'changes after a restore', "$directory/source_of_postgres.plain", \@psql);
$node->safe_psql('target', <<'SQL');
ALTER TABLE lot DETACH PARTITION lot_0;
DELETE FROM lot_0 WHERE id % 3 = 0;
UPDATE lot_0 SET quantity = quantity + 1;
ALTER TABLE lot ATTACH PARTITION lot_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
DROP TABLE line_s;
CREATE TABLE line_s PARTITION OF "Odd %s ""x"."Line ""%" FOR VALUES IN ('s');
CREATE OR REPLACE VIEW order_tree_query AS SELECT o.id, count(part.status) AS parts FROM orders o LEFT JOIN orders part ON part.up = o.id GROUP BY o.id;
CREATE VIEW open_orders_before AS TABLE open_orders_query;
CREATE OR REPLACE VIEW open_orders_query AS SELECT name, id, 1::bigint AS n, 2::numeric AS total FROM customer;
SQL
is($node->safe_psql('target', 'SELECT view FROM poser_views WHERE served'), 'customer_orders', 'changes after a restore: views read live');
is( $node->safe_psql('target', q{SELECT view, regexp_replace(problem, ';.*', '') FROM poser_views WHERE problem IS NOT NULL ORDER BY view::text COLLATE "C"}), <<'EOF' =~ s/\n$//r,
"Odd %s ""x"."Sums ""%"|its tables have other partitions than those that were counted: poser_maintain('"Odd %s ""x"."Sums ""%"') mends it
depot_lots|its tables have other partitions than those that were counted: poser_maintain('public.depot_lots') mends it
open_orders|its query has changed: FROM has no LEFT JOIN: poser_unmaintain('public.open_orders') gives the view this query
order_tree|view public.order_tree_query has another query than the one that was counted: poser_maintain('public.order_tree') mends it
EOF
	'changes after a restore: poser_views says it');
$node->safe_psql('target', <<'SQL');
INSERT INTO orders (id, customer_id, up, status, total) VALUES (7000, 1, 1, NULL, 7), (7001, 1, 1, 'open', 8);
INSERT INTO lot VALUES (7000, 'n', 100, 1), (7001, 'n', 100, 2);
INSERT INTO "Odd %s ""x"."Line ""%" SELECT 7000 + row_number() OVER (), "Key 1", k2, 's', 5 FROM "Odd %s ""x"."Bill ""%";
CREATE OR REPLACE VIEW open_orders_query AS
SELECT c.name, c.id, count(o.id) AS n, sum(o.total) AS total
FROM customer c LEFT JOIN orders o ON c.id = o.customer_id AND o.status = 'open' GROUP BY c.id, c.name;
SQL
foreach ([ 'depot_lots', 'depot_lots_query' ], [ '"Odd %s ""x"."Sums ""%"', '"Odd %s ""x"."Sums ""%_query"' ], [ 'open_orders', 'open_orders_query' ])
{
	is($node->safe_psql('target', "TABLE $_->[0] EXCEPT ALL TABLE $_->[1]"), '', "changes after a restore: $_->[0] is right");
}
$node->safe_psql('target', MAINTAIN_VIEWS);
views_exact($node, 'target', 'changes after a restore, maintained again');
views_go_on($node, 'target', 'changes after a restore, maintained again');

# The rows of one table are left out.  Nothing in the dump says so.
new_database('target', 'postgres');
restored('target', 'postgres', 'without the rows of a table', dumped('source_of_postgres', 'postgres', 'without rows', '--exclude-table-data=lot_1'), \@psql);
like($node->safe_psql('target', 'SELECT * FROM poser_check()'), qr/^public\.depot_lots .*poser_recount\('public\.depot_lots'\) corrects it$/m,
	'without the rows of a table: poser_check() says it');
cmp_ok($node->safe_psql('target', 'SELECT poser_recount()'), '>', 0, 'without the rows of a table: poser_recount() corrects the counts');
views_exact($node, 'target', 'without the rows of a table, recounted');
views_go_on($node, 'target', 'without the rows of a table, recounted');

# A query with columns that are not grouped depends on the primary key.  So a restore makes it
# late, in parallel possibly after the bindings.
create_database($node, 'late');
$node->safe_psql('late', <<'SQL');
CREATE TABLE customer (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customer, total int, more int);
CREATE VIEW customer_orders AS SELECT c.*, count(o.id) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
CREATE VIEW filled AS SELECT c.id, count(o.id) FILTER (WHERE o IS NOT NULL) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders'), poser_maintain('filled');
INSERT INTO customer VALUES (1, 'one'), (2, 'two');
INSERT INTO orders VALUES (1, 1, 5, 6), (2, 1, NULL, 7);
SQL
new_database('target', 'postgres');
restored('target', 'postgres', 'a late query', dumped('late', 'postgres', 'late', '-Fd'), \@pg_restore, '--section=pre-data', '--section=data');
my $late = "$directory/late.late";
IPC::Run::run([ 'pg_restore', '-l', '--section=post-data', $late ], '>', \my $list_of_late) or die;
my ($late_query) = $list_of_late =~ /^(\d.* RULE .* customer_orders_query _RETURN .*\n)/m or die $list_of_late;
append_to_file("$directory/list of late", $list_of_late =~ s/\Q$late_query\E//r . $late_query);
restored('target', 'postgres', 'a late query', $late, \@pg_restore, '-L', "$directory/list of late");
is($node->safe_psql('target', 'SELECT view, served, problem FROM poser_views ORDER BY view::text'), "customer_orders|t|\nfilled|t|",
	'a late query: the view reads its counts');
is($node->safe_psql('target', 'TABLE customer_orders'), "1|one|2\n2|two|0", 'a late query: the rows');
$node->safe_psql('target', <<'SQL');
CREATE OR REPLACE VIEW customer_orders_query AS
SELECT c.*, count(o.total) AS n FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
SELECT poser_maintain('customer_orders');
SQL
is($node->safe_psql('target', 'TABLE customer_orders; SELECT * FROM poser_check()'), "1|one|1\n2|two|0", 'a late query: a later one is the definition');

# A condition uses whole rows, and a column is another one with the same name.
$node->safe_psql('target', 'ALTER TABLE orders DROP COLUMN more; ALTER TABLE orders ADD COLUMN more int');
is($node->safe_psql('target', 'TABLE filled'), "1|0\n2|0", 'another column after a restore: the view reads live');
is( $node->safe_psql('target', 'SELECT view, problem FROM poser_views WHERE NOT served'),
	q{filled|a condition uses whole rows, and the columns of these have changed: poser_maintain('public.filled') mends it},
	'another column after a restore: poser_views says it');
$node->safe_psql('target', q{SELECT poser_maintain('filled')});
is($node->safe_psql('target', 'TABLE filled; SELECT * FROM poser_check()'), "1|0\n2|0", 'another column after a restore: maintained again');

#
# Loads that bypass ordinary triggers
#

create_database($node, 'load');
$node->safe_psql('load', VIEW_TABLES . MAINTAIN_VIEWS);
# foreign keys do nothing in this role
$node->safe_psql('load', "SET session_replication_role = replica;\n" . VIEW_ROWS);
views_exact($node, 'load', 'session_replication_role = replica');
$node->safe_psql('load', <<'SQL');
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE orders SET total = 7, status = 'open' WHERE id % 10 = 0;
UPDATE customer SET id = 500 WHERE id = 5;
DELETE FROM lot WHERE id % 7 = 0;
UPDATE "Odd %s ""x"."Line ""%" SET region = 'n' WHERE id % 9 = 0;
SAVEPOINT s;
DELETE FROM orders;
ROLLBACK TO s;
SET LOCAL session_replication_role = origin;
UPDATE orders SET customer_id = 1 WHERE id % 13 = 0;
COMMIT;
SQL
views_exact($node, 'load', 'replica and origin in one transaction');
views_go_on($node, 'load', 'after replica');
my $file = "$directory/frozen";
append_to_file($file, join '', map { "$_\t1\topen\t1.5\n" } 1 .. 1000);
foreach my $role ('origin', 'replica')
{
	$node->safe_psql('load', <<"SQL");
INSERT INTO customer (id) VALUES (1) ON CONFLICT DO NOTHING;
BEGIN;
SET LOCAL session_replication_role = $role;
TRUNCATE orders;
COPY orders (id, customer_id, status, total) FROM '$file' (FREEZE);
COMMIT;
SQL
	views_exact($node, 'load', "COPY FREEZE, $role");
	is($node->safe_psql('load', 'SELECT revenue FROM customer_orders WHERE customer_id = 1'), '1500.0', "COPY FREEZE, $role: the sum");
}
$node->safe_psql('load', 'SET session_replication_role = replica; TRUNCATE customer CASCADE; TRUNCATE lot, depot');
views_exact($node, 'load', 'TRUNCATE in replica');
views_go_on($node, 'load', 'TRUNCATE in replica');

#
# DROP EXTENSION
#

fails_as($node, 'load', 'postgres', '2BP01', 'DROP EXTENSION poser', 'DROP EXTENSION beside a maintained view');
my $query = $node->safe_psql('load', 'SELECT * FROM customer_orders_query ORDER BY 1');
is( $node->safe_psql('load', <<'SQL'), "$query\n0", 'DROP EXTENSION ... CASCADE leaves the query');
SET client_min_messages = warning;
DROP EXTENSION poser CASCADE;
SELECT * FROM customer_orders_query ORDER BY 1;
SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal;
SQL
$node->safe_psql('load', q{INSERT INTO customer (id) VALUES (99); INSERT INTO orders (id, customer_id) VALUES (99999, 99)});

done_testing();
