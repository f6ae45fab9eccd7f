/*
 * uuid.c
 *	  New keys: UUIDs of version 7 (RFC 9562) as 32 hexadecimal digits.
 *
 * A value has 48 bits of Unix time in milliseconds.  Then come 74 random bits
 * around the version and variant fields.
 *
 * The values of one backend increase.  If the clock stands still or is set back,
 * the next value is the previous one plus a random step.  (The RFC calls this
 * method "monotonic random".)  The first value of a millisecond leaves the topmost
 * random bit clear, so that there is room for the steps.  If the steps use up the
 * room, the time is increased by one millisecond.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base.h"

#define UUID_DIGITS 32

PG_FUNCTION_INFO_V1(poser_uuid);

/* The backend's last value: the time, and the random bits as 12 + 62. */
static uint64 last_time = 0;
static uint64 last_high = 0; /* 12 bits */
static uint64 last_low = 0;	 /* 62 bits */

/* Returns a random number of so many bits. */
static uint64
random_bits(int nbits)
{
	uint64 result;

	if (!pg_strong_random(&result, sizeof(result)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	return result >> (64 - nbits);
}

/*
 * poser_uuid() returns varchar
 *
 * Returns a new key, which is greater than all earlier ones of this backend.
 */
Datum
poser_uuid(PG_FUNCTION_ARGS)
{
	static const char digits[] = "0123456789abcdef";
	uint64 now;
	uint64 bits[2];
	text *result;
	char *p;

	/* the Unix time in milliseconds */
	now = (GetCurrentTimestamp() +
		   (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) /
		  1000;

	/* in a new millisecond take new random bits, otherwise add a random step */
	if (now > last_time)
	{
		uint64 high = random_bits(11);
		uint64 low = random_bits(62);

		last_time = now;
		last_high = high;
		last_low = low;
	}
	else
	{
		last_low += 1 + random_bits(32);
		last_high += last_low >> 62;
		last_low &= UINT64CONST(0x3fffffffffffffff);
		last_time += last_high >> 12;
		last_high &= 0xfff;
	}

	/* put the version, 7, and the variant, binary 10, in between */
	bits[0] = last_time << 16 | UINT64CONST(0x7000) | last_high;
	bits[1] = UINT64CONST(0x8000000000000000) | last_low;

	/* write the 128 bits as hexadecimal digits */
	result = (text *) palloc(VARHDRSZ + UUID_DIGITS);
	SET_VARSIZE(result, VARHDRSZ + UUID_DIGITS);
	p = VARDATA(result);
	for (int i = 0; i < UUID_DIGITS; i++)
		*p++ = digits[bits[i / 16] >> (60 - 4 * (i % 16)) & 0xf];

	PG_RETURN_TEXT_P(result);
}
