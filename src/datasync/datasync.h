/*
 * datasync.h
 *	  What other folders use of datasync.
 */
#ifndef POSER_DATASYNC_H
#define POSER_DATASYNC_H

#include "versions/versions.h"

extern void poser_datasync_init(void);

#endif /* POSER_DATASYNC_H */
