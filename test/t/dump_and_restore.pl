# pg_dump and a restore keep rows, history, batches and consumers as they are: in any
# schema, by superuser and by owner, and in all ways that pg_dump, pg_restore and psql
# offer.  The counts are right after it without a further step, and batches and
# consumers go on.  Dumps of older versions can be restored, too.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('dump');
my $directory = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN');

# Programs that restore a dump, without the database and the dump.
my @psql = ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1');
my @pg_restore = ('pg_restore', '--exit-on-error');

# Makes a dump of a database with these options, and returns its name.  Dumps whose name
# begins with "parallel" hold the table "ballast", too.
sub dumped
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname, $role, $name, @options) = @_;
	my $file = "$directory/$dbname." . $name =~ tr/ /_/r;

	push @options, '-T', '*.ballast' if $name !~ /^parallel/;
	command_ok([ 'pg_dump', @options, '-f', $file, $node->connstr($dbname) . " user=$role" ],
		"$dbname: pg_dump @options");
	return $file;
}

# A test: restores a file into the database "target".  Returns whether it is restored.
sub restored
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name, $source, $file, $program, @options) = @_;
	my $connstr = $node->connstr('target') . " user=$source->{role}";
	my @command = (@$program, @options, '-d', $connstr, $program->[0] eq 'psql' ? '-f' : (), $file);
	my $done = IPC::Run::run(\@command, '<', \undef, '>', '/dev/null', '2>', \my $errors);

	ok($done, "$name: $program->[0] @options") or diag(substr($errors, 0, 1000));
	return $done;
}

# A script without the line that sets an empty search_path, as some guides advise for
# hosts that do not allow it.  The line is there.
sub without_search_path
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($file) = @_;
	my $script = slurp_file($file);

	is($script =~ s/^SELECT pg_catalog\.set_config\('search_path', '', false\);\n//mg, 1,
		'a line of the script is removed');
	append_to_file("$file.edited", $script);
	return "$file.edited";
}

# Restores the dumps of a source in several ways.  "all" are all ways.
sub dump_and_restore
{
	my ($dbname, $source, %params) = @_;
	my $role = $source->{role};
	my @sections = map { "--section=$_" } 'pre-data', 'data', 'post-data';

	# Tests of a way: restore one file after the other into a new database, and compare.
	# The database has the extension if the name of the way says that the dump holds "data".
	my $test = sub {
		my ($way, @restores) = @_;
		new_target($node, 'target', $source, data => $way =~ /\bdata\b/);
		foreach (@restores)
		{
			restored("$dbname: $way", $source, @$_) or return;
		}
		restored_exact($node, 'target', $source, "$dbname: $way", ahead => $way =~ /parallel/);
	};

	my $plain = dumped($dbname, $role, 'plain');
	my $custom = dumped($dbname, $role, 'custom', '-Fc');
	my $parallel = dumped($dbname, $role, 'parallel', '-Fd', '-j4');
	my $data = dumped($dbname, $role, 'data', '--data-only');

	$test->('plain', [ $plain, \@psql ]);
	readers_can_read($dbname);
	$test->("parallel, round $_", [ $parallel, \@pg_restore, '-j4' ]) foreach 1 .. ($params{all} ? 2 : 1);
	$test->('data', [ $data, \@psql ]);
	my $plain_rls = dumped($dbname, $role, 'plain row security', '--enable-row-security');
	$test->('plain, --enable-row-security', [ $plain_rls, \@psql ]);
	return if !$params{all};

	# more scripts for psql
	$test->('plain, one transaction', [ $plain, \@psql, '--single-transaction' ]);
	$test->("plain, $_", [ dumped($dbname, $role, "plain $_", $_), \@psql ])
	  foreach '--inserts', '--rows-per-insert=100';
	$test->('plain, by sections', map { [ dumped($dbname, $role, "plain $_", $_), \@psql ] } @sections);
	$test->('plain, without search_path', [ without_search_path($plain), \@psql ]);
	$test->('data, one transaction', [ $data, \@psql, '--single-transaction' ]);
	$test->('data, without search_path', [ without_search_path($data), \@psql ]);
	$test->('data, --enable-row-security',
		[ dumped($dbname, $role, 'data row security', '--data-only', '--enable-row-security'), \@psql ]);

	# pg_restore
	$test->('custom', [ $custom, \@pg_restore ]);
	$test->('custom, one transaction', [ $custom, \@pg_restore, '--single-transaction' ]);
	$test->('custom, --enable-row-security', [ $custom, \@pg_restore, '--enable-row-security' ]);
	$test->('custom, by sections', map { [ $custom, \@pg_restore, $_ ] } @sections);
	$test->('custom, data', [ $custom, \@pg_restore, '--data-only' ]);
	$test->('custom, data, parallel', [ $custom, \@pg_restore, '--data-only', '-j4' ]);
	$test->("parallel, --enable-row-security, round $_", [ $parallel, \@pg_restore, '-j4', '--enable-row-security' ])
	  foreach 1 .. 2;
	return;
}

# Tests: the privileges of readers are in the dump.
sub readers_can_read
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($dbname) = @_;
	my $history = q{SELECT * FROM poser_widget_history('history 1')};

	is( lines_as($node, 'target', 'reader',
			'SELECT count(*), sum(component_count) FROM poser_widget_summary'),
		$node->safe_psql($dbname,
			'SELECT (SELECT count(*) FROM poser_widget), count(*) FROM poser_component'),
		"$dbname: a reader can still read");
	is(lines_as($node, 'target', 'reader', $history),
		$node->safe_psql($dbname, $history), "$dbname: history, too");
	fails_as($node, 'target', 'reader', '42501', "SELECT * FROM $_", "$dbname: not $_")
	  foreach 'poser_component_version', 'poser_batch', 'poser_batch_row',
	  'poser_datasync_consumer', 'poser_datasync_skipped', 'poser_datasync_status';
	is( lines_as($node, 'target', 'writer', q{SELECT count(*) FROM poser_datasync_changes('polled', 3)}),
		0, "$dbname: a writer still has its grant on a consumer, which has gone on");
	is( lines_as($node, 'target', 'writer', 'SELECT uuid FROM poser_batch ORDER BY uuid'),
		"complete\nempty\nexecuted\nopen", "$dbname: a writer sees only some of the batches");
	return;
}

foreach (
	[ 'db', 'public', 'postgres' ],
	[ 'elsewhere', 'Stock Room', 'postgres' ],
	[ 'owned', 'public', 'owner' ])
{
	my ($dbname, $schema, $role) = @$_;

	create_database($node, $dbname, schema => $schema, owner => $role);
	my $source = make_source($node, $dbname, $role);
	cmp_ok(
		$node->safe_psql($dbname, 'SELECT count(*) FROM poser_component_count_delta'),
		'>', 0, "$dbname: there are deltas at the time of the dump");
	counts_exact($node, $dbname, "$dbname, source", widgets => 300);
	history_exact($node, $dbname, "$dbname, source", versions => 2500);
	# A privilege granted on the extension's tables is dumped, too.  And a larger table, which
	# a parallel pg_restore loads first, lets it load components while there are no widgets yet.
	lines_as($node, $dbname, $role, qq{GRANT USAGE ON SCHEMA "$schema" TO reader;
		GRANT SELECT ON poser_widget, poser_component, poser_widget_summary TO reader;
		GRANT SELECT ON poser_widget_version TO reader;
		CREATE TABLE ballast AS
		SELECT n, repeat('larger than components', 10) FROM generate_series(1, 30000) n});
	dump_and_restore($dbname, $source, all => $dbname eq 'db');
}

# Rows without their widgets are refused.  They wait only for sessions that load, not for
# one with an open transaction.
create_database($node, 'alone');
my $idle = $node->background_psql('alone');
$idle->query_safe('BEGIN; SELECT count(*) FROM poser_widget');
fails_as($node, 'alone', 'postgres', '23503', q{SET row_security = off;
	SELECT pg_catalog.set_config('search_path', '', false);
	INSERT INTO public.poser_component (widget_uuid, item_code, description) VALUES ('none', '', '')},
	'components without widgets beside an open transaction');
$idle->quit;

# Dumps of older versions, restored where 1.6 is the default.  Version 1.1 has no history:
# its rows are the beginning of the history.  Version 1.2 has no batches and no consumers,
# version 1.3 has no consumers.  A new consumer gets the whole history.
foreach my $version ('1.1', '1.2', '1.3', '1.4', '1.5')
{
	my $dbname = 'version_' . $version =~ tr/./_/r;

	create_database($node, $dbname, version => $version);
	$node->safe_psql($dbname, <<'EOF');
INSERT INTO poser_widget (uuid, description) VALUES ('a', 'Clock'), ('b', 'Bell');
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'a' || n, 'a', n, 'Part' FROM generate_series(1, 3) n;
EOF
	make_history($node, $dbname, 'postgres') if $version ge '1.2';
	make_many_transactions($node, $dbname, 'postgres', 'many') if $version ge '1.2';
	make_batches($node, $dbname, 'postgres') if $version ge '1.3';
	make_consumers($node, $dbname, 'postgres') if $version ge '1.4';
	my $source = source_of($node, $dbname);

	foreach my $way (
		[ 'plain', dumped($dbname, 'postgres', 'plain'), \@psql ],
		[ 'custom', dumped($dbname, 'postgres', 'custom', '-Fc'), \@pg_restore ])
	{
		my ($name, @restore) = @$way;
		$name = "$version, $name";

		new_target($node, 'target', $source);
		restored($name, $source, @restore) or next;
		same_contents(lines_as($node, 'target', 'postgres', $source->{query}),
			$source->{contents}, "$name: all contents are equal");
		counts_exact($node, 'target', $name, widgets => $source->{widgets});
		history_exact($node, 'target', $name, versions => $version eq '1.1' ? 5 : $source->{versions});
		is( $node->safe_psql('target', q{SELECT operation, changed, description, username
				FROM poser_widget_history('b')}),
			'insert||Bell|postgres', "$name: a row has its first version");
		make_batches($node, 'target', 'postgres') if $version lt '1.3';
		make_consumers($node, 'target', 'postgres') if $version lt '1.4';
		batches_go_on($node, 'target', $name);
		history_goes_on($node, 'target', $name);
		consumers_go_on($node, 'target', $name, twice => $version ge '1.4');
	}
}

done_testing();
