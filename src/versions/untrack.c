#include "postgres.h"
#include "fmgr.h"
#include "versions/track_internal.h"
PG_FUNCTION_INFO_V1(poser_untrack);
PG_FUNCTION_INFO_V1(poser_follow);
PG_FUNCTION_INFO_V1(poser_tracked);
Datum poser_untrack(PG_FUNCTION_ARGS) { elog(ERROR, "not yet"); }
Datum poser_follow(PG_FUNCTION_ARGS) { elog(ERROR, "not yet"); }
Datum poser_tracked(PG_FUNCTION_ARGS) { elog(ERROR, "not yet"); }
