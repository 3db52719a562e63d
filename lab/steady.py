"""What keeps an emulated guest's kernel from rewriting its own code while traffic flows.

Owns one socket. The kernel turns the time-stamping of arriving packets on with the first socket that asks for it, as
every ping does, and off with the last, by patching the code that each packet goes through: for a moment a breakpoint
stands there. QEMU's emulation (TCG) with several processors now and then runs a stale breakpoint when the kernel has
done with it, which is a panic (``Oops: int3`` in ``netif_rx_internal``; seen with many pings at once). With a socket
that always asks, nothing is patched.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_SO_TIMESTAMP = 29
"""asm-generic/socket.h, SO_TIMESTAMP_OLD; the socket module does not name it."""


@contextmanager
def steady() -> Iterator[None]:
    """Within, packets are time-stamped on arrival, in all network namespaces, whoever asks besides."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        yield
