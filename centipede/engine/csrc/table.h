/*
 * The compiled forwarding table: an immutable snapshot, and the state that outlives it.
 *
 * A snapshot is built by the control thread and read by the workers. Windows, sending counters and traffic counters
 * belong to the numbers in the table and not to one table: a new snapshot takes them over from the one before, and what
 * it does not take is wiped and freed with the old one, once no worker can look at it any more (engine.c).
 */
#ifndef CENTIPEDE_TABLE_H
#define CENTIPEDE_TABLE_H

#include "address.h"
#include "aead.h"
#include "common.h"
#include "list.h"
#include "reorder.h"
#include "routes.h"
#include "window.h"

#define SHARDS_MAX	16		/* of one run */
#define SOURCES_MAX	256		/* source shards of one session */
#define TOLD_MAX	1024		/* 4-tuples a snapshot remembers to have told of; RING_SIZE of contract.py */

/* --- what outlives a table; each list is sorted by number */

struct path_worker {
	_Alignas(CACHE_LINE) counter_t rx_packets;
	counter_t	rx_bytes, rx_copies, tx_packets, tx_bytes, largest, last_rx_ns;
	uint64_t	segment_refused_ns;	/* when the kernel last refused UDP_SEGMENT here; 0 never */
};

struct path_state {
	uint64_t	number;
	/* As a lane. All workers write it; an estimate does not suffer from a lost update. */
	_Alignas(CACHE_LINE) counter_t busy_ns;
	struct path_worker workers[WORKERS_MAX];
};

struct peer_worker {
	_Alignas(CACHE_LINE) counter_t last_tx_ns;
	counter_t	resumed_ns;	/* when this worker last told of it */
	uint32_t	waiting;	/* packets on this worker's shelf */
};

struct peer_state {
	uint64_t	number;
	struct peer_worker workers[WORKERS_MAX];
};

struct source {
	uint16_t	shard;
	struct window	*window;
	struct reorder	*reorder;	/* NULL until it is first asked for */
};

/* A session: what opens its packets and what seals them. It ends when a table no longer lists it for receiving. */
struct session_state {
	uint64_t	number;
	uint8_t		rx_key[KEY_BYTES];
	uint8_t		tx_key[KEY_BYTES];
	bool		has_tx_key;
	struct engine_run own;
	_Atomic bool	first_told;
	uint32_t	source_count;
	struct source	sources[SOURCES_MAX];
	struct {
		_Alignas(CACHE_LINE) _Atomic uint64_t next;
	} counters[SHARDS_MAX];		/* for sending, by place in the own run */
};

/* --- the snapshot */

struct path {
	struct path_state *state;
	struct local	*local;		/* NULL: remote cannot be reached from it, or there is no slot for it */
	struct address	remote;
};

/* The paths that a packet goes to, once each. */
struct fan {
	const struct path *paths;
	uint32_t	count;
};

struct lane {
	struct fan	fan;		/* one path */
	uint64_t	rate_bytes_per_s;
	uint64_t	delay_ns;
};

/* How to send to one machine of a peer. */
struct plan {
	struct session_state *session;
	uint64_t	base;		/* 48 bits */
	uint16_t	run_first, run_size;
	struct fan	fan;
	struct fan	urgent;		/* of no path: urgent packets go where all go */
	uint32_t	lane_count;	/* 0: packets take the fan */
	const struct lane *lanes;
};

struct peer {
	uint64_t	number;
	struct peer_state *state;
	const struct plan *plans;
	uint32_t	plan_count;	/* 0: packets wait */
	const uint8_t	*shares;	/* by bucket of flows the plan they take; NULL: the only one */
};

struct source_run {
	uint16_t	first, size;
	struct window	*windows[SHARDS_MAX];
	struct reorder	*reorders[SHARDS_MAX];	/* NULL: packets do not wait */
};

struct session {
	uint64_t	base;		/* 48 bits */
	struct session_state *state;
	uint16_t	own_first, own_size;
	uint32_t	peer;		/* index */
	uint64_t	reorder_ns;
	bool		pending;
	uint32_t	run_count;
	const struct source_run *runs;
};

struct known_path {
	const struct local *local;
	struct address	remote;
	uint32_t	peer;
	struct path_state *state;
};

struct snapshot {
	struct routes	v4, v6;
	struct peer	*peers;
	uint32_t	peer_count;
	struct session	*sessions;
	uint32_t	session_count;
	uint32_t	*session_slots;	/* index + 1, by hash of the base */
	uint64_t	session_mask;
	struct known_path *known;
	uint32_t	known_count;
	uint32_t	*known_slots;	/* index + 1, by hash of local, remote and peer */
	uint64_t	known_mask;
	struct plan	*plans;
	uint32_t	plan_count;
	struct path	*paths;
	struct lane	*lanes;
	uint8_t		*shares;
	uint32_t	narrow_bytes;
	bool		forwards;
	struct source_run *runs;
	struct list	session_states, path_states, peer_states;
	_Atomic uint64_t told[TOLD_MAX];
};

/*
 * Build a snapshot that takes over the state of `old`: 0 or an engine_error. `stamp` names the table in struct local and
 * is one above that of `old`. Session numbers below *floor stood in a table before: in use, or ended. Control thread only.
 */
int		 snapshot_compile(struct snapshot **, const struct snapshot *old, const struct engine_table *,
		    struct local *locals, uint64_t stamp, uint64_t *floor, unsigned workers);
struct snapshot	*snapshot_empty(void);
/* Free a snapshot and the state that `heir` did not take over; NULL: all of it. */
void		 snapshot_free(struct snapshot *, const struct snapshot *heir);

struct path_state *known_path_find(const struct snapshot *, const struct local *, const struct address *, uint32_t peer);
_Atomic uint64_t *told_first(struct snapshot *, uint64_t hash);
void		 told_forget(_Atomic uint64_t *);

static inline const struct session *
session_find(const struct snapshot *s, uint64_t base)
{
	uint64_t slot;
	uint32_t index;

	for (slot = mix64(base);; slot++) {
		if ((index = s->session_slots[slot & s->session_mask]) == 0)
			return (NULL);
		if (s->sessions[index - 1].base == base)
			return (&s->sessions[index - 1]);
	}
}

/* Where packets of this source shard wait, if worker `worker` is the one that its sender addresses. */
static inline struct reorder *
session_reorder(const struct session *s, uint16_t shard, unsigned worker, unsigned workers)
{
	uint16_t place;
	uint32_t i;

	for (i = 0; i < s->run_count; i++)
		if ((place = (uint16_t)(shard - s->runs[i].first)) < s->runs[i].size)
			return (place % s->own_size % workers == worker ? s->runs[i].reorders[place] : NULL);
	return (NULL);
}

static inline struct window *
session_window(const struct session *s, uint16_t shard)
{
	uint32_t i;

	for (i = 0; i < s->run_count; i++)
		if ((uint16_t)(shard - s->runs[i].first) < s->runs[i].size)
			return (s->runs[i].windows[shard - s->runs[i].first]);
	return (NULL);
}

#endif
