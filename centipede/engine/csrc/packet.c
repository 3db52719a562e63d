#include "packet.h"

/* Whether this is a whole IPv4 or IPv6 packet; bytes beyond its own length are not part of it. */
bool
inner_parse(const uint8_t *packet, size_t bytes, struct inner *inner)
{
	if (bytes < 20)
		return (false);
	inner->version = packet[0] >> 4;
	if (inner->version == 4) {
		inner->l3_bytes = (uint16_t)((packet[0] & 15) * 4);
		inner->bytes = load_be16(packet + 2);
		inner->protocol = packet[9];
		inner->fragment = (load_be16(packet + 6) & 0x3fff) != 0;
		return (inner->l3_bytes >= 20 && inner->l3_bytes <= inner->bytes && inner->bytes <= bytes);
	}
	if (inner->version == 6 && bytes >= IPV6_HEADER_BYTES) {
		inner->l3_bytes = IPV6_HEADER_BYTES;
		inner->bytes = IPV6_HEADER_BYTES + (uint32_t)load_be16(packet + 4);
		inner->protocol = packet[6];
		inner->fragment = false;
		return (inner->bytes <= bytes);
	}
	return (false);
}

/* Whether a packet is of a class for real time. */
bool
inner_real_time(const uint8_t *packet, const struct inner *inner)
{
	return ((inner->version == 4 ? packet[1] >> 2 : (load_be16(packet) >> 6) & 63) >= URGENT_DSCP);
}

/* Whether a packet is worth a copy: short, of a class for real time, or TCP that begins or ends a connection. */
bool
inner_urgent(const uint8_t *packet, const struct inner *inner)
{
	if (inner->bytes <= URGENT_BYTES || inner_real_time(packet, inner))
		return (true);
	/* A later fragment has no TCP header. */
	if (inner->protocol != PROTOCOL_TCP || (inner->version == 4 && (load_be16(packet + 6) & 0x1fff) != 0))
		return (false);
	return ((packet[inner->l3_bytes + 13] & (TCP_FIN | TCP_SYN | TCP_RST)) != 0);
}

/*
 * Let no SYN ask for segments that make packets of more than so many bytes; protocol/inner.py, clamp_mss. `undone`: the
 * checksum does not cover the options yet.
 */
void
inner_clamp_mss(uint8_t *packet, const struct inner *inner, uint32_t largest_bytes, bool undone)
{
	uint8_t *l4 = packet + inner->l3_bytes;
	size_t bytes = inner->bytes - inner->l3_bytes, end, at = 20;
	uint32_t most = largest_bytes - (inner->version == 4 ? 40 : 60), mss, sum;

	if (inner->protocol != PROTOCOL_TCP || inner->fragment || bytes < 20 || (l4[13] & TCP_SYN) == 0)
		return;
	end = (size_t)(l4[12] >> 4) * 4;
	if (end > bytes)
		end = bytes;
	while (at + 4 <= end && l4[at] != 0) {
		if (l4[at] == 1) {	/* no operation: the only other option of one byte */
			at++;
			continue;
		}
		if (l4[at] == 2 && l4[at + 1] == 4)
			break;
		if (l4[at + 1] < 2)
			return;
		at += l4[at + 1];
	}
	if (at + 4 > end || l4[at] != 2)
		return;
	at += 2;
	mss = load_be16(l4 + at);
	if (mss <= most)
		return;
	store_be16(l4 + at, (uint16_t)most);
	if (undone)
		return;
	/* RFC 1624; what stands at an odd place is summed with its bytes the other way round. */
	if (at % 2 != 0) {
		mss = __builtin_bswap16((uint16_t)mss);
		most = __builtin_bswap16((uint16_t)most);
	}
	sum = (uint16_t)~load_be16(l4 + 16) + (uint32_t)(uint16_t)~mss + most;
	store_be16(l4 + 16, (uint16_t)~checksum_fold(sum));
}

/* A number that the packets of one flow share; protocol/inner.py, flow_hash. */
uint64_t
inner_flow(const uint8_t *packet, const struct inner *inner)
{
	const uint8_t *addresses = inner_source(packet, inner);
	uint64_t hash = inner->protocol, word;
	size_t i, bytes = inner->version == 4 ? 8 : 32;

	if ((inner->protocol == PROTOCOL_TCP || inner->protocol == PROTOCOL_UDP) && !inner->fragment &&
	    inner->bytes >= inner->l3_bytes + 4u)
		hash |= (uint64_t)load_be32(packet + inner->l3_bytes) << 8;
	for (i = 0; i < bytes; i += 8) {
		memcpy(&word, addresses + i, 8);
		hash = mix64(hash ^ word);
	}
	return (hash);
}

/* Where the checksum stands in the transport header, or 0 if this is neither TCP nor UDP. */
size_t
inner_checksum_offset(const struct inner *inner)
{
	switch (inner->protocol) {
	case PROTOCOL_TCP:
		return (16);
	case PROTOCOL_UDP:
		return (6);
	default:
		return (0);
	}
}

/* Whether an unfragmented TCP or UDP packet follows the IP header, whole: the only kind that may be partial. */
bool
inner_transport_whole(const uint8_t *packet, const struct inner *inner)
{
	const uint8_t *l4 = packet + inner->l3_bytes;
	size_t bytes = inner->bytes - inner->l3_bytes, header;

	if (inner->fragment)
		return (false);
	switch (inner->protocol) {
	case PROTOCOL_TCP:
		if (bytes < 20)
			return (false);
		header = (size_t)(l4[12] >> 4) * 4;
		return (header >= 20 && header <= bytes);
	case PROTOCOL_UDP:
		return (bytes >= 8 && load_be16(l4 + 4) == bytes);
	default:
		return (false);
	}
}

uint64_t
checksum_add(uint64_t sum, const uint8_t *bytes, size_t length)
{
	uint64_t a, b, high = sum;
	uint32_t tail;

	/*
	 * Words are summed in host order, which RFC 1071 allows as long as the result is swapped back; each 64-bit
	 * word is split so that no carry is lost, and two sums keep two adders busy.
	 */
	for (a = b = 0; length >= 16; bytes += 16, length -= 16) {
		uint64_t v, w;

		memcpy(&v, bytes, 8);
		memcpy(&w, bytes + 8, 8);
		a += (v & 0xffffffff) + (w & 0xffffffff);
		b += (v >> 32) + (w >> 32);
	}
	for (; length >= 4; bytes += 4, length -= 4) {
		memcpy(&tail, bytes, 4);
		a += tail;
	}
	tail = 0;
	memcpy(&tail, bytes, length);
	a += tail;
	/* Back to network order before it meets sums that were made so. */
	a = (a & 0xffffffff) + (a >> 32) + (b & 0xffffffff) + (b >> 32);
	while (a >> 16 != 0)
		a = (a & 0xffff) + (a >> 16);
	return (high + __builtin_bswap16((uint16_t)a));
}

uint16_t
checksum_fold(uint64_t sum)
{
	while (sum >> 16 != 0)
		sum = (sum & 0xffff) + (sum >> 16);
	return ((uint16_t)sum);
}

/* The pseudo-header without its length. */
uint64_t
checksum_pseudo(const uint8_t *packet, unsigned version, unsigned protocol)
{
	return (version == 4 ? checksum_add(protocol, packet + 12, 8) : checksum_add(protocol, packet + 8, 32));
}

void
ipv4_checksum_set(uint8_t *packet, size_t header_bytes)
{
	store_be16(packet + 10, 0);
	store_be16(packet + 10, (uint16_t)~checksum_fold(checksum_add(0, packet, header_bytes)));
}

/* Finish a partial checksum: the field holds the pseudo-header's share. inner_transport_whole() must have held. */
void
inner_complete(uint8_t *packet, const struct inner *inner)
{
	uint8_t *l4 = packet + inner->l3_bytes;
	uint16_t checksum;

	checksum = (uint16_t)~checksum_fold(checksum_add(0, l4, inner->bytes - inner->l3_bytes));
	if (checksum == 0 && inner->protocol == PROTOCOL_UDP)
		checksum = 0xffff;	/* RFC 768: zero would say that there is none */
	store_be16(l4 + inner_checksum_offset(inner), checksum);
}

/* Whether a complete checksum is right. inner_transport_whole() must have held. */
bool
inner_checksum_good(const uint8_t *packet, const struct inner *inner)
{
	size_t bytes = inner->bytes - inner->l3_bytes;
	uint64_t sum = checksum_pseudo(packet, inner->version, inner->protocol) + bytes;

	return (checksum_fold(checksum_add(sum, packet + inner->l3_bytes, bytes)) == 0xffff);
}
