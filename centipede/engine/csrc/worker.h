/*
 * A worker: one thread that runs every packet to completion, with a TUN queue, a socket per local address and a shard of
 * its own. Its two halves are outbound.c and inbound.c; worker.c is the loop that calls them.
 */
#ifndef CENTIPEDE_WORKER_H
#define CENTIPEDE_WORKER_H

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>

#include "aead.h"
#include "coalesce.h"
#include "ring.h"
#include "segment.h"
#include "shelf.h"
#include "table.h"
#include "train.h"
#include "tun.h"

#define RECEIVE_MESSAGES	32	/* datagrams, or trains of them, per system call */
#define RECEIVE_BYTES		65536
/* Messages begin at different places within a page, or their headers would contend for the same few cache lines. */
#define RECEIVE_STRIDE		(RECEIVE_BYTES + 33 * CACHE_LINE)
#define REORDERS_MAX		64	/* source shards whose packets wait at one time; those of others do not */
#define UNHEARD_PACKETS		64	/* contract.py, and so are the next two */
#define UNHEARD_BYTES		2048
#define UNHEARD_NS		NS_PER_S
#define TUN_READ_PACKETS	64	/* before the sockets get their turn */
#define TUN_READ_BYTES		(4 * PACKET_BYTES_MAX)

/* Places in `polled`. */
enum {
	POLL_WAKE,
	POLL_INJECTED,
	POLL_TUN,
	POLL_LOCALS
};

struct received {
	struct iovec	vector;
	struct address	remote;
	union {
		struct cmsghdr	header;
		uint8_t		bytes[CMSG_SPACE(sizeof(int))];
	} control;
};

/* A datagram from a source shard without a window, which the next table may have. */
struct unheard {
	const struct local *local;	/* NULL: gone */
	struct address	remote;
	uint64_t	came_ns;
	uint32_t	bytes;
	_Alignas(8) uint8_t datagram[UNHEARD_BYTES];
};

struct worker {
	struct engine	*engine;
	unsigned	 index;
	pthread_t	 thread;
	int		 wake_fd;
	int		 injected_fd;	/* what the control thread injects; -1: another worker has it */
	sem_t		 adopted;	/* posted each time the worker took up the newest table and addresses */
	uint64_t	 epoch;		/* of the engine, when it did so */
	struct snapshot	*snapshot;
	struct aead	*aead;
	struct ring	*ring;
	uint64_t	 now_ns;
	uint64_t	 served_ns;	/* when there was something to do last */
	uint64_t	 no_spin_ns;	/* sleeps at once until then */

	_Alignas(CACHE_LINE) counter_t drops[DROP_REASONS];

	struct tun	 tun;
	uint64_t	 tun_rests_ns;	/* not read before then, after it failed */
	struct segmenter segmenter;
	struct trains	 trains;
	struct shelf	 shelf;

	unsigned	 local_count;
	struct local	*locals[LOCALS_MAX];	/* that have a socket */
	uint64_t	 local_rests_ns[LOCALS_MAX];
	struct pollfd	 polled[POLL_LOCALS + LOCALS_MAX];
	unsigned	 receive_messages;	/* how many to ask for next time */
	struct coalescer coalescer;
	uint64_t	 flushes;	/* of the coalescer; begins at 1 */
	unsigned	 reorder_count;
	struct reorder	*reorders[REORDERS_MAX];	/* in which packets wait */
	unsigned	 unheard_first, unheard_last;	/* unheard[first..last), modulo their number */
	struct unheard	 unheard[UNHEARD_PACKETS];
	struct mmsghdr	 headers[RECEIVE_MESSAGES];
	struct received	 received[RECEIVE_MESSAGES];

	/* The packet begins a cache line, its virtio header stands before it. */
	_Alignas(CACHE_LINE) uint8_t tun_bytes[CACHE_LINE + PACKET_BYTES_MAX + 1];
	_Alignas(CACHE_LINE) uint8_t received_bytes[RECEIVE_MESSAGES][RECEIVE_STRIDE];
};

/* worker.c */
void	*worker_run(void *);
void	 worker_adopt(struct worker *);
bool	 worker_tell(struct worker *, struct engine_event *, const uint8_t *data, size_t data_bytes);

/* outbound.c: TUN -> route -> plan -> seal -> trains -> paths */
size_t	 outbound_read(struct worker *);	/* the bytes it read */
void	 outbound_packet(struct worker *, uint8_t *packet, size_t bytes, const struct virtio_net_hdr *);
void	 outbound_waiting(struct worker *);

/* inbound.c: socket -> header -> session -> window -> open -> window -> path -> inner packet -> TUN */
void	 inbound_init(struct worker *);
size_t	 inbound_read(struct worker *, unsigned local);	/* the bytes it read */
size_t	 inbound_injected(struct worker *);	/* likewise */
/* End the waits that are over; the ms until the next one is, or `timeout` if that is sooner (-1: never). */
int	 inbound_end_waits(struct worker *, int timeout);
/* Before the worker takes up another snapshot: deliver what may not wait under it. */
void	 inbound_adopt(struct worker *, const struct snapshot *);
/* After it did so: take in again what came from shards that may have a window now. */
void	 inbound_unheard(struct worker *);
void	 inbound_message(struct worker *, const struct local *, const struct address *remote, uint8_t *bytes,
	    size_t length, size_t segment_bytes);

#endif
