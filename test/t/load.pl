# Many clients write components of few widgets at all isolation levels.  No count and no
# version is lost, no client deadlocks or fails because of them, and the next writes or
# poser_recount() settle all deltas.  Pruning at the same time removes only what it may.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('load', conf => 'max_connections = 40');
create_database($node, 'db');
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_widget (uuid, description)
SELECT n::text, 'Widget ' || n FROM generate_series(1, 3) n;
EOF

sub deltas
{
	return $node->safe_psql('db',
		'SELECT count(*) FROM poser_component_count_delta');
}

# Each client has its own components, so clients meet only in the widgets' counts.
sub mixed
{
	my ($level) = @_;
	return pgbench_file("mixed_$level", <<"EOF");
\\set w random(1, 3)
\\set v random(1, 3)
\\set n random(1, 30)
\\set m random(1, 30)
\\set a random(0, 1)
BEGIN ISOLATION LEVEL $level;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('$level ' || :client_id || ' ' || :n, :w::text, :n::text, 'Part') ON CONFLICT (uuid) DO UPDATE SET active = NOT poser_component.active;
SAVEPOINT s;
\\sleep 1 ms
UPDATE poser_component SET widget_uuid = :v::text WHERE uuid = '$level ' || :client_id || ' ' || :m;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (:v::text, :n::text, 'Rolled back');
ROLLBACK TO s;
DELETE FROM poser_component WHERE uuid = '$level ' || :client_id || ' ' || :m;
SAVEPOINT t;
UPDATE poser_component SET widget_uuid = :v::text, active = (:a = 1) WHERE uuid = '$level ' || :client_id || ' ' || :n;
RELEASE t;
COMMIT;
EOF
}

sub insert_only
{
	my ($level) = @_;
	return pgbench_file("insert_$level", <<"EOF");
\\set w random(1, 3)
BEGIN ISOLATION LEVEL $level;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('1', 'a', 'Part');
\\sleep 1 ms
INSERT INTO poser_component (widget_uuid, item_code, description, active) VALUES (:w::text, 'b', 'Part', false);
COMMIT;
EOF
}

# Prunes what is old now, at most so many versions.
sub prune
{
	my ($limit) = @_;
	return pgbench_file("prune_$limit", "SELECT poser_prune_versions('0', $limit);\n") . '@2';
}

# Runs pgbench.  No transaction fails, and the server's log has no error of this kind.
sub load
{
	my ($name, $options, $trouble, @files) = @_;
	my $offset = -s $node->logfile;

	$node->command_checks_all(
		[
			'pgbench', '--no-vacuum', split(/ /, $options),
			(map { ('--file', $_) } @files), 'db'
		],
		0,
		[qr/number of failed transactions: 0 /],
		[qr/^(?!.*(?:aborted|ERROR))/s],
		"$name: no transaction fails");
	unlike(slurp_file($node->logfile, $offset),
		$trouble, "$name: no such error in the log");
	counts_exact($node, 'db', $name, widgets => 3);
	history_exact($node, 'db', $name, versions => 1000);
	return;
}

my $any = qr/ERROR|FATAL|PANIC|WARNING/;

load('inserts, read committed',
	'-c 12 -j 2 -t 400', $any, insert_only('read committed'));
load('inserts, repeatable read',
	'-c 12 -j 2 -t 400', $any, insert_only('repeatable read'));
load('inserts, serializable',
	'-c 12 -j 2 -t 400', $any, insert_only('serializable'));
load('all writes, read committed',
	'-c 12 -j 2 -t 400', $any, mixed('read committed'));
load('all writes, repeatable read',
	'-c 12 -j 2 -t 400', $any, mixed('repeatable read'));

# At SERIALIZABLE, updates of neighbouring rows can fail, as they would without any
# trigger, and are tried again.
load(
	'all writes, all levels',
	'-c 12 -j 2 -t 400 --max-tries=10000',
	qr/deadlock detected|FATAL|PANIC|WARNING|ERROR:  (?!could not serialize)/,
	mixed('read committed'), mixed('repeatable read'), mixed('serializable'));

# Each row exists or existed at every moment, so pruning leaves a version of it.
my $rows = q{SELECT count(DISTINCT uuid) FROM poser_component_version};
my $versions = 'SELECT count(*) FROM poser_component_version';
my ($rows_before, $versions_before) = map { $node->safe_psql('db', $_) } ($rows, $versions);
load(
	'pruning beside writers, read committed',
	'-c 12 -j 2 -t 400', $any, mixed('read committed') . '@100', prune(50), prune(100000));
cmp_ok($node->safe_psql('db', $rows), '>=', $rows_before, 'pruning leaves a version of each row');
cmp_ok($node->safe_psql('db', $versions), '<', $versions_before, 'pruning has removed other versions');
load(
	'pruning beside writers, all levels',
	'-c 12 -j 2 -t 400 --max-tries=10000',
	qr/deadlock detected|FATAL|PANIC|WARNING|ERROR:  (?!could not serialize)/,
	prune(50), map { mixed($_) . '@40' } 'read committed', 'repeatable read', 'serializable');
cmp_ok($node->safe_psql('db', q{SELECT poser_prune_versions('0')}), '>', 0, 'pruning after the load removes the rest');
is( $node->safe_psql('db', q{SELECT (SELECT count(*) FROM poser_component_version),
	(SELECT count(DISTINCT uuid) FROM poser_component_version)}) =~ s/^(\d+)\|\1$/same/r,
	'same', 'one version of each row is left');
counts_exact($node, 'db', 'pruned', widgets => 3);
history_exact($node, 'db', 'pruned', versions => 1000);

is( $node->safe_psql('db', q{SELECT count(DISTINCT widget_uuid), count(DISTINCT active)
	FROM poser_component WHERE uuid ~ '^(read|rep|ser)'}),
	'3|2',
	'the load went to all widgets, with both values of the flag');

$node->safe_psql('db', q{INSERT INTO poser_component (widget_uuid, item_code, description)
	VALUES } . join(', ', map { "('$_', 'last', 'Part')" } 1 .. 3));
is(deltas(), 0, 'one more insert into each widget leaves no delta');
counts_exact($node, 'db', 'settled', widgets => 3);

make_deltas($node, 'db');
$node->safe_psql('db', "COMMIT PREPARED 'db_1'; ROLLBACK PREPARED 'db_2'");
cmp_ok(deltas(), '>', 0, 'writers that met leave deltas');
is($node->safe_psql('db', 'SELECT poser_recount()'),
	0, 'poser_recount() finds no count wrong');
is(deltas(), 0, 'poser_recount() leaves no delta');
counts_exact($node, 'db', 'counted anew', widgets => 3);

done_testing();
