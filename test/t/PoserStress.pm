# Shared by the stress tests: sessions that can be lost, workers that do rounds of random
# work in such sessions, random transactions, and copies that are made of what a consumer
# gets.

package PoserStress;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT = qw(one_of session ask kill_session start_worker workers_report level
  transaction finish_prepared make_copy first_few);

sub one_of
{
	return $_[ rand @_ ];
}

# A session of psql with these variables.  It can be lost at any moment.
sub session
{
	my ($node, $dbname, $application, %variables) = @_;

	%variables = (ON_ERROR_STOP => 1, VERBOSITY => 'sqlstate', %variables);
	my %session = (in => '', out => '', err => '',
		timeout => IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	$session{run} = IPC::Run::start(
		[
			'psql', '-XqAt',
			(map { ('-v', "$_=$variables{$_}") } sort keys %variables),
			'-d', $node->connstr($dbname) . " application_name='$application'"
		],
		'<', \$session{in}, '>', \$session{out}, '2>', \$session{err}, $session{timeout});
	return \%session;
}

# Returns the lines that statements print.  Dies if the session is lost, or if a
# statement fails where ON_ERROR_STOP is set.
sub ask
{
	my ($session, $sql) = @_;

	$session->{timeout}->start;
	$session->{out} = '';
	$session->{in} .= "$sql\n\\echo END\n";
	$session->{run}->pump until $session->{out} =~ s/^END\n\z//m;
	$session->{run}->pump_nb;
	return split /\n/, $session->{out};
}

# Kills the session's psql, as if the client crashed.  Returns its error messages.
sub kill_session
{
	my ($session) = @_;

	eval { $session->{run}->signal('KILL') };
	eval { $session->{run}->finish };
	return $session->{err};
}

#
# Workers
#

my $parent = $$;
my %log;

# Starts a process that does rounds of work in a session of the application "stress NAME",
# and returns its process id.  Parameters:
#	more	tells whether there is to be one more round, of this number
#	work	returns the name of a round and its script, and the errors that are expected
#			in it beside "expected".  A script reports a problem as a row that begins with
#			WRONG, and what else it has done as a row that begins with DONE.
#	first	what a new session does first
#	expected	the errors that are expected in each round: a pattern for "SQLSTATE: message"
# The worker's log says what was done, which errors there were, and the problems.
sub start_worker
{
	my ($node, $name, %params) = @_;
	my $seed = int(rand(2**31));

	our $directory //= PostgreSQL::Test::Utils::tempdir();
	$log{$name} = "$directory/$name.log";
	unlink $log{$name};
	my $pid = fork // die "fork: $!";
	return $pid if $pid;

	srand($seed);
	eval { work($node, $name, %params) };
	append_to_file($log{$name}, "PROBLEM $@\n") if $@;
	POSIX::_exit(0);
}

sub work
{
	my ($node, $name, %params) = @_;
	my ($session, %done, %met);
	my $in_vain = 0;

	for (my $round = 1; $params{more}->($round) && getppid() == $parent; $round++)
	{
		my ($what, $script, $also_expected) = $params{work}->($round);
		my $is_new = !$session;
		my @lines = eval {
			$session //= session($node, 'db', "stress $name", ON_ERROR_STOP => 0, VERBOSITY => 'verbose');
			ask($session, ($is_new ? $params{first} : '') . $script);
		};
		my $lost = $@;
		my $said = $lost ? kill_session($session) : $session->{err};
		my @errors = $said =~ /(?:ERROR|FATAL|PANIC):  (\w{5}: .*)/g;
		my @problems = grep { /^WRONG/ } @lines;

		push @problems, grep { !/$params{expected}/ && !($also_expected && /$also_expected/) } @errors;
		# An ended session has an error, unless it was idle.  A crash is in the server's log.
		push @problems, $lost if $lost && !@errors && $said !~ /^connection to server was lost/m;
		append_to_file($log{$name}, join "\n", map({ "PROBLEM $what: $_" } split /\n/, first_few(@problems)), $script, $said, '')
		  if @problems;

		$met{ substr($_, 0, 5) }++ foreach @errors;
		$done{$what}++ unless $lost || @errors;
		/^DONE (.*)/ && $done{$1}++ foreach @lines;
		$session->{err} = '';
		undef $session if $lost;
		sleep(0.1) if $lost;
		last if ($in_vain = $lost ? $in_vain + 1 : 0) > 50;
	}
	$session->{run}->finish if $session;
	append_to_file($log{$name}, join '', map({ "DONE $_: $done{$_}\n" } sort keys %done),
		map({ "MET $_: $met{$_}\n" } sort keys %met));
	return;
}

# What the workers have reported: how often each round was done, how often each SQLSTATE
# was met, and the problems.  The scripts of the problems are shown.
sub workers_report
{
	my (%done, %met, @problems);

	foreach my $name (sort keys %log)
	{
		my $log = -e $log{$name} ? slurp_file($log{$name}) : "PROBLEM nothing is known of it\n";

		$done{$1} += $2 while $log =~ /^DONE (.*): (\d+)$/mg;
		$met{$1} += $2 while $log =~ /^MET (.*): (\d+)$/mg;
		push @problems, map { "$name $_" } $log =~ /^PROBLEM (.*)/mg;
		note "$name\n", $log =~ s/^(?:DONE|MET).*\n//mgr if $log =~ /^PROBLEM/m;
	}
	%log = ();
	return (\%done, \%met, @problems);
}

sub level
{
	return 'ISOLATION LEVEL ' . one_of('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
}

#
# Writers of widgets and components
#

# The key of a component.  Some keys are used more often than others.
sub key
{
	return "'" . one_of('c', 'd') . int(rand() < 0.2 ? rand(5) : rand(300)) . "'";
}

# A statement on a few rows.  Their descriptions say how the transaction is to end.
# Some statements fail, and so do their transactions.
sub statement
{
	my ($fate) = @_;
	my $n = int(rand(300));
	my $widget = int(rand(8.2));
	my ($key, $other) = (key(), key());
	my $keys = join ', ', map { key() } 0 .. rand(5);
	my $insert = 'INSERT INTO poser_component (uuid, widget_uuid, item_code, description)';
	my $own = 'SELECT FROM poser_component WHERE widget_uuid = w.uuid';

	return one_of(
		("$insert SELECT 'c' || n, 'w$widget', n, '$fate' FROM generate_series($n, $n + @{[ int(rand(6)) ]}) n
			ON CONFLICT (uuid) DO UPDATE
			SET (widget_uuid, description) = (EXCLUDED.widget_uuid, EXCLUDED.description);") x 4,
		("$insert VALUES ($key, 'w$widget', 'once', '$fate') ON CONFLICT DO NOTHING;") x 2,
		"$insert SELECT 'd$n', 'w$widget', 'once', '$fate' WHERE random() < 0.5;",
		("UPDATE poser_component SET (description, active) = ('$fate', NOT active) WHERE uuid IN ($keys);") x 3,
		"UPDATE poser_component SET (description, widget_uuid) = ('$fate', 'w$widget') WHERE uuid IN ($keys);",
		"UPDATE poser_component SET (uuid, description) = ($key, '$fate') WHERE uuid = $other
			AND NOT EXISTS (SELECT FROM poser_component WHERE uuid = $key);",
		"UPDATE poser_component c SET uuid = translate(uuid, 'cd', 'dc') WHERE uuid IN ($keys)
			AND NOT EXISTS (SELECT FROM poser_component WHERE uuid = translate(c.uuid, 'cd', 'dc'));",
		("DELETE FROM poser_component WHERE uuid IN ($keys);") x 2,
		"DELETE FROM poser_component WHERE uuid = $key;
			$insert VALUES ($key, 'w$widget', 'again', '$fate');",
		"UPDATE poser_widget SET (description, active) = ('$fate', NOT active) WHERE uuid IN ('w$widget', 'long $n');",
		"INSERT INTO poser_widget (uuid, description) VALUES ('w8', '$fate'), ('w9', '$fate')
			ON CONFLICT (uuid) DO UPDATE SET description = EXCLUDED.description;",
		"UPDATE poser_widget w SET (uuid, description) = (translate(uuid, 'vw', 'wv'), '$fate')
			WHERE uuid ~ '^.[89]' AND NOT EXISTS ($own);",
		"DELETE FROM poser_widget w WHERE uuid ~ '^.[89]' AND NOT EXISTS ($own);");
}

# A writer's transaction: its statements, and its name if it prepares itself.  The name
# and the descriptions say how it is to end.
sub transaction
{
	my ($name) = @_;
	my $end = one_of(('COMMIT') x 6, 'ROLLBACK', ('PREPARE') x 2);
	my $fate = $end eq 'ROLLBACK' || $end eq 'PREPARE' && rand() < 0.4 ? 'rolled back' : 'kept';
	my $level = one_of(('READ COMMITTED') x 4, 'REPEATABLE READ', 'SERIALIZABLE');
	my $script = "BEGIN ISOLATION LEVEL $level;\n";

	foreach (0 .. rand(rand(25)))
	{
		$script .= statement($fate) . "\n";
		$script .= "SELECT pg_sleep(0.01 * random());\n" if rand() < 0.2;
		next unless rand() < 0.15;
		my ($ending, $its_fate) = rand() < 0.7 ? ('ROLLBACK TO', 'rolled back') : ('RELEASE', $fate);
		$script .= join "\n", 'SAVEPOINT s;', (map { statement($its_fate) } 0 .. rand(3)), "$ending s;\n";
	}
	return "$script$end;\n" if $end ne 'PREPARE';
	return ("${script}PREPARE TRANSACTION '$name $fate';\n", "$name $fate");
}

sub finish_prepared
{
	my ($gid) = @_;
	return ($gid =~ /kept/ ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid';";
}

# Makes the tables where the consumer of this name puts what it gets.
sub make_copy
{
	my ($node, $dbname, $consumer) = @_;

	$node->safe_psql($dbname, <<"EOF");
CREATE SCHEMA $consumer;
CREATE TABLE $consumer.poser_widget (uuid text PRIMARY KEY, description text, active boolean);
CREATE TABLE $consumer.poser_component (uuid text PRIMARY KEY, widget_uuid text, item_code text,
	description text, active boolean);
CREATE FUNCTION $consumer.apply(payload_type text, payload_key text, deletion boolean, payload jsonb)
RETURNS void LANGUAGE plpgsql SET search_path = $consumer AS \$\$
BEGIN
	EXECUTE format('DELETE FROM %I WHERE uuid = \$1', payload_type) USING payload_key;
	IF NOT deletion THEN
		EXECUTE format('INSERT INTO %I SELECT (jsonb_populate_record(NULL::%1\$I, \$1)).*', payload_type)
		USING payload;
	END IF;
END
\$\$;
EOF
	return;
}

sub first_few
{
	return join "\n", @_ > 5 ? (@_[ 0 .. 4 ], 'and ' . (@_ - 5) . ' more') : @_;
}

1;
