# Datasync loses nothing.  Writers' transactions have all lengths and all ends, some are
# open for long, consumers crash at any point, and the server is killed twice.  Every
# committed change reaches every consumer, and nothing else does.  The changes of a row
# come in order.  Confirmed changes never come again, others come again unchanged, and
# each copy ends like the tables.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use List::Util qw(min sum0);
use POSIX ();
use PostgreSQL::Test::Utils;
use PoserStress;
use PoserTest;
use Test::More;
use Time::HiRes qw(sleep);

# The same seed makes the same scripts and choices; the timing may differ.
my $seed = $ENV{POSER_TEST_SEED} || int(rand(2**31));
srand($seed);
note "POSER_TEST_SEED=$seed";

my $parent = $$;
my $directory = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('datasync_stress', conf => <<'EOF');
restart_after_crash = on
max_connections = 40
max_prepared_transactions = 100
EOF

### Sessions, which may be lost at any moment

# Sends statements without waiting for their result.
sub send_only
{
	my ($session, $sql) = @_;

	$session->{in} .= "$sql\n";
	$session->{run}->pump_nb;
	sleep(rand(0.005));
	return;
}

### Consumers, each a process

sub apply
{
	my ($consumer, $copy, @changes) = @_;
	my $changes = join ',', @changes;

	ask($copy, <<"EOF") if @changes;
SELECT $consumer.apply(change->>'payload_type', change->>'payload_key',
	(change->>'deletion')::boolean, change->'payload')
FROM jsonb_array_elements(\$json\$[$changes]\$json\$) WITH ORDINALITY c (change, n) ORDER BY n;
EOF
	return;
}

sub change_id
{
	return $_[0] =~ /^\{"change_id":(\d+),/ ? $1 : die "no change: $_[0]";
}

# Whether a consumer that has just got nothing will get nothing more.
sub drained
{
	my ($consumer, $source) = @_;

	sleep(0.02);
	return getppid() != $parent unless -e "$directory/over";
	return (ask($source, "SELECT pending FROM poser_datasync_status WHERE consumer = '$consumer';"))[0] == 0;
}

# Consumes until the test is over or the consumer is to crash.  Returns "over" or the
# point of the crash.  The log has each answer after the last change confirmed before it,
# and "kept" when the transaction that polled has committed.
sub poll
{
	my ($consumer, $log, $source, $copy) = @_;
	my @confirmed;

	for (my $tries = 0; $tries < 1000; $tries++)
	{
		my $max = int(exp(rand(7)));
		my $at_once = rand() < 0.3;
		my $level = one_of(('READ COMMITTED') x 3, 'REPEATABLE READ', 'SERIALIZABLE');
		my @changes = ask($source, <<"EOF" . ($at_once ? '' : 'COMMIT;'));
BEGIN ISOLATION LEVEL $level;
SELECT to_json(c) FROM poser_datasync_changes('$consumer', $max) c;
SELECT coalesce((SELECT change_id FROM confirmation WHERE consumer = '$consumer' ORDER BY id DESC LIMIT 1), 0);
EOF
		my $before = pop @changes;
		print $log "answer $before\n", map { "$_\n" } (@changes, $at_once ? () : 'kept');

		if (!@changes)
		{
			ask($source, 'COMMIT;') if $at_once;
			return 'over' if drained($consumer, $source);
			$tries = 0 unless -e "$directory/over";
			next;
		}
		$tries = 0;

		if (rand() < 0.06)
		{
			my $some = one_of(0, int(rand(@changes)), scalar @changes);
			apply($consumer, $copy, @changes[ 0 .. $some - 1 ]);
			return $some ? $some == @changes ? 'applied' : 'applying' : 'delivered';
		}
		apply($consumer, $copy, @changes);

		my $last = change_id(one_of($changes[-1], $changes[-1], one_of(@changes)));
		my $confirm = <<"EOF";
SELECT poser_datasync_confirm('$consumer', $last);
INSERT INTO confirmation (consumer, change_id) VALUES ('$consumer', $last);
EOF
		$confirm = "BEGIN;\n$confirm" unless $at_once;
		if (rand() < 0.04)
		{
			send_only($source, $confirm . 'COMMIT;');
			return 'confirming';
		}
		if (rand() < 0.04)
		{
			ask($source, $confirm . 'ROLLBACK;');
			print $log "changed its mind\n";
			next;
		}
		ask($source, $confirm . 'COMMIT;');
		print $log "kept\n" if $at_once;

		# Confirming again changes nothing.
		push @confirmed, $last;
		ask($source, "SELECT poser_datasync_confirm('$consumer', " . one_of(@confirmed) . ');')
		  if rand() < 0.1;
	}
	return 'gave up';
}

# The same for a consumer with a handler, which fails now and then.
sub run
{
	my ($consumer, $log, $source) = @_;

	for (my $tries = 0; $tries < 1000; $tries++)
	{
		my $run = "SELECT poser_datasync_run('$consumer', " . int(exp(rand(7))) . ');';
		if (rand() < 0.04)
		{
			send_only($source, $run);
			return 'handling';
		}
		my ($handled) = ask($source, $run);
		return 'over' if !$handled && drained($consumer, $source);
		$tries = 0 if $handled || !-e "$directory/over";
	}
	return 'gave up';
}

# Starts a process that works for a consumer.  With "when" it begins once there is a
# file of this name.  A crash makes it forget everything.
sub start_consumer
{
	my ($consumer, $when, $work) = @_;
	my $its_seed = int(rand(2**31));
	my $pid = fork // die "fork: $!";

	return $pid if $pid;
	eval {
		srand($its_seed);
		open my $log, '>>', "$directory/$consumer.log" or die $!;
		$log->autoflush;
		sleep(0.02) until -e "$directory/$when" || getppid() != $parent;

		while (getppid() == $parent)
		{
			my @sessions = (session($node, 'db', "consumer $consumer"), session($node, 'copies', 'copy'));
			my $how = eval { $work->($consumer, $log, @sessions) };
			my $reason = $@;
			my $errors = join '', map { kill_session($_) } @sessions;

			last if ($how // '') eq 'over';
			$how //=
				"$reason$errors" =~ /ERROR:  (?!40001|55P03|57P0)|timeout|no change/ ? "unexpectedly: $reason$errors"
			  : $errors =~ /ERROR/ ? 'for another session'
			  : $errors =~ /FATAL:  57P01/ ? 'terminated'
			  : 'with the server';
			print $log 'crashed ', $how =~ s/\s+/ /gr, "\n";
			last if $how =~ /^unexpectedly|^gave up/;
		}
	};
	warn $@ if $@;
	POSIX::_exit($@ ? 1 : 0);
}

### Writers

# A script of so many transactions for psql.
sub script
{
	my ($writer, $transactions) = @_;
	my $script = "SET lock_timeout = '50ms';\nSET poser.runas = '$writer';\n";
	my @prepared;

	foreach my $n (1 .. $transactions)
	{
		my ($statements, $prepared) = transaction("$writer.$n");

		$script .= $statements;
		push @prepared, $prepared if $prepared;
		$script .= finish_prepared(shift @prepared) . "\n" while @prepared > rand(2);
	}
	return $script . join("\n", map { finish_prepared($_) } @prepared) . "\nSELECT 'to the end';\n";
}

# The names of the prepared transactions.
sub prepared
{
	return split /\n/, $node->safe_psql('db',
		'SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared');
}

my @scripts;

sub start_writers
{
	my ($phase, $transactions) = @_;
	my @writers = map {
		my $script = pgbench_file("writer $phase$_", script("writer $phase$_", $transactions));
		push @scripts, $script;
		IPC::Run::start(
			[
				'psql', '-XAt', '-v', 'VERBOSITY=sqlstate', '-f', $script,
				'-d', $node->connstr('db') . ' application_name=writer'
			],
			'<', \undef, '>', "$script.out", '2>', "$script.err");
	} 1 .. 4;

	$node->poll_query_until('db', "SELECT count(*) >= 50 FROM poser_transaction WHERE username ~ 'writer $phase'")
	  or die 'no writers';
	return @writers;
}

sub writing
{
	return $node->safe_psql('db', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'writer'});
}

# How often a pattern matches what the writers have printed.
sub written
{
	my ($what, $of) = @_;
	return sum0(map { scalar(() = slurp_file($_) =~ /$what/mg) } map { "$_.$of" } @scripts);
}

### Events

my @backwards;

# Records the consumers' positions.  What was confirmed last time must still be.
sub see_positions
{
	push @backwards, split /\n/, $node->safe_psql('db', <<'EOF');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT consumer, change_id, p, c FROM position p JOIN poser_datasync_consumer c USING (consumer), history
WHERE is_confirmed(xact, change_id, p.from_snapshot, p.to_snapshot, p.confirmed)
	AND NOT is_confirmed(xact, change_id, c.from_snapshot, c.to_snapshot, c.confirmed);
TRUNCATE position;
INSERT INTO position SELECT consumer, from_snapshot, to_snapshot, confirmed FROM poser_datasync_consumer;
COMMIT;
EOF
	return;
}

# Waits until so many transactions have passed, or the writers have ended.
sub wait_for_others
{
	my ($transactions) = @_;
	my $before = $node->safe_psql('db', 'SELECT count(*) FROM poser_transaction');

	$node->poll_query_until('db', <<"EOF") or die 'nothing happens';
SELECT count(*) >= $before + $transactions
	OR NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'writer')
FROM poser_transaction
EOF
	see_positions();
	return;
}

# Transactions that are left prepared; some of them are ended now and then.
my @left;

sub end_some
{
	$node->safe_psql('db', finish_prepared($_)) foreach splice @left, 0, rand(@left + 1);
	return;
}

# A transaction that gets its id, and mostly a change, long before it ends.
my $longs = 0;

sub begin_long
{
	my ($fate) = @_;
	my $long = session($node, 'db', 'long');

	$long->{name} = 'long ' . ++$longs;
	$long->{fate} = $fate;
	ask($long, 'BEGIN;' . one_of('SELECT pg_current_xact_id();',
			("INSERT INTO poser_widget (uuid, description) VALUES ('$long->{name}', '$fate');") x 3));
	return $long;
}

sub end_long
{
	my ($long, $end) = @_;

	ask($long, <<"EOF");
SAVEPOINT s;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES ('w0', 'long', 'rolled back');
ROLLBACK TO s;
INSERT INTO poser_widget (uuid, description) VALUES ('$long->{name}', '$long->{fate}')
ON CONFLICT (uuid) DO UPDATE SET active = false;
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT '$long->{name}', n, '$long->{fate}' FROM generate_series(1, 3) n;
UPDATE poser_widget SET (description, active) = ('$long->{fate}', false) WHERE uuid = '$long->{name} met';
$end;
EOF
	$long->{run}->finish;
	return;
}

# A round in which others write and a consumer's session is ended.  The long transaction
# ends with a change of a row that a transaction with a greater id has made and
# committed, while one with an id between them is open.
sub round
{
	my ($meanwhile) = @_;
	my $end = $meanwhile ? 'COMMIT' : one_of('COMMIT', 'COMMIT', 'PREPARE', 'ROLLBACK');
	my $long = begin_long($end eq 'ROLLBACK' ? 'rolled back' : 'kept');

	wait_for_others(30);
	$meanwhile->() if $meanwhile;
	end_some();
	$node->safe_psql('db', <<'EOF');
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name ~ 'consumer' ORDER BY state = 'active' DESC, random() LIMIT 1
EOF
	my $between = begin_long('rolled back');
	$node->safe_psql('db', "INSERT INTO poser_widget (uuid, description) VALUES ('$long->{name} met', 'kept')");
	end_long($long, $end eq 'PREPARE' ? "PREPARE TRANSACTION '$long->{name} kept'" : $end);
	push @left, "$long->{name} kept" if $end eq 'PREPARE';
	wait_for_others(20);
	end_long($between, 'ROLLBACK');
	return;
}

sub kill_backend
{
	my $pid = $node->safe_psql('db',
		q{SELECT pid FROM pg_stat_activity WHERE application_name = 'writer' ORDER BY xact_start LIMIT 1});

	kill 'KILL', $pid or die "kill $pid: $!";
	return;
}

# Kills the postmaster and all its processes; one that it has just started may end later.
sub kill_server
{
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @pids = ($postmaster,
		split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'));

	$node->kill9;
	kill 'KILL', @pids;
	foreach (1 .. 1800)
	{
		last unless kill 0, @pids;
		sleep(0.1);
	}
	foreach (1 .. 100)
	{
		return if $node->start(fail_ok => 1);
		sleep(0.1);
	}
	die 'no restart';
}

# Crashes while one transaction is prepared and another is open.
sub crash
{
	my ($kill, @writers) = @_;
	my $prepared = begin_long('kept');
	my $open = begin_long('rolled back');
	my $offset = -s $node->logfile;

	end_long($prepared, "PREPARE TRANSACTION '$prepared->{name} kept'");
	wait_for_others(20);
	$kill->();
	foreach (@writers)
	{
		eval { $_->finish };
		isnt($_->full_result(0), 0, 'the crash ends a writer');
	}
	kill_session($open);
	$node->poll_query_until('db', 'SELECT true') or die 'no restart';
	like(slurp_file($node->logfile, $offset), qr/redo (?:done|is not required)/, 'the server has recovered');
	@left = prepared();
	is(scalar(grep { $_ eq "$prepared->{name} kept" } @left), 1, 'prepared transactions survive the crash');
	see_positions();
	end_some();
	return;
}

# A transaction with an id in another database, which no consumer has to wait for.
sub begin_elsewhere
{
	my $elsewhere = session($node, 'elsewhere', 'elsewhere');
	($elsewhere->{xact}) = ask($elsewhere, 'BEGIN; SELECT pg_current_xact_id();');
	return $elsewhere;
}

### What happened

# What is missing and what is unexpected.
sub difference
{
	my ($is, $should_be) = @_;
	my %is = map { $_ => 1 } @$is;
	my %should_be = map { $_ => 1 } @$should_be;

	return first_few((map { "no $_" } sort grep { !$is{$_} } keys %should_be),
		map { "unexpected $_" } sort grep { !$should_be{$_} } keys %is);
}

# The rows of both tables in a schema.
sub rows
{
	my ($dbname, $schema) = @_;
	return [ split /\n/, $node->safe_psql($dbname, <<"EOF") ];
SELECT 'poser_widget', to_jsonb(t) FROM $schema.poser_widget t
UNION ALL
SELECT 'poser_component', to_jsonb(t) FROM $schema.poser_component t
EOF
}

# All committed changes by change_id: the change as a consumer must get it, and its xact.
my (%change, %xact);

sub read_history
{
	foreach (split /\n/, $node->safe_psql('db', <<'EOF'))
SELECT change_id, xact, to_json(ROW(change_id, transaction_id, issued_at, username, payload_type,
	payload_key, operation_type = 2, row - '{change_id,transaction_id,operation_type}'::text[],
	'public', (ARRAY['insert', 'update', 'delete'])[operation_type + 1], NULL, NULL)::poser_change)
FROM history
EOF
	{
		my ($id, $xact, $change) = split /\|/, $_, 3;
		$change{$id} = $change;
		$xact{$id} = $xact;
	}
	return;
}

# Records delivered changes.  Each must be as in the history, and the same each time that
# it is delivered.  New changes of a row must come after older ones.  Returns the
# problems.
sub deliver
{
	my ($feed, @changes) = @_;
	my @problems;

	foreach (@changes)
	{
		my $id = change_id($_);
		my ($row) = /("payload_type":"\w+","payload_key":".*?"),"deletion"/ or die "no change: $_";

		if (exists $feed->{first}{$id})
		{
			push @problems, "then $feed->{first}{$id}, now $_" if $feed->{first}{$id} ne $_;
			$feed->{again}++;
			next;
		}
		push @problems, "not in history: $_" if ($change{$id} // '') ne $_;
		push @problems, "after $feed->{row}{$row}: $_" if ($feed->{row}{$row} // 0) > $id;
		$feed->{first}{$id} = $_;
		$feed->{row}{$row} = $id;
		$feed->{lower}++ if ($feed->{highest} // 0) > $id;
		$feed->{highest} = $id if ($feed->{highest} // 0) < $id;
	}
	return @problems;
}

# Reads the log of a consumer that polls.  An answer must begin right after the last
# confirmed change, be in order, and begin with all changes that were delivered before
# by a committed poll.
sub follow
{
	my ($consumer, $feed) = @_;
	my (undef, @answers) = split /^answer /m, slurp_file("$directory/$consumer.log");
	my (@problems, %confirmed, @last, @pending);

	foreach my $answer (@answers)
	{
		my ($before, @lines) = split /\n/, $answer;
		my @changes = grep { /^\{/ } @lines;
		my @ids = map { change_id($_) } @changes;

		if ($before && !$confirmed{$before})
		{
			@pending = @last if @last > @pending;
			while (@pending)
			{
				my $id = shift @pending;
				$confirmed{$id} = 1;
				last if $id == $before;
			}
			push @problems, "$before was confirmed, and not delivered" unless $confirmed{$before};
		}
		push @problems, map { "confirmed, and comes again: $_" } grep { $confirmed{ change_id($_) } } @changes;
		push @problems, "in wrong order: @ids" if grep { $ids[ $_ - 1 ] >= $ids[$_] } 1 .. $#ids;
		push @problems, "delivered were @pending, now @ids"
		  if @pending && !@ids || grep { $pending[$_] != $ids[$_] } 0 .. min($#pending, $#ids);
		push @problems, deliver($feed, @changes);

		@last = @ids;
		@pending = @ids if @ids > @pending && grep { $_ eq 'kept' } @lines;
	}
	return @problems;
}

### The story

create_database($node, 'db');
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach 'copies', 'elsewhere';
make_copy($node, 'copies', $_) foreach qw(first second late fresh);
make_copy($node, 'db', 'handled');

# A consumer records what it confirms in the same transaction.  A handler stores what it
# gets.
$node->safe_psql('db', <<'EOF');
CREATE VIEW history AS
SELECT v.*, issued_at, username, xact
FROM (SELECT change_id, transaction_id, operation_type, 'poser_widget', uuid, to_jsonb(v)
	  FROM poser_widget_version v
	  UNION ALL
	  SELECT change_id, transaction_id, operation_type, 'poser_component', uuid, to_jsonb(v)
	  FROM poser_component_version v)
	v (change_id, transaction_id, operation_type, payload_type, payload_key, row)
JOIN poser_transaction ON id = transaction_id;
CREATE TABLE position (consumer name, from_snapshot pg_snapshot, to_snapshot pg_snapshot, confirmed bigint);
CREATE FUNCTION is_confirmed(xact xid8, change_id bigint, from_snapshot pg_snapshot, to_snapshot pg_snapshot,
	confirmed bigint) RETURNS boolean IMMUTABLE AS $$
	SELECT coalesce(pg_visible_in_snapshot(xact, from_snapshot), false)
		OR coalesce(pg_visible_in_snapshot(xact, to_snapshot), false) AND change_id <= confirmed
$$ LANGUAGE sql;
CREATE TABLE confirmation (id bigint GENERATED ALWAYS AS IDENTITY, consumer name, change_id bigint);
CREATE TABLE handled (id bigint GENERATED ALWAYS AS IDENTITY, change poser_change);
CREATE FUNCTION handle(change poser_change) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO handled (change) VALUES (change);
	PERFORM handled.apply(change.payload_type, change.payload_key, change.deletion, change.payload);
	IF random() < 0.02 THEN
		RAISE 'not this time';
	END IF;
END
$$;
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, 'kept' FROM generate_series(0, 9) n;
SELECT poser_datasync_add('first', 'beginning'), poser_datasync_add('second', 'beginning', notify => true),
	poser_datasync_add('handled', 'beginning', handler => 'handle(poser_change)'::regprocedure);
EOF

# Two processes run the handler, one at a time.  "late" is made in the middle, from the
# beginning; "fresh" is made in the middle and begins with a copy of the tables.
my $copied;
my @processes = (
	start_consumer('first', '', \&poll),
	start_consumer('second', '', \&poll),
	(map { start_consumer('handled', '', \&run) } 1, 2),
	start_consumer('late', 'middle', \&poll),
	start_consumer('fresh', 'middle', sub {
		my ($consumer, $log, $source, $copy) = @_;

		apply($consumer, $copy, ask($source, <<'EOF')) unless $copied;
SELECT json_build_object('payload_type', t, 'payload_key', row->'uuid', 'deletion', false, 'payload', row)
FROM (SELECT 'poser_widget', to_jsonb(w) FROM poser_widget w
	  UNION ALL
	  SELECT 'poser_component', to_jsonb(c) FROM poser_component c) r (t, row);
EOF
		$copied = 1;
		return poll(@_);
	}));

$node->safe_psql('elsewhere', q{BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'elsewhere'});
my $elsewhere = begin_elsewhere();
my @writers = start_writers('a', 800);
round() foreach 1 .. 3;
crash(\&kill_server, @writers);
kill_session($elsewhere);

$elsewhere = begin_elsewhere();
@writers = start_writers('b', 800);
my ($before, $after);
round(sub {
	$before = $node->safe_psql('db', 'SELECT pg_current_snapshot()');
	$node->safe_psql('db', q{SELECT poser_datasync_add('late', 'beginning'), poser_datasync_add('fresh')});
	$after = $node->safe_psql('db', 'SELECT pg_current_snapshot()');
	append_to_file("$directory/middle", '');
});
round() foreach 1 .. 2;
crash(\&kill_backend, @writers);
kill_session($elsewhere);

$elsewhere = begin_elsewhere();
@writers = start_writers('c', 100);
my $last = begin_long('kept');
round() while writing();
$_->finish foreach @writers;
is(written('to the end', 'out'), 4, 'the writers have finished');
end_some() while @left;
is(join("\n", prepared()), '', 'no transaction is left prepared');
ok($node->poll_query_until('db', 'SELECT sum(pending) = 0 FROM poser_datasync_status'),
	'an open transaction delays no change of others');
end_long($last, 'COMMIT');
append_to_file("$directory/over", '');
waitpid $_, 0 foreach @processes;
see_positions();
is(join(' ', ask($elsewhere, 'SELECT pg_current_xact_id(); COMMIT;')), $elsewhere->{xact},
	'an open transaction in another database delays no change');
$node->safe_psql('elsewhere', "COMMIT PREPARED 'elsewhere'");
$elsewhere->{run}->finish;

# What the writers did.  psql prints ROLLBACK for both ways to roll back.
my $transactions = written('^BEGIN$', 'out');
my $aborted = $transactions - written('^(?:COMMIT|PREPARE TRANSACTION)$', 'out');
note "$aborted of $transactions aborted";
cmp_ok($aborted, '>', 20, 'transactions were aborted');
cmp_ok(written('^ROLLBACK$', 'out'), '>', $aborted + 20, 'parts of transactions were rolled back');
foreach (
	[ '^COMMIT$', 'commits' ], [ '^PREPARE TRANSACTION$', 'prepared transactions' ],
	[ '^COMMIT PREPARED$', 'committed ones' ], [ '^ROLLBACK PREPARED$', 'aborted ones' ],
	[ '^SAVEPOINT$', 'savepoints' ], [ '^INSERT 0 [2-9]$', 'inserts of several rows' ],
	[ '^UPDATE [2-9]$', 'updates of several rows' ], [ '^DELETE [1-9]$', 'deletions' ])
{
	note "$_->[1]: ", written($_->[0], 'out');
	cmp_ok(written($_->[0], 'out'), '>', 10, "there were $_->[1]");
}
is(written('ERROR:  (?!23503|23505|25P02|3B001|40001|40P01|42704|55P03)', 'err'),
	0, 'only expected errors occurred');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal (?:6|11)\b/, 'the server log has no crash but those of the test');
counts_exact($node, 'db', 'in the end', widgets => 8);
history_exact($node, 'db', 'in the end', versions => 2000);

# What the consumers got.
read_history();
my %crashes;
my ($again, $lower) = (0, 0);
foreach my $consumer (qw(first second late fresh handled))
{
	my $log = slurp_file("$directory/$consumer.log");
	my %feed;
	my @problems =
	  $consumer eq 'handled'
	  ? deliver(\%feed, split /\n/, $node->safe_psql('db', 'SELECT to_json(change) FROM handled ORDER BY id'))
	  : follow($consumer, \%feed);
	my @missing = keys %change;

	if ($consumer eq 'fresh')
	{
		my $sees = "SELECT xact FROM poser_transaction WHERE pg_visible_in_snapshot(xact";
		my %before = map { $_ => 1 } split /\n/, $node->safe_psql('db', "$sees, '$before')");
		my %after = map { $_ => 1 } split /\n/, $node->safe_psql('db', "$sees, '$after')");
		my ($since) = $before =~ /:(\d+):/;

		push @problems, map { "is older: $_" } grep { $before{ $xact{ change_id($_) } } } values %{ $feed{first} };
		@missing = grep { !$after{ $xact{$_} } } @missing;
		cmp_ok(scalar(grep { $xact{$_} < $since } @missing), '>', 0,
			"$consumer: transactions were running when it began");
	}

	is(first_few(@problems), '', "$consumer: the changes are right and in order");
	is(first_few(grep { !$feed{first}{$_} } sort { $a <=> $b } @missing), '', "$consumer: nothing is missing");
	cmp_ok(scalar(keys %{ $feed{first} }), '>', 1000, "$consumer: there were many changes");
	is($feed{again}, undef, "$consumer: once") if $consumer eq 'handled';
	is( difference(rows($consumer eq 'handled' ? 'db' : 'copies', $consumer), rows('db', 'public')),
		'', "$consumer: the copy is equal to the tables");
	unlike(join("\n", values %{ $feed{first} }), qr/.*rolled back.*/, "$consumer: nothing that was rolled back has come");
	unlike($log, qr/unexpectedly.*|gave up/, "$consumer: nothing unexpected");
	$crashes{$_}++ foreach $log =~ /^crashed (.*)/mg;
	$again += $feed{again} // 0;
	$lower += $feed{lower} // 0;
}
is(first_few(@backwards), '', 'no position has moved backwards');
cmp_ok($crashes{$_} // 0, '>', 0, "a consumer has crashed: $_")
  foreach ('delivered', 'applying', 'applied', 'confirming', 'handling', 'terminated', 'with the server',
	'for another session');
note explain({ %crashes, again => $again, lower => $lower, changes => scalar(keys %change) });
cmp_ok($again, '>', 100, 'changes have come again');
cmp_ok($lower, '>', 10, 'changes have come after others with a greater change_id');

diag("POSER_TEST_SEED=$seed") unless Test::More->builder->is_passing;
done_testing();
