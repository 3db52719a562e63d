#include <errno.h>
#include <unistd.h>

#include "engine_private.h"
#include "worker.h"

#define RESUMED_AFTER_NS	(2 * NS_PER_S)	/* contract.py */
#define RESUMED_AGAIN_NS	(1 * NS_PER_S)
#define LANE_BACKLOG_NS		(NS_PER_S / 10)	/* view.py */

/* The lane that delivers a datagram first; it is busy with it from now on. table.py, SendPlan. */
static const struct fan *
choose_lane(const struct worker *w, const struct plan *plan, size_t bytes)
{
	const struct lane *lane, *chosen = plan->lanes, *end = plan->lanes + plan->lane_count;
	uint64_t free_ns, chosen_ns = 0, arrival_ns = UINT64_MAX, least_ns = UINT64_MAX, limit_ns;

	for (lane = plan->lanes; lane < end; lane++) {
		free_ns = counter_read(&lane->fan.paths->state->busy_ns);
		free_ns = (free_ns > w->now_ns ? free_ns : w->now_ns) + bytes * NS_PER_S / lane->rate_bytes_per_s;
		if (free_ns + lane->delay_ns < arrival_ns) {
			chosen = lane;
			chosen_ns = free_ns;
			arrival_ns = free_ns + lane->delay_ns;
		}
	}
	counter_set(&chosen->fan.paths->state->busy_ns, chosen_ns);
	limit_ns = w->now_ns + LANE_BACKLOG_NS;
	if (likely(chosen_ns <= limit_ns))
		return (&chosen->fan);
	/* All lanes may be given more than they take: what counts then is the difference between them. */
	for (lane = plan->lanes; lane < end; lane++) {
		free_ns = counter_read(&lane->fan.paths->state->busy_ns);
		least_ns = free_ns < least_ns ? free_ns : least_ns;
	}
	for (lane = plan->lanes; lane < end && least_ns > limit_ns; lane++) {
		free_ns = counter_read(&lane->fan.paths->state->busy_ns);
		counter_set(&lane->fan.paths->state->busy_ns, free_ns - (least_ns - limit_ns));
	}
	return (&chosen->fan);
}

/* Where the packet goes that the segmenter holds; NULL: each segment to a lane of its own. */
static const struct fan *
choose_fan(const struct worker *w, const struct plan *plan)
{
	const struct segmenter *s = &w->segmenter;

	if (likely(plan->urgent.count == 0 && plan->lane_count == 0))
		return (&plan->fan);
	/* Of a superpacket the class alone counts: it is long, and its FIN is that of the last segment. */
	if (plan->urgent.count != 0 &&
	    (s->header_bytes == 0 ? inner_urgent(s->packet, &s->inner) : inner_real_time(s->packet, &s->inner)))
		return (&plan->urgent);
	return (plan->lane_count == 0 ? &plan->fan : NULL);
}

/* The way of the flow that the segmenter's packet belongs to. */
static const struct plan *
choose_plan(const struct worker *w, const struct peer *peer)
{
	if (likely(peer->shares == NULL))
		return (peer->plans);
	return (peer->plans + peer->shares[inner_flow(w->segmenter.packet, &w->segmenter.inner) % ENGINE_BUCKETS]);
}

/* Seal each segment once; trains take the bytes to every path. */
static void
transmit(struct worker *w, const struct peer *peer)
{
	const struct plan *plan = choose_plan(w, peer);
	const struct fan *fan = choose_fan(w, plan);
	struct session_state *session = plan->session;
	_Atomic uint64_t *next = &session->counters[w->index].next;
	uint64_t source = (uint64_t)(session->own.first + w->index) << 48, counter;
	uint64_t sid = plan->base << 16 | (plan->run_first + w->index % plan->run_size);
	uint8_t *segment, *datagram;
	size_t bytes;

	if (unlikely(w->snapshot->narrow_bytes != 0)) {
		if (w->segmenter.header_bytes == 0)
			inner_clamp_mss(w->segmenter.packet, &w->segmenter.inner, w->snapshot->narrow_bytes,
			    w->segmenter.undone);
		segment_fit(&w->segmenter, w->snapshot->narrow_bytes);
	}
	while (segment_next(&w->segmenter, &segment, &bytes)) {
		/* Before use: a counter may be wasted, never repeated. */
		counter = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
		if (unlikely(counter >= COUNTER_LIMIT)) {
			drop(w->drops, DROP_COUNTER_LIMIT, 1);
			continue;
		}
		datagram = train_place(&w->trains, HEADER_BYTES + bytes);
		store_be64(datagram, source | counter);
		store_be64(datagram + 8, sid);
		if (likely(aead_seal(w->aead, session->tx_key, datagram, segment, bytes)))
			train_put(&w->trains, likely(fan != NULL) ? fan : choose_lane(w, plan, HEADER_BYTES + bytes),
			    HEADER_BYTES + bytes);
		else
			drop(w->drops, DROP_SEND_NO_BUFFERS, 1);
	}
}

/* Note that there is traffic for a peer, and tell the node if that is news. */
static void
mark_use(struct worker *w, const struct peer *peer)
{
	struct peer_worker *own = &peer->state->workers[w->index];
	struct engine_event event = { .kind = ENGINE_EVENT_RESUMED, .number = peer->number, .arrived_ns = w->now_ns };
	uint64_t last_ns = counter_read(&own->last_tx_ns), told_ns, ns;
	unsigned i;

	counter_set(&own->last_tx_ns, w->now_ns);
	if (likely(peer->plan_count != 0 && w->now_ns - last_ns < RESUMED_AFTER_NS))
		return;
	/* The other workers may have had packets for the peer meanwhile. */
	told_ns = counter_read(&own->resumed_ns);
	for (i = 0; i < WORKERS_MAX; i++)
		if (i != w->index) {
			ns = counter_read(&peer->state->workers[i].last_tx_ns);
			last_ns = ns > last_ns ? ns : last_ns;
			ns = counter_read(&peer->state->workers[i].resumed_ns);
			told_ns = ns > told_ns ? ns : told_ns;
		}
	/* A worker's time may be a little ahead of ours: signed, or the difference would be an age. */
	if ((int64_t)(w->now_ns - last_ns) < (int64_t)RESUMED_AFTER_NS &&
	    (peer->plan_count != 0 || (int64_t)(w->now_ns - told_ns) < (int64_t)RESUMED_AGAIN_NS))
		return;
	counter_set(&own->resumed_ns, w->now_ns);
	worker_tell(w, &event, NULL, 0);
}

/* Keep a packet until its peer has a plan. */
static void
wait(struct worker *w, const struct peer *peer, const uint8_t *packet, size_t bytes, const struct virtio_net_hdr *vnet)
{
	struct peer_worker *own = &peer->state->workers[w->index];
	struct shelved *record = NULL;

	if (own->waiting == WAITING_PACKETS) {
		while ((record = shelf_next(&w->shelf, record)) != NULL && record->peer != peer->number)
			continue;
		if (record != NULL) {
			record->gone = true;
			own->waiting--;
			drop(w->drops, DROP_NO_SESSION, 1);
		}
	}
	if (shelf_put(&w->shelf, peer->number, vnet, packet, bytes))
		own->waiting++;
	else
		drop(w->drops, DROP_NO_SESSION, 1);
}

void
outbound_packet(struct worker *w, uint8_t *packet, size_t bytes, const struct virtio_net_hdr *vnet)
{
	const struct snapshot *s = w->snapshot;
	const struct inner *inner = &w->segmenter.inner;
	const struct peer *peer;
	uint32_t index;

	if (unlikely(!segment_begin(&w->segmenter, packet, bytes, vnet))) {
		drop(w->drops, DROP_INNER_MALFORMED, 1);
		return;
	}
	index = routes_find(inner->version == 4 ? &s->v4 : &s->v6, inner_destination(packet, inner), inner->version);
	if (unlikely(index == NO_PEER)) {
		drop(w->drops, DROP_NO_ROUTE, 1);
		return;
	}
	peer = &s->peers[index];
	mark_use(w, peer);
	if (likely(peer->plan_count != 0))
		transmit(w, peer);
	else
		wait(w, peer, packet, inner->bytes, vnet);
}

static const struct peer *
peer_of(const struct snapshot *s, uint64_t number)
{
	uint32_t i;

	for (i = 0; i < s->peer_count; i++)
		if (s->peers[i].number == number)
			return (&s->peers[i]);
	return (NULL);
}

/* Under a new table: send what waited for a peer that has a plan now, drop what waited for one that is gone. */
void
outbound_waiting(struct worker *w)
{
	struct shelved *record = NULL;
	const struct peer *peer = NULL;

	while ((record = shelf_next(&w->shelf, record)) != NULL) {
		if (peer == NULL || peer->number != record->peer)
			peer = peer_of(w->snapshot, record->peer);
		if (peer != NULL && peer->plan_count == 0)
			continue;
		record->gone = true;
		if (peer == NULL) {
			drop(w->drops, DROP_NO_SESSION, 1);
			continue;
		}
		peer->state->workers[w->index].waiting--;
		if (segment_begin(&w->segmenter, record->packet, record->bytes, record->has_vnet ? &record->vnet : NULL))
			transmit(w, peer);
	}
	shelf_tidy(&w->shelf);
	trains_send(&w->trains);
}

/* Take a batch of packets from the TUN queue. */
size_t
outbound_read(struct worker *w)
{
	uint8_t *packet = w->tun_bytes + CACHE_LINE;
	size_t header = w->tun.vnet_hdr ? VNET_BYTES : 0, total = 0;
	struct virtio_net_hdr vnet;
	unsigned packets;
	ssize_t n;

	for (packets = 0; packets < TUN_READ_PACKETS && total < TUN_READ_BYTES; packets++) {
		n = read(w->tun.fd, packet - header, header + PACKET_BYTES_MAX);
		if (n == -1 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {	/* the device is gone: a TUN device never has an empty packet */
			drop(w->drops, DROP_RECEIVE_FAILED, 1);
			w->tun_rests_ns = w->now_ns + REST_AFTER_FAILURE_NS;
			break;
		}
		total += (size_t)n;
		if ((size_t)n < header) {
			drop(w->drops, DROP_INNER_MALFORMED, 1);
			continue;
		}
		memcpy(&vnet, packet - header, header);
		outbound_packet(w, packet, (size_t)n - header, header != 0 ? &vnet : NULL);
	}
	trains_send(&w->trains);
	return (total);
}
