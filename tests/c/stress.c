/*
 * What only shows under threads: the window, the ring, and tables and addresses that change under running workers. Meant
 * for ThreadSanitizer (run.py stress --sanitize tsan), and worth a run without. Prints a line per test; failure aborts.
 */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine_private.h"
#include "ring.h"
#include "window.h"
#include "worker.h"

#define THREADS		4

static uint64_t
next_random(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return (mix64(*state));
}

/* --- window: THREADS threads insert the same counters, each in an order of its own: each counter is New once. */

#define COUNTERS	200000

static struct window hammered;
static _Atomic uint8_t accepted[COUNTERS];

static void *
hammer(void *argument)
{
	uint64_t random = (uintptr_t)argument, counter, i;

	for (i = 0; i < COUNTERS; i++) {
		/* Forward in time with some jitter, now and then back to where the window may have left. */
		counter = i + next_random(&random) % 1000;
		if (next_random(&random) % 64 == 0)
			counter %= i + 1;
		if (counter >= COUNTERS || window_test(&hammered, counter) != VERDICT_NEW)
			continue;
		if (window_insert(&hammered, counter) == VERDICT_NEW)
			assert(atomic_fetch_add(&accepted[counter], 1) == 0);
	}
	return (NULL);
}

static void
test_window(void)
{
	pthread_t threads[THREADS];
	uintptr_t i;
	unsigned taken = 0;

	for (i = 0; i < THREADS; i++)
		assert(pthread_create(&threads[i], NULL, hammer, (void *)(i + 1)) == 0);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (i = 0; i < COUNTERS; i++)
		taken += accepted[i];
	assert(taken > COUNTERS / 2);
	printf("window: %u of %u counters accepted, each once, by %d threads\n", taken, COUNTERS, THREADS);
}

/* --- ring: everything pushed arrives whole and in order. */

#define EVENTS	200000

static void *
push_events(void *argument)
{
	struct ring *ring = argument;
	uint8_t data[300];
	uint64_t n, random = 7;
	struct engine_event event;
	size_t bytes;

	for (n = 0; n < EVENTS;) {
		event = (struct engine_event){ .kind = n % 3 == 0 ? ENGINE_EVENT_RESUMED : (uint32_t)(n % 2), .number = n };
		bytes = event.kind == ENGINE_EVENT_RESUMED ? 0 : next_random(&random) % sizeof(data);
		memset(data, (int)(n & 0xff), bytes);
		if (ring_push(ring, &event, bytes != 0 ? data : NULL, bytes))
			n++;
		else
			sched_yield();
	}
	return (NULL);
}

static void
test_ring(void)
{
	static uint8_t buffer[1 << 16];
	struct ring *ring = ring_new();
	struct engine_event event;
	pthread_t thread;
	uint64_t expected = 0;
	size_t used, at, i;

	assert(ring != NULL && pthread_create(&thread, NULL, push_events, ring) == 0);
	while (expected < EVENTS) {
		used = ring_take(ring, buffer, sizeof(buffer));
		for (at = 0; at < used; at += event.record_bytes) {
			memcpy(&event, buffer + at, sizeof(event));
			assert(event.number == expected++);
			for (i = 0; i < event.data_bytes; i++)
				assert(buffer[at + sizeof(event) + i] == (event.number & 0xff));
		}
		if (used == 0)
			sched_yield();
	}
	pthread_join(thread, NULL);
	ring_free(ring);
	printf("ring: %d events in order\n", EVENTS);
}

/* --- engine: two workers carry packets while tables and addresses change under them. */

#define WORKERS		2
#define CHANGES		400
#define PACKET_BYTES	60

static int tun_ends[WORKERS];
static _Atomic bool done;
static _Atomic uint64_t packets_read;

static int
udp_socket(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(*port) };
	socklen_t bytes = sizeof(a);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1;

	/* The first is bound without SO_REUSEPORT: with it, a port that the kernel chooses may be another local's. */
	assert(fd != -1 && (*port == 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0));
	assert(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	assert(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0);
	assert(getsockname(fd, (struct sockaddr *)&a, &bytes) == 0);
	*port = ntohs(a.sin_port);
	return (fd);
}

static struct engine_endpoint
loopback(uint16_t port)
{
	return ((struct engine_endpoint){ .address = { 127, 0, 0, 1 }, .port = port, .version = 4 });
}

/* Packets from and to 10.0.0.1, which is also the peer: what the engine sends to itself comes back to the TUN device. */
static void *
carry(void *argument)
{
	int fd = *(int *)argument;
	uint8_t packet[PACKET_BYTES] = { 0x45, 0, 0, PACKET_BYTES, 0, 0, 0x40, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 1 };
	uint8_t got[2048];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t n;

	while (!atomic_load(&done)) {
		(void)send(fd, packet, sizeof(packet), MSG_DONTWAIT);
		if (poll(&p, 1, 1) != 1)
			continue;
		while ((n = recv(fd, got, sizeof(got), MSG_DONTWAIT)) > 0) {
			assert(n == PACKET_BYTES && memcmp(packet, got, PACKET_BYTES) == 0);
			atomic_fetch_add(&packets_read, 1);
		}
	}
	return (NULL);
}

static void
apply(struct engine *e, uint64_t generation, uint64_t session, uint16_t port, bool planned)
{
	struct engine_path path = { .path = generation / 7, .local = loopback(port), .remote = loopback(port) };
	struct engine_route route = { .network = { 10 }, .peer = 1, .version = 4, .prefix = 8 };
	struct engine_run run = { .first = 0, .k = 1 };
	/* One plan or two, which share the flows; the second one's session is the same. */
	uint32_t plan_count = !planned ? 0 : generation % 5 == 0 ? 2 : 1;
	uint8_t shares[ENGINE_BUCKETS] = { 0, 1, 1 };
	struct engine_peer peer = { .peer = 1, .known_count = generation % 3 != 0, .plan_count = plan_count,
	    .share_count = plan_count > 1 ? ENGINE_BUCKETS : 0 };
	struct engine_plan plans[2] = { { .session = session, .path_count = 1, .copies = 1, .run = run } };
	struct engine_session sessions[2] = {
		{ .session = session, .peer = 1, .source_count = 1, .own = run, .pending = generation % 2 != 0 },
		{ .session = session + 1, .peer = 1, .source_count = 1, .own = run },
	};
	struct engine_table table = { .generation = generation, .route_count = 1, .peer_count = 1,
	    .plan_count = plan_count, .session_count = 2, .path_count = 1, .source_count = 1, .share_count = ENGINE_BUCKETS,
	    .routes = &route, .peers = &peer, .plans = plans, .sessions = sessions, .paths = &path, .sources = &run,
	    .shares = shares };

	/* Every session has a base and a key of its own, so that nothing is opened under a wrong one. */
	memcpy(plans[0].base, &session, sizeof(plans[0].base));
	memcpy(sessions[0].base, &session, sizeof(plans[0].base));
	memset(plans[0].key, (int)session, sizeof(plans[0].key));
	memset(sessions[0].key, (int)session, sizeof(plans[0].key));
	plans[1] = plans[0];
	session++;
	memcpy(sessions[1].base, &session, sizeof(plans[0].base));
	memset(sessions[1].key, (int)session, sizeof(plans[0].key));
	assert(engine_apply(e, &table) == 0);
}

static void
test_engine(void)
{
	struct engine_options options = { .spin_us = 20 };
	struct engine_path_counters paths[4];
	struct engine_peer_counters peers[4];
	struct engine_endpoint local;
	uint64_t drops[DROP_REASONS], told = 0, n;
	static uint8_t events[1 << 17];
	pthread_t threads[WORKERS];
	int tuns[WORKERS], pair[2], fds[WORKERS], error;
	uint16_t port = 0, spare;
	struct engine *e;
	unsigned i;

	for (i = 0; i < WORKERS; i++) {
		assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
		tun_ends[i] = pair[0];
		tuns[i] = pair[1];
	}
	assert((e = engine_new(tuns, WORKERS, &options, &error)) != NULL);
	for (i = 0; i < WORKERS; i++)
		fds[i] = udp_socket(&port);
	local = loopback(port);
	assert(engine_add_local(e, &local, fds) == 0);
	assert(engine_add_local(e, &local, fds) == ENGINE_IN_USE);
	assert(engine_start(e) == 0);
	for (i = 0; i < WORKERS; i++)
		assert(pthread_create(&threads[i], NULL, carry, &tun_ends[i]) == 0);
	for (n = 0; n < CHANGES; n++) {
		apply(e, n, n / 10, port, n % 5 != 0);
		spare = 0;
		for (i = 0; i < WORKERS; i++)
			fds[i] = udp_socket(&spare);
		local = loopback(spare);
		assert(engine_add_local(e, &local, fds) == 0);
		assert(engine_send(e, &local, &local, (const uint8_t *)"\x81hello", 6, n % 2 == 0) == -1);
		told += engine_events(e, events, sizeof(events)) > 0;
		engine_drops(e, drops, DROP_REASONS);
		engine_path_counters(e, paths, 4);
		engine_peer_counters(e, peers, 4);
		engine_remove_local(e, &local);
	}
	apply(e, CHANGES, CHANGES / 10, port, true);
	for (n = atomic_load(&packets_read); atomic_load(&packets_read) < n + 100;)
		sched_yield();
	atomic_store(&done, true);
	for (i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	assert(drops[DROP_BAD_TAG] == 0 && drops[DROP_FOREIGN_SHARD] == 0 && told > 0);
	engine_free(e);
	for (i = 0; i < WORKERS; i++)
		close(tun_ends[i]);
	printf("engine: %llu packets through %d changes of the table\n", (unsigned long long)packets_read, CHANGES);
}

/* --- keys: what a table gave is nowhere in the process's memory once a table no longer names the session. */

/* A key that stands in no variable of this test as it is. */
static void
secret(uint8_t key[KEY_BYTES], uint8_t salt)
{
	unsigned i;

	for (i = 0; i < KEY_BYTES; i++)
		key[i] = (uint8_t)mix64(salt * 1000u + i);
}

/* How often the memory of the process holds the key. */
static unsigned
occurrences(uint8_t salt)
{
	static uint8_t piece[1 << 16];
	unsigned long long from, to, at;
	uint8_t wanted[KEY_BYTES];
	char line[512], mode[8];
	unsigned found = 0;
	int memory = open("/proc/self/mem", O_RDONLY);
	FILE *maps = fopen("/proc/self/maps", "r");
	uint8_t *p;
	ssize_t n;

	assert(memory != -1 && maps != NULL);
	while (fgets(line, sizeof(line), maps) != NULL) {
		if (sscanf(line, "%llx-%llx %7s", &from, &to, mode) != 3 || strncmp(mode, "rw", 2) != 0)
			continue;
		if (to - from > 1ull << 32)
			continue;	/* a sanitizer's shadow */
		for (at = from; at < to; at += sizeof(piece) - KEY_BYTES) {
			if ((n = pread(memory, piece, to - at < sizeof(piece) ? to - at : sizeof(piece), (off_t)at)) <= 0)
				break;	/* a guard page */
			secret(wanted, salt);
			for (p = piece; (p = memmem(p, (size_t)(piece + n - p), wanted, KEY_BYTES)) != NULL; p++)
				if (at + (uint64_t)(p - piece) != (uintptr_t)wanted)
					found++;
			explicit_bzero(wanted, sizeof(wanted));
			explicit_bzero(piece, sizeof(piece));
		}
	}
	fclose(maps);
	close(memory);
	return (found);
}

static void
apply_secret(struct engine *e, uint64_t session, uint16_t port)
{
	struct engine_path path = { .path = 1, .local = loopback(port), .remote = loopback(port) };
	struct engine_route route = { .network = { 10 }, .peer = 1, .version = 4, .prefix = 8 };
	struct engine_run run = { 0 };
	struct engine_peer peer = { .peer = 1, .plan_count = 1 };
	struct engine_plan plan = { .session = session, .path_count = 1, .copies = 1, .run = run };
	struct engine_session receive = { .session = session, .peer = 1, .source_count = 1, .own = run };
	struct engine_table table = { .route_count = 1, .peer_count = 1, .plan_count = 1, .session_count = 1, .path_count = 1,
	    .source_count = 1, .routes = &route, .peers = &peer, .plans = &plan, .sessions = &receive, .paths = &path,
	    .sources = &run };

	secret(plan.key, (uint8_t)session);
	secret(receive.key, (uint8_t)session);
	assert(engine_apply(e, &table) == 0);
	explicit_bzero(&plan, sizeof(plan));
	explicit_bzero(&receive, sizeof(receive));
}

static void
test_keys(enum engine_aead aead)
{
	struct engine_options options = { .aead = (uint8_t)aead };
	struct engine_endpoint local;
	pthread_t thread;
	int pair[2], fd, error;
	uint16_t port = 0;
	struct engine *e;
	uint64_t n;

	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
	if ((e = engine_new(&pair[1], 1, &options, &error)) == NULL) {
		assert(error == ENGINE_NO_AEAD);
		printf("keys: not tested with ipsec-mb: %s\n", engine_ipsec_mb_missing());
		close(pair[0]);
		close(pair[1]);
		return;
	}
	fd = udp_socket(&port);
	local = loopback(port);
	assert(engine_add_local(e, &local, &fd) == 0 && engine_start(e) == 0);
	/* Before there are keys: a thread inherits the registers of the one that makes it, and may save them on its stack. */
	atomic_store(&done, false);
	assert(pthread_create(&thread, NULL, carry, &pair[0]) == 0);
	apply_secret(e, 1, port);
	for (n = atomic_load(&packets_read); atomic_load(&packets_read) < n + 100;)
		sched_yield();
	atomic_store(&done, true);
	pthread_join(thread, NULL);
	assert(occurrences(1) > 0);
	apply_secret(e, 2, port);
	assert(occurrences(1) == 0 && occurrences(2) > 0);
	printf("keys: wiped with their session, %s\n", engine_aead_name(e));
	engine_free(e);
	assert(occurrences(2) == 0);
	close(pair[0]);
}

int
main(void)
{
	test_window();
	test_ring();
	test_engine();
	test_keys(ENGINE_AEAD_IPSEC_MB);
	test_keys(ENGINE_AEAD_LIBCRYPTO);
	return (0);
}
