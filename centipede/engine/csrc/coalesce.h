/*
 * From opened packets to writes on the TUN device: consecutive segments of a flow become one superpacket again.
 *
 * Nothing is copied: a write's vectors point at the payloads where they were opened. So packets handed in must stay
 * where they are until coalesce_flush(). Packets of one flow keep their order; anything that is neither TCP nor UDP
 * also keeps its place among all others.
 */
#ifndef CENTIPEDE_COALESCE_H
#define CENTIPEDE_COALESCE_H

#include "packet.h"
#include "tun.h"

#define FLOWS_MAX	16	/* superpackets being built at once */
#define PIECES_MAX	64	/* segments of one; also what USO allows */

struct flow {
	uint8_t		*head;		/* first packet; its header becomes the superpacket's */
	struct inner	 inner;		/* of the first packet */
	bool		 partial;	/* of the first packet */
	bool		 verified;	/* its complete checksum was checked */
	bool		 closed;	/* a short or pushed segment was its last */
	uint16_t	 header_bytes;
	uint16_t	 segment_bytes;	/* of payload */
	uint16_t	 last_id;
	uint32_t	 next_sequence;
	uint32_t	 payload_bytes;
	unsigned	 count;
	struct iovec	 pieces[PIECES_MAX];
};

struct coalescer {
	struct tun	*tun;
	unsigned	 count;
	uint8_t		 places[FLOWS_MAX];	/* the order in which flows began: indices of flows[] */
	struct flow	 flows[FLOWS_MAX];
};

void	 coalesce_init(struct coalescer *, struct tun *);
/* Deliver a packet; if partial, inner_transport_whole() holds and its checksum field is the pseudo-header's sum. */
void	 coalesce_packet(struct coalescer *, uint8_t *packet, const struct inner *, bool partial);
void	 coalesce_flush(struct coalescer *);

#endif
