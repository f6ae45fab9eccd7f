/*
 * sum.c
 *	  Sums of numeric values.
 *
 * What sum(numeric) returns does not follow from the sum of the finite values alone.  The result
 * is null if there is no value.  It is NaN or infinite if a value is.  It has as many digits
 * after the point as the value with the most of them.  When such a value is taken away, the
 * result must be as it was before.  So a maintained view keeps two numbers: the sum of the
 * finite values, and a tally of all values.
 *
 * The tally is a whole number.  Its digits to the base 10^18 say how many values of a kind
 * there are.  The digit at place 0 is of -Infinity, at place 1 of Infinity, at place 2 of NaN,
 * and at place 3 + s of the finite values with s digits after the point (their scale).  So a
 * value's tally is a power of 10^18, and tallies are added and taken away like the sums.
 *
 * Scales over 1000 share the digit of scale 1000.  Only a column without a declared precision
 * can have them.  The sum of such values is shown without zeros at its end.
 *
 * The invariant: poser_sum_of() of the sum and the tally of some rows is what sum() returns for
 * these rows, whatever was added and taken away before.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "counts/counts_internal.h"

PG_FUNCTION_INFO_V1(poser_tally);
PG_FUNCTION_INFO_V1(poser_sum_of);

/* The places of a tally. */
#define TALLY_NEGATIVE_INFINITY 0
#define TALLY_INFINITY 1
#define TALLY_NAN 2
#define TALLY_FINITE 3
#define TALLY_MAX_SCALE 1000

/* How many decimal digits a place has. */
#define TALLY_DIGITS 18

/*
 * Set the two amounts of one value, which is not null.  The sum can have the value's memory,
 * or a copy in the current memory context.
 */
void
poser_sum_amounts(Datum value, PoserNumber *sum, PoserNumber *tally)
{
	Numeric numeric = DatumGetNumeric(value);

	*sum = (PoserNumber) {0};
	*tally = (PoserNumber) {.integer = 1};
	if (numeric_is_nan(numeric))
		tally->place = TALLY_NAN;
	else if (numeric_is_inf(numeric))
	{
		Datum zero = NumericGetDatum(int64_to_numeric(0));

		tally->place = DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(numeric), zero))
						   ? TALLY_INFINITY
						   : TALLY_NEGATIVE_INFINITY;
	}
	else
	{
		int32 scale = DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(numeric)));

		sum->numeric = numeric;
		tally->place = TALLY_FINITE + Min(scale, TALLY_MAX_SCALE);
	}
}

/*
 * poser_tally(value numeric) returns numeric
 *
 * The tally of one value.
 */
Datum
poser_tally(PG_FUNCTION_ARGS)
{
	PoserNumber sum;
	PoserNumber tally;

	poser_sum_amounts(PG_GETARG_DATUM(0), &sum, &tally);
	PG_RETURN_NUMERIC(poser_number_value(&tally));
}

/* Does a tally, written in decimal digits, have values at this place? */
static bool
has_values(const char *digits, int length, int place)
{
	int end = length - TALLY_DIGITS * place;

	for (int i = Max(end - TALLY_DIGITS, 0); i < end; i++)
		if (digits[i] != '0')
			return true;
	return false;
}

/* Returns the decimal digits of a tally, and their number.  Raises an error if it is not a tally. */
static const char *
tally_digits(Datum tally, int *length)
{
	const char *result = DatumGetCString(DirectFunctionCall1(numeric_out, tally));
	const char *rest;

	/* a user may write a whole number with zeros after the point */
	*length = strspn(result, "0123456789");
	rest = result + *length;
	if (*rest == '.')
		rest += 1 + strspn(rest + 1, "0");
	if (*length == 0 || *rest != '\0' || *length > TALLY_DIGITS * (TALLY_FINITE + TALLY_MAX_SCALE + 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid tally of a sum"),
				 errdetail("A tally is a whole number from 0 to 10^%d - 1.",
						   TALLY_DIGITS * (TALLY_FINITE + TALLY_MAX_SCALE + 1)),
				 errhint("If the tally belongs to a maintained view, poser_recount() corrects it.")));
	return result;
}

/* Returns the numeric that this string denotes. */
static Datum
numeric_constant(const char *string)
{
	return DirectFunctionCall3(numeric_in, CStringGetDatum(string), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* Returns a finite sum with the digits after the point that sum() shows. */
static Datum
sum_with_scale(Datum sum, int scale)
{
	/* numeric_round() does not keep all digits of the scales that share the last place */
	if (scale == TALLY_MAX_SCALE)
	{
		Datum trimmed = DirectFunctionCall1(numeric_trim_scale, sum);

		if (DatumGetInt32(DirectFunctionCall1(numeric_scale, trimmed)) > TALLY_MAX_SCALE)
			return trimmed;
	}
	return DirectFunctionCall2(numeric_round, sum, Int32GetDatum(scale));
}

/*
 * poser_sum_of(sum numeric, tally numeric) returns numeric
 *
 * What sum() returns for values with this sum and this tally.
 */
Datum
poser_sum_of(PG_FUNCTION_ARGS)
{
	int length;
	const char *digits = tally_digits(PG_GETARG_DATUM(1), &length);
	int highest = (length - 1) / TALLY_DIGITS;
	bool infinity = has_values(digits, length, TALLY_INFINITY);
	bool negative_infinity = has_values(digits, length, TALLY_NEGATIVE_INFINITY);

	if (has_values(digits, length, TALLY_NAN) || (infinity && negative_infinity))
		PG_RETURN_DATUM(numeric_constant("NaN"));
	if (infinity)
		PG_RETURN_DATUM(numeric_constant("Infinity"));
	if (negative_infinity)
		PG_RETURN_DATUM(numeric_constant("-Infinity"));
	if (highest < TALLY_FINITE)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(sum_with_scale(PG_GETARG_DATUM(0), highest - TALLY_FINITE));
}
