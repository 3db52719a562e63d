/*
 * Events on their way from one worker to the control thread: one writer, one reader, no locks.
 *
 * One ring keeps the worker's events in order; each kind has its own quota of records and bytes, so that a flood of one
 * cannot starve another. The ring is as large as all quotas together, so it never fills before a quota does.
 */
#ifndef CENTIPEDE_RING_H
#define CENTIPEDE_RING_H

#include "common.h"

#define RING_RECORDS	1024	/* RING_SIZE of contract.py: of each quota */

enum quota {
	QUOTA_HANDSHAKE,
	QUOTA_CONTROL,
	QUOTA_EVENT,
	QUOTA_FOREIGN,
	QUOTAS
};

struct ring;

struct ring	*ring_new(void);
void		 ring_free(struct ring *);
/* Writer: append the event and its data. False if the kind's quota is used up. record_bytes and data are filled in. */
bool		 ring_push(struct ring *, struct engine_event *, const uint8_t *data, size_t data_bytes);
/* Reader: move whole records into the buffer; the number of bytes moved. */
size_t		 ring_take(struct ring *, uint8_t *buffer, size_t buffer_bytes);

#endif
