"""Signs that this machine may be a copy of itself, or was one while another went on: restored, cloned or asleep.

Two signs. The kernel tells user space when a virtual machine was restored from a snapshot or cloned, if the hypervisor
gives it a generation id: the driver vmgenid sends a uevent with ``NEW_VMGENID=1`` (drivers/virt/vmgenid.c). And while
a machine sleeps, CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC does not (clock_gettime(2)). The wall clock has no part in
it: it may be set, by years and at any time.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Self

from centipede.system.udp import set_receive_buffer

LONGEST_SLEEP_S = 30.0
"""After more than this, the machine may as well be a copy."""

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_EVENTS = 1
"""The group of what the kernel sends; udev's is 2."""
_BUFFER_BYTES = 4 * 1024 * 1024
"""Events come in floods, when containers start, and one that was lost counts as the sign."""
_SIGN = b"NEW_VMGENID=1"


def _open() -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    events = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
    set_receive_buffer(events, _BUFFER_BYTES)
    events.bind((0, _KERNEL_EVENTS))
    return events


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CloneWatch:
    """A selectable descriptor that becomes readable when the kernel has an event, and what is to be made of it."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        boottime: Callable[[], float] = _boottime,
        events: Callable[[], socket.socket] = _open,
    ) -> None:
        """Both clocks in seconds; ``events`` opens the socket that gives the kernel's uevents."""
        self._monotonic = monotonic
        self._boottime = boottime
        self._behind_s = boottime() - monotonic()
        self._socket = events()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> str | None:
        """What happened since the last call that may have made two of this machine, in words; None for nothing."""
        before, self._behind_s = self._behind_s, self._boottime() - self._monotonic()
        slept_s = self._behind_s - before
        if self._drain():
            return "the machine was restored from a snapshot, or cloned"
        return f"the machine slept for {slept_s:.0f} s" if slept_s > LONGEST_SLEEP_S else None

    def _drain(self) -> bool:
        """Take all waiting events. True if one of them was the sign, or some were lost. Never blocks."""
        found = False
        while True:
            try:
                event = self._socket.recv(65536)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return found
                found = True  # an overflow: better once too often
            else:
                found |= _SIGN in event.split(b"\0")
