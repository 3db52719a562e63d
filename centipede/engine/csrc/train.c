#include <errno.h>

#include <netinet/udp.h>

#include "train.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT	103
#endif

#define SEGMENT_RETRY_NS	(10 * NS_PER_S)	/* the path's MTU or device may be another by then */

unsigned
send_drop_reason(int error)
{
	switch (error) {
	case EMSGSIZE:
		return (DROP_SEND_TOO_BIG);
	case ENOBUFS:
	case ENOMEM:
	case EAGAIN:
		return (DROP_SEND_NO_BUFFERS);
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENODEV:
	case EADDRNOTAVAIL:
	case ENETDOWN:
	case EINVAL:
		return (DROP_SEND_UNREACHABLE);
	default:
		return (DROP_SEND_REFUSED);
	}
}

uint8_t *
train_place(struct trains *t, size_t datagram_bytes)
{
	if (t->used + datagram_bytes > sizeof(t->bytes))
		trains_send(t);
	return (t->bytes + t->used);
}

void
train_put(struct trains *t, const struct fan *fan, size_t datagram_bytes)
{
	struct train *last = t->count > 0 ? &t->list[t->count - 1] : NULL;

	if (last != NULL && last->fan == fan && datagram_bytes <= last->segment_bytes &&
	    last->bytes == last->segments * last->segment_bytes && last->segments < TRAIN_SEGMENTS_MAX &&
	    last->bytes + datagram_bytes <= DATAGRAM_BYTES_MAX) {
		last->segments++;
		last->bytes += (uint32_t)datagram_bytes;
		t->used += datagram_bytes;
		return;
	}
	t->list[t->count++] = (struct train){ .fan = fan, .offset = (uint32_t)t->used, .segments = 1,
	    .bytes = (uint32_t)datagram_bytes, .segment_bytes = (uint32_t)datagram_bytes };
	t->used += datagram_bytes;
	if (t->count == TRAINS_MAX)
		trains_send(t);
}

static void
account(struct trains *t, const struct message *m)
{
	struct path_worker *w = &m->path->state->workers[t->worker];

	counter_add(&w->tx_packets, m->segments);
	counter_add(&w->tx_bytes, m->vector.iov_len);
}

/* Send the datagrams of a message one by one. */
static void
send_plain(struct trains *t, const struct message *m)
{
	struct mmsghdr headers[TRAIN_SEGMENTS_MAX] = { 0 };
	struct iovec vectors[TRAIN_SEGMENTS_MAX];
	struct path_worker *w = &m->path->state->workers[t->worker];
	size_t left = m->vector.iov_len;
	uint8_t *datagram = m->vector.iov_base;
	unsigned i, sent;
	int n;

	for (i = 0; i < m->segments; i++) {
		vectors[i].iov_base = datagram;
		vectors[i].iov_len = left < m->segment_bytes ? left : m->segment_bytes;
		datagram += vectors[i].iov_len;
		left -= vectors[i].iov_len;
		headers[i].msg_hdr.msg_name = (void *)(uintptr_t)&m->path->remote.any;
		headers[i].msg_hdr.msg_namelen = m->path->remote.bytes;
		headers[i].msg_hdr.msg_iov = &vectors[i];
		headers[i].msg_hdr.msg_iovlen = 1;
	}
	for (sent = 0; sent < m->segments;) {
		n = sendmmsg(t->message_fd, headers + sent, m->segments - sent, MSG_DONTWAIT);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			drop(t->drops, send_drop_reason(errno), 1);
			sent++;
			continue;
		}
		for (i = sent; i < sent + (unsigned)n; i++) {
			counter_add(&w->tx_packets, 1);
			counter_add(&w->tx_bytes, vectors[i].iov_len);
		}
		sent += (unsigned)n;
	}
}

/* A message did not go out: do without segmentation offload if that may be why. */
static void
handle_error(struct trains *t, const struct message *m, int error)
{
	if (m->segments == 1) {
		drop(t->drops, send_drop_reason(error), 1);
		return;
	}
	if (error != EIO && error != EINVAL && error != EMSGSIZE && error != EOPNOTSUPP) {
		drop(t->drops, send_drop_reason(error), m->segments);
		return;
	}
	m->path->state->workers[t->worker].segment_refused_ns = t->now_ns;
	counter_add(&t->segment_fallbacks, 1);
	send_plain(t, m);
}

static void
send_messages(struct trains *t)
{
	unsigned sent, i;
	int n;

	for (sent = 0; sent < t->message_count;) {
		n = sendmmsg(t->message_fd, t->headers + sent, t->message_count - sent, MSG_DONTWAIT);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			handle_error(t, &t->messages[sent++], errno);
		else
			for (i = sent, sent += (unsigned)n; i < sent; i++)
				account(t, &t->messages[i]);
	}
	t->message_count = 0;
}

/* Whether the kernel refused UDP_SEGMENT on this path a moment ago. */
static bool
segment_refused(const struct trains *t, const struct path *path)
{
	uint64_t refused_ns = path->state->workers[t->worker].segment_refused_ns;

	return (refused_ns != 0 && t->now_ns - refused_ns < SEGMENT_RETRY_NS);
}

static void
add_message(struct trains *t, const struct train *train, const struct path *path)
{
	uint16_t segment_bytes = (uint16_t)train->segment_bytes;
	struct message *m;
	struct msghdr *h;

	if (t->message_count == MESSAGES_MAX)
		send_messages(t);
	m = &t->messages[t->message_count];
	h = &t->headers[t->message_count].msg_hdr;
	m->path = path;
	m->segments = train->segments;
	m->segment_bytes = train->segment_bytes;
	m->vector.iov_base = t->bytes + train->offset;
	m->vector.iov_len = train->bytes;
	if (train->segments > 1 && segment_refused(t, path)) {
		send_messages(t);	/* what was queued before it goes before it */
		send_plain(t, m);
		return;
	}
	*h = (struct msghdr){ .msg_name = (void *)(uintptr_t)&path->remote.any, .msg_namelen = path->remote.bytes,
	    .msg_iov = &m->vector, .msg_iovlen = 1 };
	if (train->segments > 1) {
		h->msg_control = &m->control;
		h->msg_controllen = sizeof(m->control);
		m->control.header.cmsg_level = IPPROTO_UDP;
		m->control.header.cmsg_type = UDP_SEGMENT;
		m->control.header.cmsg_len = CMSG_LEN(sizeof(segment_bytes));
		memcpy(CMSG_DATA(&m->control.header), &segment_bytes, sizeof(segment_bytes));
	}
	t->message_count++;
}

/* Send all trains over all their paths, and begin anew. */
void
trains_send(struct trains *t)
{
	const struct local *locals[LOCALS_MAX];
	const struct train *train;
	const struct path *path;
	unsigned local_count = 0, i, l;
	uint32_t p;

	for (train = t->list; train < t->list + t->count; train++)
		for (p = 0; p < train->fan->count; p++) {
			path = &train->fan->paths[p];
			for (l = 0; l < local_count && locals[l] != path->local; l++)
				continue;
			if (l == local_count && path->local != NULL)
				locals[local_count++] = path->local;
			else if (path->local == NULL)
				drop(t->drops, DROP_SEND_UNREACHABLE, train->segments);
		}
	for (l = 0; l < local_count; l++) {
		t->message_fd = atomic_load_explicit(&locals[l]->fds[t->worker], memory_order_relaxed);
		for (i = 0; i < t->count; i++)
			for (p = 0; p < t->list[i].fan->count; p++) {
				path = &t->list[i].fan->paths[p];
				if (path->local != locals[l])
					continue;
				if (t->message_fd == -1)
					drop(t->drops, DROP_SEND_UNREACHABLE, t->list[i].segments);
				else
					add_message(t, &t->list[i], path);
			}
		send_messages(t);
	}
	t->used = 0;
	t->count = 0;
}
