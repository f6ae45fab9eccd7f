# Shared by the stress tests: sessions that can be lost, random transactions, and
# copies that are made of what a consumer gets.

package PoserStress;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(one_of session ask kill_session transaction finish_prepared make_copy first_few);

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
