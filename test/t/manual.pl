# Every SQL example of README.md and of doc/poser.md runs as it stands.  The examples of
# a document run in their order, in one session of a new cluster.  The Python example of
# the manual is a file of test/clients.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use PoserTest;
use Test::More;

chdir "$FindBin::RealBin/../.." or die $!;
foreach my $document ('README.md', 'doc/poser.md')
{
	my $text = -f $document ? slurp_file($document) : '';
	my ($line, $inside) = (0, 0);
	my @script;

	# The examples keep their line numbers, for the error messages.
	foreach (split /\n/, $text)
	{
		$line++;
		if ($inside)
		{
			if (/^\s*```/) { $inside = 0; }
			else { $script[ $line - 1 ] = $_; }
		}
		elsif (/^\s*```sql\s*$/) { $inside = 1; }
	}
	cmp_ok(scalar(grep { defined } @script), '>', 0, "$document has SQL examples");

	my $node = new_node($document =~ s/\W/_/gr);
	my ($rc, $stdout, $stderr) = $node->psql('postgres',
		join("\n", map { $_ // '' } @script) . "\n", on_error_stop => 1);
	is($rc, 0, "$document: the examples run")
	  or diag("line numbers are the document's\n$stderr");
}

# The manual shows the filter for Alembic that test/clients tests.
my ($filter) = slurp_file('doc/poser.md') =~ /^```python\n("""A filter .*?)^```$/ms;
is($filter, slurp_file('test/clients/alembic_filter.py'), 'the filter in doc/poser.md is that of test/clients');

done_testing();
