# A physical standby answers all reads, of counts with or without deltas and of the
# history, and changes nothing.  After its promotion it goes on counting and recording.

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

# A local change.
$primary->safe_psql('db', 'ALTER TABLE poser_component SET (fillfactor = 90)');

# A history of several transactions, which have different comments.
foreach (
	[ 'added',   q{INSERT INTO poser_widget (uuid, description) VALUES ('6', 'Widget 6');
		INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
		VALUES ('6.1', '6', '1', 'Part 1'), ('6.2', '6', '2', 'Part 2')} ],
	[ 'changed', q{UPDATE poser_widget SET description = 'Other' WHERE uuid = '6';
		DELETE FROM poser_component WHERE uuid = '6.1'} ],
	[ 'moved',   q{UPDATE poser_component SET widget_uuid = '5' WHERE widget_uuid = '6'} ],
	[ 'removed', q{DELETE FROM poser_widget WHERE uuid = '6'} ])
{
	my ($comment, $sql) = @$_;
	$primary->safe_psql('db', "SET poser.comment = '$comment'; BEGIN; $sql; COMMIT");
}

my @comments = qw(added changed moved removed);

# SQL for the time and the id of a transaction.
sub issued_at { return "(SELECT issued_at FROM poser_transaction WHERE comment = '$_[0]')" }
sub transaction_id { return "(SELECT id FROM poser_transaction WHERE comment = '$_[0]')" }

# The results of all reads, each after its query.
sub reads
{
	my ($node) = @_;
	return join "\n", map { "$_\n" . $node->safe_psql('db', $_) }
	  'SELECT * FROM poser_widget_summary ORDER BY uuid',
	  'SELECT * FROM poser_widget_summary ORDER BY component_count DESC, uuid LIMIT 2',
	  q{SELECT * FROM poser_widget_get('4')},
	  q{SELECT * FROM poser_widget_get('missing')},
	  'SELECT * FROM poser_widget_list()',
	  q{SELECT * FROM poser_widget_list(search => 'WIDGET', active => true, after => '2', page_size => 2)},
	  q{SELECT * FROM poser_widget_history('6')},
	  q{SELECT * FROM poser_widget_history('6', true)},
	  q{SELECT * FROM poser_component_history('6.2')},
	  'SELECT * FROM poser_local_changes()',
	  map { my $at = issued_at($_);
		("SELECT * FROM poser_widget_as_of($at) ORDER BY uuid",
			"SELECT * FROM poser_component_as_of($at) ORDER BY uuid") } @comments;
}

# Five tests: the standby has caught up, is read-only, and reads as the primary does.
sub same_reads
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	$primary->wait_for_catchup($standby);
	is($standby->safe_psql('db', 'SELECT pg_is_in_recovery()'),
		't', "$name: a standby");
	is(reads($standby), reads($primary), "$name: reads are the primary's");
	counts_exact($standby, 'db', "$name, standby", widgets => 5);
	history_exact($standby, 'db', "$name, standby", versions => 40);
	return;
}

same_reads('settled');
is( $standby->safe_psql('db', q{SELECT component_count, active_component_count
	FROM poser_widget_get('4')}),
	'8|6', 'a count read on the standby');
is( $standby->safe_psql('db', q{SELECT operation, comment, changed, relation, uuid
	FROM poser_widget_history('6', true)}),
	<<'EOF' =~ s/\n\z//r, 'a history read on the standby');
delete|removed|{}|poser_widget|6
update|moved|{widget_uuid}|poser_component|6.2
delete|changed|{}|poser_component|6.1
update|changed|{description}|poser_widget|6
insert|added||poser_component|6.2
insert|added||poser_component|6.1
insert|added||poser_widget|6
EOF
is( join(' ', map { $standby->safe_psql('db', 'SELECT count(*) FROM poser_widget_as_of('
			. issued_at($_) . ')') } @comments),
	'6 6 6 5', 'widgets as of each transaction');
is( join(' ', map { $standby->safe_psql('db', 'SELECT count(*) FROM poser_component_as_of('
			. issued_at($_) . q{) WHERE uuid LIKE '6.%'}) } @comments),
	'2 1 1 1', 'components as of each transaction');

make_deltas($primary, 'db');
same_reads('deltas of open transactions');
is( $standby->safe_psql('db', q{SELECT component_count, active_component_count
	FROM poser_widget_get('4')}),
	'9|7', 'the delta of a committed transaction is counted');

$primary->safe_psql('db', q{COMMIT PREPARED 'db_1'});
same_reads('deltas');
is( $standby->safe_psql('db', q{SELECT component_count, active_component_count
	FROM poser_widget_get('4')}),
	'10|8', 'both deltas are counted');
cmp_ok(
	$standby->safe_psql('db', 'SELECT count(*) FROM poser_component_count_delta'),
	'>', 0, 'there were deltas to read');

# What writes fails with an error.
foreach (
	[ 'poser_recount()',         'SELECT poser_recount()' ],
	[ 'poser_record_versions()', 'SELECT poser_record_versions()' ],
	[ 'poser_prune_versions()',  q{SELECT poser_prune_versions('0')} ],
	[ 'poser_widget_revert()',
		q{SELECT poser_widget_revert('6', } . transaction_id('changed') . ')' ])
{
	my ($function, $sql) = @$_;
	my ($rc, $stdout, $stderr) = $standby->psql('db', "\\set VERBOSITY verbose\n$sql");

	like($stderr, qr/ERROR:  25006: cannot execute \Q$function\E (?:in a read-only transaction|during recovery)$/m,
		"$function on a standby fails with a clear message");
}

# The last transaction is prepared on the primary and committed on the promoted standby.
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
	0, 'the new primary has no wrong count');
is($standby->safe_psql('db', 'SELECT poser_record_versions()'),
	0, 'the new primary lacks no version');
history_exact($standby, 'db', 'promoted, then written', versions => 50);
is( $standby->safe_psql('db', q{SELECT poser_widget_revert('6', } . transaction_id('changed') . ', true)'),
	2, 'a widget deleted before the promotion is reverted after it');
is( $standby->safe_psql('db', q{SELECT operation, changed, relation, uuid
	FROM poser_widget_history('6', true) LIMIT 3}),
	<<'EOF' =~ s/\n\z//r, 'the history has the revert');
update|{widget_uuid}|poser_component|6.2
insert|{}|poser_widget|6
delete|{}|poser_widget|6
EOF
cmp_ok($standby->safe_psql('db', q{SELECT poser_prune_versions('0')}),
	'>', 0, 'the new primary prunes old versions');
history_goes_on($standby, 'db', 'promoted');
counts_exact($standby, 'db', 'promoted, gone back and pruned', widgets => 6);
history_exact($standby, 'db', 'promoted, gone back and pruned', versions => 40);

done_testing();
