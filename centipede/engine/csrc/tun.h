/* One TUN queue: packets with or without a struct virtio_net_hdr in front. */
#ifndef CENTIPEDE_TUN_H
#define CENTIPEDE_TUN_H

#include <sys/uio.h>

#include <linux/virtio_net.h>

#include "packet.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4	/* Linux 5.18 */
#define VIRTIO_NET_HDR_GSO_UDP_L4	5
#endif

#define VNET_BYTES	sizeof(struct virtio_net_hdr)

_Static_assert(VNET_BYTES == 10, "TUNGETVNETHDRSZ is 10 unless changed");

struct tun {
	int		fd;
	bool		vnet_hdr;
	_Atomic bool	write_tso, write_uso;	/* superpackets it still takes */
	counter_t	tso_fallbacks, uso_fallbacks;
	counter_t	*drops;			/* of the worker, by reason */
};

/* Write the vectors as one packet or superpacket: 0, or the errno. */
int	 tun_write(struct tun *, const struct iovec *, int count);
unsigned tun_drop_reason(int error);

#endif
