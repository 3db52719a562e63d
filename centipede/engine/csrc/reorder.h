/*
 * Packets of one source shard that wait for those before them (engine/reorder.py is the same to be read). Touched by one
 * worker only. Their memory is there from the moment the table asks for it: nothing is allocated on the packet path.
 */
#ifndef CENTIPEDE_REORDER_H
#define CENTIPEDE_REORDER_H

#include "common.h"
#include "window.h"

#define REORDER_PACKETS		1024	/* table.py */
#define REORDER_BYTES		2048	/* a longer packet does not wait */
#define REORDER_ARRIVALS	(2 * REORDER_PACKETS)

struct session;

struct reorder_slot {
	bool		held;
	uint32_t	bytes;
	uint64_t	lent;		/* the flush before which its bytes may still be looked at */
};

struct reorder_arrival {
	uint64_t	counter, came_ns;
};

struct reorder {
	struct window	*window;
	const struct session *session;	/* of the worker's snapshot, while packets wait */
	bool		 started;
	bool		 listed;	/* among those the worker looks after */
	uint64_t	 next;		/* the counter that is waited for */
	unsigned	 held;
	uint64_t	 first, last;	/* arrivals[first..last), modulo their number: in order of time */
	struct reorder_arrival arrivals[REORDER_ARRIVALS];
	struct reorder_slot slots[REORDER_PACKETS];	/* by counter */
	_Alignas(CACHE_LINE) uint8_t bytes[REORDER_PACKETS][REORDER_BYTES];
};

/* When the packet came that waits longest; UINT64_MAX if none waits. */
static inline uint64_t
reorder_due(struct reorder *r)
{
	const struct reorder_arrival *a;

	for (; r->first != r->last; r->first++) {
		a = &r->arrivals[r->first % REORDER_ARRIVALS];
		if (a->counter >= r->next && r->slots[a->counter % REORDER_PACKETS].held)
			return (a->came_ns);
	}
	return (UINT64_MAX);
}

#endif
