#include <errno.h>

#include <netinet/udp.h>

#include "engine_private.h"
#include "worker.h"

#ifndef UDP_GRO
#define UDP_GRO	104
#endif

#define CLASS_CONTROL	0x40	/* of the first byte */
#define COUNTER_MASK	((1ull << 48) - 1)

/* Where a datagram came from and what came before it in the same message. */
struct arrival {
	const struct local	*local;		/* NULL: another machine forwarded it */
	const struct address	*remote;
	/* Datagrams of a message share their 4-tuple and mostly their session. */
	const struct session	*session;
	struct path_state	*path;		/* of that session's peer */
};

void
inbound_init(struct worker *w)
{
	struct received *r;
	unsigned i;

	coalesce_init(&w->coalescer, &w->tun);
	w->flushes = 1;
	w->receive_messages = RECEIVE_MESSAGES;
	for (i = 0; i < RECEIVE_MESSAGES; i++) {
		r = &w->received[i];
		r->vector = (struct iovec){ w->received_bytes[i], RECEIVE_BYTES };
		w->headers[i].msg_hdr.msg_iov = &r->vector;
		w->headers[i].msg_hdr.msg_iovlen = 1;
		w->headers[i].msg_hdr.msg_name = &r->remote.any;
		w->headers[i].msg_hdr.msg_control = &r->control;
	}
}

static struct engine_event
event_of(const struct worker *w, const struct arrival *a, uint32_t kind, uint64_t number)
{
	struct engine_event event = { .kind = kind, .number = number, .arrived_ns = w->now_ns };

	event.local = a->local->endpoint;
	address_get(a->remote, &event.remote);
	return (event);
}

static const struct session *
find_session(const struct worker *w, struct arrival *a, uint64_t base)
{
	const struct session *session = a->session;

	if (likely(session != NULL && session->base == base))
		return (session);
	if ((session = session_find(w->snapshot, base)) == NULL)
		return (NULL);
	a->session = session;
	a->path = a->local == NULL ? NULL : known_path_find(w->snapshot, a->local, a->remote, session->peer);
	return (session);
}

static void
tell_handshake(struct worker *w, const struct arrival *a, const uint8_t *datagram, size_t bytes)
{
	struct engine_event event = event_of(w, a, ENGINE_EVENT_HANDSHAKE, 0);

	worker_tell(w, &event, datagram, bytes);
}

/* What names no session goes no further: strangers must not fill the ring that heartbeats go up by. */
static void
tell_control(struct worker *w, struct arrival *a, const uint8_t *datagram, size_t bytes)
{
	struct engine_event event;
	unsigned i;

	if (find_session(w, a, load_be64(datagram + 8) >> 16) == NULL) {
		drop(w->drops, DROP_UNKNOWN_SESSION, 1);
		return;
	}
	event = event_of(w, a, ENGINE_EVENT_CONTROL, 0);
	if (a->path != NULL)
		for (i = 0; i < WORKERS_MAX; i++)
			event.path_received += counter_read(&a->path->workers[i].rx_packets);
	worker_tell(w, &event, datagram, bytes);
}

/* Once per session; it stays untold if there is no room for the event. */
static void
tell_first_data(struct worker *w, const struct arrival *a)
{
	struct session_state *state = a->session->state;
	struct engine_event event;

	if (likely(atomic_load_explicit(&state->first_told, memory_order_relaxed)) ||
	    atomic_exchange(&state->first_told, true))
		return;
	event = event_of(w, a, ENGINE_EVENT_FIRST_DATA, state->number);
	if (!worker_tell(w, &event, NULL, 0))
		atomic_store(&state->first_told, false);
}

/* Once per table and 4-tuple. */
static void
tell_new_remote(struct worker *w, const struct arrival *a, size_t bytes)
{
	struct engine_event event;
	_Atomic uint64_t *place;

	place = told_first(w->snapshot, mix64(address_hash(a->remote) ^ (uintptr_t)a->local ^
	    (uint64_t)a->session->peer << 48));
	if (place == NULL)
		return;
	event = event_of(w, a, ENGINE_EVENT_NEW_REMOTE, a->session->state->number);
	event.data_bytes = (uint32_t)bytes;
	if (!worker_tell(w, &event, NULL, 0))
		told_forget(place);
}

/* Check an opened packet and hand it to the coalescer: 0, or one more than the drop reason. */
static int
deliver(struct worker *w, uint8_t *packet, size_t bytes, uint32_t peer)
{
	const struct snapshot *s = w->snapshot;
	struct inner inner;
	bool partial = (packet[0] & PARTIAL_BIT) != 0;

	packet[0] &= (uint8_t)~PARTIAL_BIT;
	if (!inner_parse(packet, bytes, &inner))
		return (1 + DROP_OPENED_MALFORMED);
	if (partial && !inner_transport_whole(packet, &inner))
		return (1 + DROP_BAD_PARTIAL);
	if (routes_find(inner.version == 4 ? &s->v4 : &s->v6, inner_source(packet, &inner), inner.version) != peer)
		return (1 + DROP_SOURCE_NOT_ALLOWED);
	coalesce_packet(&w->coalescer, packet, &inner, partial);
	return (0);
}

/* Write all that was delivered; what it was written from may be used again. */
static void
flush(struct worker *w)
{
	coalesce_flush(&w->coalescer);
	w->flushes++;
}

/* --- packets that wait for those before them */

static void
deliver_held(struct worker *w, struct reorder *r, uint64_t counter)
{
	struct reorder_slot *slot = &r->slots[counter % REORDER_PACKETS];
	int reason;

	slot->held = false;
	slot->lent = w->flushes;
	r->held--;
	reason = deliver(w, r->bytes[counter % REORDER_PACKETS], slot->bytes, r->session->peer);
	if (reason != 0)
		drop(w->drops, (unsigned)reason - 1, 1);
}

/* Wait no more for counters below this one. */
static void
release_below(struct worker *w, struct reorder *r, uint64_t counter)
{
	for (; r->next < counter && r->held > 0; r->next++)
		if (r->slots[r->next % REORDER_PACKETS].held)
			deliver_held(w, r, r->next);
	if (r->next < counter)
		r->next = counter;
}

/* Deliver what has its turn, and pass over what others delivered. */
static void
advance(struct worker *w, struct reorder *r)
{
	for (; r->held > 0; r->next++)
		if (r->slots[r->next % REORDER_PACKETS].held)
			deliver_held(w, r, r->next);
		else if (window_test(r->window, r->next) == VERDICT_NEW)
			break;
}

static void
expire(struct worker *w, struct reorder *r, uint64_t before_ns)
{
	while (reorder_due(r) <= before_ns && r->held > 0) {
		release_below(w, r, r->arrivals[r->first % REORDER_ARRIVALS].counter + 1);
		advance(w, r);
	}
}

/* Keep a packet until its turn; false if there is no room for it. */
static bool
hold(struct worker *w, struct reorder *r, uint64_t counter, const uint8_t *packet, size_t bytes)
{
	struct reorder_slot *slot = &r->slots[counter % REORDER_PACKETS];

	if (r->last - r->first == REORDER_ARRIVALS)
		(void)reorder_due(r);
	if (bytes > REORDER_BYTES || r->last - r->first == REORDER_ARRIVALS ||
	    (!r->listed && w->reorder_count == REORDERS_MAX))
		return (false);
	if (!r->listed) {
		r->listed = true;
		w->reorders[w->reorder_count++] = r;
	}
	if (slot->lent == w->flushes)
		flush(w);
	*slot = (struct reorder_slot){ .held = true, .bytes = (uint32_t)bytes };
	memcpy(r->bytes[counter % REORDER_PACKETS], packet, bytes);
	r->arrivals[r->last++ % REORDER_ARRIVALS] = (struct reorder_arrival){ counter, w->now_ns };
	r->held++;
	return (true);
}

/* Deliver a packet in its turn: 0, or one more than the drop reason. It is not looked into before. */
static int
receive_in_order(struct worker *w, struct reorder *r, const struct session *session, uint64_t counter,
    uint8_t *packet, size_t bytes)
{
	int reason;

	if (!r->started) {
		r->started = true;
		r->next = counter;
	}
	r->session = session;
	if (counter < r->next)
		return (deliver(w, packet, bytes, session->peer));
	if (counter >= REORDER_PACKETS)
		release_below(w, r, counter - REORDER_PACKETS + 1);
	for (; r->next < counter; r->next++)
		if (r->slots[r->next % REORDER_PACKETS].held)
			deliver_held(w, r, r->next);
		else if (window_test(r->window, r->next) == VERDICT_NEW)
			break;
	if (r->next < counter)
		return (hold(w, r, counter, packet, bytes) ? 0 : deliver(w, packet, bytes, session->peer));
	reason = deliver(w, packet, bytes, session->peer);
	r->next++;
	advance(w, r);
	return (reason);
}

static void
unlist(struct worker *w, unsigned i)
{
	w->reorders[i]->listed = false;
	w->reorders[i] = w->reorders[--w->reorder_count];
}

int
inbound_end_waits(struct worker *w, int timeout)
{
	struct reorder *r;
	uint64_t due_ns, hold_ns;
	unsigned i = 0;
	int wait;

	while (i < w->reorder_count) {
		r = w->reorders[i];
		hold_ns = r->session->reorder_ns;
		if (w->now_ns > hold_ns)
			expire(w, r, w->now_ns - hold_ns);
		if (r->held == 0) {
			unlist(w, i);
			continue;
		}
		i++;
		due_ns = reorder_due(r) + hold_ns;
		wait = due_ns <= w->now_ns ? 0 : (int)((due_ns - w->now_ns + 999999) / 1000000);
		timeout = timeout == -1 || wait < timeout ? wait : timeout;
	}
	flush(w);
	return (timeout);
}

void
inbound_adopt(struct worker *w, const struct snapshot *to)
{
	const struct session *session;
	struct reorder *r;
	unsigned i = 0;

	while (i < w->reorder_count) {
		r = w->reorders[i];
		session = session_find(to, r->session->base);
		if (session != NULL && session->state == r->session->state && session->reorder_ns != 0) {
			r->session = session;
			i++;
			continue;
		}
		expire(w, r, UINT64_MAX);
		unlist(w, i);
	}
	flush(w);
}

/* Data for another machine: 0 if it goes up, or one more than the drop reason. What was forwarded goes no further. */
static int
tell_foreign(struct worker *w, const struct arrival *a, const uint8_t *datagram, size_t bytes)
{
	struct engine_event event;

	if (a->local == NULL || !w->snapshot->forwards)
		return (1 + DROP_FOREIGN_SHARD);
	event = event_of(w, a, ENGINE_EVENT_FOREIGN, a->session->state->number);
	worker_tell(w, &event, datagram, bytes);
	return (0);
}

/* Open a data packet and deliver what is in it: 0, or one more than the drop reason. */
static int
receive(struct worker *w, struct arrival *a, uint8_t *datagram, size_t bytes)
{
	uint64_t seq = load_be64(datagram), sid = load_be64(datagram + 8), counter = seq & COUNTER_MASK;
	const struct session *session;
	struct path_worker *traffic;
	struct window *window;
	enum verdict verdict;

	if ((session = find_session(w, a, sid >> 16)) == NULL)
		return (1 + DROP_UNKNOWN_SESSION);
	if ((uint16_t)((uint16_t)sid - session->own_first) >= session->own_size)
		return (tell_foreign(w, a, datagram, bytes));
	if ((window = session_window(session, (uint16_t)(seq >> 48 & 0x3fff))) == NULL)
		return (1 + DROP_UNKNOWN_SHARD);

	/* Copies are recognised before they are opened: that saves the cipher's time, and proves nothing about the path. */
	verdict = window_test(window, counter);
	if (verdict == VERDICT_NEW) {
		if (!aead_open(w->aead, session->state->rx_key, datagram, bytes))
			return (1 + DROP_BAD_TAG);
		verdict = window_insert(window, counter);
	}
	if (verdict == VERDICT_OLD)
		return (1 + DROP_OLD);
	traffic = a->path != NULL ? &a->path->workers[w->index] : NULL;
	if (traffic != NULL) {
		counter_add(&traffic->rx_packets, 1);
		counter_add(&traffic->rx_bytes, bytes);
	}
	if (verdict == VERDICT_SEEN) {
		if (traffic != NULL)
			counter_add(&traffic->rx_copies, 1);
		return (1 + DROP_DUPLICATE);
	}

	/* Authentic and new: this alone may change what is known of session and path. */
	if (unlikely(session->pending) && a->local != NULL)
		tell_first_data(w, a);
	if (likely(traffic != NULL)) {
		counter_set(&traffic->last_rx_ns, w->now_ns);
		if (bytes > counter_read(&traffic->largest))
			counter_set(&traffic->largest, bytes);
	} else if (a->local != NULL)
		tell_new_remote(w, a, bytes);
	if (unlikely(session->reorder_ns != 0) && bytes > HEADER_BYTES) {
		struct reorder *r = session_reorder(session, (uint16_t)(seq >> 48 & 0x3fff), w->index,
		    w->engine->worker_count);

		if (r != NULL)
			return (receive_in_order(w, r, session, counter, datagram + HEADER_BYTES,
			    bytes - HEADER_BYTES));
	}
	return (bytes > HEADER_BYTES ? deliver(w, datagram + HEADER_BYTES, bytes - HEADER_BYTES, session->peer) : 0);
}

/* --- datagrams of source shards that were not heard yet */

static void
give_up(struct worker *w, struct unheard *u)
{
	drop(w->drops, DROP_UNKNOWN_SHARD, u->local != NULL);
	u->local = NULL;
}

/* Its sender is a machine that the control thread is about to hear, or whose heartbeat was lost, or nobody at all. */
static void
keep_unheard(struct worker *w, const struct arrival *a, const uint8_t *datagram, size_t bytes)
{
	struct unheard *u = &w->unheard[w->unheard_last % UNHEARD_PACKETS];

	if (bytes > UNHEARD_BYTES) {
		drop(w->drops, DROP_UNKNOWN_SHARD, 1);
		return;
	}
	if (w->unheard_last - w->unheard_first == UNHEARD_PACKETS) {
		give_up(w, u);
		w->unheard_first++;
	}
	w->unheard_last++;
	u->local = a->local;
	u->remote = *a->remote;
	u->came_ns = w->now_ns;
	u->bytes = (uint32_t)bytes;
	memcpy(u->datagram, datagram, bytes);
}

static bool
is_served(const struct worker *w, const struct local *local)
{
	unsigned i;

	for (i = 0; i < w->local_count; i++)
		if (w->locals[i] == local)
			return (true);
	return (false);
}

void
inbound_unheard(struct worker *w)
{
	struct unheard *u;
	unsigned i;
	int reason;

	for (i = w->unheard_first; i != w->unheard_last; i++) {
		u = &w->unheard[i % UNHEARD_PACKETS];
		if (u->local == NULL)
			continue;
		if (w->now_ns - u->came_ns > UNHEARD_NS || !is_served(w, u->local)) {
			give_up(w, u);
			continue;
		}
		struct arrival a = { .local = u->local, .remote = &u->remote };

		if ((reason = receive(w, &a, u->datagram, u->bytes)) == 1 + DROP_UNKNOWN_SHARD)
			continue;
		if (reason != 0)
			drop(w->drops, (unsigned)reason - 1, 1);
		u->local = NULL;
	}
	if (w->unheard_first != w->unheard_last)
		flush(w);
	while (w->unheard_first != w->unheard_last && w->unheard[w->unheard_first % UNHEARD_PACKETS].local == NULL)
		w->unheard_first++;
}

/* Take in one message: a datagram, or several of one sender that the kernel joined. Deliveries await the flush. */
void
inbound_message(struct worker *w, const struct local *local, const struct address *remote, uint8_t *bytes,
    size_t length, size_t segment_bytes)
{
	struct arrival a = { .local = local, .remote = remote };
	size_t left = length, size;
	int reason;

	do {
		size = segment_bytes < left ? segment_bytes : left;
		if (unlikely(size > 0 && (bytes[0] & 0x80) != 0))
			tell_handshake(w, &a, bytes, size);
		else if (unlikely(size < HEADER_BYTES))
			drop(w->drops, DROP_TOO_SHORT, 1);
		else if (unlikely((bytes[0] & CLASS_CONTROL) != 0))
			tell_control(w, &a, bytes, size);
		else if ((reason = receive(w, &a, bytes, size)) == 1 + DROP_UNKNOWN_SHARD)
			keep_unheard(w, &a, bytes, size);
		else if (reason != 0)
			drop(w->drops, (unsigned)reason - 1, 1);
		bytes += size;
		left -= size;
	} while (left > 0);
}

/* The size of the datagrams in a message, from its control data; that of the message if there is but one. */
static size_t
segment_size(const struct msghdr *h, size_t length)
{
	const struct cmsghdr *c = CMSG_FIRSTHDR(h);
	int size;

	if (c == NULL || c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO)
		return (length);
	memcpy(&size, CMSG_DATA(c), sizeof(size));
	return (size > 0 ? (size_t)size : length);
}

/* An ICMP error about an earlier send: the read lost nothing. */
static bool
late_error(int error)
{
	return (error == ECONNREFUSED || error == EHOSTUNREACH || error == ENETUNREACH || error == EMSGSIZE ||
	    error == EPROTO);
}

/* Take a batch of datagrams from one socket. */
size_t
inbound_read(struct worker *w, unsigned local)
{
	struct local *l = w->locals[local];
	int fd = w->polled[POLL_LOCALS + local].fd, n, i;
	size_t total = 0;

	for (i = 0; i < (int)w->receive_messages; i++) {
		w->headers[i].msg_hdr.msg_namelen = sizeof(w->received[i].remote.v6);
		w->headers[i].msg_hdr.msg_controllen = sizeof(w->received[i].control);
	}
	n = recvmmsg(fd, w->headers, w->receive_messages, MSG_DONTWAIT, NULL);
	if (n == -1) {
		if (errno == EAGAIN || errno == EINTR || late_error(errno))
			return (0);
		drop(w->drops, DROP_RECEIVE_FAILED, 1);
		w->local_rests_ns[local] = w->now_ns + REST_AFTER_FAILURE_NS;
		return (0);
	}
	for (i = 0; i < n; i++) {
		total += w->headers[i].msg_len;
		inbound_message(w, l, &w->received[i].remote, w->received_bytes[i], w->headers[i].msg_len,
		    segment_size(&w->headers[i].msg_hdr, w->headers[i].msg_len));
	}
	flush(w);
	/* Few long trains at a time stay in the cache; many short messages save system calls. */
	w->receive_messages = total / (size_t)(n > 0 ? n : 1) > RECEIVE_BYTES / 4 ? 4 : RECEIVE_MESSAGES;
	return (total);
}

/* Take a batch of what other machines forwarded. */
size_t
inbound_injected(struct worker *w)
{
	struct arrival a = { 0 };
	size_t total = 0;
	ssize_t n;
	int reason, i;

	for (i = 0; i < RECEIVE_MESSAGES; i++) {
		if ((n = recv(w->injected_fd, w->received_bytes[i], RECEIVE_BYTES, MSG_DONTWAIT)) <= 0)
			break;
		total += (size_t)n;
		reason = n < HEADER_BYTES ? 1 + DROP_TOO_SHORT : receive(w, &a, w->received_bytes[i], (size_t)n);
		if (reason != 0)
			drop(w->drops, (unsigned)reason - 1, 1);
	}
	flush(w);
	return (total);
}
