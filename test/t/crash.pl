# A backend is killed under load, then the postmaster and all its processes.  After the
# restart every count is exact, and the history has what was committed and nothing
# else.

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
INSERT INTO poser_component (uuid, widget_uuid, item_code, description) VALUES ('witness', '1', '', '');
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

# Starts pgbench and returns once it has added components.
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

# Commits a widget of this name, and returns a session with an open transaction that
# has another widget, with its version on disk.
sub write_some
{
	my ($name) = @_;
	my $session = $node->background_psql('db');

	$session->query_safe(<<"EOF");
BEGIN;
INSERT INTO poser_widget (uuid, description) VALUES ('uncommitted $name', '');
UPDATE poser_component SET description = 'uncommitted $name' WHERE uuid = 'witness';
EOF
	$node->safe_psql('db', 'CHECKPOINT');
	$node->safe_psql('db', <<"EOF");
INSERT INTO poser_widget (uuid, description) VALUES ('committed $name', '');
UPDATE poser_widget SET description = 'changed' WHERE uuid = 'committed $name';
EOF
	return $session;
}

# Five tests: what was committed has versions, what was not has none.
sub survived
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $widgets) = @_;

	is( $node->safe_psql('db', "SELECT operation, description, changed
		FROM poser_widget_history('committed $name')"),
		"update|changed|{description}\ninsert||", "$name: committed changes are in the history");
	is( $node->safe_psql('db', q{SELECT uuid FROM poser_widget_version WHERE uuid LIKE 'uncommitted%'
		UNION ALL SELECT uuid FROM poser_component_version WHERE description LIKE 'uncommitted%'}),
		'', "$name: uncommitted changes are not in the history");
	counts_exact($node, 'db', $name, widgets => $widgets);
	history_exact($node, 'db', $name, versions => 1000);
	return;
}

sub finish_load
{
	my ($load) = @_;
	$load->finish;
	isnt($load->full_result(0), 0, 'the crash ended the load');
	return;
}

# The backend with the oldest transaction.
foreach my $round (1 .. 3)
{
	my $load = start_load();
	my $session = write_some("killed backend $round");
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
	$session->quit;
	survived("killed backend $round", 3 + $round);
}

# The postmaster and all its processes.
foreach my $round (1 .. 3)
{
	my $load = start_load();
	my $session = write_some("killed postmaster $round");
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
	$session->quit;
	survived("killed postmaster $round", 6 + $round);
}

# The same without load, right after a checkpoint: ids from before the crash are not
# used again.
my $session = write_some('stopped at rest');
my $last = $node->safe_psql('db', 'SELECT max(change_id) FROM poser_widget_version');
$node->stop('immediate');
$session->quit;
$node->start;
survived('stopped at rest', 10);
$node->safe_psql('db', q{UPDATE poser_widget SET active = NOT active WHERE uuid = '1'});
cmp_ok(
	$node->safe_psql('db', q{SELECT max(transaction_id) FROM poser_widget_version WHERE uuid = '1'}),
	'>', $last, 'the next transaction has a greater id');

# Writing goes on.
$node->safe_psql('db', <<'EOF');
INSERT INTO poser_component (widget_uuid, item_code, description)
SELECT uuid, 'last', 'Part' FROM poser_widget;
EOF
is($node->safe_psql('db', 'SELECT count(*) FROM poser_component_count_delta'),
	0, 'one more write to each widget leaves no delta');
counts_exact($node, 'db', 'after one more write', widgets => 3);
history_goes_on($node, 'db', 'after the crashes');
history_exact($node, 'db', 'after the crashes', versions => 1000);

done_testing();
