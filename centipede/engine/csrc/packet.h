/* Inner IP packets: lengths, what follows the IP header, checksums. Every function is safe for any bytes. */
#ifndef CENTIPEDE_PACKET_H
#define CENTIPEDE_PACKET_H

#include "common.h"

#define PACKET_BYTES_MAX	65535
#define PARTIAL_BIT		0x80	/* of the first byte: the transport checksum is left to the receiver */
#define IPV6_HEADER_BYTES	40
#define URGENT_BYTES		256	/* protocol/inner.py */
#define URGENT_DSCP		40

enum {
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17
};

/* TCP flags, byte 13 of its header. */
enum {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_PSH = 0x08,
	TCP_ACK = 0x10,
	TCP_URG = 0x20,
	TCP_CWR = 0x80
};

struct inner {
	uint32_t	bytes;		/* whole packet, by its own header */
	uint16_t	l3_bytes;	/* IPv4 header with options, or 40 */
	uint8_t		version;
	uint8_t		protocol;	/* that of the IPv6 base header: an extension header is no TCP or UDP */
	bool		fragment;	/* IPv4 only; an IPv6 fragment shows as protocol 44 */
};

bool	 inner_parse(const uint8_t *packet, size_t bytes, struct inner *);
size_t	 inner_checksum_offset(const struct inner *);
uint64_t inner_flow(const uint8_t *packet, const struct inner *);
bool	 inner_real_time(const uint8_t *packet, const struct inner *);
bool	 inner_urgent(const uint8_t *packet, const struct inner *);
void	 inner_clamp_mss(uint8_t *packet, const struct inner *, uint32_t largest_bytes, bool undone);
bool	 inner_transport_whole(const uint8_t *packet, const struct inner *);
void	 inner_complete(uint8_t *packet, const struct inner *);
bool	 inner_checksum_good(const uint8_t *packet, const struct inner *);

/* Ones' complement sums (RFC 1071), not folded; the result of one may be the start of the next. */
uint64_t checksum_add(uint64_t sum, const uint8_t *bytes, size_t length);
uint16_t checksum_fold(uint64_t sum);
uint64_t checksum_pseudo(const uint8_t *packet, unsigned version, unsigned protocol);
void	 ipv4_checksum_set(uint8_t *packet, size_t header_bytes);

static inline const uint8_t *
inner_source(const uint8_t *packet, const struct inner *inner)
{
	return (packet + (inner->version == 4 ? 12 : 8));
}

static inline const uint8_t *
inner_destination(const uint8_t *packet, const struct inner *inner)
{
	return (packet + (inner->version == 4 ? 16 : 24));
}

#endif
