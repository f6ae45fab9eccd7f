# Everything at once: writers, consumers, imports, recounts, recording, pruning, reverts
# and reads at all isolation levels, while each of Poser's tables is rewritten, clustered
# and reindexed, statements are cancelled and sessions are ended.  At the end the counts,
# the history, and the consumers' copies are right, and no session has met an unexpected
# error.
#
# It lasts POSER_STRESS_SECONDS, or 30, and longer if a session has then done only a few
# rounds.  No assertion depends on the duration.  POSER_TEST_SEED repeats the choices;
# the timing may differ.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use List::Util qw(shuffle sum0);
use POSIX ();
use PostgreSQL::Test::Utils;
use PoserStress;
use PoserTest;
use Test::More;
use Time::HiRes qw(sleep time);

use constant ROUNDS => 20;

my $seed = $ENV{POSER_TEST_SEED} || int(rand(2**31));
my $seconds = $ENV{POSER_STRESS_SECONDS} || 30;
srand($seed);
note "POSER_TEST_SEED=$seed POSER_STRESS_SECONDS=$seconds";

END
{
	diag("POSER_TEST_SEED=$seed POSER_STRESS_SECONDS=$seconds") if $? || !Test::More->builder->is_passing;
}

my $node = new_node('stress', conf => <<'EOF');
max_connections = 40
max_prepared_transactions = 40
deadlock_timeout = 200ms
log_error_verbosity = verbose
restart_after_crash = on
EOF

# Errors that any session may meet: other sessions write the same rows, hold a lock for
# long, cancel its statement or end it; and errors that follow in the same transaction.
# Duplicate keys are expected only in the two tables.
my $expected = qr/^(?:40001|40P01|55P03|57014|57P01|25P02|3B001):
	|^23503:.*"poser_component_fk_widget"
	|^23505:.*"poser_(?:widget|component)_pkey(?:_cc(?:new|old)\d*)?"/x;

# First ends the transactions that the previous session of this name left prepared.
sub first_of_session
{
	my ($name) = @_;
	my $lock_timeout = $name =~ /^writer/ ? '100ms' : $name =~ /^rewriter/ ? '3s' : '1s';
	return <<"EOF";
SET client_min_messages = error;
SET lock_timeout = '$lock_timeout';
SET poser.runas = '$name';
SELECT format('%s PREPARED %L', CASE WHEN gid ~ 'kept' THEN 'COMMIT' ELSE 'ROLLBACK' END, gid)
FROM pg_prepared_xacts WHERE gid LIKE '$name.%' \\gexec
EOF
}

sub some_sleep
{
	my ($at_most) = @_;
	return rand() < 0.5 ? '' : "SELECT FROM pg_sleep($at_most * random());\n";
}

### Work

# Some of a writer's transactions are prepared and end later.
sub writer
{
	my ($name) = @_;
	my @prepared;

	return sub {
		my ($round) = @_;
		my ($script, $prepared) = transaction("$name.$round");

		push @prepared, $prepared if $prepared;
		$script .= finish_prepared(shift @prepared) . "\n" while @prepared > rand(2);
		return ('writes', $script);
	};
}

# A statement that sleeps between rows.
sub write_slowly
{
	my $move = rand() < 0.5 ? '' : ", widget_uuid = 'w@{[ int(rand(8)) ]}'";

	return ('writes slowly', <<"EOF");
BEGIN @{[ level() ]};
UPDATE poser_component SET active = NOT active$move
WHERE CASE WHEN uuid = ANY (ARRAY(SELECT uuid FROM poser_component WHERE uuid !~ '^keep' ORDER BY random() LIMIT 3))
	THEN pg_sleep(0.3 * random()) IS NOT NULL END;
COMMIT;
EOF
}

# Copies a table and changes the copy a little, or imports the copy into the table.  A
# copy always has the rows named "keep", so no import may delete them.
sub import_copy
{
	my $table = one_of('poser_widget', ('poser_component') x 3);
	my $copy = $table =~ s/poser/copy_of/r;
	my $columns = $table =~ /widget/ ? 'uuid, description, active' : 'uuid, widget_uuid, item_code, description, active';
	my $deletes = one_of('true', 'false');

	return ('refreshes a copy', <<"EOF" . some_sleep(0.05) . "COMMIT;\n") if rand() < 0.4;
BEGIN @{[ level() ]};
LOCK TABLE $copy IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE $table IN ACCESS SHARE MODE;
@{[ one_of("TRUNCATE $copy", "DELETE FROM $copy") ]};
INSERT INTO $copy SELECT $columns FROM $table;
UPDATE $copy SET active = NOT active WHERE random() < 0.05;
DELETE FROM $copy WHERE random() < 0.05 AND uuid !~ '^keep';
EOF
	return ('imports by a batch', <<"EOF") if rand() < 0.2;
BEGIN @{[ level() ]};
SELECT import_by_batch('$copy', '$table', $deletes);
COMMIT;
EOF
	return ("imports with deletes $deletes", <<"EOF");
BEGIN @{[ level() ]};
SELECT FROM poser_uuid();
@{[ some_sleep(0.1) ]}SELECT FROM poser_import('$copy', '$table', deletes => $deletes);
COMMIT;
EOF
}

# The owner's work.  Recounting and recording must find nothing to correct.
sub keep_house
{
	my ($what, $statement) = @{ one_of(
			[ 'recounts', q{SELECT 'WRONG: recounted ' || n FROM poser_recount() n WHERE n <> 0;} ],
			[ 'records', q{SELECT 'WRONG: recorded ' || n FROM poser_record_versions() n WHERE n <> 0;} ],
			[ 'prunes', "SELECT FROM poser_prune_versions('@{[ one_of('0', '3 s') ]}', @{[ 1 + int(rand(300)) ]});" ],
			[ 'goes back', <<'EOF' ],
SELECT FROM (SELECT uuid, transaction_id FROM poser_widget_version WHERE uuid <> 'keep' ORDER BY random() LIMIT 1) v,
	poser_widget_revert(uuid, transaction_id, random() < 0.5);
EOF
			[ 'checks', q{SELECT 'WRONG: ' || object || ': ' || problem FROM poser_check() WHERE object !~ 'extra';} ]) };

	return ($what, "BEGIN @{[ level() ]};\n@{[ some_sleep(0.1) ]}$statement\n@{[ some_sleep(0.05) ]}COMMIT;\n"
		  . some_sleep(0.3));
}

# Reads counts and history.  A snapshot from before a rewrite does not see the table's
# rows, so the tables of a query are locked before it.
sub look
{
	my $lock = 'LOCK TABLE poser_widget, poser_component, poser_component_count, '
	  . "poser_component_count_delta IN ACCESS SHARE MODE;\n";

	my ($what, $script) = @{ one_of(
			[ 'sees counts', "BEGIN @{[ level() ]};\n$lock" . <<'EOF' ],
WITH live AS (
	SELECT w.uuid, count(c.uuid) AS total, count(*) FILTER (WHERE c.active) AS active
	FROM poser_widget w LEFT JOIN poser_component c ON c.widget_uuid = w.uuid
	GROUP BY w.uuid)
SELECT format('WRONG: %s has %s %s, shown are %s %s', uuid, total, l.active, component_count, active_component_count)
FROM live l FULL JOIN poser_widget_summary s USING (uuid)
WHERE (total, l.active) IS DISTINCT FROM (component_count, active_component_count);
COMMIT;
EOF
			[ 'gets a widget', "BEGIN ISOLATION LEVEL REPEATABLE READ;\n$lock" . <<"EOF" ],
SELECT format('WRONG: %s has %s, shown are %s', uuid, total, component_count)
FROM poser_widget_get('w@{[ int(rand(10)) ]}') g,
	LATERAL (SELECT count(*) AS total FROM poser_component c WHERE c.widget_uuid = g.uuid) l
WHERE total <> component_count;
COMMIT;
EOF
			[ 'reads history', <<"EOF" ],
BEGIN @{[ level() ]};
SELECT 'WRONG: no history of a component' WHERE NOT EXISTS (SELECT FROM poser_component_history('keep 1'));
SELECT 'WRONG: no history of a widget' WHERE NOT EXISTS (SELECT FROM poser_widget_history('keep', true));
COMMIT;
EOF
			[ 'reads for long', <<"EOF" ],
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT FROM poser_widget;
SELECT FROM pg_sleep(0.6 * random());
COMMIT;
EOF
			[ 'reads what was', <<"EOF" ]) };
BEGIN @{[ level() ]};
SELECT 'WRONG: nothing was' FROM poser_widget_as_of(clock_timestamp()) HAVING count(*) FILTER (WHERE uuid = 'keep') <> 1;
SELECT FROM poser_component_as_of(clock_timestamp() - interval '1 s' * random());
COMMIT;
EOF
	return ($what, "${script}SELECT FROM pg_sleep(0.1 * random());\n");
}

# "first" stores, applies and confirms in one transaction.  "second" confirms later, and
# may get the same changes again.  "handled" has a handler.
sub consumer
{
	my ($consumer) = @_;

	return sub {
		my $max = int(exp(rand(7)));

		return ('handles', "SELECT FROM poser_datasync_run('$consumer', $max);\n" . some_sleep(0.05))
		  if $consumer eq 'handled';
		return ('consumes', <<"EOF" . some_sleep(0.05)) if $consumer eq 'first';
BEGIN @{[ level() ]};
SELECT poser_datasync_confirm('$consumer', last) FROM keep_changes('$consumer', $max) last WHERE last IS NOT NULL;
COMMIT;
EOF
		return ('consumes, and confirms later', <<"EOF" . some_sleep(0.05));
\\set last 0
BEGIN @{[ level() ]};
SELECT coalesce(keep_changes('$consumer', $max), 0) AS last \\gset
COMMIT;
SELECT poser_datasync_confirm('$consumer', :last) WHERE :last > 0 AND NOT :ERROR;
EOF
	};
}

# Poser's tables, each with a column that changes its type.  No view may use the column.
my %column = (
	poser_widget => '',
	poser_component => 'description varchar(255)',
	poser_component_count => '',
	poser_component_count_delta => '',
	poser_transaction => 'comment text',
	poser_widget_version => 'description varchar(255)',
	poser_component_version => 'description varchar(255)',
	poser_version_horizon => '',
	poser_batch => 'notes text',
	poser_batch_row => 'status_text text',
	poser_datasync_consumer => '',
	poser_datasync_skipped => 'reason text');

# The name of the added column.  A table and its versions have different ones, or the
# column would be compared.
sub extra
{
	return $_[0] =~ /version$/ ? 'extra_of_version' : 'extra';
}

# A table has room for a limited number of columns, dropped ones included.
my %added;

sub add_column
{
	my ($table) = @_;

	return ++$added{$table} > 400
	  ? ''
	  : "ALTER TABLE $table ADD COLUMN @{[ extra($table) ]} timestamptz DEFAULT clock_timestamp();";
}

# Ways to alter the tables, and commands that keep row versions as they are.  Each is a
# function like other work.  A transaction undoes its change or rolls it back.  An index
# that a REINDEX has left invalid is dropped before the next REINDEX.
my (@alter, @keep);

sub make_rewrites
{
	foreach my $table (sort keys %column)
	{
		my ($column, $type) = split / /, $column{$table};
		my $alter = "ALTER TABLE $table";
		my $drop = "$alter DROP COLUMN IF EXISTS @{[ extra($table) ]};";
		my @there_and_back;

		push @there_and_back, [ 'changes a type', "$alter ALTER $column TYPE text USING $column || '';",
			"$alter ALTER $column TYPE $type USING $column || '';" ]
		  if $column;
		push @there_and_back, [ 'is unlogged', "$alter SET UNLOGGED;", "$alter SET LOGGED;" ]
		  unless $table eq 'poser_widget' || $table eq 'poser_batch';
		foreach my $way (@there_and_back)
		{
			my ($what, $there, $back) = @$way;
			push @alter, sub {
				my $end = one_of('COMMIT', 'COMMIT', 'ROLLBACK');
				return ("$table $what", "BEGIN;\n$there\n@{[ some_sleep(0.1) ]}$back\n@{[ some_sleep(0.1) ]}$end;\n");
			};
		}
		push @alter, sub {
			return ("$table adds a column", "BEGIN;\n$drop\n@{[ add_column($table) ]}\n@{[ some_sleep(0.1) ]}$drop\nCOMMIT;\n");
		};
		push @alter, sub {
			return ("$table has one more column for a while",
				"$drop\n@{[ add_column($table) ]}\n@{[ some_sleep(0.3) ]}$drop\n");
		} unless $table =~ /count/;

		my @whole = ("VACUUM FULL $table", "VACUUM ANALYZE $table", "REINDEX TABLE $table",
			"REINDEX TABLE CONCURRENTLY $table");

		push @whole, "CLUSTER $table USING poser_component_count_delta_idx_widget" if $table =~ /delta/;
		push @whole, "CLUSTER $table USING ${table}_pkey" unless $table =~ /delta|skipped/;
		foreach my $statement (@whole)
		{
			push @keep, sub { return ($statement, drop_invalid_indexes() . "$statement;\n") };
		}
	}
	push @alter, sub {
		return ('TRUNCATE poser_component', <<'EOF');
BEGIN;
SET LOCAL poser.runas = 'truncate';
LOCK TABLE poser_component;
CREATE TEMP TABLE saved ON COMMIT DROP AS SELECT * FROM poser_component;
TRUNCATE poser_component;
INSERT INTO poser_component SELECT * FROM saved;
COMMIT;
EOF
	};
	return;
}

# Does all of them in random order, again and again.
sub rewriter
{
	my (@rewrites) = @_;
	my @deck;

	return sub {
		@deck = shuffle(@rewrites) unless @deck;
		my ($what, $script) = (shift @deck)->();
		return ($what, some_sleep(0.2) . $script);
	};
}

sub drop_invalid_indexes
{
	return <<'EOF';
SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index
WHERE NOT indisvalid AND indexrelid::regclass::text ~ '^poser.*_cc(new|old)\d*$' \gexec
EOF
}

### The story

create_database($node, 'db');
make_copy($node, 'db', $_) foreach qw(first second handled);
$node->safe_psql('db', <<'EOF');
CREATE TABLE given (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, consumer name, change poser_change);
CREATE FUNCTION keep_change(consumer name, change poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO given (consumer, change) VALUES (consumer, change);
	EXECUTE format('SELECT %I.apply($1, $2, $3, $4)', consumer)
	USING change.payload_type::text, change.payload_key, change.deletion, change.payload;
END
$$;
CREATE FUNCTION keep_changes(consumer name, max_changes integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	change poser_change;
	last bigint;
BEGIN
	FOR change IN SELECT * FROM poser_datasync_changes(consumer, max_changes) LOOP
		PERFORM keep_change(consumer, change);
		last = change.change_id;
	END LOOP;
	RETURN last;
END
$$;
CREATE FUNCTION handle(change poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM keep_change('handled', change);
	IF random() < 0.02 THEN
		RAISE 'not this time';
	END IF;
END
$$;
CREATE FUNCTION import_by_batch(source regclass, target regclass, deletes boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	batch varchar = poser_batch_create(target);
BEGIN
	PERFORM poser_batch_populate(batch, source, deletes => deletes);
	PERFORM FROM pg_sleep(0.1 * random());
	PERFORM poser_batch_refresh(batch);
	PERFORM FROM poser_batch_execute(batch, skip_conflicts => true);
END
$$;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, 'kept' FROM generate_series(0, 9) n;
INSERT INTO poser_widget (uuid, description) VALUES ('keep', 'kept');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'keep ' || n, 'keep', n, 'kept' FROM generate_series(1, 5) n;
CREATE TABLE copy_of_widget AS SELECT * FROM poser_widget;
CREATE TABLE copy_of_component AS SELECT * FROM poser_component;
SELECT poser_datasync_add('first', 'beginning'), poser_datasync_add('second', 'beginning', notify => true),
	poser_datasync_add('handled', 'beginning', handler => 'handle(poser_change)'::regprocedure);
EOF

# Pruned history cannot be read or reverted to.
my $pruned = qr/^55000:/;
my $until = time() + $seconds;
make_rewrites();

# Starts a session at work.
sub start
{
	my ($name, $work, $also_expected) = @_;

	return start_worker($node, $name,
		more => sub { time() < $until || $_[0] <= ROUNDS },
		first => first_of_session($name),
		work => $work,
		expected => $also_expected ? qr/$expected|$also_expected/ : $expected);
}

my %worker = map { $_ => 1 } (
	(map { start("writer$_", writer("writer$_"), qr/^42704:.*prepared transaction/) } 1 .. 4),
	start('slow', \&write_slowly),
	(map { start("import$_", \&import_copy, qr/^2350[35]:.*cannot be imported/) } 1 .. 2),
	(map { start("house$_", \&keep_house, $pruned) } 1 .. 2),
	start('reader', \&look, $pruned),
	(map { start("consumer_$_", consumer($_)) } qw(first second handled)),
	start('rewriter1', rewriter(@alter)),
	start('rewriter2', rewriter(@keep)));

# Meanwhile statements are cancelled, and sometimes a session is ended.
my %disturbed = (cancel => 0, terminate => 0);
while (%worker)
{
	my $pid = waitpid(-1, POSIX::WNOHANG());

	delete $worker{$pid} if $pid > 0;
	sleep(0.05 + rand(0.2));
	next if $pid > 0 || time() > $until;
	my $how = one_of(('cancel') x 5, 'terminate');
	my $has = eval { $node->safe_psql('db', <<"EOF") };
SELECT pg_${how}_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'stress %' AND state <> 'idle' ORDER BY random() LIMIT 1
EOF
	$disturbed{$how}++ if $has;
}

# What the sessions did, and their errors.
my ($done, $met, @problems) = workers_report();

note explain({ done => $done, met => $met, disturbed => \%disturbed });
is(first_few(@problems), '', 'no session has met an unexpected error');
is(first_few(slurp_file($node->logfile) =~ /^.*(?:terminated by signal|PANIC|TRAP|(?:ERROR|FATAL):  XX).*/mg),
	'', 'the server has met no unexpected error');
cmp_ok(sum0(map { $done->{$_} } grep { /^poser_|^[A-Z]/ } keys %$done), '>', 0, 'tables were rewritten');
cmp_ok($done->{$_} // 0, '>', 0, "a session $_")
  foreach ('writes', 'consumes', 'consumes, and confirms later', 'handles');

# Prepared transactions are ended, columns and indexes that are left are dropped, and the
# consumers get the rest.
$node->safe_psql('db', finish_prepared($_))
  foreach split /\n/, $node->safe_psql('db', 'SELECT gid FROM pg_prepared_xacts');
$node->safe_psql('db', join '', map { "ALTER TABLE $_ DROP COLUMN IF EXISTS @{[ extra($_) ]};\n" } sort keys %column);
$node->safe_psql('db', drop_invalid_indexes());
$node->safe_psql('db', <<'EOF');
DO $$
DECLARE
	last bigint;
	name text;
BEGIN
	FOREACH name IN ARRAY '{first,second}'::text[] LOOP
		LOOP
			last = keep_changes(name, 1000);
			EXIT WHEN last IS NULL;
			PERFORM poser_datasync_confirm(name, last);
		END LOOP;
	END LOOP;
	FOR n IN 1 .. 10000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM poser_datasync_status WHERE consumer = 'handled' AND pending > 0);
		PERFORM poser_datasync_run('handled');
	END LOOP;
END $$;
EOF

counts_exact($node, 'db', 'in the end', widgets => 8);
history_exact($node, 'db', 'in the end', versions => 20);
is($node->safe_psql('db', 'SELECT poser_recount(), poser_record_versions()'), '0|0', 'there is nothing to correct');
is($node->safe_psql('db', 'SELECT sum(pending) FROM poser_datasync_status'), '0', 'nothing is pending');

# A test: two queries have the same rows.
sub same_rows
{
	my ($query, $other, $name) = @_;

	is($node->safe_psql('db', <<"EOF"), '', $name);
SELECT 'only here', to_json(t) FROM ($query EXCEPT $other) t
UNION ALL
SELECT 'only there', to_json(t) FROM ($other EXCEPT $query) t
LIMIT 10
EOF
	return;
}

foreach my $table ('poser_widget', 'poser_component')
{
	same_rows("SELECT * FROM $table", "SELECT * FROM ${table}_as_of(clock_timestamp())", "$table is equal to its state as of now");
	same_rows("SELECT * FROM $table", "SELECT * FROM $_.$table", "$table is equal to the copy of $_")
	  foreach qw(first second handled);
}

# All consumers have got the same changes, also of versions pruned since.
is($node->safe_psql('db', <<'EOF'), '', 'each consumer has got each change, those of a row in order');
SET client_min_messages = error;
CREATE TEMP TABLE change AS
SELECT consumer, (change).change_id, (change).payload_type, (change).payload_key, min(n) AS n, count(*) AS times,
	count(DISTINCT ((change).transaction_id, (change).deletion, (change).payload)) AS contents
FROM given GROUP BY 1, 2, 3, 4;
SELECT change_id, 'only to', string_agg(consumer, ', ') FROM change
GROUP BY 1 HAVING count(*) <> 3 ORDER BY 1 LIMIT 10;
SELECT change_id, 'to no consumer' FROM (
	SELECT change_id FROM poser_widget_version UNION ALL SELECT change_id FROM poser_component_version) v
WHERE change_id NOT IN (SELECT change_id FROM change) ORDER BY 1 LIMIT 10;
SELECT change_id, 'to', consumer, 'after', before FROM (
	SELECT *, lag(change_id) OVER (PARTITION BY consumer, payload_type, payload_key ORDER BY n) AS before FROM change) c
WHERE before > change_id ORDER BY 1 LIMIT 10;
SELECT change_id, 'to', consumer, 'again' FROM change WHERE times > 1 AND consumer <> 'second' LIMIT 10;
SELECT change_id, 'to', consumer, 'otherwise' FROM change WHERE contents > 1 LIMIT 10;
EOF
is($node->safe_psql('db', <<'EOF'), '', 'consumers got no rolled back change and no delete of a row named keep');
SELECT change FROM given WHERE (change).payload->>'description' = 'rolled back'
	OR (change).payload_key ~ '^keep' AND (change).deletion AND (change).username <> 'truncate' LIMIT 10
EOF
note $node->safe_psql('db', q{SELECT consumer, count(*) FROM given GROUP BY consumer ORDER BY consumer});

done_testing();
