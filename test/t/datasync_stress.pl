# Datasync loses nothing: writers with transactions of all lengths and ends, some
# open for long, consumers that crash wherever they are, and a server that is killed
# twice.  Every change that was committed reaches every consumer, nothing else does,
# those of a row come in order, what was confirmed never comes again, what was not
# comes again as it was, and each copy ends as the tables.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;
use Time::HiRes qw(sleep);

# The same number makes the same scripts and choices, if not the same race.
my $seed = $ENV{POSER_TEST_SEED} // int(rand(2**31));
srand($seed);
note "POSER_TEST_SEED=$seed";

my $parent = $$;
my $directory = PostgreSQL::Test::Utils::tempdir();
my $node = new_node('datasync_stress', conf => <<'EOF');
restart_after_crash = on
max_connections = 40
max_prepared_transactions = 100
EOF

# Positions as the test knows them: a row is written with each confirmation.
create_database($node, 'db');
$node->safe_psql('db', <<'EOF');
CREATE TABLE confirmation (id bigint GENERATED ALWAYS AS IDENTITY, consumer name, change_id bigint);
CREATE TABLE handled (id bigint GENERATED ALWAYS AS IDENTITY, change poser_change);
INSERT INTO poser_widget (uuid, description) SELECT 'w' || n, 'kept' FROM generate_series(0, 9) n;
EOF
$node->safe_psql('postgres', $_) foreach ('CREATE DATABASE copies', 'CREATE DATABASE elsewhere');

### Sessions, which may be lost at any moment

sub session
{
	my ($dbname, $application) = @_;
	my %session = (in => '', out => '', err => '');

	$session{run} = IPC::Run::start(
		[
			'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=sqlstate',
			'-d', $node->connstr($dbname) . " application_name='$application'"
		],
		'<', \$session{in}, '>', \$session{out}, '2>', \$session{err},
		$session{timeout} = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%session;
}

# The lines that statements return; dies if one fails, or with the session.
sub ask
{
	my ($session, $sql) = @_;

	$session->{timeout}->start;
	$session->{in} .= "$sql\n\\echo END\n";
	$session->{run}->pump until $session->{out} =~ /^END\n\z/m;
	return split /\n/, substr $session->{out}, 0, length($session->{out}) - 4, $session->{out} = '';
}

# Ends it, as a crash of the client would; what the server had said of an error.
sub kill_session
{
	my ($session) = @_;

	$session->{run}->signal('KILL');
	eval { $session->{run}->finish };
	return $session->{err};
}

sub one_of
{
	return $_[ rand @_ ];
}

### Consumers, each a process with a copy

sub make_copy
{
	my ($dbname, $schema) = @_;

	$node->safe_psql($dbname, <<"EOF");
CREATE SCHEMA $schema;
CREATE TABLE $schema.poser_widget (uuid text PRIMARY KEY, description text, active boolean);
CREATE TABLE $schema.poser_component (uuid text PRIMARY KEY, widget_uuid text, item_code text,
	description text, active boolean);
CREATE FUNCTION $schema.apply(payload_type text, payload_key text, deletion boolean, payload jsonb)
RETURNS void LANGUAGE plpgsql SET search_path = $schema AS \$\$
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

sub apply
{
	my ($session, $consumer, @changes) = @_;
	my $changes = join ',', @changes;

	ask($session, <<"EOF") if @changes;
SELECT count($consumer.apply(change->>'payload_type', change->>'payload_key',
	(change->>'deletion')::boolean, change->'payload') ORDER BY n)
FROM jsonb_array_elements(\$json\$[$changes]\$json\$) WITH ORDINALITY c (change, n);
EOF
	return;
}

sub change_id
{
	return $_[0] =~ /^\{"change_id":(\d+),/ ? $1 : die "no change: $_[0]";
}

# Whether all is over for a consumer, after it was given nothing.
sub drained
{
	my ($session, $consumer) = @_;

	sleep(0.01);
	return -e "$directory/over"
	  && (ask($session, "SELECT pending FROM poser_datasync_status WHERE consumer = '$consumer';"))[0] == 0;
}

# Consumes until all is over, or until the client crashes, which is to return how,
# or anything else happens, of which it dies.  The log has each answer under what
# had been confirmed, and "kept" once the transaction that asked is known to be.
sub consume
{
	my ($consumer, $log, $source, $copy) = @_;
	my @confirmed;

	for (my $empty = 0; $empty < 1000;)
	{
		my $max = int(exp(rand(7)));
		my $in_one = rand() < 0.3;
		my ($confirmed, @changes) = ask($source, <<"EOF");
BEGIN;
CREATE TEMP TABLE IF NOT EXISTS answer (n bigint GENERATED ALWAYS AS IDENTITY, change json) ON COMMIT DELETE ROWS;
EOF
	}
	return;
}
