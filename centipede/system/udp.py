"""UDP sockets for one local address: one per worker, all on the same port.

Owns the socket options. The sockets are handed on as plain descriptors; reading and writing them is the engine's.

Numbers are from the kernel's include/uapi/linux/in.h, in6.h and include/uapi/asm-generic/socket.h.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from centipede.engine.sockets import PMTU_DISCOVERY, PMTUDISC_DONT, socket_address
from centipede.errors import HostError
from centipede.protocol.endpoint import Endpoint

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

DEFAULT_BUFFER_BYTES = 8 << 20


def open_sockets(
    local: Endpoint,
    count: int,
    *,
    device: str | None = None,
    mark: int | None = None,
    receive_buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    send_buffer_bytes: int = DEFAULT_BUFFER_BYTES,
) -> tuple[int, ...]:
    """Bind ``count`` non-blocking sockets to ``local``; port 0 takes one that is free.

    ``device`` ties them to an interface, ``mark`` is the routing mark of what they send. Buffers are as large as asked
    with CAP_NET_ADMIN, else as the system allows. Raises HostError where the host refuses; nothing stays open then.

    The first is bound without SO_REUSEPORT: with it, the kernel would let two daemons of one user share a port, and
    each would get half of the other's datagrams.
    """
    with ExitStack() as undo:
        sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                sock = socket.socket(socket.AF_INET6 if local.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
                undo.enter_context(sock)
                _configure(sock, local, device, mark, receive_buffer_bytes, send_buffer_bytes)
                if sockets:
                    sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    sock.bind(sockets[0].getsockname())
                else:
                    sock.bind(socket_address(local))
                sockets.append(sock)
        except OSError as error:
            raise HostError(_explanation(local, device, mark, error)) from error
        undo.pop_all()
    return tuple(sock.detach() for sock in sockets)


def _configure(
    sock: socket.socket,
    local: Endpoint,
    device: str | None,
    mark: int | None,
    receive_buffer_bytes: int,
    send_buffer_bytes: int,
) -> None:
    sock.setblocking(False)
    set_receive_buffer(sock, receive_buffer_bytes)
    _set_buffer(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, send_buffer_bytes)
    if local.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(*PMTU_DISCOVERY[local.version], PMTUDISC_DONT)
    if device is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    if mark is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)


def set_receive_buffer(sock: socket.socket, size_bytes: int) -> None:
    """Let a socket hold this much beyond net.core.rmem_max where that is permitted, else up to it."""
    _set_buffer(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, size_bytes)


def _set_buffer(sock: socket.socket, force: int, ordinary: int, size_bytes: int) -> None:
    """Set a buffer beyond net.core.[rw]mem_max where that is permitted, else up to it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, ordinary, size_bytes)


def _explanation(local: Endpoint, device: str | None, mark: int | None, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"UDP {local} is in use: stop the program that has it or listen on another port"
        case errno.EADDRNOTAVAIL:
            return f"UDP {local}: no interface of this host has this address, add it or listen on another"
        case errno.EACCES:
            return f"no permission to bind UDP {local}: use a port of 1024 or above, or run as root"
        case errno.EPERM:
            wanted = " and ".join(
                text for text, given in ((f"device {device}", device), (f"mark {mark}", mark)) if given is not None
            )
            return f"no permission to set {wanted or 'the options of UDP ' + str(local)}: run as root"
        case None | errno.ENODEV | errno.ENXIO:  # if_nametoindex sets no errno before Python 3.13
            return f"UDP {local}: there is no interface {device or local.host.partition('%')[2]}"
        case errno.EAFNOSUPPORT:
            return f"UDP {local}: this host has no IPv{local.version}"
        case errno.EMFILE | errno.ENFILE:
            return f"UDP {local}: too many open files, raise the limit (ulimit -n) or set fewer workers"
        case _:
            return f"UDP {local} could not be opened: {error.strerror}"
