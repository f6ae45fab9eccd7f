# Imports from CSV files with file_fdw, from and to another server with postgres_fdw.
# Equal rows are not written there either.  An import that fails, is cancelled or
# crashes leaves nothing on either side.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

my $node = new_node('local');

plan skip_all => 'file_fdw and postgres_fdw are not installed'
  if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions
	WHERE name IN ('file_fdw', 'postgres_fdw')}) < 2;

my $remote = new_node('remote');
create_database($_, 'db') foreach $node, $remote;

# Imports, and returns "created|updated|deleted|unchanged".
sub import_rows
{
	my ($arguments) = @_;
	return $node->safe_psql('db', "SELECT * FROM poser_import($arguments)");
}

# All widgets of a server.
sub widgets
{
	my ($server) = @_;
	return $server->safe_psql('db', 'SELECT w FROM poser_widget w ORDER BY uuid COLLATE "C"');
}

# The same with the rows' places, and the number of versions.
sub places
{
	my ($server) = @_;
	return $server->safe_psql('db', <<'EOF');
SELECT w, ctid, xmin FROM poser_widget w ORDER BY uuid COLLATE "C";
SELECT count(*) FROM poser_widget_version;
EOF
}

# Three tests: an import fails with this SQLSTATE and message, and changes nothing on
# either server.
sub import_fails
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($arguments, $sqlstate, $says, $name) = @_;
	my @before = map { places($_) } $node, $remote;
	my ($rc, $stdout, $stderr) = $node->psql('db',
		"\\set VERBOSITY verbose\nSELECT * FROM poser_import($arguments)");

	like($stderr, qr/ERROR:  $sqlstate: /, "$name: an error");
	like($stderr, $says, "$name: what is wrong");
	is_deeply([ map { places($_) } $node, $remote ], \@before, "$name: nothing is changed");
	return;
}

#
# CSV files
#
my $file = PostgreSQL::Test::Utils::tempdir() . '/widgets.csv';

sub write_csv
{
	unlink $file;
	append_to_file($file, join("\n", 'uuid,description,active', @_, ''));
	return;
}

$node->safe_psql('db', <<"EOF");
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE csv_widgets (uuid text, description text, active bool) SERVER files
OPTIONS (filename '$file', format 'csv', header 'true', encoding 'latin1');
EOF
write_csv('w1,Clock,true', 'w2,"Bell, ""large""",f', "w3,\"of two\nlines\",1", "w4,L\xfccke,true");
is(import_rows(q{'csv_widgets', 'poser_widget'}), '4|0|0|0', 'a CSV file is imported');
is(widgets($node), qq{(w1,Clock,t)\n(w2,"Bell, ""large""",f)\n(w3,"of two\nlines",t)\n(w4,L\xc3\xbccke,t)},
	'as it is');
my $before = places($node);
is(import_rows(q{'csv_widgets', 'poser_widget', deletes => true}), '0|0|0|4', 'the second import finds nothing to do');
is(places($node), $before, 'the second import writes nothing');
write_csv('w1,Wall clock,true', 'w2,"Bell, ""large""",f', 'w5,New,false');
is( $node->safe_psql('db', q{SELECT operation, key->>'uuid', old, new
		FROM poser_import_diff('csv_widgets', 'poser_widget', deletes => true) ORDER BY key}),
	join("\n",
		'update|w1|{"description": "Clock"}|{"description": "Wall clock"}',
		'delete|w3|{"active": true, "description": "of two\nlines"}|',
		qq(delete|w4|{"active": true, "description": "L\xc3\xbccke"}|),
		'create|w5||{"active": false, "description": "New"}'),
	'a diff with the changed file');
import_fails(q{'csv_widgets', 'poser_widget', deletes => true, max_delete => 1}, '54000', qr/2.*1/, 'a limit');
is(import_rows(q{'csv_widgets', 'poser_widget', deletes => true, max_delete => 2}), '1|1|2|1', 'the import does what the diff has announced');
write_csv('w1,Changed,true', 'w6,New,maybe');
import_fails(q{'csv_widgets', 'poser_widget'}, '22P02', qr/maybe/, 'a file that cannot be read to its end');
$node->safe_psql('db', 'ALTER FOREIGN TABLE csv_widgets ALTER COLUMN active TYPE text');
import_fails(q{'csv_widgets', 'poser_widget'}, '22P02', qr/1 row of "csv_widgets".*w6.*"active".*maybe/s, 'the file can be read as text, except one row');
$node->safe_psql('db', 'ALTER FOREIGN TABLE csv_widgets ALTER COLUMN active TYPE bool');
write_csv('w1,Changed,true', ',New,true', 'w6,New,true', 'w1,Again,true', 'w7,' . 'x' x 256 . ',true');
import_fails(q{'csv_widgets', 'poser_widget'}, '23505',
	qr/4 rows of "csv_widgets" cannot be imported into "poser_widget".*2 rows:.*w1.*1 row, column "uuid":.*Row 2.*1 row, column "description":.*w7/s,
	'keys and values in a file');
write_csv('w1,Changed,true', 'w6,New,');
import_fails(q{'csv_widgets', 'poser_widget'}, '23502',
	qr/1 row of "csv_widgets" cannot be imported into "poser_widget".*w6.*active/s, 'a value that is missing in a file');
import_fails(q{'poser_widget', 'csv_widgets'}, '[0-9A-Z]{5}', qr/csv_widgets/, 'a file as a target');
unlink $file;
import_fails(q{'csv_widgets', 'poser_widget'}, '58P01', qr/could not open file/, 'no file');

#
# From and to another server
#
my ($host, $port) = ($remote->host, $remote->port);
$node->safe_psql('db', <<"EOF");
CREATE EXTENSION postgres_fdw;
CREATE SERVER hq FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'db');
CREATE USER MAPPING FOR postgres SERVER hq OPTIONS (user 'postgres');
CREATE FOREIGN TABLE hq_widgets (uuid varchar(32), description varchar(255), active bool)
SERVER hq OPTIONS (table_name 'poser_widget');
CREATE FOREIGN TABLE hq_loose (active bool, description text, uuid text)
SERVER hq OPTIONS (table_name 'poser_widget');
CREATE FOREIGN TABLE hq_components (uuid varchar(32), widget_uuid varchar(32), item_code varchar(20), description text, active bool)
SERVER hq OPTIONS (table_name 'poser_component');
CREATE FOREIGN TABLE hq_names (description text OPTIONS (column_name 'label'), uuid text OPTIONS (column_name 'Code'))
SERVER hq OPTIONS (table_name 'names');
EOF
$remote->safe_psql('db', <<'EOF');
CREATE TABLE names ("Code" varchar(32) PRIMARY KEY, label text, number serial);
INSERT INTO poser_widget VALUES
('w1', 'Wall clock', true), ('w2', 'Bell', false), ('w8', 'Surplus', true), ('w9', 'Of HQ', true);
EOF
is(import_rows(q{'hq_widgets', 'poser_widget', deletes => true}), '2|1|1|1', 'a pull from another server');
is(widgets($node), widgets($remote), 'after a pull both servers have the same widgets');

# An export writes what differs, and nothing else.
$node->safe_psql('db', <<'EOF');
UPDATE poser_widget SET description = 'It''s a "bell"\' WHERE uuid = 'w2';
UPDATE poser_widget SET active = false WHERE uuid = 'w9';
DELETE FROM poser_widget WHERE uuid = 'w8';
INSERT INTO poser_widget SELECT 'x' || n, 'Widget ' || n, n % 2 = 0 FROM generate_series(1, 500) n;
INSERT INTO poser_component (uuid, widget_uuid, item_code, description)
SELECT 'c' || n, 'x' || n, n, 'Part' FROM generate_series(1, 500) n;
EOF
my $place = q{SELECT ctid, xmin FROM poser_widget WHERE uuid = 'w1'};
$before = $remote->safe_psql('db', $place);
is( $node->safe_psql('db', q{SELECT operation, key->>'uuid', old, new
		FROM poser_import_diff('poser_widget', 'hq_widgets', deletes => true) WHERE key->>'uuid' LIKE 'w%' ORDER BY key}),
	join("\n",
		'update|w2|{"description": "Bell"}|{"description": "It\'s a \"bell\"\\\\"}',
		'delete|w8|{"active": true, "description": "Surplus"}|',
		'update|w9|{"active": true}|{"active": false}'),
	'what an export would do');
is(import_rows(q{'poser_widget', 'hq_widgets', deletes => true}), '500|2|1|1', 'an export');
is(widgets($remote), widgets($node), 'after an export both servers have the same widgets');
is($remote->safe_psql('db', $place), $before, 'an export does not write equal rows');
is( $remote->safe_psql('db', q{SELECT operation, changed FROM poser_widget_history('w2')
		UNION ALL SELECT operation, changed FROM poser_widget_history('w8')}),
	"update|{description}\ninsert|\ndelete|{}\ninsert|", 'an export is in the other server\'s history');
$before = places($remote);
is(import_rows(q{'poser_widget', 'hq_loose', deletes => true}), '0|0|0|503', 'the second export finds nothing to do');
is(places($remote), $before, 'the second export writes nothing');
is(import_rows(q{'poser_widget', 'hq_names', '{uuid}'}), '503|0|0|0', 'a table whose columns have other names there');
is($remote->safe_psql('db', q{SELECT label FROM names WHERE "Code" = 'x17'}), 'Widget 17', 'the table with other column names has the rows');
is(import_rows(q{'poser_component', 'hq_components', '{item_code}'}), '500|0|0|0', 'an export by another key');
$node->safe_psql('db', q{UPDATE poser_component SET description = 'Changed' WHERE item_code::int <= 100;
	DELETE FROM poser_component WHERE item_code::int > 300});
is(import_rows(q{'poser_component', 'hq_components', '{item_code}', deletes => true}), '0|100|200|200',
	'a second export by another key');
is($remote->safe_psql('db', q{SELECT count(*), count(*) FILTER (WHERE description = 'Changed') FROM poser_component}),
	'300|100', 'the other server has the changed rows');

# An error there changes nothing, here or there.
$remote->safe_psql('db', q{ALTER TABLE poser_widget ADD CONSTRAINT own CHECK (description <> 'Refused')});
$node->safe_psql('db', <<'EOF');
UPDATE poser_widget SET active = NOT active WHERE uuid IN ('x1', 'x2');
UPDATE poser_widget SET description = 'Refused' WHERE uuid = 'x100';
INSERT INTO poser_widget VALUES ('y1', 'Refused', true), ('y2', 'Fine', true);
CREATE VIEW too_long AS SELECT uuid, CASE description WHEN 'Refused' THEN repeat('x', 256) ELSE description END AS description, active
FROM poser_widget;
EOF
import_fails(q{'poser_widget', 'hq_widgets'}, '23514', qr/2 rows of "poser_widget".*x100.*y1/s, 'a check constraint of the other server');
import_fails(q{'too_long', 'hq_loose', '{uuid}'}, '22001', qr/2 rows of "too_long".*x100.*y1/s, 'a value too long for the other server');
import_fails(q{'too_long', 'hq_widgets', '{uuid}'}, '22001', qr/2 rows of "too_long".*x100.*y1/s, 'a value too long for the foreign table');
$node->safe_psql('db', <<'EOF');
UPDATE poser_widget SET description = 'Fine' WHERE description = 'Refused';
DELETE FROM poser_component WHERE uuid = 'c7';
DELETE FROM poser_widget WHERE uuid = 'x7';
EOF
import_fails(q{'poser_widget', 'hq_widgets', deletes => true}, '23503', qr/x7/, 'a row that the other server needs');
is( $node->safe_psql('db', <<'EOF'), "0|0|1|299\n2|3|1|499", 'both tables, in one transaction');
BEGIN;
SELECT * FROM poser_import('poser_component', 'hq_components', '{item_code}', deletes => true);
SELECT * FROM poser_import('poser_widget', 'hq_widgets', deletes => true);
COMMIT;
EOF
is(widgets($remote), widgets($node), 'both servers have the same widgets again');
$node->safe_psql('db', q{UPDATE poser_widget SET description = 'Exported' WHERE uuid = 'w2';
	ALTER FOREIGN TABLE hq_widgets OPTIONS (ADD updatable 'false')});
import_fails(q{'poser_widget', 'hq_widgets'}, '[0-9A-Z]{5}', qr/hq_widgets/, 'a foreign table that is not updatable');
$node->safe_psql('db', q{ALTER FOREIGN TABLE hq_widgets OPTIONS (DROP updatable)});

# Another session changes a row there before it is written: the change is not
# overwritten.
my $export = q{SELECT * FROM poser_import('poser_widget', 'hq_widgets')};
my $writer = $remote->background_psql('db');
$writer->query_safe(q{BEGIN; UPDATE poser_widget SET description = 'Of HQ' WHERE uuid = 'w2'});
my $session = start_session($node, 'importer', $export);
waits_for_lock($remote, 'postgres_fdw');
$writer->query_safe('COMMIT');
is(sqlstate($session), '40001', 'a row that another session changes there is an error');
$session->quit;
is($remote->safe_psql('db', q{SELECT description FROM poser_widget WHERE uuid = 'w2'}), 'Of HQ', 'the other session\'s change is not overwritten');
is(import_rows(q{'poser_widget', 'hq_widgets'}), '0|1|0|503', 'the next export writes it');


# It can be cancelled while it waits for the other server.
$node->safe_psql('db', q{UPDATE poser_widget SET description = 'Exported' WHERE uuid LIKE 'x1%'});
my @before = map { places($_) } $node, $remote;
$writer->query_safe(q{BEGIN; LOCK TABLE poser_widget});
$session = start_session($node, 'exporter', $export);
waits_for_lock($remote, 'postgres_fdw');
like($node->safe_psql('db', q{SELECT query FROM pg_stat_activity WHERE application_name = 'exporter'}),
	qr{^/\* poser_import into hq_widgets: comparing, 0 rows \*/ \Q$export\E}, 'pg_stat_activity shows that it is comparing');
$node->safe_psql('db', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'exporter'});
is(sqlstate($session), '57014', 'cancelled while it waits for the other server');
$session->quit;
$writer->query_safe('ROLLBACK');
is_deeply([ map { places($_) } $node, $remote ], \@before, 'a cancelled export changes nothing');

# A crash here leaves nothing there.
$writer->query_safe(q{BEGIN; SELECT FROM poser_widget WHERE uuid = 'x199' FOR UPDATE});
$session = start_session($node, 'exporter', $export);
waits_for_lock($remote, 'postgres_fdw');
$node->stop('immediate');
eval { $session->quit };
$writer->query_safe('ROLLBACK');
$writer->quit;
$node->start;
$remote->poll_query_until('db', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'postgres_fdw'})
  or die 'still there';
is_deeply([ map { places($_) } $node, $remote ], \@before, 'a crash in the middle of an export: nothing is changed');
is(import_rows(q{'poser_widget', 'hq_widgets'}), '0|111|0|393', 'the same export succeeds without a crash');
is(widgets($remote), widgets($node), 'in the end both servers have the same widgets');

foreach my $server ($node, $remote)
{
	my $name = $server->name;
	counts_exact($server, 'db', $name, widgets => 500);
	history_exact($server, 'db', $name, versions => 1000);
}

done_testing();
