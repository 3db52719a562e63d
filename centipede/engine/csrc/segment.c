#include "segment.h"

/* What the virtio header says of the transport: where it begins, whether it is undone, whether it may stay so. */
static bool
read_checksum(struct segmenter *s, const struct virtio_net_hdr *vnet)
{
	size_t standard = inner_checksum_offset(&s->inner);

	s->undone = (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
	if (!s->undone)
		return (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE);	/* a superpacket is undone by nature */
	s->l4 = vnet->csum_start;
	s->checksum_offset = vnet->csum_offset;
	if (s->l4 < s->inner.l3_bytes || s->l4 + s->checksum_offset + 2 > s->inner.bytes)
		return (false);
	s->partial = s->l4 == s->inner.l3_bytes && standard != 0 && s->checksum_offset == standard && !s->inner.fragment;
	return (true);
}

static bool
read_superpacket(struct segmenter *s, const struct virtio_net_hdr *vnet)
{
	const uint8_t *l4 = s->packet + s->l4;
	size_t room = s->inner.bytes - s->l4, l4_bytes;

	switch (vnet->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV6:
		if (s->checksum_offset != 16 || room < 20)
			return (false);
		l4_bytes = (size_t)(l4[12] >> 4) * 4;
		if (l4_bytes < 20)
			return (false);
		s->sequence = load_be32(l4 + 4);
		s->flags = l4[13];
		break;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		if (s->checksum_offset != 6)
			return (false);
		l4_bytes = 8;
		break;
	default:
		return (false);
	}
	s->header_bytes = s->l4 + l4_bytes;
	s->segment_bytes = vnet->gso_size;
	if (l4_bytes > room || s->segment_bytes == 0 || s->header_bytes > sizeof(s->header))
		return (false);
	s->payload_bytes = s->inner.bytes - s->header_bytes;
	s->id = load_be16(s->packet + 4);
	s->pseudo = checksum_pseudo(s->packet, s->inner.version, s->checksum_offset == 16 ? PROTOCOL_TCP : PROTOCOL_UDP);
	memcpy(s->header, s->packet, s->header_bytes);
	return (true);
}

bool
segment_begin(struct segmenter *s, uint8_t *packet, size_t bytes, const struct virtio_net_hdr *vnet)
{
	s->packet = packet;
	s->header_bytes = s->done = 0;
	s->number = 0;
	s->undone = s->partial = s->finished = false;
	if (!inner_parse(packet, bytes, &s->inner))
		return (false);
	if (vnet == NULL)
		return (true);
	if (!read_checksum(s, vnet))
		return (false);
	return (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE || read_superpacket(s, vnet));
}

void
segment_fit(struct segmenter *s, uint32_t largest_bytes)
{
	const uint8_t *l4 = s->packet + s->inner.l3_bytes;
	struct virtio_net_hdr whole = { .gso_type = VIRTIO_NET_HDR_GSO_TCPV6, .gso_size = UINT16_MAX };

	if (s->inner.version != 6 || s->inner.protocol != PROTOCOL_TCP || s->inner.bytes <= largest_bytes)
		return;
	if (s->header_bytes == 0) {
		/* Cut, a wrong checksum would become right, and a flag or pointer would stand where it does not belong. */
		if (!inner_transport_whole(s->packet, &s->inner) || (l4[13] & (TCP_SYN | TCP_RST | TCP_URG)) != 0 ||
		    (s->undone ? !s->partial : !inner_checksum_good(s->packet, &s->inner)))
			return;
		s->undone = true;
		s->l4 = s->inner.l3_bytes;
		s->checksum_offset = 16;
		if (!read_superpacket(s, &whole)) {	/* it cannot be */
			s->header_bytes = 0;
			return;
		}
	}
	if (s->header_bytes + s->segment_bytes > largest_bytes)
		s->segment_bytes = largest_bytes - s->header_bytes;
}

static void
finish_checksum(const struct segmenter *s, uint8_t *packet, size_t bytes)
{
	uint16_t checksum = (uint16_t)~checksum_fold(checksum_add(0, packet + s->l4, bytes - s->l4));

	if (checksum == 0 && s->checksum_offset == 6)
		checksum = 0xffff;	/* RFC 768: zero would say that there is none */
	store_be16(packet + s->l4 + s->checksum_offset, checksum);
}

/* Write the header of one segment in front of its payload. */
static void
write_header(struct segmenter *s, uint8_t *packet, size_t payload_bytes)
{
	uint8_t *l4 = packet + s->l4;
	size_t bytes = s->header_bytes + payload_bytes;

	memcpy(packet, s->header, s->header_bytes);
	if (s->inner.version == 4) {
		store_be16(packet + 2, (uint16_t)bytes);
		store_be16(packet + 4, (uint16_t)(s->id + s->number));
		ipv4_checksum_set(packet, s->inner.l3_bytes);
	} else
		store_be16(packet + 4, (uint16_t)(bytes - IPV6_HEADER_BYTES));
	if (s->checksum_offset == 16) {
		store_be32(l4 + 4, s->sequence + (uint32_t)s->done);
		l4[13] = s->flags;
		if (s->done + payload_bytes < s->payload_bytes)
			l4[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
		if (s->number > 0)
			l4[13] &= (uint8_t)~TCP_CWR;
	} else
		store_be16(l4 + 4, (uint16_t)(bytes - s->l4));
	store_be16(l4 + s->checksum_offset, checksum_fold(s->pseudo + bytes - s->l4));
}

bool
segment_next(struct segmenter *s, uint8_t **segment, size_t *bytes)
{
	size_t payload;
	bool partial = s->partial;

	if (s->finished)
		return (false);
	if (s->header_bytes == 0) {
		*segment = s->packet;
		*bytes = s->inner.bytes;
		s->finished = true;
		partial = partial && inner_transport_whole(s->packet, &s->inner);
	} else {
		payload = s->payload_bytes - s->done;
		if (payload > s->segment_bytes)
			payload = s->segment_bytes;
		*segment = s->packet + s->done;
		*bytes = s->header_bytes + payload;
		write_header(s, *segment, payload);
		s->done += payload;
		s->number++;
		s->finished = s->done == s->payload_bytes;
	}
	if (partial)
		(*segment)[0] |= PARTIAL_BIT;
	else if (s->undone)
		finish_checksum(s, *segment, *bytes);
	return (true);
}
