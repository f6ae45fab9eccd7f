# A prepared transaction's components are counted from its COMMIT PREPARED on, also
# after a restart.  No other writer waits for it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('two_phase');
create_database($node, 'db');
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock'), ('b', 'Bell');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'c' || n, 'a', n, 'Part' FROM generate_series(1, 10) n;
EOF

# Components and active ones of a widget, as poser_widget_get() gives them.
sub counts
{
	my ($uuid) = @_;
	return $node->safe_psql('db', "SELECT component_count, active_component_count
		FROM poser_widget_get('$uuid')");
}

# A write to both widgets, which fails if it has to wait.
sub add_to_both
{
	$node->safe_psql('db', q{SET lock_timeout = '20s';
		INSERT INTO poser_component (widget_uuid, item_code, description)
		VALUES ('a', 'x', 'Part'), ('b', 'x', 'Part')});
	return;
}

sub deltas
{
	return $node->safe_psql('db',
		'SELECT count(*) FROM poser_component_count_delta');
}

# Prepared: inserts, an update of active, a move and a delete.  The third transaction
# adds to a count that the second has not settled.  The session writes after each
# PREPARE.
$node->safe_psql('db', <<'EOF');
SET lock_timeout = '20s';
BEGIN;
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('a', 'p', 'Part'), ('a', 'q', 'Part'), ('b', 'r', 'Part');
UPDATE poser_component SET active = false WHERE uuid = 'c1';
UPDATE poser_component SET widget_uuid = 'b' WHERE uuid = 'c2';
DELETE FROM poser_component WHERE uuid = 'c3';
PREPARE TRANSACTION 'first';
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('a', 'between', 'Part');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SAVEPOINT s;
DELETE FROM poser_component WHERE uuid = 'c4';
ROLLBACK TO s;
DELETE FROM poser_component WHERE uuid = 'c5';
PREPARE TRANSACTION 'second';
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('a', 'between', 'Part');
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO poser_widget (uuid, description) VALUES ('c', 'Case');
INSERT INTO poser_component (widget_uuid, item_code, description)
VALUES ('c', 's', 'Part'), ('a', 't', 'Part');
PREPARE TRANSACTION 'third';
EOF
is(counts('a'), '12|12', 'prepared components are not counted');
is(counts('c'), '', 'a prepared widget is not there');
add_to_both();
is(counts('a'), '13|13', 'another writer does not wait, and is counted');
counts_exact($node, 'db', 'prepared', widgets => 2);
cmp_ok(deltas(), '>', 0, 'the writers left deltas');

$node->restart;
is($node->safe_psql('db', 'SELECT count(*) FROM pg_prepared_xacts'),
	3, 'the transactions are still prepared after a restart');
is(counts('a'), '13|13', 'after a restart prepared components are not counted');
add_to_both();
is(counts('a'), '14|14', 'another writer still does not wait');
counts_exact($node, 'db', 'restarted', widgets => 2);

$node->safe_psql('db', q{COMMIT PREPARED 'first'});
is(counts('a'), '14|13', 'COMMIT PREPARED counts for the first widget');
is(counts('b'), '4|4', 'COMMIT PREPARED: the widget that a component moved to');
counts_exact($node, 'db', 'one committed', widgets => 2);

$node->safe_psql('db', q{ROLLBACK PREPARED 'second'});
is(counts('a'), '14|13', 'ROLLBACK PREPARED changes no count');
$node->safe_psql('db', q{COMMIT PREPARED 'third'});
is(counts('a'), '15|14', 'the last transaction is counted');
is(counts('c'), '1|1', 'the last transaction\'s own widget is counted');
counts_exact($node, 'db', 'no transaction left', widgets => 3);

add_to_both();
is(deltas(), 0, 'one more write to a widget settles its deltas');
counts_exact($node, 'db', 'settled', widgets => 3);

done_testing();
