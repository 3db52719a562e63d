"""What an engine written in Python needs to know of sockets: addresses as the kernel spells them, and its refusals.

Shared by the reference engine, the control thread's own sends and system/udp.py, so that one errno has one meaning.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""An address as the socket module gives and takes it: (host, port), for IPv6 with flow label 0 and scope."""

LATE_ERRORS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMSGSIZE, errno.EPROTO})
"""A read fails with these because of an ICMP error about an earlier send: nothing was lost by the read."""

PMTU_DISCOVERY = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER (include/uapi/linux/in.h, in6.h), by IP version."""
PMTUDISC_DONT = 0
"""Leave without DF and let the kernel fragment."""
PMTUDISC_PROBE = 3

_SEND_REASONS = {
    errno.EMSGSIZE: DropReason.SEND_TOO_BIG,
    errno.ENOBUFS: DropReason.SEND_NO_BUFFERS,
    errno.ENOMEM: DropReason.SEND_NO_BUFFERS,
    errno.EAGAIN: DropReason.SEND_NO_BUFFERS,
    errno.ENETUNREACH: DropReason.SEND_UNREACHABLE,
    errno.EHOSTUNREACH: DropReason.SEND_UNREACHABLE,
    errno.ENODEV: DropReason.SEND_UNREACHABLE,
    errno.EADDRNOTAVAIL: DropReason.SEND_UNREACHABLE,
    errno.ENETDOWN: DropReason.SEND_UNREACHABLE,
    errno.EINVAL: DropReason.SEND_UNREACHABLE,
}

_TUN_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


@contextmanager
def unfragmented(sock: socket.socket, version: int) -> Iterator[None]:
    """Let what is sent meanwhile leave whole, with the DF bit, whatever the kernel believes of the path's MTU."""
    level, option = PMTU_DISCOVERY[version]
    sock.setsockopt(level, option, PMTUDISC_PROBE)
    try:
        yield
    finally:
        sock.setsockopt(level, option, PMTUDISC_DONT)


def send_drop_reason(error: OSError) -> DropReason:
    """Why a datagram was not sent."""
    # if_nametoindex sets no errno before Python 3.13; it fails only because there is no such interface.
    return _SEND_REASONS.get(error.errno or errno.ENODEV, DropReason.SEND_REFUSED)


def tun_drop_reason(error: OSError) -> DropReason:
    """Why the TUN device did not take a packet."""
    return DropReason.TUN_FULL if error.errno in _TUN_FULL else DropReason.TUN_REFUSED


def socket_address(endpoint: Endpoint) -> SocketAddress:
    """The address to bind or send to, spelled as ``recvfrom`` will spell it. Raises OSError for an unknown zone."""
    if endpoint.version == 4:
        return endpoint.host, endpoint.port
    host, _, zone = endpoint.host.partition("%")
    scope = 0
    if zone:
        scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)  # RFC 4007, section 11
    # inet_ntop differs from RFC 5952 in a few prefixes, such as ::192.0.2.1.
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host)), endpoint.port, 0, scope


def endpoint_of(address: SocketAddress) -> Endpoint:
    """The endpoint that a socket address means."""
    if len(address) == 2 or not address[3]:
        return Endpoint.of(address[0], address[1])
    try:
        zone = socket.if_indextoname(address[3])
    except OSError:
        zone = str(address[3])  # the interface has just gone
    return Endpoint.of(f"{address[0]}%{zone}", address[1])
