/*
 * record_internal.h
 *	  What the files about recording rows that bypassed the triggers share.
 */
#ifndef POSER_RECORD_INTERNAL_H
#define POSER_RECORD_INTERNAL_H

#include "versions/version_internal.h"

/* record.c */
extern int64 poser_record_corrections(const PoserVersioned *versioned, PoserProgress *progress);

/* record_own.c */
extern void poser_record_lock(Oid relid, Oid transactions);
extern void poser_record_end_partial(const PoserVersioned *versioned);
extern int64 poser_record_step(const PoserVersioned *versioned, int64 limit, const char *comment, PoserProgress *progress);

#endif /* POSER_RECORD_INTERNAL_H */
