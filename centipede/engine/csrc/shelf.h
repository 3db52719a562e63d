/*
 * Inner packets that wait for their peer's session, oldest first. One worker's; not on the packet path, for a peer that
 * packets wait for carries none. The shelf holds SHELF_BYTES in all; each peer's share of WAITING_PACKETS is counted by
 * the caller.
 */
#ifndef CENTIPEDE_SHELF_H
#define CENTIPEDE_SHELF_H

#include <linux/virtio_net.h>

#include "common.h"

#define SHELF_BYTES	(1u << 20)
#define WAITING_PACKETS	64	/* of contract.py: per peer; the oldest gives way to one more */

struct shelved {
	uint64_t	peer;		/* number */
	uint32_t	bytes;		/* of the packet */
	bool		gone;
	bool		has_vnet;
	struct virtio_net_hdr vnet;
	_Alignas(8) uint8_t packet[];
};

struct shelf {
	size_t		used;
	_Alignas(8) uint8_t bytes[SHELF_BYTES];
};

bool		 shelf_put(struct shelf *, uint64_t peer, const struct virtio_net_hdr *, const uint8_t *, size_t bytes);
/* The record after this one (NULL: the first) that is not gone, or NULL. */
struct shelved	*shelf_next(struct shelf *, struct shelved *);
/* Squeeze out what is gone. Invalidates records. */
void		 shelf_tidy(struct shelf *);

#endif
