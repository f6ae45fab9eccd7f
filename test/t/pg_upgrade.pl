# pg_upgrade from an older PostgreSQL keeps rows, counts, history, batches and consumers,
# and everything goes on.  POSER_OLD_PG_CONFIG names the older one; without it, the
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
my $script = pg_config($old_pg_config, 'sharedir') . '/extension/poser--1.5--1.6.sql';
plan skip_all => "the PostgreSQL of $old_pg_config has no poser 1.6: there is no $script"
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
$old->safe_psql('postgres', 'CREATE ROLE owner LOGIN');
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
