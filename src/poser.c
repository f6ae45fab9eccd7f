/*
 * poser.c
 *	  Module start.
 */
#include "postgres.h"

#include "utils/guc.h"

#include "batches/batches.h"
#include "counts/counts.h"
#include "datasync/datasync.h"
#include "versions/versions.h"

PG_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	poser_setting_init();
	poser_relation_init();
	poser_versioned_init();
	poser_binding_init();
	poser_transaction_init();
	poser_change_id_init();
	poser_version_init();
	poser_arrival_init();
	poser_count_init();
	poser_maintain_rows_init();
	poser_maintain_follow_init();
	poser_batch_init();
	poser_pending_init();
	poser_notify_init();
	MarkGUCPrefixReserved("poser");
}
