#include "postgres.h"
#include "fmgr.h"
#define STUB(f) PG_FUNCTION_INFO_V1(f); Datum f(PG_FUNCTION_ARGS) { elog(ERROR, "not yet"); }
STUB(poser_batch_guard) STUB(poser_batch_row_guard) STUB(poser_batch_populate) STUB(poser_batch_refresh) STUB(poser_batch_execute) STUB(poser_batch_purge)
