#include <errno.h>

#include "coalesce.h"

void
coalesce_init(struct coalescer *c, struct tun *tun)
{
	unsigned i;

	c->tun = tun;
	c->count = 0;
	for (i = 0; i < FLOWS_MAX; i++)
		c->places[i] = (uint8_t)i;
}

/* --- writing */

static void
write_vectors(struct tun *tun, const struct iovec *vectors, int count, unsigned packets)
{
	int error = tun_write(tun, vectors, count);

	if (error != 0)
		drop(tun->drops, tun_drop_reason(error), packets);
}

/* Write one packet as it is. */
static void
write_packet(struct tun *tun, uint8_t *packet, const struct inner *inner, bool partial)
{
	struct virtio_net_hdr vnet = { 0 };
	struct iovec vectors[2] = { { &vnet, VNET_BYTES }, { packet, inner->bytes } };

	if (!tun->vnet_hdr) {
		if (partial)
			inner_complete(packet, inner);
		write_vectors(tun, vectors + 1, 1, 1);
		return;
	}
	if (partial) {
		vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		vnet.csum_start = inner->l3_bytes;
		vnet.csum_offset = (uint16_t)inner_checksum_offset(inner);
	}
	write_vectors(tun, vectors, 2, 1);
}

/* The segments of a superpacket that the kernel refused, one by one. */
static void
write_segments(struct tun *tun, struct flow *f)
{
	struct virtio_net_hdr vnet = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = f->inner.l3_bytes,
	    .csum_offset = (uint16_t)inner_checksum_offset(&f->inner) };
	struct iovec vectors[3] = { { &vnet, VNET_BYTES }, { f->head, f->header_bytes }, { 0 } };
	uint8_t *l4 = f->head + f->inner.l3_bytes;
	uint32_t sequence = load_be32(l4 + 4);
	uint16_t id = load_be16(f->head + 4);
	uint8_t flags = l4[13];
	uint64_t pseudo = checksum_pseudo(f->head, f->inner.version, f->inner.protocol);
	size_t bytes;
	unsigned i;

	for (i = 0; i < f->count; i++) {
		bytes = f->header_bytes + f->pieces[i].iov_len;
		if (f->inner.version == 4) {
			store_be16(f->head + 2, (uint16_t)bytes);
			store_be16(f->head + 4, (uint16_t)(id + i));
			ipv4_checksum_set(f->head, f->inner.l3_bytes);
		} else
			store_be16(f->head + 4, (uint16_t)(bytes - IPV6_HEADER_BYTES));
		if (f->inner.protocol == PROTOCOL_TCP) {
			store_be32(l4 + 4, sequence);
			l4[13] = i + 1 < f->count ? flags & (uint8_t)~TCP_PSH : flags;
			sequence += (uint32_t)f->pieces[i].iov_len;
		} else
			store_be16(l4 + 4, (uint16_t)(bytes - f->inner.l3_bytes));
		store_be16(l4 + vnet.csum_offset, checksum_fold(pseudo + bytes - f->inner.l3_bytes));
		vectors[2] = f->pieces[i];
		write_vectors(tun, vectors, 3, 1);
	}
}

static void
write_superpacket(struct tun *tun, struct flow *f)
{
	bool tcp = f->inner.protocol == PROTOCOL_TCP;
	struct virtio_net_hdr vnet = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = f->inner.l3_bytes,
	    .csum_offset = (uint16_t)inner_checksum_offset(&f->inner), .hdr_len = f->header_bytes,
	    .gso_size = f->segment_bytes };
	struct iovec vectors[PIECES_MAX + 2] = { { &vnet, VNET_BYTES }, { f->head, f->header_bytes } };
	uint8_t *l4 = f->head + f->inner.l3_bytes;
	size_t bytes = f->header_bytes + f->payload_bytes;
	int error;

	vnet.gso_type = !tcp ? VIRTIO_NET_HDR_GSO_UDP_L4 :
	    f->inner.version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	if (f->inner.version == 4) {
		store_be16(f->head + 2, (uint16_t)bytes);
		ipv4_checksum_set(f->head, f->inner.l3_bytes);
	} else
		store_be16(f->head + 4, (uint16_t)(bytes - IPV6_HEADER_BYTES));
	if (!tcp)
		store_be16(l4 + 4, (uint16_t)(bytes - f->inner.l3_bytes));
	store_be16(l4 + vnet.csum_offset, checksum_fold(checksum_pseudo(f->head, f->inner.version, f->inner.protocol) +
	    bytes - f->inner.l3_bytes));
	memcpy(vectors + 2, f->pieces, f->count * sizeof(*vectors));
	if ((error = tun_write(tun, vectors, (int)f->count + 2)) == 0)
		return;
	if (error != EINVAL) {
		drop(tun->drops, tun_drop_reason(error), f->count);
		return;
	}
	/* The kernel knows no such superpacket, or not this one: do without from now on. */
	atomic_store_explicit(tcp ? &tun->write_tso : &tun->write_uso, false, memory_order_relaxed);
	counter_add(tcp ? &tun->tso_fallbacks : &tun->uso_fallbacks, 1);
	write_segments(tun, f);
}

static void
flush_flow(struct coalescer *c, unsigned place)
{
	uint8_t index = c->places[place];
	struct flow *f = &c->flows[index];

	if (f->count == 1)
		write_packet(c->tun, f->head, &f->inner, f->partial);
	else
		write_superpacket(c->tun, f);
	c->count--;
	memmove(c->places + place, c->places + place + 1, c->count - place);
	c->places[c->count] = index;
}

void
coalesce_flush(struct coalescer *c)
{
	while (c->count > 0)
		flush_flow(c, 0);
}

/* --- joining */

/* Whether a packet may begin or continue a superpacket at all. */
static bool
joinable(const struct coalescer *c, const uint8_t *packet, const struct inner *inner, bool partial)
{
	const uint8_t *l4 = packet + inner->l3_bytes;

	/* IPv4 options stay with their packet; a superpacket gets a new header checksum, which must not hide a wrong one. */
	if (inner->version == 4 && (inner->l3_bytes != 20 || checksum_fold(checksum_add(0, packet, 20)) != 0xffff))
		return (false);
	if (inner->protocol == PROTOCOL_TCP) {
		/* Anything but plain data, the last of it pushed, stands alone: also CWR, which only a first segment may have. */
		return (atomic_load_explicit(&c->tun->write_tso, memory_order_relaxed) &&
		    (l4[13] & ~TCP_PSH) == TCP_ACK && (l4[12] & 15) == 0 &&
		    inner->bytes > inner->l3_bytes + (uint32_t)(l4[12] >> 4) * 4);
	}
	/* A UDP packet without checksum would get one. */
	return (atomic_load_explicit(&c->tun->write_uso, memory_order_relaxed) && inner->bytes > inner->l3_bytes + 8u &&
	    (partial || load_be16(l4 + 6) != 0));
}

static bool
same_flow(const struct flow *f, const uint8_t *packet, const struct inner *inner)
{
	size_t address = inner->version == 4 ? 12 : 8;

	return (f->inner.version == inner->version && f->inner.protocol == inner->protocol &&
	    memcmp(f->head + address, packet + address, inner->version == 4 ? 8 : 32) == 0 &&
	    memcmp(f->head + f->inner.l3_bytes, packet + inner->l3_bytes, 4) == 0);
}

/* Whether the IP headers differ in nothing but length, id and checksum, so that segmentation would restore this one. */
static bool
same_ip_header(const struct flow *f, const uint8_t *packet)
{
	uint16_t id;

	if (f->inner.version == 6)	/* traffic class and flow label; next header and hop limit */
		return (memcmp(f->head, packet, 4) == 0 && memcmp(f->head + 6, packet + 6, 2) == 0);
	if (f->head[1] != packet[1] || memcmp(f->head + 6, packet + 6, 4) != 0)
		return (false);
	id = load_be16(packet + 4);
	/* Segmentation counts ids up; where fragmentation is forbidden nobody looks at them. */
	return ((packet[6] & 0x40) != 0 || id == (uint16_t)(f->last_id + 1));
}

static bool
joins(struct flow *f, const uint8_t *packet, const struct inner *inner, bool partial)
{
	const uint8_t *l4 = packet + inner->l3_bytes, *head = f->head + f->inner.l3_bytes;
	size_t header_bytes = f->header_bytes, payload;

	if (f->closed || f->count == PIECES_MAX || inner->bytes <= header_bytes || !same_ip_header(f, packet))
		return (false);
	payload = inner->bytes - header_bytes;
	if (payload > f->segment_bytes || header_bytes + f->payload_bytes + payload > PACKET_BYTES_MAX)
		return (false);
	if (inner->protocol == PROTOCOL_TCP && (load_be32(l4 + 4) != f->next_sequence ||
	    memcmp(l4 + 8, head + 8, 5) != 0 ||		/* acknowledgement, header length */
	    memcmp(l4 + 14, head + 14, 2) != 0 ||	/* window */
	    memcmp(l4 + 18, head + 18, header_bytes - f->inner.l3_bytes - 18) != 0))	/* urgent pointer, options */
		return (false);
	/* A superpacket's checksums are made anew, which must not hide that one was wrong. */
	if (!partial && !inner_checksum_good(packet, inner))
		return (false);
	if (!f->partial && !f->verified && !(f->verified = inner_checksum_good(f->head, &f->inner)))
		return (false);
	return (true);
}

static void
join(struct flow *f, uint8_t *packet, const struct inner *inner)
{
	size_t payload = inner->bytes - f->header_bytes;

	f->pieces[f->count++] = (struct iovec){ packet + f->header_bytes, payload };
	f->payload_bytes += (uint32_t)payload;
	f->next_sequence += (uint32_t)payload;
	f->last_id = load_be16(packet + 4);
	f->closed = payload < f->segment_bytes;
	if (inner->protocol == PROTOCOL_TCP && (packet[inner->l3_bytes + 13] & TCP_PSH) != 0) {
		f->closed = true;
		f->head[f->inner.l3_bytes + 13] |= TCP_PSH;
	}
}

static void
begin(struct coalescer *c, uint8_t *packet, const struct inner *inner, bool partial)
{
	const uint8_t *l4 = packet + inner->l3_bytes;
	struct flow *f;

	if (c->count == FLOWS_MAX)
		flush_flow(c, 0);
	f = &c->flows[c->places[c->count++]];
	f->head = packet;
	f->inner = *inner;
	f->partial = partial;
	f->verified = false;
	f->header_bytes = (uint16_t)(inner->l3_bytes + (inner->protocol == PROTOCOL_TCP ? (l4[12] >> 4) * 4 : 8));
	f->segment_bytes = (uint16_t)(inner->bytes - f->header_bytes);
	f->payload_bytes = f->segment_bytes;
	f->next_sequence = inner->protocol == PROTOCOL_TCP ? load_be32(l4 + 4) + f->payload_bytes : 0;
	f->last_id = load_be16(packet + 4);
	f->closed = inner->protocol == PROTOCOL_TCP && (l4[13] & TCP_PSH) != 0;
	f->pieces[0] = (struct iovec){ packet + f->header_bytes, f->segment_bytes };
	f->count = 1;
}

void
coalesce_packet(struct coalescer *c, uint8_t *packet, const struct inner *inner, bool partial)
{
	unsigned place;

	if (!inner_transport_whole(packet, inner)) {
		coalesce_flush(c);
		write_packet(c->tun, packet, inner, partial);
		return;
	}
	for (place = 0; place < c->count; place++)
		if (same_flow(&c->flows[c->places[place]], packet, inner))
			break;
	if (!joinable(c, packet, inner, partial)) {
		if (place < c->count)
			flush_flow(c, place);
		write_packet(c->tun, packet, inner, partial);
		return;
	}
	if (place < c->count) {
		if (joins(&c->flows[c->places[place]], packet, inner, partial)) {
			join(&c->flows[c->places[place]], packet, inner);
			return;
		}
		flush_flow(c, place);
	}
	begin(c, packet, inner, partial);
}
