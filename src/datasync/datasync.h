/*
 * datasync.h
 *	  datasync, for the module start.
 */
#ifndef POSER_DATASYNC_H
#define POSER_DATASYNC_H

/* pending.c */
extern void poser_pending_init(void);

/* notify.c */
extern void poser_notify_init(void);

#endif /* POSER_DATASYNC_H */
