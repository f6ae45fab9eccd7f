# A procedural language can stop a statement after a number of rows.  Then the triggers
# at the statement's end do not fire, its writes are not counted, and they must not
# stay.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PoserTest;
use Test::More;

my $node = new_node('limited');

plan skip_all => 'PL/Perl is not installed'
  if $node->safe_psql('postgres',
	"SELECT count(*) FROM pg_available_extensions WHERE name = 'plperl'") == 0;

create_database($node, 'db');
$node->safe_psql('db', <<'EOF');
CREATE EXTENSION plperl;
CREATE FUNCTION insert_components(n integer, most integer) RETURNS integer LANGUAGE plperl AS $$
	my $result = spi_exec_query("INSERT INTO poser_component (widget_uuid, item_code, description) "
		. "SELECT 'w1', g, '' FROM generate_series(1, $_[0]) AS g RETURNING uuid", $_[1]);
	return $result->{processed};
$$;
INSERT INTO poser_widget (uuid, description) VALUES ('w1', '');
EOF

is($node->safe_psql('db', 'SELECT insert_components(3, 10)'), '3', 'a limit that is not reached');
counts_exact($node, 'db', 'a limit that is not reached', widgets => 1);

my ($rc, $stdout, $stderr) = $node->psql('db', '\set VERBOSITY verbose
	SELECT insert_components(3, 1)');
like($stderr, qr/ERROR:  0A000: a statement on table "poser_component" was not run to its end/,
	'a limit that is reached is an error');
is($node->safe_psql('db', 'SELECT count(*) FROM poser_component'), '3', 'a limit that is reached changes nothing');
counts_exact($node, 'db', 'a limit that is reached', widgets => 1);

is( $node->safe_psql('db', q{
		BEGIN;
		SELECT insert_components(3, 1);
		SELECT component_count = (SELECT count(*) FROM poser_component) FROM poser_widget_get('w1');
		ROLLBACK}),
	"1\nt", 'reads before the limit are exact');

# Triggers that are enabled in different ways all fire in an ordinary session.
foreach (
	[ 'poser_component', 'poser_version_before', 'poser_version_insert', 'poser_count' ],
	[ 'poser_component', 'poser_count_before', 'poser_count_insert', 'poser_version' ])
{
	my ($table, $before, $after, $others) = @$_;

	foreach my $always ($before, $after)
	{
		($rc, $stdout, $stderr) = $node->psql('db', qq{\\set VERBOSITY verbose
			BEGIN;
			ALTER TABLE $table ENABLE ALWAYS TRIGGER $always;
			ALTER TABLE $table DISABLE TRIGGER ${others}_before, DISABLE TRIGGER ${others}_insert;
			SELECT insert_components(3, 1);
			COMMIT});
		like($stderr, qr/ERROR:  0A000: a statement on table "poser_component" was not run to its end/,
			"a limit that is reached is an error where $always is always enabled");
	}
}
# With session_replication_role = replica only triggers that are enabled ALWAYS fire.
is( $node->safe_psql('db', q{
		BEGIN;
		SET LOCAL session_replication_role = replica;
		ALTER TABLE poser_component ENABLE ALWAYS TRIGGER poser_version_before, ENABLE ALWAYS TRIGGER poser_count_before;
		SELECT insert_components(3, 1);
		COMMIT;
		SELECT count(*) FROM poser_component}),
	"1\n4", 'a statement without such triggers may be left early');

done_testing();
