/*
 * payload.h
 *	  Making jsonb of rows.
 */
#ifndef POSER_PAYLOAD_H
#define POSER_PAYLOAD_H

typedef struct PoserPayload PoserPayload;

extern Datum poser_payload_make(PoserPayload **payloads, MemoryContext context, Datum record);

#endif /* POSER_PAYLOAD_H */
