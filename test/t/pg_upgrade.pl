# pg_upgrade from an older PostgreSQL keeps rows, counts, history, batches, consumers,
# tracked tables and maintained views, and everything goes on.  POSER_OLD_PG_CONFIG names the older one; without it, the
# newest one next to the tested one is taken.  The extension must be installed there,
# too.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PoserTest;
use PoserViews;
use Test::More;

sub pg_config
{
	my ($program, $what) = @_;
	my $value = `"$program" --$what 2>/dev/null` // '';
	chomp $value;
	return $value;
}

sub major { return pg_config($_[0], 'version') =~ /^PostgreSQL (\d+)/ ? $1 : 0 }

my $new_bindir = pg_config('pg_config', 'bindir');
my $new_major = major('pg_config');
my $old_pg_config = $ENV{POSER_OLD_PG_CONFIG};
if (!$old_pg_config)
{
	my $pattern = $new_bindir =~ s/\Q$new_major\E/*/r;
	my @older = sort { major($b) <=> major($a) }
	  grep { major($_) >= 15 && major($_) < $new_major } glob("'$pattern/pg_config'");
	$old_pg_config = $older[0];
}
plan skip_all => "no older PostgreSQL (15 or later) beside $new_bindir, and POSER_OLD_PG_CONFIG names none"
  unless $old_pg_config;
die "cannot run $old_pg_config" unless major($old_pg_config);
my $script = pg_config($old_pg_config, 'sharedir') . '/extension/poser--1.6--1.7.sql';
plan skip_all => "the PostgreSQL of $old_pg_config has no poser 1.7: there is no $script"
  unless -f $script;

my $old_bindir = pg_config($old_pg_config, 'bindir');
my @locale = ('--encoding=UTF8', '--locale=C', '--username=postgres');
# 18's default
push @locale, '--no-data-checksums' if $new_major >= 18;
my $old = PostgreSQL::Test::Cluster->new('old', install_path => dirname($old_bindir));
$old->init(extra => [ grep { $_ ne '--no-data-checksums' || major($old_pg_config) >= 18 } @locale ]);
$old->append_conf('postgresql.conf', 'max_prepared_transactions = 10');
# so that the new cluster would take some transaction ids for future ones, if it did not
# continue the old cluster's
command_ok([ "$old_bindir/pg_resetwal", '-e', 1, $old->data_dir ], 'wide transaction ids');
$old->start;
$old->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN');
my @databases = ([ 'db', 'public', 'postgres' ], [ 'owned', 'Stock Room', 'owner' ]);
my $changes = q{SELECT * FROM poser_datasync_changes('polled', 3)};
my %before;
my %given;
foreach (@databases)
{
	my ($dbname, $schema, $role) = @$_;
	create_database($old, $dbname, schema => $schema, owner => $role);
	make_history($old, $dbname, $role);
	make_batches($old, $dbname, $role);
	make_consumers($old, $dbname, $role);
	$before{$dbname} = contents($old, $dbname, xact => 1);
	$given{$dbname} = $old->safe_psql($dbname, $changes);
	history_exact($old, $dbname, "$dbname, before", versions => 20);
}

# a database in which a user has changed Poser's tables
create_database($old, 'changed');
$old->safe_psql('changed', <<'EOF');
SELECT poser_alter_type('poser_widget', 'description', 'varchar(400)');
ALTER TABLE poser_widget_version ALTER COLUMN description TYPE varchar(400);
ALTER TABLE poser_component ADD COLUMN price numeric(10,2) DEFAULT 1, ADD CHECK (item_code <> 'x');
ALTER TABLE poser_batch DISABLE TRIGGER poser_batch_guard;
EOF
my $local_changes = $old->safe_psql('changed', 'SELECT * FROM poser_local_changes()');

# maintained views, with deltas, and one whose partition was renamed
create_database($old, 'views', owner => 'owner');
lines_as($old, 'views', 'owner', VIEW_TABLES . MAINTAIN_VIEWS . VIEW_ROWS);
lines_as($old, 'views', 'owner', 'ALTER TABLE lot_1 RENAME TO lot_second');
$old->safe_psql('views', q{BEGIN; UPDATE orders SET total = 1 WHERE id < 50; PREPARE TRANSACTION 'open'});
$old->safe_psql('views', q{UPDATE orders SET customer_id = 11, total = 5.25 WHERE id BETWEEN 50 AND 90; ROLLBACK PREPARED 'open'});
my $view_rows = view_rows_of($old, 'views');

# tracked tables: their partitions, an excluded column, columns that were dropped, a
# type of a user's, and a column that was renamed and not followed
create_database($old, 'tracked', owner => 'owner');
lines_as($old, 'tracked', 'owner', <<'EOF');
SET client_min_messages = warning;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE customer (id int PRIMARY KEY, gone int, mail text, pw text, mood mood);
ALTER TABLE customer DROP COLUMN gone;
CREATE TABLE part (region text, id int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n', 's');
CREATE TABLE renamed (id int PRIMARY KEY, a text, b text);
SELECT poser_track('customer', exclude => '{pw}'), poser_track('part'), poser_track('renamed');
INSERT INTO customer VALUES (1, 'a', 'secret', 'good'), (2, 'b', 'secret', 'bad');
UPDATE customer SET mail = 'c' WHERE id = 1;
ALTER TABLE customer RENAME mail TO address;
ALTER TABLE customer ADD COLUMN vat text;
SELECT poser_track('customer');
BEGIN;
SAVEPOINT s;
UPDATE customer SET vat = 'V' WHERE id = 1;
COMMIT;
DELETE FROM customer WHERE id = 2;
INSERT INTO part VALUES ('n', 1), ('n', 2);
UPDATE part SET region = 's' WHERE id = 1;
INSERT INTO renamed VALUES (1, 'a', 'b');
ALTER TABLE renamed RENAME a TO x;
ALTER TABLE renamed RENAME b TO a;
ALTER TABLE renamed RENAME x TO b;
COMMENT ON TRIGGER poser_versions_of ON part_version IS 'pruned up to transaction 1, change 2';
EOF
my $tracked = q{SELECT 'customer', to_jsonb(t) FROM customer_version t UNION ALL SELECT 'part', to_jsonb(t) FROM part_version t
	UNION ALL SELECT 'renamed', to_jsonb(t) FROM renamed_version t UNION ALL SELECT 'comment', to_jsonb(obj_description(oid, 'pg_trigger'))
	FROM pg_trigger WHERE tgname = 'poser_versions_of' ORDER BY 1, 2};
my $tracked_before = $old->safe_psql('tracked', $tracked);
like($old->safe_psql('tracked', 'SELECT problem FROM poser_check()'), qr/column a of public.renamed was renamed to b: after a dump/,
	'poser_check() says before the upgrade that a column was renamed');
$old->stop;

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init(extra => \@locale);
chdir PostgreSQL::Test::Utils::tempdir() or die $!;
command_ok(
	[
		'pg_upgrade', '--no-sync',
		'--old-datadir', $old->data_dir, '--new-datadir', $new->data_dir,
		'--old-bindir', $old_bindir, '--new-bindir', $new_bindir,
		'--socketdir', $new->host, '--old-port', $old->port, '--new-port', $new->port,
		'--username', 'postgres'
	],
	'pg_upgrade from ' . major($old_pg_config) . " to $new_major");
$new->start;
is($new->safe_psql('changed', 'SELECT * FROM poser_local_changes()'), $local_changes, 'local changes are the same');

is($new->safe_psql('tracked', $tracked), $tracked_before, 'tracked tables have their histories');
fails_as($new, 'tracked', 'owner', '55000', q{UPDATE renamed SET a = 'c'}, 'a table with columns that were renamed and not followed');
fails_as($new, 'tracked', 'owner', '55000', q{INSERT INTO poser_transaction (id, issued_at, username, role_name, xact)
	SELECT transaction_id, now(), 'mallory', 'mallory', '3' FROM customer_version WHERE vat = 'V'}, 'a transaction that had a savepoint is in use');
is( lines_as($new, 'tracked', 'owner', <<'EOF'), "1|c|V2|good\n2|s|1\n0|2|A", 'tracked tables go on');
UPDATE customer SET vat = 'V2' WHERE id = 1;
SELECT id, address, vat, mood FROM customer_version ORDER BY change_id DESC LIMIT 1;
DELETE FROM part WHERE id = 1;
SELECT operation_type, region, id FROM part_version ORDER BY change_id DESC LIMIT 1;
SELECT poser_track('customer'), poser_track('part'), poser_track('renamed') \gset
INSERT INTO renamed (id, b, a) VALUES (2, 'A', 'B');
SELECT operation_type, id, b FROM renamed_version ORDER BY change_id DESC LIMIT 1;
SELECT * FROM poser_check();
EOF
same_contents(view_rows_of($new, 'views'), $view_rows, 'maintained views show the same rows');
views_right($new, 'views', 'upgraded');
is($new->safe_psql('views', q{SELECT view FROM poser_views WHERE served ORDER BY view::text COLLATE "C"}),
	qq{"Odd %s ""x"."Sums ""%"\ncustomer_orders\nopen_orders\norder_tree}, 'all but the one with a renamed partition read their counts');
lines_as($new, 'views', 'owner', q{SELECT poser_maintain('depot_lots')});
views_exact($new, 'views', 'upgraded');
views_go_on($new, 'views', 'upgraded', role => 'owner');
foreach (@databases)
{
	my ($dbname, $schema, $role) = @$_;
	same_contents(contents($new, $dbname, xact => 1), $before{$dbname},
		"$dbname: all contents are equal, xact and the consumers' positions, too");
	is($new->safe_psql($dbname, $changes), $given{$dbname}, "$dbname: a consumer gets the same changes again");
	counts_exact($new, $dbname, "$dbname, upgraded", widgets => 3);
	history_exact($new, $dbname, "$dbname, upgraded", versions => 20);
	batches_go_on($new, $dbname, "$dbname, upgraded", role => $role);
	history_goes_on($new, $dbname, "$dbname, upgraded", role => $role);
	consumers_go_on($new, $dbname, "$dbname, upgraded", role => $role);
	cmp_ok(
		lines_as($new, $dbname, $role, q{SELECT poser_widget_revert('history 6',
			(SELECT min(id) FROM poser_transaction WHERE username = 'erin'), true)}),
		'==', 1, "$dbname: a widget deleted before the upgrade is reverted");
	counts_exact($new, $dbname, "$dbname, after the upgrade", widgets => 3);
	history_exact($new, $dbname, "$dbname, after the upgrade", versions => 25);
}

done_testing();
