# poser_uuid() makes version 7 UUIDs of 32 lower-case hexadecimal digits.  They contain
# the time, increase within a session and never repeat: ten million keys of concurrent
# sessions are all different.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('uuid', conf => <<'EOF');
fsync = off
max_wal_size = 4GB
shared_buffers = 256MB
maintenance_work_mem = 512MB
autovacuum = off
EOF
create_database($node, 'db');

# Ten million, in four sessions.  The window function sees the keys in the order in which
# they were made.
$node->safe_psql('db', <<'EOF');
CREATE UNLOGGED TABLE key (uuid uuid);
CREATE UNLOGGED TABLE result (keys bigint, ill_formed bigint, not_rising bigint);
CREATE FUNCTION make_keys(keys int) RETURNS void LANGUAGE sql AS $$
	WITH made AS (
		SELECT u, lag(u) OVER () AS previous
		FROM (SELECT poser_uuid() COLLATE "C" AS u FROM generate_series(1, keys)) s
	), kept AS (
		INSERT INTO key SELECT u::uuid FROM made
		RETURNING 1
	)
	INSERT INTO result
	SELECT count(*),
		count(*) FILTER (WHERE u !~ '^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$'),
		count(*) FILTER (WHERE u <= previous)
	FROM made
$$;
EOF
my $script = pgbench_file('make_keys', "SELECT make_keys(250000);\n");
$node->command_ok([ 'pgbench', '--no-vacuum', '-c', 4, '-j', 4, '-t', 10, '-f', $script, 'db' ],
	'four sessions make keys');
is($node->safe_psql('db', 'SELECT sum(keys), sum(ill_formed), sum(not_rising) FROM result'),
	'10000000|0|0', 'ten million are of the right form and rise within each session');
$node->command_ok([ 'psql', '-Xq', '-d', 'db', '-c', 'CREATE UNIQUE INDEX ON key (uuid)' ],
	'no two keys are equal');
is($node->safe_psql('db', 'SELECT count(*) FROM key'), 10000000, 'there are ten million keys');

# The keys of one session, across statements, transactions and all that resets a session.
my $keys = $node->safe_psql('db', join "\n",
	('SELECT poser_uuid();') x 500,
	'BEGIN;', 'SAVEPOINT s;', ('SELECT poser_uuid();') x 50, 'ROLLBACK TO s;',
	('SELECT poser_uuid();') x 50, 'ROLLBACK;',
	'DISCARD ALL;', ('SELECT poser_uuid();') x 100,
	'SELECT poser_uuid() FROM generate_series(1, 20000);');
my @keys = split /\n/, $keys;
is(scalar @keys, 20700, 'a session made all keys that it was asked for');
is(scalar(grep { $keys[ $_ - 1 ] ge $keys[$_] } 1 .. $#keys), 0, 'each key is greater than the one before');

# The first 48 bits are the time in milliseconds.
is( $node->safe_psql('db', <<'EOF'), '', 'a key holds the time of its making');
CREATE TEMP TABLE made (before bigint, at bigint, after bigint);
DO $$
DECLARE
	before timestamptz;
	uuid text;
BEGIN
	FOR n IN 1 .. 100 LOOP
		before := clock_timestamp();
		uuid := poser_uuid();
		INSERT INTO made VALUES (
			floor(extract(epoch FROM before) * 1000),
			('x' || left(uuid, 12))::bit(48)::bigint,
			floor(extract(epoch FROM clock_timestamp()) * 1000));
	END LOOP;
END
$$;
SELECT * FROM made WHERE at NOT BETWEEN before AND after;
EOF

# The default of both tables.
is( $node->safe_psql('db', <<'EOF'), '2', 'rows without a key get one');
INSERT INTO poser_widget (description) VALUES ('Clock');
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, '1', 'Hand' FROM poser_widget;
SELECT count(*) FROM (SELECT uuid FROM poser_widget UNION SELECT uuid FROM poser_component) u
WHERE uuid ~ '^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$';
EOF

done_testing();
