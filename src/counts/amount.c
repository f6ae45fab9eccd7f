/*
 * amount.c
 *	  The numbers that a count has for each key.
 *
 * A count has one or more numbers for each key: its amounts.  Each is a column of its
 * tables, of type bigint or numeric.  A change of a count is an array of amounts, too, which
 * is added to those of the key's row.
 *
 * Arithmetic with numerics is slow, and each result is new memory.  Most changes are small
 * integers: a value of sum(bigint), or one more row of a kind, which is a power of ten in a
 * tally; see sum.c.  So a numeric amount has an integer and the power of ten that is its
 * unit, and beside it a numeric for what does not fit.
 *
 * The invariant: an amount always has the exact value.  A bigint amount may overflow on the
 * way.  It is a number modulo 2^64 then, and right again when the changes are complete.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "counts/counts_internal.h"

/* How much memory an array of amounts needs. */
Size
poser_amounts_size(const PoserCount *count)
{
	return MAXALIGN(count->namounts * sizeof(PoserAmount)) + count->nnumeric * sizeof(PoserNumber);
}

/* Make an array of amounts, all zero, in this memory of poser_amounts_size(). */
PoserAmount *
poser_amounts_place(const PoserCount *count, void *memory)
{
	PoserAmount *amounts = memory;
	PoserNumber *number = (PoserNumber *) ((char *) memory + MAXALIGN(count->namounts * sizeof(PoserAmount)));

	if (count->nnumeric > 0)
		for (int i = 0; i < count->namounts; i++)
			if (count->numeric[i])
				amounts[i].number = number++;
	poser_amounts_clear(count, amounts);
	return amounts;
}

/* Returns an array of amounts, all zero, in the current memory context. */
PoserAmount *
poser_amounts_make(const PoserCount *count)
{
	return poser_amounts_place(count, palloc(poser_amounts_size(count)));
}

/*
 * Make all amounts zero.  Their numerics are not freed, because their memory may belong to a row,
 * or to a memory context that was reset.
 */
void
poser_amounts_clear(const PoserCount *count, PoserAmount *amounts)
{
	if (count->nnumeric == 0)
	{
		memset(amounts, 0, count->namounts * sizeof(PoserAmount));
		return;
	}
	for (int i = 0; i < count->namounts; i++)
	{
		if (count->numeric[i])
			*amounts[i].number = (PoserNumber) {0};
		else
			amounts[i].integer = 0;
	}
}

/*
 * Returns integer * 10^(18 * place), in the current memory context.  Each row of sum(numeric) adds
 * such a unit to a tally, mostly the same one.  So the last one is kept, because to make it
 * takes much longer than to copy it.
 */
static Numeric
units_to_numeric(int64 integer, int place)
{
	static int64 kept_integer;
	static int kept_place;
	static Numeric kept = NULL;
	char string[64];
	Numeric result;

	if (place == 0)
		return int64_to_numeric(integer);
	if (kept != NULL && kept_integer == integer && kept_place == place)
		return DatumGetNumeric(datumCopy(NumericGetDatum(kept), false, -1));
	snprintf(string, sizeof(string), INT64_FORMAT "e%d", integer, 18 * place);
	result = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(string),
												 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	if (kept != NULL)
		pfree(kept);
	kept = NULL;
	kept = MemoryContextAlloc(TopMemoryContext, VARSIZE(result));
	memcpy(kept, result, VARSIZE(result));
	kept_integer = integer;
	kept_place = place;
	return result;
}

/* Add a numeric, or take it away.  The result is new, and the old one is freed. */
static void
add_numeric(PoserNumber *number, Numeric other, int sign)
{
	Datum value = NumericGetDatum(other);
	Numeric old = number->numeric;

	if (old != NULL)
		value = sign > 0 ? DirectFunctionCall2(numeric_add, NumericGetDatum(old), value)
						 : DirectFunctionCall2(numeric_sub, NumericGetDatum(old), value);
	else if (sign > 0)
		value = datumCopy(value, false, -1);
	else
		value = DirectFunctionCall1(numeric_uminus, value);
	number->numeric = DatumGetNumeric(value);
	if (old != NULL)
		pfree(old);
}

/*
 * Add an integer of the number's own unit, or take it away.  Returns false, and does nothing, if
 * the result does not fit.
 */
static bool
add_own_units(PoserNumber *number, int64 integer, int sign)
{
	int64 result;

	if (sign > 0 ? pg_add_s64_overflow(number->integer, integer, &result)
				 : pg_sub_s64_overflow(number->integer, integer, &result))
		return false;
	number->integer = result;
	return true;
}

/* Add integer * 10^(18 * place) to the numeric, or take it away. */
static void
add_units_to_numeric(PoserNumber *number, int64 integer, int place, int sign)
{
	Numeric part = units_to_numeric(integer, place);

	add_numeric(number, part, sign);
	pfree(part);
}

/* Add integer * 10^(18 * place), or take it away. */
static void
add_units(PoserNumber *number, int64 integer, int place, int sign)
{
	if (integer == 0)
		return;
	if (number->integer == 0)
		number->place = place;
	if (number->place == place)
	{
		if (add_own_units(number, integer, sign))
			return;
		/* the integer begins anew, so that the next changes fit again */
		add_units_to_numeric(number, number->integer, place, 1);
		number->integer = 0;
		if (add_own_units(number, integer, sign))
			return;
	}
	add_units_to_numeric(number, integer, place, sign);
}

/*
 * Add other amounts, or take them away: "sign" is 1 or -1.  Numerics of the result are in
 * the current memory context.  Those that the amounts had before are freed.
 */
void
poser_amounts_add(const PoserCount *count, PoserAmount *amounts, const PoserAmount *other, int sign)
{
	for (int i = 0; i < count->namounts; i++)
	{
		if (!count->numeric[i])
		{
			amounts[i].integer += sign * other[i].integer;
			continue;
		}
		add_units(amounts[i].number, other[i].number->integer, other[i].number->place, sign);
		if (other[i].number->numeric != NULL)
			add_numeric(amounts[i].number, other[i].number->numeric, sign);
	}
}

/* Add the value of a column to an amount, as poser_amounts_add() does.  Null counts as 0. */
void
poser_amount_add_datum(const PoserCount *count, PoserAmount *amounts, int i, Datum value, bool isnull)
{
	Numeric numeric;

	if (isnull)
		return;
	if (!count->numeric[i])
	{
		amounts[i].integer += DatumGetInt64(value);
		return;
	}
	numeric = DatumGetNumeric(value);
	add_numeric(amounts[i].number, numeric, 1);
	if ((Pointer) numeric != DatumGetPointer(value))
		pfree(numeric);
}

/* Returns the value of a numeric amount: its own numeric, or a new one in the current memory context. */
Numeric
poser_number_value(const PoserNumber *number)
{
	Numeric units;

	if (number->integer == 0 && number->numeric != NULL)
		return number->numeric;
	units = units_to_numeric(number->integer, number->place);
	if (number->numeric == NULL)
		return units;
	return DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(number->numeric), NumericGetDatum(units)));
}

/* Returns an amount as the value of its column: in the current memory context, or the amount's own memory. */
Datum
poser_amount_get_datum(const PoserCount *count, const PoserAmount *amounts, int i)
{
	return count->numeric[i] ? NumericGetDatum(poser_number_value(amounts[i].number)) : Int64GetDatum(amounts[i].integer);
}

/* Are two numerics equal? */
static bool
equal_numerics(Numeric a, Numeric b)
{
	return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(a), NumericGetDatum(b)));
}

/* Is this amount zero? */
static bool
number_is_zero(const PoserNumber *number)
{
	Numeric value;
	Numeric zero;
	bool result;

	if (number->numeric == NULL)
		return number->integer == 0;
	value = poser_number_value(number);
	zero = int64_to_numeric(0);
	result = equal_numerics(value, zero);
	pfree(zero);
	if (value != number->numeric)
		pfree(value);
	return result;
}

/* Are all amounts zero? */
bool
poser_amounts_are_zero(const PoserCount *count, const PoserAmount *amounts)
{
	for (int i = 0; i < count->namounts; i++)
		if (count->numeric[i] ? !number_is_zero(amounts[i].number) : amounts[i].integer != 0)
			return false;
	return true;
}

/*
 * Are these the amounts of two rows that count the same?  The result can be false for
 * amounts that are sums and have equal values.
 */
bool
poser_amounts_are_equal(const PoserCount *count, const PoserAmount *a, const PoserAmount *b)
{
	for (int i = 0; i < count->namounts; i++)
	{
		const PoserNumber *x = a[i].number;
		const PoserNumber *y = b[i].number;

		if (!count->numeric[i])
		{
			if (a[i].integer != b[i].integer)
				return false;
		}
		else if (x->integer != y->integer || x->place != y->place || (x->numeric == NULL) != (y->numeric == NULL) ||
				 (x->numeric != NULL && !equal_numerics(x->numeric, y->numeric)))
			return false;
	}
	return true;
}
