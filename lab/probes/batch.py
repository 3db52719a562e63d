"""Many datagrams per system call: sendmmsg and recvmmsg of the C library, which Python's socket module lacks.

Without them one Python process offers some 200,000 datagrams a second, less than the tunnels it is to measure can
carry. This module owns the C structures and their buffers and knows nothing of what the datagrams contain. Every call
releases the GIL.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

import cffi
import numpy as np
from numpy.typing import NDArray

_ffi = cffi.FFI()
# The layouts of struct iovec, msghdr and mmsghdr on 64-bit Linux, in <sys/uio.h> and <bits/socket.h>.
_ffi.cdef(
    """
    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr {
        void *msg_name; unsigned int msg_namelen;
        struct iovec *msg_iov; size_t msg_iovlen;
        void *msg_control; size_t msg_controllen;
        int msg_flags;
    };
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
    int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, void *timeout);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)


class Batch:
    """``count`` buffers of ``size`` bytes each, side by side in one array, and the vector that names them.

    ``buffer`` has shape (count, size): written before :meth:`send`, read after :meth:`receive`. A received datagram
    longer than ``size`` is cut off, which is how a receiver reads only headers.
    """

    def __init__(self, count: int, size: int) -> None:
        self.buffer: NDArray[np.uint8] = np.zeros((count, size), dtype=np.uint8)
        self.count = count
        base = int(self.buffer.ctypes.data)
        self._iovecs = _ffi.new("struct iovec[]", count)
        self._messages = _ffi.new("struct mmsghdr[]", count)
        for i in range(count):
            self._iovecs[i].iov_base = _ffi.cast("void *", base + i * size)
            self._iovecs[i].iov_len = size
            self._messages[i].msg_hdr.msg_iov = self._iovecs + i
            self._messages[i].msg_hdr.msg_iovlen = 1

    def send(self, sock: socket.socket, first: int, count: int) -> int:
        """Send datagrams ``first`` to ``first + count - 1`` on a connected socket. Returns how many left.

        Fewer than ``count`` means that the one after them failed. Raises OSError if the very first failed.
        """
        done = _libc.sendmmsg(sock.fileno(), self._messages + first, count, 0)
        if done < 0:
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))
        return int(done)

    def receive(self, sock: socket.socket, first: int = 0) -> int:
        """Receive what waits, at most up to the end of the batch, into buffers ``first`` onwards. Returns how many.

        0 when nothing waits. Never blocks.
        """
        done = _libc.recvmmsg(sock.fileno(), self._messages + first, self.count - first, socket.MSG_DONTWAIT, _ffi.NULL)
        if done >= 0:
            return int(done)
        if _ffi.errno in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
