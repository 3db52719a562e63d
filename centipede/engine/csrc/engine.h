/*
 * The C engine's whole interface: all that Python sees of it.
 *
 * The engine moves packets between TUN queues and UDP sockets; it opens nothing, knows no handshakes, never logs and
 * never calls back. One control thread calls these functions; the workers are threads of the engine's own. What the
 * arguments mean is said in centipede/engine/contract.py and centipede/protocol/table.py.
 *
 * Structures have no implicit padding, so that Python may pack them with struct.pack. Integers are in host order unless
 * they are part of an address.
 */
#ifndef CENTIPEDE_ENGINE_H
#define CENTIPEDE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* cdef: from here to the end mark the text is also the declaration for cffi */

struct engine;

struct engine_endpoint {
	uint8_t		address[16];	/* network order; IPv4 in the first four */
	uint32_t	scope;		/* interface index of a link-local address, else 0 */
	uint16_t	port;
	uint8_t		version;	/* 4 or 6 */
	uint8_t		zero;
};

struct engine_run {
	uint16_t	first;
	uint8_t		k;
	uint8_t		zero;
};

struct engine_route {
	uint8_t		network[16];
	uint64_t	peer;
	uint8_t		version;
	uint8_t		prefix;		/* length in bits */
	uint8_t		zero[6];
};

struct engine_path {
	uint64_t	path;
	struct engine_endpoint local;
	struct engine_endpoint remote;
	uint64_t	rate_bytes_per_s;	/* of a lane; else 0 */
	uint64_t	delay_ns;
};

struct engine_peer {
	uint64_t	peer;
	uint32_t	known_first;	/* index of the first of the peer's paths */
	uint32_t	known_count;
	uint32_t	plan_first;	/* index of the first of the peer's plans */
	uint32_t	plan_count;
	uint32_t	share_first;	/* which plan each bucket of flows takes: index of the first of ENGINE_BUCKETS */
	uint32_t	share_count;	/* ENGINE_BUCKETS with more than one plan, else 0 */
};

struct engine_plan {
	uint64_t	session;
	uint32_t	path_first;	/* index of the first path that packets take */
	uint32_t	path_count;	/* more than 0 */
	uint32_t	copies;
	uint32_t	urgent_first;	/* index of the first path that urgent packets take */
	uint32_t	urgent_count;
	uint32_t	lane_first;
	uint32_t	lane_count;
	struct engine_run run;		/* the peer's */
	uint8_t		base[6];
	uint8_t		zero[2];
	uint8_t		key[32];
};

struct engine_session {
	uint64_t	session;
	uint64_t	peer;
	uint32_t	source_first;	/* index of the first run heard */
	uint32_t	source_count;
	uint64_t	reorder_ns;	/* how long a packet may wait for those before it; 0: not at all */
	struct engine_run own;
	uint8_t		base[6];
	uint8_t		pending;
	uint8_t		zero[5];
	uint8_t		key[32];
};

struct engine_table {
	uint64_t	generation;
	uint32_t	route_count;
	uint32_t	peer_count;
	uint32_t	plan_count;
	uint32_t	session_count;
	uint32_t	path_count;
	uint32_t	source_count;
	uint32_t	share_count;
	uint32_t	narrow_bytes;		/* TCP is held to packets of so many; 0: to whatever it likes */
	uint8_t		forwards;		/* data for other machines' shards goes up: ENGINE_EVENT_FOREIGN */
	uint8_t		zero[7];
	const struct engine_route *routes;
	const struct engine_peer *peers;
	const struct engine_plan *plans;
	const struct engine_session *sessions;
	const struct engine_path *paths;
	const struct engine_run *sources;
	const uint8_t *shares;		/* indexes of plans among the peer's own */
};

enum engine_buckets {
	ENGINE_BUCKETS = 256
};

struct engine_options {
	uint32_t	spin_us;	/* how long an idle worker looks again before it sleeps */
	uint8_t		vnet_hdr;	/* TUN packets have a struct virtio_net_hdr in front */
	uint8_t		write_tso;	/* the TUN device takes TCP superpackets */
	uint8_t		write_uso;	/* and UDP ones */
	uint8_t		aead;		/* enum engine_aead */
};

enum engine_aead {
	ENGINE_AEAD_BEST,
	ENGINE_AEAD_IPSEC_MB,
	ENGINE_AEAD_LIBCRYPTO
};

/* What a function of the engine may answer besides 0. */
enum engine_error {
	ENGINE_NO_MEMORY = -1,
	ENGINE_BAD_TABLE = -2,		/* an index, a prefix or a version out of range */
	ENGINE_SECOND_LIFE = -3,	/* a session number that ended, came out of order, or has other shards now */
	ENGINE_NO_AEAD = -4,		/* the AEAD asked for is not here, or failed its known answers */
	ENGINE_TOO_MANY = -5,		/* workers, or local addresses */
	ENGINE_IN_USE = -6,		/* the local address is served already */
	ENGINE_NO_THREAD = -7
};

enum engine_event_kind {
	ENGINE_EVENT_HANDSHAKE,		/* Datagram: first bit set */
	ENGINE_EVENT_CONTROL,		/* Datagram: class 1 */
	ENGINE_EVENT_FIRST_DATA,
	ENGINE_EVENT_NEW_REMOTE,
	ENGINE_EVENT_RESUMED,
	ENGINE_EVENT_FOREIGN		/* data for another machine */
};

/* An event as engine_events() writes it; data_bytes bytes of a datagram follow, then zeros up to a multiple of 8. */
struct engine_event {
	uint32_t	record_bytes;	/* of all of it */
	uint32_t	data_bytes;	/* NEW_REMOTE: size of the datagram seen, no data follow */
	uint32_t	kind;
	uint32_t	zero;
	uint64_t	number;		/* session, or peer of RESUMED */
	uint64_t	path_received;
	uint64_t	arrived_ns;	/* CLOCK_MONOTONIC */
	struct engine_endpoint local;
	struct engine_endpoint remote;
};

struct engine_path_counters {
	uint64_t	path;
	uint64_t	rx_packets;
	uint64_t	rx_bytes;
	uint64_t	rx_copies;
	uint64_t	tx_packets;
	uint64_t	tx_bytes;
	uint64_t	largest;
	uint64_t	last_rx_ns;
};

struct engine_peer_counters {
	uint64_t	peer;
	uint64_t	last_tx_ns;
};

/* How often the kernel refused an offload and the engine did without. */
struct engine_fallbacks {
	uint64_t	udp_segment;
	uint64_t	udp_gro;
	uint64_t	tun_tso;
	uint64_t	tun_uso;
	uint64_t	reuseport_steering;
};

/* A new engine, or NULL and the reason in *error. The descriptors are the engine's from then on. */
struct engine *engine_new(const int *tun_fds, uint32_t workers, const struct engine_options *, int *error);
int	 engine_start(struct engine *);
/* Stop the workers, wipe the keys, close every descriptor, free everything. */
void	 engine_free(struct engine *);

/* fds: one socket per worker. On error they are still the caller's. */
int	 engine_add_local(struct engine *, const struct engine_endpoint *, const int *fds);
void	 engine_remove_local(struct engine *, const struct engine_endpoint *);

/*
 * Swap the table. When this returns 0, no worker uses the old one any more and the keys only it held are wiped; any
 * other answer leaves the old table in place.
 */
int	 engine_apply(struct engine *, const struct engine_table *);

/*
 * Send a datagram as it is: -1, or the drop reason that was counted. One that may not be fragmented leaves whole, with
 * the DF bit, whatever the kernel believes of the path's MTU.
 */
int	 engine_send(struct engine *, const struct engine_endpoint *local, const struct engine_endpoint *remote,
	    const uint8_t *datagram, size_t datagram_bytes, int dont_fragment);

/* Receive data that another machine forwarded, over no path: -1, or the drop reason that was counted. */
int	 engine_inject(struct engine *, const uint8_t *datagram, size_t datagram_bytes);

int	 engine_event_fd(const struct engine *);
/* Move whole events into the buffer and say how many bytes they took; 0 when none is left. */
size_t	 engine_events(struct engine *, uint8_t *buffer, size_t buffer_bytes);

/* How many drop reasons there were when this was compiled. */
size_t	 engine_drop_reasons(void);
/* Each fills at most `count` elements and says how many there are. */
size_t	 engine_drops(const struct engine *, uint64_t *drops, size_t count);
size_t	 engine_path_counters(const struct engine *, struct engine_path_counters *, size_t count);
size_t	 engine_peer_counters(const struct engine *, struct engine_peer_counters *, size_t count);
void	 engine_fallbacks(const struct engine *, struct engine_fallbacks *);

/* Such as "ipsec-mb 1.3"; valid as long as the engine. */
const char *engine_aead_name(const struct engine *);
/* Why ipsec-mb cannot be used here, or NULL if it can. */
const char *engine_ipsec_mb_missing(void);

/* cdef: end */

#endif
