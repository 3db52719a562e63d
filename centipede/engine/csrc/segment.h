/*
 * From one packet of the TUN device to the packets that are sealed.
 *
 * A TCP or UDP superpacket is cut without copying its payload: each header is written just before its own payload, over
 * the tail of the segment before it. A segment is therefore valid until the next one is asked for, and the caller seals
 * it at once. An ordinary packet is one segment.
 *
 * Transport checksums are not summed: a segment goes out partial (docs/protocol.md "Data") where its kernel left the
 * checksum undone in a packet that may be partial; anything else that is undone is summed here.
 */
#ifndef CENTIPEDE_SEGMENT_H
#define CENTIPEDE_SEGMENT_H

#include "packet.h"
#include "tun.h"

#define SEGMENT_HEADER_MAX	256	/* IP and transport headers of a superpacket */

struct segmenter {
	uint8_t		*packet;
	struct inner	 inner;
	size_t		 header_bytes;	/* of a superpacket; 0 for an ordinary packet */
	size_t		 l4;		/* where the transport header begins */
	size_t		 payload_bytes, done;
	size_t		 segment_bytes;	/* of payload */
	size_t		 checksum_offset;
	uint64_t	 pseudo;	/* sum of the pseudo-header without its length */
	uint32_t	 sequence;
	uint16_t	 id, number;
	uint8_t		 flags;
	bool		 undone, partial, finished;
	uint8_t		 header[SEGMENT_HEADER_MAX];
};

/* False if the packet is malformed. vnet may be NULL: nothing undone. */
bool	 segment_begin(struct segmenter *, uint8_t *packet, size_t bytes, const struct virtio_net_hdr *vnet);
/*
 * Where the interface cannot say that packets are too long: cut TCP over IPv6 into segments that make packets of at most so
 * many bytes, whether it is a superpacket or not. protocol/inner.py, cut_tcp.
 */
void	 segment_fit(struct segmenter *, uint32_t largest_bytes);
bool	 segment_next(struct segmenter *, uint8_t **segment, size_t *bytes);

#endif
