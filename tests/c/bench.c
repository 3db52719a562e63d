/*
 * What a packet costs without the kernel: the AEAD by size, and the engine's own work on the way out and in. One JSON
 * object per line: name, ns (thread CPU time for one packet, the best of ROUNDS), bytes of a packet where they matter.
 */
#undef NDEBUG
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "engine_private.h"
#include "worker.h"

#define ROUNDS		7
#define ROUND_NS	30000000.0	/* of one round, about */
#define SEGMENT_BYTES	1368		/* TCP payload in an inner packet of 1420 bytes: IPv4, time stamps */
#define SEGMENTS	44
#define SMALL_PACKETS	60		/* a train's worth */

static double
cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return ((double)t.tv_sec * 1e9 + (double)t.tv_nsec);
}

/* The best mean time of a call that handles `packets` packets. */
static void
measure(const char *name, size_t bytes, unsigned packets, double (*call)(void *), void *argument)
{
	double best = 1e18, spent;
	unsigned round, calls;

	for (round = 0; round < ROUNDS; round++) {
		for (calls = 0, spent = 0; spent < ROUND_NS; calls++)
			spent += call(argument);
		spent /= (double)calls * packets;
		best = spent < best ? spent : best;
	}
	printf("{\"name\": \"%s\", \"ns\": %.1f, \"bytes\": %zu}\n", name, best, bytes);
	fflush(stdout);
}

/* --- AEAD: 64 packets a call */

struct sealing {
	struct aead	*aead;
	size_t		 bytes;
	bool		 open;
	uint8_t		 key[KEY_BYTES];
	uint8_t		 plaintext[64][2048], datagrams[64][2048];
};

static double
seal_64(void *argument)
{
	struct sealing *s = argument;
	double begin = cpu_ns();
	unsigned i;

	for (i = 0; i < 64; i++)
		assert(aead_seal(s->aead, s->key, s->datagrams[i], s->plaintext[i], s->bytes));
	if (!s->open)
		return (cpu_ns() - begin);
	begin = cpu_ns();
	for (i = 0; i < 64; i++)
		assert(aead_open(s->aead, s->key, s->datagrams[i], HEADER_BYTES + s->bytes));
	return (cpu_ns() - begin);
}

static void
bench_aead(void)
{
	static const struct {
		enum engine_aead kind;
		const char	*name;
	} kinds[] = { { ENGINE_AEAD_IPSEC_MB, "ipsec-mb" }, { ENGINE_AEAD_LIBCRYPTO, "libcrypto" } };
	static const size_t sizes[] = { 64, 256, 1420 };
	static struct sealing s;
	char name[64];
	size_t k, n;

	for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		if ((s.aead = aead_new(kinds[k].kind)) == NULL)
			continue;
		for (n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++)
			for (s.open = false;; s.open = true) {
				s.bytes = sizes[n];
				snprintf(name, sizeof(name), "%s %s", kinds[k].name, s.open ? "open" : "seal");
				measure(name, s.bytes, 64, seal_64, &s);
				if (s.open)
					break;
			}
		aead_free(s.aead);
	}
}

/* --- window and routes */

static double
window_1024(void *argument)
{
	static uint64_t counter;
	struct window *w = argument;
	double begin = cpu_ns();
	unsigned i;

	for (i = 0; i < 1024; i++, counter++)
		assert(window_test(w, counter) == VERDICT_NEW && window_insert(w, counter) == VERDICT_NEW);
	return (cpu_ns() - begin);
}

static double
routes_1024(void *argument)
{
	static uint64_t random;
	uint32_t address, found = 0;
	double begin = cpu_ns();
	unsigned i;

	for (i = 0; i < 1024; i++) {
		address = (uint32_t)mix64(random++);
		found ^= routes_find(argument, (const uint8_t *)&address, 4);
	}
	assert(found != 1);	/* or the compiler could leave the loop out */
	return (cpu_ns() - begin);
}

static void
bench_look_ups(void)
{
	static struct window window;
	static struct prefix prefixes[100000];
	size_t counts[] = { 2, 1000, 100000 }, n, i;
	struct routes routes;
	char name[64];

	measure("window test and insert", 0, 1024, window_1024, &window);
	for (n = 0; n < 3; n++) {
		for (i = 0; i < counts[n]; i++)
			prefixes[i] = (struct prefix){ .high = (mix64(i) & 0xffffff0000000000ull), .peer = (uint32_t)i + 2,
			    .order = (uint32_t)i, .length = 24 };
		assert(routes_compile(&routes, prefixes, counts[n]));
		snprintf(name, sizeof(name), "route of %zu", counts[n]);
		measure(name, 0, 1024, routes_1024, &routes);
		routes_free(&routes);
	}
}

/* --- the packet path: one worker that is its own peer; its socket is a closed door, its TUN device /dev/null */

struct loop {
	struct engine	*engine;
	struct worker	*worker;
	struct virtio_net_hdr vnet;
	unsigned	 packets;	/* a call */
	size_t		 bytes, segment_bytes;	/* of a packet or superpacket, of the datagrams it becomes */
	uint8_t		 packet[PACKET_BYTES_MAX + 1];
};

static double
outbound(void *argument)
{
	struct loop *l = argument;
	uint8_t *packet = l->worker->tun_bytes + CACHE_LINE;
	double begin;
	unsigned i;

	memcpy(packet, l->packet, l->bytes);	/* the kernel's copy, which warms the cache as well */
	begin = cpu_ns();
	for (i = 0; i < l->packets; i++) {
		packet[0] &= (uint8_t)~PARTIAL_BIT;	/* set by the one before */
		outbound_packet(l->worker, packet, l->bytes, &l->vnet);
	}
	return (cpu_ns() - begin);
}

/* The way out, to the door. */
static double
out(void *argument)
{
	struct loop *l = argument;
	double spent = outbound(l), begin = cpu_ns();

	trains_send(&l->worker->trains);
	return (spent + cpu_ns() - begin);
}

/* The way in of what went out. */
static double
in(void *argument)
{
	struct loop *l = argument;
	struct trains *t = &l->worker->trains;
	struct address remote = { .v4 = { .sin_family = AF_INET } };
	uint8_t *bytes = l->worker->received_bytes[0];
	size_t length;
	double begin;

	outbound(l);
	length = t->used;
	memcpy(bytes, t->bytes, length);
	t->used = t->count = 0;
	begin = cpu_ns();
	inbound_message(l->worker, l->worker->locals[0], &remote, bytes, length, l->segment_bytes);
	coalesce_flush(&l->worker->coalescer);
	return (cpu_ns() - begin);
}

static void
loop_open(struct loop *l)
{
	struct engine_options options = { .vnet_hdr = 1, .write_tso = 1, .write_uso = 1 };
	struct engine_endpoint local = { .address = { 127, 0, 0, 1 }, .port = 9, .version = 4 };
	struct engine_path path = { .path = 1, .local = local, .remote = local };
	struct engine_route route = { .network = { 10 }, .peer = 1, .version = 4, .prefix = 8 };
	struct engine_run run = { 0 };
	struct engine_peer peer = { .peer = 1, .plan_count = 1 };
	struct engine_plan plan = { .session = 1, .path_count = 1, .copies = 1 };
	struct engine_session session = { .session = 1, .peer = 1, .source_count = 1 };
	struct engine_table table = { .generation = 1, .route_count = 1, .peer_count = 1, .plan_count = 1, .session_count = 1,
	    .path_count = 1, .source_count = 1, .routes = &route, .peers = &peer, .plans = &plan, .sessions = &session, .paths = &path,
	    .sources = &run };
	int tun = open("/dev/null", O_RDWR), fd = socket(AF_INET, SOCK_DGRAM, 0), error;

	assert((l->engine = engine_new(&tun, 1, &options, &error)) != NULL);
	assert(engine_add_local(l->engine, &local, &fd) == 0 && engine_apply(l->engine, &table) == 0);
	l->worker = l->engine->workers[0];
	atomic_store(&l->worker->locals[0]->fds[0], -1);
	close(fd);
}

/* An IPv4 packet from 10.0.0.1 to 10.0.0.2. */
static void
loop_load(struct loop *l, unsigned protocol, size_t header, size_t payload, size_t segment)
{
	uint8_t *p = l->packet;
	bool whole = payload <= segment;

	memset(p, 0, sizeof(l->packet));
	l->packets = whole ? SMALL_PACKETS : 1;
	l->bytes = 20 + header + payload;
	l->segment_bytes = HEADER_BYTES + 20 + header + (whole ? payload : segment);
	p[0] = 0x45;
	store_be16(p + 2, (uint16_t)l->bytes);
	p[6] = 0x40;
	p[8] = 64;
	p[9] = (uint8_t)protocol;
	p[12] = p[16] = 10;
	p[15] = 1;
	p[19] = 2;
	ipv4_checksum_set(p, 20);
	if (protocol == PROTOCOL_TCP) {
		p[32] = (uint8_t)(header / 4 << 4);
		p[33] = TCP_ACK;
	} else
		store_be16(p + 24, (uint16_t)(header + payload));
	l->vnet = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 20,
	    .csum_offset = protocol == PROTOCOL_TCP ? 16 : 6, .gso_size = whole ? 0 : (uint16_t)segment,
	    .gso_type = whole ? VIRTIO_NET_HDR_GSO_NONE : VIRTIO_NET_HDR_GSO_TCPV4 };
}

static void
bench_path(void)
{
	static struct loop l;

	loop_open(&l);
	loop_load(&l, PROTOCOL_TCP, 32, SEGMENTS * SEGMENT_BYTES, SEGMENT_BYTES);
	measure("out, segment of a superpacket", 52 + SEGMENT_BYTES, SEGMENTS, out, &l);
	measure("in, segment of a train", 52 + SEGMENT_BYTES, SEGMENTS, in, &l);
	loop_load(&l, PROTOCOL_UDP, 8, 64, 64);
	measure("out, small packet", 92, SMALL_PACKETS, out, &l);
	measure("in, small packet", 92, SMALL_PACKETS, in, &l);
	engine_free(l.engine);
}

int
main(void)
{
	bench_aead();
	bench_look_ups();
	bench_path();
	return (0);
}
