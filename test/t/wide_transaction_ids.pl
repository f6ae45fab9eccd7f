# Transaction ids beyond 32 bits are recorded as they are.  History and reverts do not
# depend on them, and in another cluster they are replaced by that cluster's.  The ids of several
# transactions that have locked a row are not taken for ids of transactions.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('wide');
create_database($node, 'db');
my $history = q{SELECT operation, changed, description, comment FROM poser_widget_history('a')};

# Before the change of the ids.
$node->safe_psql('db', <<'EOF');
SET poser.comment = 'narrow';
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('a1', 'a', '1', 'Hand');
EOF
$node->stop;
command_ok([ 'pg_resetwal', '-e', 1, '-m', '1048576,1', $node->data_dir ],
	'the next transaction id has more than 32 bits, and those of several transactions are far ahead');
$node->start;

# After it.  Each xact is the id that the session has seen, whichever subtransaction has
# made the row.
my $expected = $node->safe_psql('db', <<'EOF');
SET poser.comment = 'wide';
BEGIN;
UPDATE poser_widget SET description = 'Wall clock' WHERE uuid = 'a';
SELECT pg_current_xact_id();
COMMIT;
BEGIN;
SAVEPOINT s;
UPDATE poser_widget SET description = 'No clock' WHERE uuid = 'a';
ROLLBACK TO s;
SAVEPOINT t;
DELETE FROM poser_component WHERE uuid = 'a1';
RELEASE t;
SELECT pg_current_xact_id();
COMMIT;
BEGIN;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('a2', 'a', '2', 'Case');
SELECT pg_current_xact_id();
PREPARE TRANSACTION 'wide';
COMMIT PREPARED 'wide';
EOF
is($node->safe_psql('db', q{SELECT xact FROM poser_transaction WHERE comment = 'wide' ORDER BY id}),
	$expected, 'each transaction has its own xact');
is( $node->safe_psql('db', q{SELECT comment, xact::text::numeric > 4294967296, count(*)
	FROM poser_transaction GROUP BY 1, 2 ORDER BY 1}),
	"narrow|f|2\nwide|t|3", 'new ids are beyond 32 bits, older ones are unchanged');
counts_exact($node, 'db', 'wide');
history_exact($node, 'db', 'wide', versions => 5);
is($node->safe_psql('db', $history), "update|{description}|Wall clock|wide\ninsert||Clock|narrow",
	'the history has changes from before and after');
is( $node->safe_psql('db', q{SELECT description FROM poser_widget_as_of(
	(SELECT max(issued_at) FROM poser_transaction WHERE comment = 'narrow'))}),
	'Clock', 'the state as of an earlier time is right');
is( $node->safe_psql('db', q{SELECT poser_widget_revert('a',
	(SELECT max(id) FROM poser_transaction WHERE comment = 'narrow'), true)}),
	3, 'a revert to a state from before');
is($node->safe_psql('db', 'SELECT uuid, description FROM poser_component'),
	'a1|Hand', 'the revert brings back the earlier rows');
history_goes_on($node, 'db', 'wide');
counts_exact($node, 'db', 'gone back');
history_exact($node, 'db', 'gone back', versions => 8);

# Two transactions have locked a settled count.  Their common id, as the id of one transaction, would
# be in the future.  The count is settled nevertheless.
$node->safe_psql('db', <<'EOF');
BEGIN;
SELECT FROM poser_component_count WHERE widget_uuid = 'a' FOR KEY SHARE;
SAVEPOINT s;
SELECT FROM poser_component_count WHERE widget_uuid = 'a' FOR SHARE;
COMMIT;
EOF
is( $node->safe_psql('db', q{SELECT xmax::text FROM poser_component_count WHERE widget_uuid = 'a'}),
	1048576, 'the id is ahead of those of transactions');
$node->safe_psql('db', q{INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('a3', 'a', '3', 'Bell')});
is( $node->safe_psql('db', q{SELECT (SELECT total FROM poser_component_count WHERE widget_uuid = 'a'), count(*)
	FROM poser_component_count_delta}),
	'2|0', 'the settled count is replaced, and there is no delta');
counts_exact($node, 'db', 'locked by two');
$node->safe_psql('db', q{DELETE FROM poser_component WHERE uuid = 'a3'});

# In a new cluster, where all of these ids are in the future.
my $other = new_node('narrow');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/wide.sql';
command_ok([ 'pg_dump', '-f', $dump, $node->connstr('db') ], 'pg_dump');
$other->safe_psql('postgres', 'CREATE DATABASE db TEMPLATE template0');
command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $other->connstr('db') ],
	'restored into a cluster with small transaction ids');
same_contents(contents($other, 'db'), contents($node, 'db'), 'all contents are equal');
is( $other->safe_psql('db', 'SELECT count(*) FROM poser_transaction WHERE xact::text <> xmin::text'),
	0, 'xact is that of the restoring transaction');
counts_exact($other, 'db', 'restored');
history_exact($other, 'db', 'restored', versions => 10);

done_testing();
