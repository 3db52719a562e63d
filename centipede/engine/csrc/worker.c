#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/eventfd.h>

#include "engine_private.h"
#include "worker.h"

#define BULK_BYTES		16384			/* a round with so much is bulk */
#define BULK_NS			(1000 * NS_PER_US)	/* and so are those soon after it */
#define CONTENDED_YIELD_NS	(40 * NS_PER_US)	/* a yield this long means that others have work for this core */
#define CONTENDED_NS		(10000 * NS_PER_US)

/* Queue an event for the control thread and make sure it wakes. False, and counted, if there is no room. */
bool
worker_tell(struct worker *w, struct engine_event *event, const uint8_t *data, size_t data_bytes)
{
	static const unsigned full[] = {
		[ENGINE_EVENT_HANDSHAKE] = DROP_HANDSHAKE_RING_FULL,
		[ENGINE_EVENT_CONTROL] = DROP_CONTROL_RING_FULL,
		[ENGINE_EVENT_FIRST_DATA] = DROP_EVENT_RING_FULL,
		[ENGINE_EVENT_NEW_REMOTE] = DROP_EVENT_RING_FULL,
		[ENGINE_EVENT_RESUMED] = DROP_EVENT_RING_FULL,
		[ENGINE_EVENT_FOREIGN] = DROP_FOREIGN_RING_FULL,
	};

	if (!ring_push(w->ring, event, data, data_bytes)) {
		drop(w->drops, full[event->kind], 1);
		return (false);
	}
	/* The reader lowers the flag before it looks at the ring, so either it sees this event or we see the flag down. */
	if (!atomic_exchange(&w->engine->events_signalled, true))
		(void)eventfd_write(w->engine->event_fd, 1);
	return (true);
}

/* Take up the newest table and local addresses; from here on nothing of the older ones is touched. */
void
worker_adopt(struct worker *w)
{
	struct engine *e = w->engine;
	struct snapshot *snapshot;
	struct local *l;
	int fd;

	w->epoch = atomic_load_explicit(&e->epoch, memory_order_acquire);
	snapshot = atomic_load_explicit(&e->snapshot, memory_order_acquire);
	inbound_adopt(w, snapshot);
	w->snapshot = snapshot;
	aead_forget(w->aead);
	w->local_count = 0;
	for (l = e->locals; l < e->locals + LOCALS_MAX; l++) {
		if ((fd = atomic_load_explicit(&l->fds[w->index], memory_order_acquire)) == -1)
			continue;
		w->polled[POLL_LOCALS + w->local_count] = (struct pollfd){ .fd = fd, .events = POLLIN };
		w->local_rests_ns[w->local_count] = 0;
		w->locals[w->local_count++] = l;
	}
	w->now_ns = w->trains.now_ns = now_ns();
	inbound_unheard(w);
	outbound_waiting(w);
	sem_post(&w->adopted);
}

/* Leave out of the next poll what rests after a failure; the time until the first may be tried again, or `timeout`. */
static int
leave_resting(struct worker *w, int timeout)
{
	struct pollfd *p;
	uint64_t rests_ns;
	unsigned i;
	bool resting = false;

	for (i = 0; i < 1 + w->local_count; i++) {
		p = &w->polled[POLL_TUN + i];
		rests_ns = i == 0 ? w->tun_rests_ns : w->local_rests_ns[i - 1];
		p->events = POLLIN;
		if (likely(rests_ns == 0))
			continue;
		/* poll() skips negative descriptors. */
		if (w->now_ns < rests_ns) {
			p->fd = p->fd >= 0 ? ~p->fd : p->fd;
			resting = true;
		} else {
			p->fd = p->fd < 0 ? ~p->fd : p->fd;
			*(i == 0 ? &w->tun_rests_ns : &w->local_rests_ns[i - 1]) = 0;
		}
	}
	if (resting && (timeout == -1 || timeout > (int)(REST_AFTER_FAILURE_NS / 1000000)))
		timeout = (int)(REST_AFTER_FAILURE_NS / 1000000);
	return (timeout);
}

/* Serve every descriptor that poll() found ready, a batch each; false if there was none. */
static bool
serve(struct worker *w)
{
	eventfd_t ignored;
	size_t bytes = 0;
	unsigned i;
	bool served = false;

	if (w->polled[POLL_WAKE].revents != 0)
		(void)eventfd_read(w->wake_fd, &ignored);
	if (unlikely(w->polled[POLL_INJECTED].revents != 0)) {
		bytes += inbound_injected(w);
		served = true;
	}
	if (w->polled[POLL_TUN].revents != 0) {
		bytes += outbound_read(w);
		served = true;
	}
	for (i = 0; i < w->local_count; i++)
		if (w->polled[POLL_LOCALS + i].revents != 0) {
			bytes += inbound_read(w, i);
			served = true;
		}
	if (served)
		w->served_ns = w->now_ns;
	if (bytes >= BULK_BYTES)
		w->no_spin_ns = w->now_ns + BULK_NS;
	return (served);
}

static bool
may_spin(const struct worker *w)
{
	return (w->now_ns - w->served_ns < w->engine->spin_ns && w->now_ns >= w->no_spin_ns);
}

/*
 * The time to poll for when there is nothing to do: none, to look again, or for ever.
 *
 * Waking a thread costs more than a small packet does, and the answer to one often comes within microseconds, so the
 * worker looks again for a short while and lets others run meanwhile: spinning without yielding would starve the process
 * whose answer it waits for. It does not spin where that gains nothing or harms: bulk pays for its wake-ups, and where
 * others have long work for this core, each yield costs the worker its place in the queue, sleeping does not.
 */
static int
idle(struct worker *w)
{
	if (!may_spin(w))
		return (-1);
	sched_yield();
	if (now_ns() - w->now_ns > CONTENDED_YIELD_NS)
		w->no_spin_ns = w->now_ns + CONTENDED_NS;
	return (0);
}

/* The loop. What arrived before a change is served once more under the old state. */
static void
run(struct worker *w)
{
	struct engine *e = w->engine;
	int n, timeout = -1, wait = -1;
	bool changed;

	while (!atomic_load_explicit(&e->stopping, memory_order_relaxed)) {
		changed = atomic_load_explicit(&e->epoch, memory_order_acquire) != w->epoch;
		n = poll(w->polled, POLL_LOCALS + w->local_count, changed ? 0 : leave_resting(w, wait));
		w->now_ns = w->trains.now_ns = now_ns();
		timeout = n > 0 && serve(w) && may_spin(w) ? 0 : idle(w);
		if (unlikely(changed))
			worker_adopt(w);
		wait = likely(w->reorder_count == 0) ? timeout : inbound_end_waits(w, timeout);
	}
}

void *
worker_run(void *argument)
{
	struct worker *w = argument;
	char name[16];
	sigset_t all;

	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	snprintf(name, sizeof(name), "centipede/%u", w->index);
	pthread_setname_np(pthread_self(), name);
	run(w);
	return (NULL);
}
