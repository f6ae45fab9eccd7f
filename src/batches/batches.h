/*
 * batches.h
 *	  Batches, for other folders.
 */
#ifndef POSER_BATCHES_H
#define POSER_BATCHES_H

extern void poser_batch_init(void);

#endif /* POSER_BATCHES_H */
