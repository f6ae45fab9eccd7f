# pg_cron runs what must run regularly: an import from a file, a consumer's handler, and
# pruning, each in its own name, over connections and in background workers.  A handler
# that fails stops its consumer until it works again.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my ($sharedir) = run_command([ 'pg_config', '--sharedir' ]);
foreach my $extension ('pg_cron', 'file_fdw')
{
	plan skip_all => "$extension is not installed" unless -e "$sharedir/extension/$extension.control";
}

my $directory = PostgreSQL::Test::Utils::tempdir();
my %commands = (
	import => q{SET poser.runas = 'importer'; SELECT * FROM poser_import('csv_widgets', 'poser_widget', deletes => true)},
	push   => q{SELECT poser_datasync_run('hq')},
	prune  => q{SELECT poser_prune_versions('0')});

# The file that a server imports.
sub write_csv
{
	my ($node, @lines) = @_;
	my $file = "$directory/" . $node->name . '.csv';

	append_to_file("$file.new", join("\n", 'uuid,description,active', @lines, ''));
	rename "$file.new", $file or die "$file: $!";
	return;
}

sub wait_until
{
	my ($node, $condition) = @_;
	$node->poll_query_until('db', "SELECT $condition") or die $node->name . ": not $condition";
	return;
}

# At the start there are changes for "hq", whose handler fails at the change of "b",
# and for "slow".  The handler, as role "worker", writes to the server's own tables for
# each change of a widget.
sub new_server
{
	my ($name, $conf) = @_;
	my $node = new_node($name);
	my $host = $node->host;

	create_database($node, 'db');
	$node->append_conf('postgresql.conf', <<"EOF");
shared_preload_libraries = 'pg_cron'
cron.database_name = 'db'
cron.host = '$host'
$conf
EOF
	$node->restart;
	$node->safe_psql('db', <<"EOF");
CREATE EXTENSION pg_cron;
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE csv_widgets (uuid text, description text, active bool) SERVER files
OPTIONS (filename '$directory/$name.csv', format 'csv', header 'true');
CREATE TABLE state (up boolean);
INSERT INTO state VALUES (false);
CREATE TABLE pushed (n bigint GENERATED ALWAYS AS IDENTITY, change_id bigint, payload_key text, deletion boolean, payload jsonb);
CREATE FUNCTION push_to_hq(change poser_change) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO pushed (change_id, payload_key, deletion, payload)
	VALUES (change.change_id, change.payload_key, change.deletion, change.payload);
	IF change.payload_type = 'poser_widget' THEN
		INSERT INTO poser_component (widget_uuid, item_code, description)
		VALUES ('log', change.change_id, change.payload_key);
	END IF;
	IF change.payload_key = 'b' AND NOT (SELECT up FROM state) THEN
		RAISE EXCEPTION 'HQ is down';
	END IF;
END
\$\$;
INSERT INTO poser_widget (uuid, description) VALUES ('log', 'Old');
UPDATE poser_widget SET description = 'Older' WHERE uuid = 'log';
UPDATE poser_widget SET description = 'Log' WHERE uuid = 'log';
SELECT poser_datasync_add('hq', 'now', 'push_to_hq(poser_change)', 'datasync');
SELECT poser_datasync_add('slow');
CREATE ROLE worker LOGIN;
GRANT USAGE ON SCHEMA cron TO worker;
GRANT SELECT ON state TO worker;
GRANT INSERT ON pushed, poser_component TO worker;
SELECT poser_datasync_grant('hq', 'worker');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Made');
UPDATE poser_widget SET description = 'Changed' WHERE uuid = 'a';
INSERT INTO poser_widget (uuid, description) VALUES ('b', 'Made'), ('c', 'Made');
UPDATE poser_widget SET description = 'Changed again' WHERE uuid IN ('a', 'b');
EOF
	write_csv($node, 'log,Log,true', 'a,Imported,true', 'b,Changed again,true', 'd,Imported,false');
	return $node;
}

my @nodes = (new_server('connections', ''), new_server('background_workers', 'cron.use_background_workers = on'));

# pg_cron knows schedules in seconds since 1.5.
my $version = $nodes[0]->safe_psql('db', q{SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'});
my ($major, $minor) = split /[.-]/, $version;
my $schedule = $major > 1 || $minor >= 5 ? '2 seconds' : '* * * * *';
note "pg_cron $version: $schedule";
foreach my $node (@nodes)
{
	is($node->safe_psql('db', 'SELECT count(*) FROM poser_widget_version'), 9, $node->name . ': versions before pruning');
	lines_as($node, 'db', $_ eq 'push' ? 'worker' : 'postgres', "SELECT cron.schedule('$_', '$schedule', \$\$$commands{$_}\$\$)")
	  foreach sort keys %commands;
}

# How often a job has run and succeeded so far.
sub times_run
{
	my ($command) = @_;
	return "(SELECT count(*) FROM cron.job_run_details WHERE status = 'succeeded' AND command = \$\$$command\$\$)";
}

# At the first run, all jobs have something to do.
foreach my $node (@nodes)
{
	my $name = $node->name;

	wait_until($node, times_run($_) . ' > 0') foreach values %commands;
	is($node->safe_psql('db', 'SELECT string_agg(uuid, \' \' ORDER BY uuid) FROM poser_widget'), 'a b d log',
		"$name: an import has been run");
	is($node->safe_psql('db', q{SELECT count(*) FROM poser_widget_version WHERE uuid = 'log'}), 1,
		"$name: old versions were pruned");
	is( $node->safe_psql('db', q{SELECT attempts > 0, last_error, last_failed_at IS NOT NULL, v.uuid, v.description
			FROM poser_datasync_status JOIN poser_widget_version v ON change_id = failed_change_id
			WHERE consumer = 'hq'}),
		't|HQ is down|t|b|Made', "$name: a handler has failed");
	is($node->safe_psql('db', q{SELECT string_agg(payload_key, ' ' ORDER BY n), count(poser_component) FROM pushed
			LEFT JOIN poser_component ON item_code = change_id::text}), 'a a|2', "$name: the handler has failed after the changes before that");
}
foreach my $node (@nodes)
{
	write_csv($node, 'log,Log,true', 'a,Imported again,true', 'b,Changed again,false', 'e,Imported,true');
	$node->safe_psql('db', 'UPDATE state SET up = true');
}

# Then the file has changed, and the handler works.
foreach my $node (@nodes)
{
	my $name = $node->name;

	wait_until($node, q{count(*) = 1 FROM poser_widget WHERE uuid = 'e'});
	wait_until($node, q{pending = 0 FROM poser_datasync_status WHERE consumer = 'hq'});
	wait_until($node, times_run($_) . ' > 1') foreach values %commands;
	$node->safe_psql('db', 'SELECT cron.unschedule(jobid) FROM cron.job');
	wait_until($node, q{count(*) = 0 FROM cron.job_run_details WHERE status NOT IN ('succeeded', 'failed')});
	is( $node->safe_psql('db', q{SELECT count(*) FROM cron.job_run_details WHERE status = 'failed'}),
		0, "$name: no job has failed");
	is( $node->safe_psql('db', q{SELECT username, command FROM cron.job_run_details GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 2}),
		join("\n", map { ($_ =~ /_run/ ? 'worker' : 'postgres') . "|$_" } sort values %commands),
		"$name: each job has run several times");
	is( $node->safe_psql('db', q{SELECT payload_key, payload->>'description', payload->>'active', deletion FROM pushed ORDER BY n}),
		<<'EOF' =~ s/\n\z//r, "$name: the handler has got each change once and in order, and went on without help");
a|Made|true|f
a|Changed|true|f
b|Made|true|f
c|Made|true|f
a|Changed again|true|f
b|Changed again|true|f
c|Made|true|t
a|Imported|true|f
d|Imported|false|f
d|Imported|false|t
a|Imported again|true|f
b|Changed again|false|f
e|Imported|true|f
EOF
	is( $node->safe_psql('db', q{SELECT attempts, last_error FROM poser_datasync_status WHERE consumer = 'hq'}),
		'0|', "$name: the consumer's error is gone");
	is( $node->safe_psql('db', q{SELECT username, role_name, consumer, string_agg(uuid, ' ' ORDER BY change_id)
			FROM poser_widget_version JOIN poser_transaction t ON t.id = transaction_id
			WHERE uuid <> 'log' GROUP BY 1, 2, 3 ORDER BY 1}),
		"importer|postgres||c a d d a b e\npostgres|postgres||a a b c a b", "$name: the import's changes are in the importer's name");
	is( $node->safe_psql('db', q{SELECT username, role_name, consumer, count(*), string_agg(description, ' ' ORDER BY change_id)
			FROM poser_component_version JOIN poser_transaction t ON t.id = transaction_id GROUP BY 1, 2, 3}),
		'datasync|worker|hq|13|a a b c a b c a d d a b e', "$name: the handler's changes are in its name, and marked");

	# The handler's changes are not given to its own consumer, but to another.
	is($node->safe_psql('db', 'SELECT consumer FROM poser_datasync_status WHERE holds_pruning'), 'slow',
		"$name: pruning waits for the slow consumer");
	my $changes = q{FROM poser_datasync_changes('slow', 10000) WITH ORDINALITY};
	is( $node->safe_psql('db', "SELECT change_id, payload_key, deletion, payload $changes
			WHERE payload_type = 'poser_widget' ORDER BY ordinality"),
		$node->safe_psql('db', 'SELECT change_id, payload_key, deletion, payload FROM pushed ORDER BY n'),
		"$name: the slow consumer gets all changes as they were");
	is($node->safe_psql('db', "SELECT count(*) $changes WHERE payload_type = 'poser_component'"), 13,
		"$name: the slow consumer gets the handler's changes");
	$node->safe_psql('db', "SELECT poser_datasync_confirm('slow', max(change_id)) $changes");
	is($node->safe_psql('db', q{SELECT poser_prune_versions('0')}), 8, "$name: pruning removes versions that no consumer needs");
	counts_exact($node, 'db', $name, widgets => 4);
	history_exact($node, 'db', $name, versions => 19);
}

done_testing();
