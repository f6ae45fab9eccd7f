# Maintained views of random shape, beside writers, readers and changes of the tables.  In
# each snapshot that a session reads, a view has exactly the rows of its query.
#
# Each run begins with tables of random form: keys of one to three columns of many types,
# partitions, several parents of a child, several children of a parent, a tree; and with
# random views on them: counts and sums, filters, conditions of ON, COALESCE.  Then sessions
# do random work at all isolation levels, and each of them compares views with their
# queries: before, in and after its own changes, in the middle of statements, by cursors.
# Sessions are ended meanwhile.  At the end poser_check() and poser_recount() find nothing.
#
# Writers write rows of their own and refer to common parents.  So without Poser no writer waits
# for another one, there is no deadlock and, up to REPEATABLE READ, no serialization failure.
# The test requires the same with Poser.  With POSER_STRESS_PLAIN the views are not maintained,
# which shows that this is so without Poser.
#
# The test does a fixed amount of work, and makes the same choices each time.  With
# POSER_STRESS_SECONDS it goes on with new tables for that time, and the choices are random.
# POSER_TEST_SEED repeats them; the timing may differ.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use List::Util qw(max shuffle sum0);
use POSIX ();
use PostgreSQL::Test::Utils;
use PoserStress;
use PoserTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{POSER_TEST_SEED} || ($ENV{POSER_STRESS_SECONDS} ? int(rand(2**31)) : 882);
my $until = time() + ($ENV{POSER_STRESS_SECONDS} || 0);
my $plain = $ENV{POSER_STRESS_PLAIN};

use constant RUNS => 2;				 # at least
use constant WRITERS => 5;
use constant ROUNDS => 30;			 # of each writer in a run
use constant IDS => 40;				 # of children in each half of a writer's ids
use constant PRIVATE => 3;			 # parents that only one half of a writer refers to
use constant SHARED => WRITERS * 2; # parents that all refer to, one for each slot to update

my $node = new_node('views_stress', conf => <<'CONF');
max_connections = 40
max_prepared_transactions = 40
log_error_verbosity = verbose
restart_after_crash = on
log_min_messages = warning
deadlock_timeout = 300ms
autovacuum_naptime = 1s
CONF

sub maybe { return rand() < $_[0] }

sub some { return (shuffle(@_))[ 0 .. int(rand(@_)) ] }

sub quoted { return defined $_[0] ? "'" . $_[0] =~ s/'/''/gr . "'" : 'NULL' }

sub ident { return '"' . $_[0] =~ s/"/""/gr . '"' }

#
# Random tables
#

# Types of keys: the type, how its value of a number is written, and the types that a
# child's column may have.  "ignore_case" is there only with ICU.
my %key_type = (
	smallint => [ sub { $_[0] }, 'smallint' ],
	integer => [ sub { $_[0] - 5 }, 'integer', 'smallint', 'key_number' ],
	key_number => [ sub { $_[0] }, 'key_number', 'integer' ],
	bigint => [ sub { $_[0] }, 'bigint', 'integer', 'smallint' ],
	uuid => [ sub { sprintf '00000000-0000-0000-0000-%012d', $_[0] }, 'uuid' ],
	text => [ sub { "it's key \\ $_[0]" }, 'text', 'varchar(30)' ],
	'varchar(30)' => [ sub { "k$_[0]" }, 'varchar(30)', 'text' ],
	'char(12)' => [ sub { "k $_[0]" }, 'char(12)' ],
	# the same key can be written in several ways
	'text COLLATE ignore_case' => [ sub { one_of('key', 'KEY', 'Key') . " $_[0]" }, 'text COLLATE ignore_case' ],
	numeric => [ sub { $_[0] . one_of('', '.0', '.000') }, 'numeric', 'numeric(20,3)', 'integer' ],
	'double precision' => [ sub { $_[0] == 0 ? one_of('0', '-0') : "$_[0].25" }, 'double precision', 'real' ],
	date => [ sub { sprintf '20%02d-01-05', $_[0] }, 'date' ],
	bytea => [ sub { sprintf '\x00%02x', $_[0] }, 'bytea' ],
	'integer[]' => [ sub { "{$_[0],NULL}" }, 'integer[]' ],
	int4range => [ sub { sprintf '[%d,%d)', $_[0], $_[0] + 2 }, 'int4range' ],
	mood => [ sub { "m$_[0]" }, 'mood' ]);

my $has_icu = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_collation WHERE collprovider = 'i'}) > 0;
delete $key_type{'text COLLATE ignore_case'} unless $has_icu;

# Numbers of parents: those that all sessions refer to, then those of each slot.  A slot is a
# half of a writer: while one half's transaction is prepared, the writer works with the other.
sub parents_of { my ($slot) = @_; return map { SHARED + $slot * PRIVATE + $_ } 0 .. PRIVATE - 1 }

sub all_parents { return 0 .. SHARED + 2 * WRITERS * PRIVATE - 1 }

# A random key: its columns, each with its types.  A value that is an integer for the child
# must be one for the parent.
sub random_key
{
	my ($table) = @_;
	my $n = one_of(1, 1, 1, 2, 2, 3);

	return [ map {
			my $type = one_of(sort keys %key_type);
			my ($value, @types) = @{ $key_type{$type} };
			{ name => "${table}_k$_", type => $type, value => $value, child => one_of(@types) };
	} 1 .. $n ];
}

# The values of the key of parent "n", one for each column.  Each number has a key of its own.
#
# The numbers of common parents have few values in each column.  So an update of one column of
# a child's key often leads from one of them to another one.  It must never lead to the parent of
# another slot: then the writers would wait for each other without Poser, too.  So the parents
# of slots have values that no other parent has in any column.
sub key_values
{
	my ($parent, $n) = @_;
	my $columns = $parent->{key};
	my $base = @$columns == 1 ? 1000 : 8;

	return map {
		my $digit = $n >= SHARED ? $n : int($n / $base**$_) % $base;
		$columns->[$_]{value}->($digit);
	} 0 .. $#$columns;
}

# A condition that a parent is number "n".
sub parent_is
{
	my ($parent, $n, $alias) = @_;
	my @values = key_values($parent, $n);
	my $prefix = $alias ? "$alias." : '';

	return join ' AND ', map { "$prefix$parent->{key}[$_]{name} = " . quoted($values[$_]) . "::$parent->{key}[$_]{type}" } 0 .. $#values;
}

sub value_of_parent
{
	my ($parent, $n) = @_;
	my @values = key_values($parent, $n);
	return map { quoted($values[$_]) . "::$parent->{key}[$_]{type}" } 0 .. $#values;
}

sub key_names { return map { $_->{name} } @{ $_[0]{key} } }

my %amounts = (
	s => 'smallint', i => 'integer', b => 'bigint', n => 'numeric', money => 'amount',
	flag => 'boolean', status => 'text', note => 'varchar(3000)');

sub random_number
{
	my ($type) = @_;

	return undef if maybe(0.15);
	return one_of(0, 1, -1, int(rand(100)), one_of(-32768, 32767)) if $type eq 'smallint';
	return one_of(0, 1, -1, int(rand(1000)), one_of(-2147483648, 2147483647)) if $type eq 'integer';
	return one_of(0, 1, -1, int(rand(1000)), '-9223372036854775808', '9223372036854775807') if $type eq 'bigint';
	return one_of('NaN', 'Infinity', '-Infinity') if maybe(0.05);
	return sprintf '%.*f', int(rand(4)), rand(200) - 100 if maybe(0.7);
	return one_of('0', '0.00', '1e40', '-1e-30', '0.' . '0' x int(rand(60)) . '7', '123456789012345678901234567890.5');
}

# The value of a child's column as text, or undef.
sub random_amount
{
	my ($column) = @_;

	return random_number($amounts{$column}) if $column =~ /^(?:s|i|b|n|money)$/;
	return one_of('t', 'f', 't', undef) if $column eq 'flag';
	return one_of('open', 'closed', 'new', undef) if $column eq 'status';
	return one_of(undef, undef, 'short', 'look before', 'look after', 'x' x 2500);
}

# A child's table: the foreign keys to its parents, perhaps one to itself, partitions.
sub random_child
{
	my ($name, @parents) = @_;
	my $partitioned = one_of('', '', 'hash', 'list');
	my %child = (name => $name, partitioned => $partitioned, tree => $partitioned ne 'list' && maybe(0.6),
		# PostgreSQL does not give triggers the generated columns of partitions
		generated => !$partitioned && maybe(0.5));

	$child{links} = [ map { {
			parent => $_,
			columns => [ map { { name => "to_$_->{name}", type => $_->{child} } } @{ $_->{key} } ],
			delete => one_of('CASCADE', 'CASCADE', 'SET NULL', 'SET DEFAULT', 'NO ACTION'),
			update => one_of('CASCADE', 'CASCADE', 'CASCADE', 'NO ACTION'),
		} } @parents ];
	$child{columns} = [ shuffle('id', ($partitioned eq 'list' ? 'region' : ()), ($child{tree} ? 'up' : ()),
			sort(keys %amounts), map { $_->{name} } map { @{ $_->{columns} } } @{ $child{links} }) ];
	$child{key} = $partitioned eq 'list' ? 'id, region' : 'id';
	my %type = (%amounts, id => 'bigint NOT NULL', region => 'text NOT NULL', up => 'bigint',
		map { $_->{name} => $_->{type} } map { @{ $_->{columns} } } @{ $child{links} });
	$child{type} = \%type;
	$child{partitions} = $partitioned ? [ map { "${name}_$_" } 1 .. 3 ] : [];
	return \%child;
}

# The statement that makes a child, with its partitions.
sub child_sql
{
	my ($child) = @_;
	my $name = $child->{name};
	my @columns = map { "$_ $child->{type}{$_}" } @{ $child->{columns} };
	my $generated = $child->{generated} ? ', doubled bigint GENERATED ALWAYS AS (i::bigint * 2) STORED' : '';
	my $sql;

	$sql = "CREATE TABLE $name (gone int, " . join(', ', @columns) . "$generated)"
	  . ($child->{partitioned} ? ' PARTITION BY ' . ($child->{partitioned} eq 'hash' ? 'HASH (id)' : 'LIST (region)') : '')
	  . ";\nALTER TABLE $name DROP COLUMN gone, ADD PRIMARY KEY ($child->{key});\n";
	foreach (0 .. $#{ $child->{partitions} })
	{
		my $partition = $child->{partitions}[$_];
		my $bound = $child->{partitioned} eq 'hash' ? "WITH (MODULUS 3, REMAINDER $_)"
		  : $_ == 2 ? 'DEFAULT' : "IN ('r$_', 's$_')";
		if ($_ == 1)
		{
			# its columns have other numbers
			$sql .= "CREATE TABLE $partition (" . join(', ', reverse @columns) . "$generated);\n"
			  . "ALTER TABLE $name ATTACH PARTITION $partition FOR VALUES $bound;\n";
		}
		else
		{
			$bound = "FOR VALUES $bound" if $bound ne 'DEFAULT';
			$sql .= "CREATE TABLE $partition PARTITION OF $name $bound;\n";
		}
	}
	foreach my $link (@{ $child->{links} })
	{
		my $columns = join ', ', map { $_->{name} } @{ $link->{columns} };
		my $deferred = $link->{delete} eq 'NO ACTION' || $link->{update} eq 'NO ACTION' ? ' DEFERRABLE INITIALLY DEFERRED' : '';
		$sql .= "ALTER TABLE $name ADD FOREIGN KEY ($columns) REFERENCES $link->{parent}{name} ("
		  . join(', ', key_names($link->{parent})) . ") ON DELETE $link->{delete} ON UPDATE $link->{update}$deferred;\n";
		$sql .= "CREATE INDEX ON $name ($columns);\n" if maybe(0.8);
	}
	$sql .= "ALTER TABLE $name ADD FOREIGN KEY (up) REFERENCES $name (id) ON DELETE "
	  . one_of('CASCADE', 'SET NULL') . " ON UPDATE CASCADE;\nCREATE INDEX ON $name (up);\n" if $child->{tree};
	# functions that read in the middle of statements, before and after Poser's triggers
	$sql .= <<"SQL" if !$child->{partitioned} || maybe(0.5);
CREATE TRIGGER a_look BEFORE INSERT OR UPDATE ON $name FOR EACH ROW WHEN (NEW.note = 'look before') EXECUTE FUNCTION look_in_trigger();
CREATE TRIGGER a_look_after AFTER INSERT OR UPDATE ON $name FOR EACH ROW WHEN (NEW.note = 'look after') EXECUTE FUNCTION look_in_trigger();
CREATE TRIGGER z_look_after AFTER INSERT OR UPDATE ON $name FOR EACH ROW WHEN (NEW.note = 'look after') EXECUTE FUNCTION look_in_trigger();
SQL
	return $sql;
}

sub parent_sql
{
	my ($parent) = @_;
	my $name = $parent->{name};
	my @columns = (map({ "$_->{name} $_->{type} NOT NULL" } @{ $parent->{key} }), 'name text', 'extra int');
	my $keys = join ', ', key_names($parent);
	my $sql = "CREATE TABLE $name (gone int, " . join(', ', shuffle(@columns)) . ')'
	  . ($parent->{partitioned} ? " PARTITION BY HASH ($parent->{key}[0]{name})" : '')
	  . ";\nALTER TABLE $name DROP COLUMN gone, ADD " . ($parent->{unique} ? 'UNIQUE' : 'PRIMARY KEY') . " ($keys);\n";

	$sql .= "CREATE TABLE ${name}_$_ PARTITION OF $name FOR VALUES WITH (MODULUS 2, REMAINDER $_);\n"
	  foreach $parent->{partitioned} ? 0 .. 1 : ();
	$sql .= "INSERT INTO $name ($keys, name) VALUES (" . join(', ', value_of_parent($parent, $_)) . ", 'parent $_');\n"
	  foreach 0 .. SHARED - 1;
	return $sql;
}

#
# Random views
#

# Parents, children and views of a run.  The last view is sometimes maintained anew.
my (@parents, @children, @views, $has_policies, $is_tracked);

sub random_condition
{
	my ($alias) = @_;

	return one_of(
		"$alias.flag", "NOT $alias.flag", "$alias.flag IS NOT TRUE", "$alias.status = 'open'", "$alias.status IN ('open', 'new')",
		"$alias.status IS NULL OR $alias.i > 0", "is_odd($alias.i)", "is_odd($alias.i) AND $alias.b IS NOT NULL",
		"$alias.note IS NULL", "length($alias.note) > 100", "$alias.n > 0", "$alias.n <> 'NaN'", "coalesce($alias.s, 0) >= 0",
		"CASE WHEN $alias.flag THEN $alias.status = 'open' ELSE $alias.s > 0 END",
		"$alias.id % 3 <> 0", "lower($alias.status) ~ '^o'", "NULL::boolean", "$alias.money = ANY ('{0,1,1.0,NaN}'::numeric[])");
}

# A view of the children that refer to a parent by one link; without a link, a view of the tree.
sub random_view
{
	my ($name, $child, $link) = @_;
	my $parent = $link ? $link->{parent}{name} : $child->{name};
	my @keys = $link ? key_names($link->{parent}) : ('id');
	my @refers = $link ? (map { $_->{name} } @{ $link->{columns} }) : ('up');
	my @sums = ('s', 'i', 'b', 'n', 'money', $child->{generated} ? 'doubled' : ());
	my @counts = ('id', 'id', @sums, 'status', 'note', 'flag', @refers);
	my @group = map { "p.$_" } @keys;
	my @outputs = map { maybe(0.5) ? "p.$_" : "p.$_ AS " . ident("key $_") } @keys;
	my $n = 0;

	if ($link && maybe(0.3))
	{
		push @group, 'p.name';
		splice @outputs, rand(@outputs + 1), 0, 'p.name';
	}
	foreach (0 .. int(rand(7)))
	{
		my $aggregate = maybe(0.4) ? "count(c.@{[ one_of(@counts) ]})" : "sum(c.@{[ one_of(@sums) ]})";

		$aggregate .= ' FILTER (WHERE ' . random_condition('c') . ')' if maybe(0.4);
		$aggregate = "COALESCE($aggregate, " . one_of(0, -1, 7) . ')' if maybe(0.3);
		$n++;
		splice @outputs, rand(@outputs + 1), 0, "$aggregate AS a$n";
	}
	my $on = join ' AND ', shuffle(map { maybe(0.5) ? "c.$refers[$_] = p.$keys[$_]" : "p.$keys[$_] = c.$refers[$_]" } 0 .. $#keys);
	$on .= ' AND (' . random_condition('c') . ')' if maybe(0.3);
	my $options = one_of('', '', '', ' WITH (security_barrier)', ' WITH (security_invoker)');
	my $join = maybe(0.8) ? "$parent p LEFT JOIN $child->{name} c" : "$child->{name} c RIGHT JOIN $parent p";

	return { name => $name, child => $child, parent => $link ? $link->{parent} : undef, query_name => "${name}_query",
		sql => 'CREATE VIEW ' . ident($name) . "$options AS SELECT " . join(', ', @outputs)
		  . " FROM $join ON $on GROUP BY " . join(', ', shuffle(@group)) . ";\n" };
}

#
# Statements
#

# A query for what differs between a view and its query, in one snapshot: lines that begin
# with WRONG.
sub difference
{
	my ($view, $where) = @_;
	my ($name, $query) = map { ident($_) } @$view{ 'name', 'query_name' };
	my ($has, $lacks) = map { quoted("WRONG $view->{name} $_ ") } 'has', 'lacks';

	$where = $where ? " WHERE $where" : '';
	return "SELECT $has || d FROM (SELECT v::text AS d FROM $name v$where EXCEPT ALL SELECT q::text FROM $query q$where) only_view"
	  . " UNION ALL SELECT $lacks || d FROM (SELECT q::text AS d FROM $query q$where EXCEPT ALL SELECT v::text FROM $name v$where) only_query";
}

# The same as a variable of psql, which each session has.
sub compare { return ":view$_[0]{number}" }

# Compares some of a view's keys only: other plans.
sub compare_keys
{
	my ($view) = @_;
	my $parent = $view->{parent};
	return compare($view) if !$parent || $view->{sql} =~ /AS "key/;
	return difference($view, join ' OR ', map { '(' . parent_is($parent, $_) . ')' } some(map { int(rand(SHARED)) } 1 .. 4));
}

# Counts how often a view reads its counts.
sub served
{
	my ($view) = @_;
	my $query = quoted(ident($view->{query_name}));

	return $plain || $view == $views[-1] ? '' : "SELECT 'DONE ' || CASE WHEN poser_serves($query) THEN 'served' ELSE 'live' END;\n";
}

sub look { return "look(@{[ int(rand(@views)) ]})" }

sub some_ids
{
	my ($slot) = @_;
	return map { $slot * IDS + int(rand(IDS)) } 0 .. rand(rand(9));
}

# A random row of a child, as a list of [column, type, value], for columns of these names.
sub random_row
{
	my ($child, $slot, $id, %only) = @_;
	my %value = (id => $id, region => one_of('r0', 's0', 'r1', 's1', 'other'), up => one_of(undef, undef, $id));

	foreach my $link (@{ $child->{links} })
	{
		my $n = maybe(0.75) ? int(rand(SHARED)) : one_of(parents_of($slot));
		my @values = key_values($link->{parent}, $n);
		my $none = maybe(0.1);
		foreach (0 .. $#values)
		{
			$value{ $link->{columns}[$_]{name} } = $none || maybe(0.03) ? undef : $values[$_];
		}
	}
	$value{$_} = random_amount($_) foreach keys %amounts;
	return map {
		my $type = $child->{type}{$_} =~ s/ NOT NULL//r;
		my $value = $value{$_};
		$value =~ s/\.0*$// if defined $value && $type =~ /int|key_number/;
		[ $_, $type, $value ]
	} grep { !%only || $only{$_} } @{ $child->{columns} };
}

sub row_sql { return '(' . join(', ', map { quoted($_->[2]) . "::$_->[1]" } @_) . ')' }

# Makes the parents that only this slot refers to, if they are not there, so that a row can
# refer to them.
sub make_referred
{
	my ($child, $slot) = @_;

	return join '', map {
		my $parent = $_->{parent};
		"INSERT INTO $parent->{name} (" . join(', ', key_names($parent)) . ', name) VALUES '
		  . join(', ', map { '(' . join(', ', value_of_parent($parent, $_)) . ", 'private')" } parents_of($slot))
		  . " ON CONFLICT DO NOTHING;\n"
	} @{ $child->{links} };
}

# A file for COPY.  A command that reads from its script would leave its data there when it
# fails.
my $files = 0;

sub copy_file
{
	my ($content) = @_;
	our $directory //= PostgreSQL::Test::Utils::tempdir();
	my $file = "$directory/copy.$$." . $files++ % 50;

	unlink $file;
	append_to_file($file, $content);
	return $file;
}

# A statement on a few rows of a slot.
sub statement
{
	my ($slot) = @_;
	my $child = one_of(@children);
	my $name = $child->{name};
	my @ids = some_ids($slot);
	my $in = "id IN (" . join(', ', @ids) . ')';
	my $columns = join ', ', @{ $child->{columns} };
	my $target = @{ $child->{partitions} } && maybe(0.3) ? one_of(@{ $child->{partitions} }) : $name;
	my $before = make_referred($child, $slot);
	my %settable = map { $_ => 1 } some(grep { !/^(?:id|region|up)$/ } @{ $child->{columns} });
	my %rows = map { $_ => [ random_row($child, $slot, $_) ] } @ids;
	my $values = join ",\n\t", map { row_sql(@{ $rows{$_} }) } sort keys %rows;
	my @link_sets = map { my $link = $_;
		my %its = map { $_->{name} => 1 } @{ $link->{columns} };
		join ', ', map { "$_->[0] = " . quoted($_->[2]) . "::$_->[1]" } random_row($child, $slot, 0, %its) } @{ $child->{links} };
	my $set = join ', ', map { "$_->[0] = " . quoted($_->[2]) . "::$_->[1]" } random_row($child, $slot, 0, %settable);
	my $move = one_of(@link_sets);
	my $parent = one_of(@parents);
	my $private = one_of(parents_of($slot));
	my $other = one_of(parents_of($slot));
	my $one = $ids[0];
	my $new = $slot * IDS + int(rand(IDS));
	my $of_slot = 'id BETWEEN ' . ($slot * IDS) . ' AND ' . ($slot * IDS + IDS - 1);

	return one_of(
		(sub { "${before}INSERT INTO $name ($columns) VALUES $values ON CONFLICT ($child->{key}) DO NOTHING;" }) x 2,
		(sub { "${before}INSERT INTO $name ($columns) VALUES $values ON CONFLICT ($child->{key}) DO UPDATE SET "
				  . join(', ', map { "$_ = EXCLUDED.$_" } sort keys %settable) . ';' }) x 3,
		sub { "${before}DELETE FROM $name WHERE $in; INSERT INTO $name ($columns) VALUES $values RETURNING 'looked ' || @{[ look() ]};" },
		sub {
			"${before}DELETE FROM $name WHERE $in;\n\\copy $name ($columns) from '" . copy_file(join '', map {
				join("\t", map { defined $_->[2] ? $_->[2] =~ s/\\/\\\\/gr : '\N' } @{ $rows{$_} }) . "\n" } sort keys %rows) . "'";
		},
		(sub { "${before}UPDATE $target SET $set WHERE $in;" }) x 4,
		sub { "${before}UPDATE $target SET $set WHERE $of_slot AND (" . random_condition($target) . ');' },
		(sub { "${before}UPDATE $target SET $move WHERE $in;" }) x 3,
		sub { "${before}UPDATE $name SET $move WHERE $in AND @{[ look() ]} RETURNING 'looked ' || @{[ look() ]};" },
		sub { "${before}UPDATE $name SET $set WHERE $in AND look_at_once(@{[ int(rand(@views)) ]});" },
		(sub { "DELETE FROM $target WHERE $in;" }) x 2,
		sub { "DELETE FROM $name WHERE $of_slot AND (" . random_condition($name) . ');' },
		sub { "UPDATE $name SET id = $new WHERE id = $one AND NOT EXISTS (SELECT FROM $name WHERE id = $new);" },
		sub { $child->{tree}
			  ? "UPDATE $name SET up = " . one_of('NULL', "(SELECT max(t.id) FROM $name t WHERE t.id BETWEEN @{[ $slot * IDS ]} AND $new)") . " WHERE $in;"
			  : "UPDATE $name SET " . ($child->{partitioned} eq 'list' ? q{region = 'r1'} : 'flag = NOT flag')
				. " WHERE id = $one" . ($child->{partitioned} eq 'list' ? " AND NOT EXISTS (SELECT FROM $name WHERE id = $one AND region = 'r1')"
				  . " AND region = (SELECT min(region) FROM $name WHERE id = $one)" : '') . ';' },
		sub {
			"${before}MERGE INTO $name t USING (VALUES $values) AS s ($columns) ON t.id = s.id"
			  . ($child->{partitioned} eq 'list' ? ' AND t.region = s.region' : '')
			  . " WHEN MATCHED AND s.flag THEN DELETE WHEN MATCHED AND s.status = 'new' THEN DO NOTHING"
			  . " WHEN MATCHED THEN UPDATE SET " . join(', ', map { "$_ = s.$_" } sort keys %settable)
			  . " WHEN NOT MATCHED AND s.status = 'closed' THEN DO NOTHING WHEN NOT MATCHED THEN INSERT ($columns) VALUES ("
			  . join(', ', map { "s.$_" } @{ $child->{columns} }) . ');';
		},
		sub {
			my ($few, $rest) = ("id = $ids[0]", join(', ', grep { $_ != $ids[0] } @ids) || -1);
			"${before}WITH d AS (DELETE FROM $name WHERE $few RETURNING *), u AS (UPDATE $name SET $set WHERE id IN ($rest) RETURNING *)\n"
			  . compare(one_of(@views)) . ';';
		},
		sub { "${before}WITH u AS (UPDATE $name SET $set WHERE $in RETURNING *)\nSELECT FROM u WHERE @{[ look() ]};" },
		# parents
		sub { "UPDATE $parent->{name} SET name = 'name ' || random() WHERE " . parent_is($parent, one_of($private, $slot % SHARED)) . ';' },
		sub { "UPDATE $parent->{name} SET name = name WHERE " . parent_is($parent, one_of($private, $slot % SHARED)) . ';' },
		(sub { children_of_no_action($parent, $private) . "DELETE FROM $parent->{name} WHERE " . parent_is($parent, $private) . ';' }) x 2,
		sub {
			my $is = parent_is($parent, $private);
			children_of_no_action($parent, $private) . "DELETE FROM $parent->{name} WHERE $is;\n"
			  . "INSERT INTO $parent->{name} (" . join(', ', key_names($parent)) . ") VALUES (" . join(', ', value_of_parent($parent, $private)) . ');';
		},
		(sub { $private == $other ? '' : children_of_no_action($parent, $private, 'move') . move_parent($parent, $private, $other) }) x 2,
		sub { "UPDATE $parent->{name} SET extra = 1 WHERE " . parent_is($parent, $private) . " AND @{[ look() ]};" },
		sub { <<"SQL" },
DO \$do\$
BEGIN
	DELETE FROM $name WHERE $in;
	UPDATE $name SET $set WHERE $of_slot AND $in;
	BEGIN
		DELETE FROM $name WHERE $of_slot;
		PERFORM @{[ look() ]};
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
		PERFORM @{[ look() ]};
	END;
END
\$do\$;
SQL
		# nothing is recorded in this role
		$is_tracked ? () : sub { "${before}SET LOCAL session_replication_role = replica;\n"
			  . one_of($child->{tree} ? () : "DELETE FROM $name WHERE $in", "UPDATE $target SET $set WHERE $in", "INSERT INTO $name ($columns) VALUES $values ON CONFLICT ($child->{key}) DO NOTHING")
			  . ";\n" . compare(one_of(@views)) . ";\nSET LOCAL session_replication_role = origin;" },
		sub { "SET CONSTRAINTS ALL @{[ one_of('IMMEDIATE', 'DEFERRED') ]};" },
	)->();
}

# What is to be done with a parent's children before it goes, or moves, where their foreign
# key does nothing.
sub children_of_no_action
{
	my ($parent, $n, $moves) = @_;
	my @values = value_of_parent($parent, $n);
	my $sql = '';

	foreach my $child (@children)
	{
		foreach my $link (grep { $_->{parent} == $parent && $_->{ $moves ? 'update' : 'delete' } eq 'NO ACTION' } @{ $child->{links} })
		{
			my $is = join ' AND ', map { "$link->{columns}[$_]{name} = $values[$_]" } 0 .. $#values;
			$sql .= one_of("DELETE FROM $child->{name} WHERE $is;\n",
				"UPDATE $child->{name} SET " . join(', ', map { "$_->{name} = NULL" } @{ $link->{columns} }) . " WHERE $is;\n");
		}
	}
	return $sql;
}

# Gives a parent the key of another number, if that is free.
sub move_parent
{
	my ($parent, $n, $other) = @_;

	return "UPDATE $parent->{name} SET (" . join(', ', key_names($parent)) . ') = ROW(' . join(', ', value_of_parent($parent, $other)) . ') WHERE '
	  . parent_is($parent, $n) . " AND NOT EXISTS (SELECT FROM $parent->{name} WHERE " . parent_is($parent, $other) . ");\n";
}

# A writer's transaction.  "name" is that of a prepared one, "excluded" tells that changes
# of the tables are excluded already, by another prepared transaction.
sub transaction_of
{
	my ($slot, $name, $excluded) = @_;
	my $level = one_of(('READ COMMITTED') x 3, 'REPEATABLE READ', 'SERIALIZABLE');
	my $end = one_of(('COMMIT') x 6, 'ROLLBACK', $excluded || !$name ? () : ('PREPARE') x 2);
	my $begin = "BEGIN ISOLATION LEVEL $level;\n";
	# the snapshot is taken after the wait for the lock, and a prepared transaction keeps the lock
	my $script = $excluded ? $begin : <<"SQL";
SELECT pg_advisory_lock_shared(1) \\g /dev/null
${begin}SELECT pg_advisory_xact_lock_shared(1), pg_advisory_unlock_shared(1) \\g /dev/null
SQL
	my $cursors = 0;

	my $restricted = maybe(0.3);
	$script .= "SET LOCAL ROLE writer;\n" if $restricted;
	$script .= compare(one_of(@views)) . ";\n" if maybe(0.3);
	my $next = sub {
		my $statement;
		# COPY is not for roles with policies
		do { $statement = statement($slot) } while ($restricted && $statement =~ ($has_policies ? qr/replication_role|\\copy/ : qr/replication_role/));
		$script .= "$statement\n";
	};
	foreach (0 .. rand(rand(12)))
	{
		if (maybe(0.1) && $end ne 'PREPARE')
		{
			$cursors++;
			$script .= "DECLARE c$cursors CURSOR FOR " . compare(one_of(@views)) . ";\n";
			$script .= "FETCH 1 FROM c$cursors;\n" if maybe(0.3);
		}
		$next->();
		$script .= compare(one_of(@views)) . ";\n" if maybe(0.3);
		$script .= compare_keys(one_of(@views)) . ";\n" if maybe(0.1);
		$script .= served(one_of(@views)) if maybe(0.1);
		$script .= "SELECT pg_sleep(0.005 * random()) \\g /dev/null\n" if maybe(0.1);
		next unless maybe(0.2);
		my $ending = one_of('ROLLBACK TO', 'ROLLBACK TO', 'RELEASE');
		$script .= "SAVEPOINT s;\n";
		foreach (0 .. rand(3))
		{
			$next->();
			$script .= compare(one_of(@views)) . ";\n" if maybe(0.4);
		}
		$script .= "$ending s;\n";
		$script .= compare(one_of(@views)) . ";\n" if maybe(0.4);
	}
	$script .= "FETCH ALL FROM c$_;\n" foreach 1 .. $cursors;
	return ("$script$end;\n", $level) if $end ne 'PREPARE';
	my $fate = maybe(0.6) ? 'kept' : 'rolled back';
	return ("${script}PREPARE TRANSACTION '$name $fate';\n", $level, "$name $fate");
}

# Sessions are ended, and a failed transaction goes on; the query of the last view is not
# always there; and an update of one column of a child's key can leave the child without a parent.
# SERIALIZABLE fails by itself.
sub expected
{
	return qr/^(?:57P01:|25P02:|23503:|3B001:|34000:|(?:42P01: relation|42501: permission denied for view) "?\Q$views[-1]{query_name}\E"?)/;
}

my $serializable = qr/^40001:/;

# A writer's rounds.  While a transaction is prepared, the writer goes on with its other
# slot.
sub writer
{
	my ($number) = @_;
	my ($prepared, $half);

	return sub {
		my ($round) = @_;

		my $excluded = $prepared;
		$half = $prepared ? 1 - $half : int(rand(2));
		my ($script, $level, $gid) = transaction_of($number * 2 + $half, $round < ROUNDS - 1 ? "writer$number.$round" : '', $prepared);
		if ($prepared && (maybe(0.6) || $round >= ROUNDS - 1))
		{
			$script .= finish_prepared($prepared) . "\n" . compare(one_of(@views)) . ";\n";
			undef $prepared;
		}
		elsif ($prepared)
		{
			$half = 1 - $half;
		}
		$prepared = $gid if $gid;
		# If the other transaction could not be prepared, it excludes no changes of the tables.
		return ('writes', $script,
			$level eq 'SERIALIZABLE' || $excluded ? qr/^(?:40001|42704.*prepared transaction)/ : qr/^42704:.*prepared transaction/);
	};
}

# Reads, with a snapshot that can be older than a change of the tables.
sub reader
{
	my $level = one_of('READ COMMITTED', 'REPEATABLE READ', 'REPEATABLE READ', 'SERIALIZABLE');
	my $script = "BEGIN ISOLATION LEVEL $level;\n";

	$script .= "SET LOCAL ROLE @{[ one_of('guest', 'writer') ]};\n" if maybe(0.4);
	$script .= "SET LOCAL $_;\n" foreach maybe(0.3) ? some('enable_hashjoin = off', 'enable_mergejoin = off', 'enable_indexscan = off',
		'enable_nestloop = off', 'enable_hashagg = off', 'jit_above_cost = 0', 'min_parallel_table_scan_size = 0',
		'parallel_setup_cost = 0', 'parallel_tuple_cost = 0') : ();
	$script .= "SELECT FROM pg_class LIMIT 1;\nSELECT pg_sleep(0.05 * random()) \\g /dev/null\n" if maybe(0.5);
	$script .= "SELECT pg_advisory_xact_lock_shared(2) \\g /dev/null\n";
	$script = "SELECT pg_advisory_lock_shared(2) \\g /dev/null\n$script" . "SELECT pg_advisory_unlock_shared(2) \\g /dev/null\n" if maybe(0.5);
	foreach (0 .. rand(5))
	{
		my $view = one_of(@views);
		$script .= served($view) . (maybe(0.7) ? compare($view) : compare_keys($view)) . ";\n";
		$script .= "SELECT pg_sleep(0.02 * random()) \\g /dev/null\n" if maybe(0.3);
	}
	return ('reads', "${script}COMMIT;\n", $level eq 'SERIALIZABLE' ? $serializable : undef);
}

# The owner's work beside writers.  It finds nothing to correct.
sub house
{
	my $view = one_of(@views);
	my $of = quoted(ident($view->{name}));
	my ($what, $statement) = @{ one_of(
			[ 'recounts', "SELECT 'WRONG: recounted ' || n FROM poser_recount($of) n WHERE n <> 0;" ],
			[ 'checks', q{SELECT 'WRONG: ' || object || ': ' || problem FROM poser_check();} ],
			[ 'maintains', "SELECT poser_maintain($of) \\g /dev/null" ],
			[ 'vacuums', 'VACUUM ' . one_of('ANALYZE ', '') . ident("$view->{name}_maintained") . ';' ],
			[ 'lists', q{SELECT 'WRONG: ' || view::text || ': ' || problem FROM poser_views WHERE problem <> '';} ]) };

	return ($what, "$statement\nSELECT pg_sleep(0.1 * random()) \\g /dev/null\n") if $what eq 'vacuums';
	return ($what, "BEGIN;\nSELECT pg_advisory_xact_lock_shared(3), pg_advisory_xact_lock_shared(1) \\g /dev/null\n$statement\nCOMMIT;\n"
		  . "SELECT pg_sleep(0.1 * random()) \\g /dev/null\n");
}

# Changes of the tables: without writers, and "alone" without readers.
sub alter
{
	my $child = one_of(@children);
	my $name = $child->{name};
	my $parent = one_of(@parents);
	my $n = int(rand(SHARED));
	my $free = (all_parents())[-1] + 1;
	my $slot = int(rand(2 * WRITERS));
	my $end = one_of('COMMIT', 'COMMIT', 'ROLLBACK');
	my $view = $views[-1];
	my $its = quoted(ident($view->{name}));
	my $its_query = ident($view->{query_name});
	my $bookkeeping = ident("$view->{name}_maintained");
	my $check = join '', map { compare($_) . ";\n" } @views;
	my $keys = join ', ', key_names($parent);
	my $key = $parent->{key}[0]{name};
	my $all = "INSERT INTO $parent->{name} ($keys, name) VALUES "
	  . join(', ', map { '(' . join(', ', value_of_parent($parent, $_)) . ", 'again')" } 0 .. SHARED - 1)
	  . " ON CONFLICT DO NOTHING;\n";
	# ALTER TABLE does not wait for deferred triggers
	my $few = statement($slot) . "\nSET CONSTRAINTS ALL IMMEDIATE;\n$check";
	my $partition = one_of($name, @{ $child->{partitions} });
	my $each = sub { my ($function) = @_; return join '', map { "SELECT $function(" . quoted(ident($_->{name})) . ") \\g /dev/null\n" } @views; };
	my @triggers = some(map { "poser_maintain_$_" } 'before', 'insert', 'update', 'delete', 'truncate');
	my ($disable, $enable) = map { my $how = $_; join '', map { "ALTER TABLE $partition $how TRIGGER $_;\n" } @triggers } 'DISABLE', one_of('ENABLE', 'ENABLE ALWAYS');
	my $grant = "GRANT SELECT ON $its_query TO writer, guest;\n";
	my $level = level();

	# the history of a tracked table does not have what happens to a detached partition
	my $delete = $is_tracked || !$child->{partitioned} ? 'SELECT' : "DELETE FROM $child->{partitions}[1] WHERE id % 5 = 0";

	my ($what, $locks, $script) = @{ one_of(
			[ 'truncates a child', '1, 2', "BEGIN;\nTRUNCATE $name;\n$check$few$end;\n$check" ],
			[ 'truncates a partition', '1, 2', "BEGIN;\nTRUNCATE @{[ $child->{tree} ? $name : $partition ]};\n$check$few$end;\n$check" ],
			[ 'truncates a parent', '1, 2', "BEGIN;\nTRUNCATE $parent->{name} CASCADE;\n$check$all$check$end;\n$check" ],
			[ 'deletes common parents', '1', "BEGIN $level;\n" . join('', map {
					children_of_no_action($parent, $_) . "DELETE FROM $parent->{name} WHERE " . parent_is($parent, $_) . ";\n"
				} some(0 .. SHARED - 1)) . "$check$all$few$end;\n" ],
			[ 'moves a common parent', '1', "BEGIN;\n" . children_of_no_action($parent, $n, 'move') . move_parent($parent, $n, $free)
				. $check . children_of_no_action($parent, $free, 'move') . move_parent($parent, $free, $n) . "$check$end;\n" ],
			[ 'renames a column', '1, 2', <<"SQL" ],
BEGIN;
ALTER TABLE $name RENAME status TO state;
ALTER TABLE $parent->{name} RENAME $key TO renamed;
UPDATE $name SET state = 'open' WHERE id % 7 = 0;
${check}ALTER TABLE $name RENAME state TO status;
ALTER TABLE $parent->{name} RENAME renamed TO $key;
$few$end;
SQL
			[ 'alters a child', '1, 2', <<"SQL" ],
BEGIN;
ALTER TABLE $name ADD COLUMN other int DEFAULT 1, ALTER id SET STATISTICS 10, ADD CHECK (id >= 0);
${few}ALTER TABLE $name DROP COLUMN other;
$few$end;
SQL
			[ 'rewrites', '1, 2', one_of("VACUUM FULL $name", "VACUUM FULL $parent->{name}", 'ANALYZE',
					$plain ? () : ("VACUUM FULL $bookkeeping", "REINDEX TABLE $bookkeeping")) . ";\n$check" ],
			$plain ? () : (
				[ 'disables triggers', '1, 2', <<"SQL" ],
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
$disable$check$few$enable@{[ $each->('poser_maintain') ]}@{[ $each->('poser_recount') ]}$check$few$end;
$check
SQL
				([ 'maintains anew', '3, 1, 2', <<"SQL" ]) x 2,
BEGIN;
SELECT poser_unmaintain($its) \\g /dev/null
CREATE VIEW $its_query AS SELECT * FROM @{[ ident($view->{name}) ]};
${grant}${few}DROP VIEW $its_query;
SELECT poser_maintain($its@{[ one_of('', ', false') ]}) \\g /dev/null
${grant}${few}SELECT poser_maintain($its) \\g /dev/null
$check$end;
$check
SQL
				[ 'maintains beside writers', '3', <<"SQL" ],
SELECT pg_advisory_lock(1), pg_advisory_lock(2) \\g /dev/null
SELECT poser_unmaintain($its) \\g /dev/null
SELECT pg_advisory_unlock(1), pg_advisory_unlock(2) \\g /dev/null
SELECT poser_maintain($its@{[ one_of('', ', false') ]}) \\g /dev/null
${grant}SELECT pg_sleep(0.1 * random()) \\g /dev/null
SELECT poser_maintain($its) \\g /dev/null
$check
SQL
				$child->{partitioned} eq 'list' ? ([ 'detaches a partition', '1, 2', <<"SQL" ]) x 2 : ())) };
BEGIN;
ALTER TABLE $name DETACH PARTITION $child->{partitions}[1];
${check}$delete;
ALTER TABLE $name ATTACH PARTITION $child->{partitions}[1] FOR VALUES IN ('r1', 's1');
$check$few@{[ $each->('poser_maintain') ]}$check$end;
$check
SQL

	return ($what, join('', map { "SELECT pg_advisory_lock($_) \\g /dev/null\n" } split /, /, $locks)
		  . "${script}SELECT pg_advisory_unlock_all() \\g /dev/null\nSELECT pg_sleep(0.3 * random()) \\g /dev/null\n",
		$script =~ /SERIALIZABLE/ ? $serializable : undef);
}

#
# A run
#

my %total;
my %disturbed = (cancel => 0, terminate => 0);

sub make_world
{
	my $parents = one_of(1, 2, 2);
	my $definitions = '';

	@parents = map { { name => "parent$_", key => random_key("p$_"), partitioned => maybe(0.2), unique => maybe(0.2) } } 1 .. $parents;
	# a partition key is of a type with a hash, and is compared as the key is
	$_->{partitioned} &&= $_->{key}[0]{type} !~ /ignore_case|\[\]/ foreach @parents;
	@children = (random_child('child1', @parents), maybe(0.6) ? random_child('child2', one_of(@parents)) : ());
	@views = ();
	my @links = map { my $child = $_; map { [ $child, $_ ] } @{ $child->{links} } } @children;
	my @names = ('v', 'longer_name_of_a_view', "It's \"view\"", 'View 4', 'v5', 'v6', 'v7', 'v8');
	push @views, random_view(shift @names, @$_) foreach @links, one_of(@links), one_of(@links);
	push @views, random_view(shift @names, $_, undef) foreach grep { $_->{tree} } @children;
	@views = shuffle(@views);
	$views[$_]{number} = $_ foreach 0 .. $#views;

	my $role = one_of('postgres', 'owner', 'owner');
	$has_policies = maybe(0.25);
	$is_tracked = maybe(0.25) && !$plain;
	my $collation = $has_icu ? "CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);" : '';
	$definitions = "SET ROLE $role;\nSET client_min_messages = warning;\n$collation\n" . <<'SQL'
CREATE DOMAIN key_number AS integer;
CREATE DOMAIN amount AS numeric;
CREATE FUNCTION is_odd(i integer) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN i % 2 <> 0; END $$;
CREATE TABLE comparison (n int PRIMARY KEY, view text, query text);
CREATE FUNCTION look(number int) RETURNS boolean VOLATILE LANGUAGE plpgsql AS $$
DECLARE
	difference text;
	c comparison;
BEGIN
	SELECT * INTO c FROM comparison WHERE n = number;
	EXECUTE format('SELECT string_agg(d, %L) FROM (SELECT ''has '' || d AS d FROM (SELECT v::text AS d FROM %I v EXCEPT ALL SELECT q::text FROM %I q) o
		UNION ALL SELECT ''lacks '' || d FROM (SELECT q::text AS d FROM %3$I q EXCEPT ALL SELECT v::text FROM %2$I v) o) d', ', ', c.view, c.query) INTO difference;
	IF difference IS NOT NULL THEN
		RAISE EXCEPTION 'WRONG % %', c.view, difference;
	END IF;
	RETURN true;
END
$$;
CREATE FUNCTION look_at_once(number int) RETURNS boolean STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN look(number); END $$;
CREATE FUNCTION look_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM look(n) FROM (SELECT n FROM comparison ORDER BY random() LIMIT 1) c;
	RETURN NEW;
END
$$;
SQL
	  . 'CREATE TYPE mood AS ENUM (' . join(', ', map { "'m$_'" } 0 .. 63) . ");\n"
	  . join('', map({ parent_sql($_) } @parents), map({ child_sql($_) } @children), map({ $_->{sql} } @views))
	  . join('', map { "INSERT INTO comparison VALUES ($_, " . quoted($views[$_]{name}) . ', ' . quoted($views[$_]{query_name}) . ");\n" } 0 .. $#views)
	  . join('', map { "GRANT ALL ON $_->{name} TO writer;\nGRANT SELECT ON $_->{name} TO guest;\n" } @parents, @children)
	  . join('', map { my $child = $_; map { "GRANT ALL ON $_ TO writer;\n" } @{ $child->{partitions} } } @children)
	  . "GRANT SELECT ON comparison TO PUBLIC;\n"
	  . join('', map { 'GRANT SELECT ON ' . ident($_->{name}) . " TO writer, guest;\n" } @views)
	  . ($has_policies ? join('', map { "ALTER TABLE $_->{name} ENABLE ROW LEVEL SECURITY;\nCREATE POLICY own ON $_->{name} USING (current_user <> 'guest'"
			  . ($_->{columns} ? ' OR id % 2 = 0' : '') . ");\n" } some(@parents, @children)) : '')
	  . ($is_tracked ? join('', map { "SELECT poser_track('$_->{name}') \\g /dev/null\n" } some(@parents, @children)) : '');

	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS db WITH (FORCE)');
	create_database($node, 'db');
	$node->safe_psql('db', 'GRANT CREATE ON SCHEMA public TO owner');
	$node->safe_psql('db', $definitions);
	# some rows that are there before
	my $load = join "\n", map { statement(int(rand(2 * WRITERS))) } 1 .. 10;
	$node->psql('db', $load =~ s/look(?:_at_once)?\(\d+\)/true/gr =~ s/:view\d+/SELECT/gr);
	$node->safe_psql('db', join '', "SET ROLE $role;\n", map {
			my $view = $_;
			$plain ? 'CREATE VIEW ' . ident($view->{query_name}) . $view->{sql} =~ s/^.*?(?=(?: WITH \(.*?\))? AS SELECT)//sr
			  : 'SELECT poser_maintain(' . quoted(ident($view->{name})) . one_of('', ', false') . ");\nSELECT poser_maintain("
			  . quoted(ident($view->{name})) . ");\n"
	} @views);
	$node->safe_psql('db', join '', map { 'GRANT SELECT ON ' . ident($_->{query_name}) . " TO writer, guest;\n" } @views);
	return $definitions;
}

my $over = PostgreSQL::Test::Utils::tempdir() . '/over';

sub first_of_session
{
	my ($name) = @_;

	return join('', map { "\\set view$_->{number} " . quoted(difference($_)) . "\n" } @views) . <<"SQL";
SET client_min_messages = error;
SET lock_timeout = '60s';
SELECT format('%s PREPARED %L', CASE WHEN gid ~ 'kept' THEN 'COMMIT' ELSE 'ROLLBACK' END, gid)
FROM pg_prepared_xacts WHERE gid LIKE '$name.%' \\gexec
SQL
}

sub finish_all
{
	$node->safe_psql('db', finish_prepared($_))
	  foreach split /\n/, $node->safe_psql('db', 'SELECT gid FROM pg_prepared_xacts');
	return;
}

# One run with a seed of its own.  Returns whether all was right.
sub run
{
	my ($its_seed) = @_;

	srand($its_seed);
	unlink $over;
	note "run with POSER_TEST_SEED=$its_seed";
	my $definitions = make_world();
	my $offset = -s $node->logfile;
	my $others = sub { !-e $over };
	my @start = (first => '', expected => expected());
	my %writer = map { start_worker($node, "writer$_", more => sub { $_[0] <= ROUNDS }, work => writer($_), @start,
			first => first_of_session("writer$_")) => 1 } 0 .. WRITERS - 1;
	my %other = map { $_ => 1 } (
		(map { start_worker($node, "reader$_", more => $others, work => \&reader, @start, first => first_of_session('reader')) } 1 .. 2),
		$plain ? () : start_worker($node, 'house', more => $others, work => \&house, @start, first => first_of_session('house')),
		start_worker($node, 'alter', more => $others, work => \&alter, @start, first => first_of_session('alter')));
	my @waits;

	# Meanwhile sessions are ended, and no writer waits for another.
	while (%writer)
	{
		my $pid = waitpid(-1, POSIX::WNOHANG());
		delete $writer{$pid}, delete $other{$pid} if $pid > 0;
		sleep(0.05 + rand(0.1));
		next if $pid > 0;
		push @waits, grep { $_ } eval { $node->safe_psql('db', <<'SQL') };
SELECT a.application_name || ' waits for ' || b.application_name || ' (' || a.wait_event || '): ' || left(a.query, 500)
FROM pg_stat_activity a, unnest(pg_blocking_pids(a.pid)) blocking, pg_stat_activity b
WHERE a.application_name ~ 'stress (writer|reader)' AND a.wait_event_type = 'Lock' AND a.wait_event IN ('tuple', 'transactionid')
	AND b.pid = blocking AND b.application_name ~ 'stress writer'
SQL
		next unless maybe(0.1);
		$disturbed{terminate}++ if eval { $node->safe_psql('db', <<'SQL') };
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name ~ 'stress (writer|reader)' AND state <> 'idle' ORDER BY random() LIMIT 1
SQL
	}
	# those of sessions that were ended in their last round
	finish_all();
	append_to_file($over, '');
	while (%other)
	{
		my $pid = waitpid(-1, 0);
		last if $pid < 0;
		delete $other{$pid};
	}

	my ($done, $met, @problems) = workers_report();
	$total{$_} += $done->{$_} foreach keys %$done;
	$total{"error $_"} += $met->{$_} foreach keys %$met;
	my @checks = (
		is(first_few(@problems), '', 'no session has met an unexpected error or a wrong view'),
		is(first_few(@waits), '', 'no writer was seen to wait for another'),
		is(first_few(slurp_file($node->logfile, $offset) =~ /^.*(?:terminated by signal|PANIC|TRAP|(?:ERROR|FATAL):  XX|WARNING:  (?!01000: (?:there is no|PID|columns of table)|25P01)).*/mg),
			'', 'the server has met no unexpected error'));
	push @checks, is($node->safe_psql('db', join '', map { difference($_) . ";\n" } @views), '', 'at the end each view is its query');
	push @checks, is($node->safe_psql('db', 'SELECT * FROM poser_check()'), '', 'at the end poser_check() finds nothing');
	if (!$plain)
	{
		push @checks,
		  is($node->safe_psql('db', join ' UNION ALL ', map { "SELECT 'live: ' || " . quoted($_->{name}) . ' WHERE NOT poser_serves('
				  . quoted(ident($_->{query_name})) . ')' } @views), '', 'at the end each view reads its counts'),
		  is($node->safe_psql('db', 'SELECT ' . join ' + ', map { 'poser_recount(' . quoted(ident($_->{name})) . ')' } @views), 0,
			'at the end there is nothing to correct');
	}
	return 1 if !grep { !$_ } @checks;
	diag("POSER_TEST_SEED=$its_seed");
	note $definitions =~ s/CREATE TYPE mood.*\n//r;
	return 0;
}

$node->safe_psql('postgres', 'CREATE ROLE owner LOGIN; CREATE ROLE writer LOGIN; CREATE ROLE guest LOGIN');
for (my $n = 0; $n < RUNS || time() < $until; $n++)
{
	last if !run($seed + $n) && $ENV{POSER_STRESS_SECONDS};
}
note explain({ done => \%total, disturbed => \%disturbed });
cmp_ok($total{$_} // 0, '>', 0, "done: $_") foreach 'writes', 'reads', $plain ? () : 'served';
done_testing();
