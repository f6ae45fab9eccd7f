# A backend killed under load, then the postmaster and all that it started: after
# the restart every count is exact.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('crash', conf => <<'EOF');
restart_after_crash = on
max_connections = 40
EOF
create_database($node, 'db');
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_widget (uuid, description)
SELECT n::text, 'Widget ' || n FROM generate_series(1, 3) n;
EOF

my @scripts = map { pgbench_file($_, <<"EOF") } 'read committed', 'repeatable read', 'serializable';
\\set w random(1, 3)
\\set v random(1, 3)
\\set n random(1, 20)
\\set m random(1, 20)
BEGIN ISOLATION LEVEL $_;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('$_ ' || :client_id || ' ' || :n, :w::text, :n::text, 'Part') ON CONFLICT (uuid) DO UPDATE SET active = NOT poser_component.active;
UPDATE poser_component SET widget_uuid = :v::text WHERE uuid = '$_ ' || :client_id || ' ' || :m;
DELETE FROM poser_component WHERE uuid = '$_ ' || :client_id || ' ' || :m;
INSERT INTO poser_component (widget_uuid, item_code, description) VALUES (:v::text, 'new', 'Part');
COMMIT;
EOF

# Starts pgbench and comes back once it has added some components.
sub start_load
{
	my $before = $node->safe_psql('db', 'SELECT count(*) FROM poser_component');
	my $load = IPC::Run::start(
		[
			'pgbench', '--no-vacuum', '-c', 8, '-j', 2, '-T', 600,
			'--max-tries=0', (map { ('--file', $_) } @scripts),
			$node->connstr('db') . ' application_name=load'
		],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');

	$node->poll_query_until('db',
		"SELECT count(*) > $before + 1000 FROM poser_component")
	  or die 'no load';
	return $load;
}

sub finish_load
{
	my ($load) = @_;
	$load->finish;
	isnt($load->full_result(0), 0, 'the crash ended the load');
	return;
}

# One backend, that with the oldest transaction.
foreach my $round (1 .. 3)
{
	my $load = start_load();
	my $pid = $node->safe_psql('db', <<'EOF');
SELECT pid FROM pg_stat_activity WHERE application_name = 'load'
ORDER BY xact_start LIMIT 1
EOF
	my $offset = -s $node->logfile;

	kill 'KILL', $pid or die "kill $pid: $!";
	finish_load($load);
	$node->poll_query_until('db', 'SELECT true') or die 'no restart';
	like(
		slurp_file($node->logfile, $offset),
		qr/\(PID $pid\) was terminated by signal 9.*redo (?:done|is not required)/s,
		"killed backend $round: the server has recovered");
	counts_exact($node, 'db', "killed backend $round", widgets => 3);
}

# The postmaster and all its processes.
foreach my $round (1 .. 3)
{
	my $load = start_load();
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @pids = ($postmaster,
		split /\n/, $node->safe_psql('postgres',
			'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'));
	my $offset = -s $node->logfile;

	$node->kill9;
	kill 'KILL', @pids;
	finish_load($load);
	foreach (1 .. 1800)
	{
		last unless kill 0, @pids;
		select undef, undef, undef, 0.1;
	}
	$node->start;
	like(
		slurp_file($node->logfile, $offset),
		qr/not properly shut down.*redo (?:done|is not required)/s,
		"killed postmaster $round: the server has recovered");
	counts_exact($node, 'db', "killed postmaster $round", widgets => 3);
}

# And life goes on.
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, 'last', 'Part' FROM poser_widget;
EOF
is($node->safe_psql('db', 'SELECT count(*) FROM poser_component_count_delta'),
	0, 'one more write to each widget leaves no delta');
counts_exact($node, 'db', 'after one more write', widgets => 3);

done_testing();
