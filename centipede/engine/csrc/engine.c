/*
 * The engine's interface: workers, tables, local addresses, events, counters. Everything here is the control thread's.
 *
 * A change - a new table, an address more or less - is published by raising the epoch. Each worker notices at the top of
 * its loop, takes up the newest state and posts a semaphore; the control thread waits for all of them, after which
 * nobody can look at what was replaced, and it is wiped and freed. No worker ever waits for anybody.
 */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "engine_private.h"
#include "worker.h"

#ifndef UDP_GRO
#define UDP_GRO	104
#endif

/* --- workers */

static struct worker *
worker_new(struct engine *e, unsigned index, const struct engine_options *o, int *error)
{
	/* Mapped: most of it is buffers, whose pages a quiet worker never touches. */
	struct worker *w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*error = ENGINE_NO_MEMORY;
	if (w == MAP_FAILED)
		return (NULL);
	w->engine = e;
	w->index = index;
	w->snapshot = atomic_load(&e->snapshot);
	w->epoch = UINT64_MAX;
	w->injected_fd = -1;
	w->tun = (struct tun){ .fd = -1, .vnet_hdr = o->vnet_hdr != 0, .drops = w->drops };
	w->tun.write_tso = o->vnet_hdr != 0 && o->write_tso != 0;
	w->tun.write_uso = o->vnet_hdr != 0 && o->write_uso != 0;
	w->trains.worker = index;
	w->trains.drops = w->drops;
	sem_init(&w->adopted, 0, 0);
	inbound_init(w);
	w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->ring = ring_new();
	if (w->wake_fd == -1 || w->ring == NULL)
		return (w);
	*error = ENGINE_NO_AEAD;
	if ((w->aead = aead_new((enum engine_aead)o->aead)) == NULL)
		return (w);
	*error = 0;
	return (w);
}

static void
worker_free(struct worker *w)
{
	if (w->tun.fd != -1)
		close(w->tun.fd);
	if (w->wake_fd != -1)
		close(w->wake_fd);
	if (w->injected_fd != -1)
		close(w->injected_fd);
	aead_free(w->aead);
	ring_free(w->ring);
	sem_destroy(&w->adopted);
	explicit_bzero(w->trains.bytes, sizeof(w->trains.bytes));
	munmap(w, sizeof(*w));
}

static void
wake(struct worker *w)
{
	(void)eventfd_write(w->wake_fd, 1);
}

/* Have every worker take up what changed; when this returns, they have. */
static void
publish(struct engine *e)
{
	unsigned i;

	atomic_fetch_add(&e->epoch, 1);
	for (i = 0; i < e->worker_count; i++)
		if (e->started)
			wake(e->workers[i]);
		else
			worker_adopt(e->workers[i]);
	for (i = 0; i < e->worker_count; i++)
		while (sem_wait(&e->workers[i]->adopted) == -1 && errno == EINTR)
			continue;
}

struct engine *
engine_new(const int *tun_fds, uint32_t workers, const struct engine_options *o, int *error)
{
	struct engine *e;
	unsigned i;
	size_t l;
	int injection[2];

	*error = ENGINE_TOO_MANY;
	if (workers == 0 || workers > WORKERS_MAX)
		return (NULL);
	*error = ENGINE_NO_MEMORY;
	if ((e = zalloc_lines(sizeof(*e))) == NULL)
		return (NULL);
	e->stamp = 1;
	e->spin_ns = o->spin_us * NS_PER_US;
	for (l = 0; l < LOCALS_MAX; l++)
		for (i = 0; i < WORKERS_MAX; i++)
			atomic_init(&e->locals[l].fds[i], -1);
	atomic_init(&e->snapshot, snapshot_empty());
	e->inject_fd = -1;
	if ((e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) == -1 || atomic_load(&e->snapshot) == NULL)
		goto fail;
	for (i = 0; i < workers; i++) {
		if ((e->workers[i] = worker_new(e, i, o, error)) == NULL)
			goto fail;
		e->worker_count++;
		if (*error != 0)
			goto fail;
	}
	*error = ENGINE_NO_MEMORY;
	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, injection) == -1)
		goto fail;
	e->inject_fd = injection[0];
	e->workers[0]->injected_fd = injection[1];
	*error = 0;
	/* Only a whole engine owns the descriptors. */
	for (i = 0; i < workers; i++) {
		e->workers[i]->tun.fd = tun_fds[i];
		e->workers[i]->polled[POLL_WAKE] = (struct pollfd){ .fd = e->workers[i]->wake_fd, .events = POLLIN };
		e->workers[i]->polled[POLL_INJECTED] = (struct pollfd){ .fd = e->workers[i]->injected_fd, .events = POLLIN };
		e->workers[i]->polled[POLL_TUN] = (struct pollfd){ .fd = tun_fds[i], .events = POLLIN };
	}
	publish(e);
	return (e);
fail:
	engine_free(e);
	return (NULL);
}

int
engine_start(struct engine *e)
{
	sigset_t all, before;
	unsigned i;
	int error = 0;

	/* The workers inherit the mask: signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (i = 0; i < e->worker_count && error == 0; i++)
		error = pthread_create(&e->workers[i]->thread, NULL, worker_run, e->workers[i]);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error == 0) {
		e->started = true;
		return (0);
	}
	atomic_store(&e->stopping, true);
	while (--i > 0) {	/* the last one did not start */
		wake(e->workers[i - 1]);
		pthread_join(e->workers[i - 1]->thread, NULL);
	}
	return (ENGINE_NO_THREAD);
}

static void
close_local(struct local *l)
{
	unsigned i;
	int fd;

	for (i = 0; i < WORKERS_MAX; i++)
		if ((fd = atomic_exchange(&l->fds[i], -1)) != -1)
			close(fd);
}

void
engine_free(struct engine *e)
{
	unsigned i;
	size_t l;

	if (e == NULL)
		return;
	atomic_store(&e->stopping, true);
	for (i = 0; i < e->worker_count && e->started; i++) {
		wake(e->workers[i]);
		pthread_join(e->workers[i]->thread, NULL);
	}
	for (i = 0; i < e->worker_count; i++)
		worker_free(e->workers[i]);
	for (l = 0; l < LOCALS_MAX; l++)
		close_local(&e->locals[l]);
	snapshot_free(atomic_load(&e->snapshot), NULL);
	if (e->event_fd != -1)
		close(e->event_fd);
	if (e->inject_fd != -1)
		close(e->inject_fd);
	free(e);
}

/* --- local addresses */

/*
 * Steer data to the worker that its destination shard names (docs/protocol.md "Session packets"); what is no data, and
 * what is too short to say, goes to worker 0. The program sees the UDP payload; a load beyond its end answers 0.
 */
static bool
steer(int fd, uint32_t workers)
{
	uint32_t mask = 1;

	while (mask < workers)
		mask *= 2;
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0xc0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 14),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask - 1),
		BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, workers),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};
	struct sock_fprog filter = { sizeof(program) / sizeof(program[0]), program };

	return (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter, sizeof(filter)) == 0);
}

int
engine_add_local(struct engine *e, const struct engine_endpoint *endpoint, const int *fds)
{
	struct local *l;
	unsigned i;
	int on = 1;

	if ((l = local_take(e->locals, endpoint, e->stamp)) == NULL)
		return (ENGINE_TOO_MANY);
	if (l->served)
		return (ENGINE_IN_USE);
	for (i = 0; i < e->worker_count; i++)
		if (setsockopt(fds[i], IPPROTO_UDP, UDP_GRO, &on, sizeof(on)) == -1)
			counter_add(&e->gro_fallbacks, 1);
	if (e->worker_count > 1 && !steer(fds[0], e->worker_count))
		counter_add(&e->steering_fallbacks, 1);
	for (i = 0; i < e->worker_count; i++)
		atomic_store_explicit(&l->fds[i], fds[i], memory_order_release);
	l->served = true;
	publish(e);
	return (0);
}

void
engine_remove_local(struct engine *e, const struct engine_endpoint *endpoint)
{
	struct local *l = local_find(e->locals, endpoint);
	int fds[WORKERS_MAX];
	unsigned i;

	if (l == NULL || !l->served)
		return;
	for (i = 0; i < e->worker_count; i++)
		fds[i] = atomic_exchange(&l->fds[i], -1);
	publish(e);	/* closed before, a descriptor's number might already be another file's */
	for (i = 0; i < e->worker_count; i++)
		close(fds[i]);
	l->served = false;
}

/* --- tables */

int
engine_apply(struct engine *e, const struct engine_table *t)
{
	struct snapshot *old = atomic_load(&e->snapshot), *s;
	int error;

	error = snapshot_compile(&s, old, t, e->locals, e->stamp + 1, &e->session_floor, e->worker_count);
	if (error != 0)
		return (error);
	e->stamp++;
	atomic_store_explicit(&e->snapshot, s, memory_order_release);
	publish(e);
	snapshot_free(old, s);
	return (0);
}

static void
set_pmtu_discovery(int fd, unsigned version, int value)
{
	if (version == 6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &value, sizeof(value));
	else
		(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &value, sizeof(value));
}

int
engine_send(struct engine *e, const struct engine_endpoint *local, const struct engine_endpoint *remote,
    const uint8_t *datagram, size_t datagram_bytes, int dont_fragment)
{
	struct local *l = local_find(e->locals, local);
	struct address address;
	unsigned reason = DROP_SEND_UNREACHABLE;
	ssize_t n;
	int fd, error;

	if (l != NULL && l->served && local->version == remote->version) {
		fd = atomic_load(&l->fds[0]);
		address_set(&address, remote);
		/* What the worker sends meanwhile is not fragmented either; it may be lost, as anything may. */
		if (dont_fragment)
			set_pmtu_discovery(fd, local->version, IP_PMTUDISC_PROBE);
		do
			n = sendto(fd, datagram, datagram_bytes, MSG_DONTWAIT, &address.any, address.bytes);
		while (n == -1 && errno == EINTR);
		error = errno;
		if (dont_fragment)
			set_pmtu_discovery(fd, local->version, IP_PMTUDISC_DONT);
		if (n != -1)
			return (-1);
		reason = send_drop_reason(error);
	}
	drop(e->drops, reason, 1);
	return ((int)reason);
}

int
engine_inject(struct engine *e, const uint8_t *datagram, size_t datagram_bytes)
{
	if (send(e->inject_fd, datagram, datagram_bytes, MSG_DONTWAIT | MSG_NOSIGNAL) != -1)
		return (-1);
	drop(e->drops, DROP_FOREIGN_RING_FULL, 1);
	return (DROP_FOREIGN_RING_FULL);
}

/* --- upward */

int
engine_event_fd(const struct engine *e)
{
	return (e->event_fd);
}

size_t
engine_events(struct engine *e, uint8_t *buffer, size_t buffer_bytes)
{
	eventfd_t ignored;
	size_t used = 0;
	unsigned i;

	(void)eventfd_read(e->event_fd, &ignored);
	atomic_store(&e->events_signalled, false);
	for (i = 0; i < e->worker_count; i++)
		used += ring_take(e->workers[i]->ring, buffer + used, buffer_bytes - used);
	return (used);
}

size_t
engine_drop_reasons(void)
{
	return (DROP_REASONS);
}

size_t
engine_drops(const struct engine *e, uint64_t *drops, size_t count)
{
	unsigned i;
	size_t reason;

	for (reason = 0; reason < count && reason < DROP_REASONS; reason++) {
		drops[reason] = counter_read(&e->drops[reason]);
		for (i = 0; i < e->worker_count; i++)
			drops[reason] += counter_read(&e->workers[i]->drops[reason]);
	}
	return (DROP_REASONS);
}

size_t
engine_path_counters(const struct engine *e, struct engine_path_counters *out, size_t count)
{
	const struct list *l = &atomic_load(&e->snapshot)->path_states;
	const struct path_state *state;
	const struct path_worker *w;
	struct engine_path_counters *c;
	uint64_t v;
	size_t n;

	for (n = 0; n < count && n < l->count; n++) {
		state = l->items[n];
		c = &out[n];
		*c = (struct engine_path_counters){ .path = state->number };
		for (w = state->workers; w < state->workers + e->worker_count; w++) {
			c->rx_packets += counter_read(&w->rx_packets);
			c->rx_bytes += counter_read(&w->rx_bytes);
			c->rx_copies += counter_read(&w->rx_copies);
			c->tx_packets += counter_read(&w->tx_packets);
			c->tx_bytes += counter_read(&w->tx_bytes);
			if ((v = counter_read(&w->largest)) > c->largest)
				c->largest = v;
			if ((v = counter_read(&w->last_rx_ns)) > c->last_rx_ns)
				c->last_rx_ns = v;
		}
	}
	return (l->count);
}

size_t
engine_peer_counters(const struct engine *e, struct engine_peer_counters *out, size_t count)
{
	const struct list *l = &atomic_load(&e->snapshot)->peer_states;
	const struct peer_state *state;
	uint64_t v;
	unsigned i;
	size_t n;

	for (n = 0; n < count && n < l->count; n++) {
		state = l->items[n];
		out[n] = (struct engine_peer_counters){ .peer = state->number };
		for (i = 0; i < e->worker_count; i++)
			if ((v = counter_read(&state->workers[i].last_tx_ns)) > out[n].last_tx_ns)
				out[n].last_tx_ns = v;
	}
	return (l->count);
}

void
engine_fallbacks(const struct engine *e, struct engine_fallbacks *f)
{
	const struct worker *w;
	unsigned i;

	*f = (struct engine_fallbacks){ .udp_gro = counter_read(&e->gro_fallbacks),
	    .reuseport_steering = counter_read(&e->steering_fallbacks) };
	for (i = 0; i < e->worker_count; i++) {
		w = e->workers[i];
		f->udp_segment += counter_read(&w->trains.segment_fallbacks);
		f->tun_tso += counter_read(&w->tun.tso_fallbacks);
		f->tun_uso += counter_read(&w->tun.uso_fallbacks);
	}
}

const char *
engine_aead_name(const struct engine *e)
{
	return (aead_name(e->workers[0]->aead));
}

const char *
engine_ipsec_mb_missing(void)
{
	return (aead_ipsec_mb_missing());
}
