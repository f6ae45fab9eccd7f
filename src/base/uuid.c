/*
 * uuid.c
 *	  New keys: UUIDs of version 7 (RFC 9562) as 32 hexadecimal digits.
 *
 * A value is 48 bits of Unix time in milliseconds, then 74 random bits around
 * the version and variant fields.  Within a backend values increase: while the
 * clock stands still, or has been set back, the next value is the previous one
 * plus a random step, as the RFC's "monotonic random" method has it.  A new
 * millisecond's first value leaves the topmost random bit clear, so that the
 * steps have room; should they ever use it up, the carry goes into the time.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base.h"

#define UUID_DIGITS 32

PG_FUNCTION_INFO_V1(poser_uuid);

/* The backend's last value: time, then the random bits as 12 + 62. */
static uint64 last_time = 0;
static uint64 last_high = 0; /* 12 bits */
static uint64 last_low = 0;	 /* 62 bits */

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
 */
Datum
poser_uuid(PG_FUNCTION_ARGS)
{
	static const char digits[] = "0123456789abcdef";
	uint64 now;
	uint64 bits[2];
	text *result;
	char *p;

	now = (GetCurrentTimestamp() +
		   (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) /
		  1000;

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

	bits[0] = last_time << 16 | UINT64CONST(0x7000) | last_high;
	bits[1] = UINT64CONST(0x8000000000000000) | last_low;

	result = (text *) palloc(VARHDRSZ + UUID_DIGITS);
	SET_VARSIZE(result, VARHDRSZ + UUID_DIGITS);
	p = VARDATA(result);
	for (int i = 0; i < UUID_DIGITS; i++)
		*p++ = digits[bits[i / 16] >> (60 - 4 * (i % 16)) & 0xf];

	PG_RETURN_TEXT_P(result);
}
