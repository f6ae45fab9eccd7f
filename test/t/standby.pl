# A physical standby answers all reads, deltas or not, and goes on counting after
# its promotion.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PoserTest;
use Test::More;

my $primary = new_node('primary', allows_streaming => 1);
create_database($primary, 'db');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

$primary->safe_psql('db', <<'EOF');
INSERT INTO poser_widget (uuid, description, active)
SELECT n::text, 'Widget ' || n, n <> 3 FROM generate_series(1, 5) n;
INSERT INTO poser_component (widget_uuid, item_code, description, active)
SELECT w.uuid, n::text, 'Part ' || n, n > 2
FROM poser_widget w, generate_series(1, 10) n WHERE n <= w.uuid::int * 2;
EOF

# What all the reads give, each set of rows after its query.
sub reads
{
	my ($node) = @_;
	return join "\n", map { "$_\n" . $node->safe_psql('db', $_) }
	  'SELECT * FROM poser_widget_summary ORDER BY uuid',
	  'SELECT * FROM poser_widget_summary ORDER BY component_count DESC, uuid LIMIT 2',
	  q{SELECT * FROM poser_widget_get('4')},
	  q{SELECT * FROM poser_widget_get('missing')},
	  'SELECT * FROM poser_widget_list()',
	  q{SELECT * FROM poser_widget_list(search => 'WIDGET', active => true, after => '2', page_size => 2)};
}

# The standby has caught up, is read-only, and reads are what they are on the
# primary; two more tests.
sub same_reads
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	$primary->wait_for_catchup($standby);
	is($standby->safe_psql('db', 'SELECT pg_is_in_recovery()'),
		't', "$name: a standby");
	is(reads($standby), reads($primary), "$name: reads are the primary's");
	counts_exact($standby, 'db', "$name, standby", widgets => 5);
	return;
}

same_reads('settled');
is( $standby->safe_psql('db', q{SELECT component_count, active_component_count
	FROM poser_widget_get('4')}),
	'8|6', 'a count read on the standby');

make_deltas($primary, 'db');
same_reads('deltas of transactions under way');
is( $standby->safe_psql('db', q{SELECT component_count, active_component_count
	FROM poser_widget_get('4')}),
	'9|7', 'the committed one of them is counted');

$primary->safe_psql('db', q{COMMIT PREPARED 'db_1'});
same_reads('deltas');
is( $standby->safe_psql('db', q{SELECT component_count, active_component_count
	FROM poser_widget_get('4')}),
	'10|8', 'both are counted');
cmp_ok(
	$standby->safe_psql('db', 'SELECT count(*) FROM poser_component_count_delta'),
	'>', 0, 'there were deltas to read');

my ($rc, $stdout, $stderr) = $standby->psql('db', 'SELECT poser_recount()');
like($stderr, qr/read-only transaction|during recovery/,
	'poser_recount() cannot run on a standby, and says so');

# The last transaction is prepared on the primary and committed on what was its
# standby.
$primary->stop;
$standby->promote;
counts_exact($standby, 'db', 'promoted', widgets => 5);
$standby->safe_psql('db', q{COMMIT PREPARED 'db_2'});
counts_exact($standby, 'db', 'promoted, then committed', widgets => 5);
$standby->safe_psql('db', <<'EOF');
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, 'new', 'Part' FROM poser_widget;
DELETE FROM poser_component WHERE widget_uuid = '1' AND item_code = 'delta';
UPDATE poser_component SET widget_uuid = '2' WHERE widget_uuid = '3';
EOF
counts_exact($standby, 'db', 'promoted, then written', widgets => 5);
is($standby->safe_psql('db', 'SELECT count(*) FROM poser_component_count_delta'),
	0, 'the new primary settles the deltas');
is($standby->safe_psql('db', 'SELECT poser_recount()'),
	0, 'and had no count wrong');

done_testing();
