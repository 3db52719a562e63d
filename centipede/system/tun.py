"""The TUN device: an interface whose packets are read and written here.

Owns how a TUN interface comes into being: one descriptor per queue (IFF_MULTI_QUEUE), so that every worker of an engine
has its own, and the offloads the kernel agrees to. The interface is not persistent: it vanishes with its last
descriptor, whatever ends the process. Bringing it up, addresses and routes are links.py's.

Numbers are from the kernel's include/uapi/linux/if_tun.h and include/uapi/linux/if.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import ioctl

from centipede.errors import HostError

DEVICE = "/dev/net/tun"

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0

_IFF_TUN = 0x0001
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
"""Refuses a name that exists; without it, TUNSETIFF joins an existing multi-queue interface."""

_IFREQ = struct.Struct("16sH22x")
"""struct ifreq, as TUNSETIFF reads it: 16 name (zero-terminated) | 2 flags | 22 unused."""

OFFLOAD_BITS = {"csum": 0x01, "tso4": 0x02, "tso6": 0x04, "uso4": 0x20, "uso6": 0x40}
"""TUN_F_*: what may be read from the device unfinished, to be completed by whoever reads it."""

_OFFLOADS_TRIED = (
    frozenset({"csum", "tso4", "tso6", "uso4", "uso6"}),
    frozenset({"csum", "tso4", "tso6"}),  # before Linux 6.2 there was no USO
    frozenset({"csum"}),
)


@dataclass(frozen=True, slots=True)
class Tun:
    """An interface and its open, non-blocking descriptors, one per queue. They belong to whoever holds this value."""

    name: str
    fds: tuple[int, ...]
    vnet_hdr: bool
    """Every packet is preceded by a struct virtio_net_hdr of 10 bytes, both ways."""
    offloads: frozenset[str]
    """Those of :data:`OFFLOAD_BITS` that are on. Empty without ``vnet_hdr``."""


def open_tun(name: str, queues: int, *, vnet_hdr: bool) -> Tun:
    """Create the interface ``name`` with ``queues`` queues.

    Raises HostError where there is no TUN driver, no permission, the name is taken, or the kernel allows fewer queues;
    nothing stays open then.
    """
    if not 0 < len(name.encode()) < 16:
        raise ValueError(f"{name!r} is no interface name: 1 to 15 bytes")
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_MULTI_QUEUE | (_IFF_VNET_HDR if vnet_hdr else 0)
    fds: list[int] = []
    try:
        with _explained(name, queues):
            for queue in range(queues):
                fds.append(os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
                exclusive = _IFF_TUN_EXCL if queue == 0 else 0
                ioctl(fds[queue], _TUNSETIFF, _IFREQ.pack(name.encode(), flags | exclusive))
    except HostError:
        for fd in fds:
            os.close(fd)
        raise
    return Tun(name, tuple(fds), vnet_hdr, _set_offloads(fds[0]) if vnet_hdr else frozenset())


def _set_offloads(fd: int) -> frozenset[str]:
    """Switch on the largest set of offloads the kernel knows, for all queues of the interface."""
    for offloads in _OFFLOADS_TRIED:
        try:
            ioctl(fd, _TUNSETOFFLOAD, sum(OFFLOAD_BITS[offload] for offload in offloads))
        except OSError:
            continue
        return offloads
    return frozenset()


@contextmanager
def _explained(name: str, queues: int) -> Iterator[None]:
    """Turn an OSError of creating the interface into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOENT | errno.ENODEV | errno.ENXIO:
                text = f"{DEVICE} is missing: load the driver (modprobe tun) or give the container this device"
            case errno.EACCES | errno.EPERM:
                text = f"no permission to create interface {name}: run as root or with CAP_NET_ADMIN"
            case errno.EBUSY:
                text = f"interface {name} exists already: remove it (ip link delete {name}) or choose another name"
            case errno.EINVAL:
                text = f"the kernel does not take {name!r} as the name of a TUN interface: choose another name"
            case errno.E2BIG:
                text = f"the kernel does not allow {queues} queues on interface {name}: set fewer workers"
            case _:
                text = f"interface {name} could not be created: {error.strerror}"
        raise HostError(text) from error
