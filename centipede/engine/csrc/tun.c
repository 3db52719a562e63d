#include <errno.h>
#include <unistd.h>

#include "tun.h"

int
tun_write(struct tun *tun, const struct iovec *vectors, int count)
{
	ssize_t n;

	while ((n = writev(tun->fd, vectors, count)) == -1 && errno == EINTR)
		continue;
	return (n == -1 ? errno : 0);
}

unsigned
tun_drop_reason(int error)
{
	return (error == EAGAIN || error == ENOBUFS || error == ENOMEM ? DROP_TUN_FULL : DROP_TUN_REFUSED);
}
