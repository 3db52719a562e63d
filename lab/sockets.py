"""How soon a tunnel's sockets follow the addresses of their host: dropped where one goes, opened where one comes.

Owns the thread that looks, and the account. Must not know tunnels or scenarios. The clock of a change starts when the
kernel tells of it, on a netlink socket of the lab's own in the host's namespace, and stops when the kernel's list of
UDP sockets shows it followed; looking takes some milliseconds, which count. What is not followed at all counts with
the time it was waited for. Where the lab itself, on a busy machine, did not get to look for a while and then found a
change followed, nobody knows when that was: such a change is counted and not timed, unless there is no other.
Invariant: after ``stop`` nobody looks any more.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import msgspec

from centipede.errors import HostError
from centipede.system.links import Links, LinkWatch
from lab.errors import LabError
from lab.host import Host

_LOOK_S = 0.004
"""Between two looks at the sockets while a change is not followed yet."""
_BLIND_S = 0.03
"""A look that comes later than this after the one before, or after the kernel's word, says nothing of the time."""

Address = IPv4Address | IPv6Address


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """An address that came or went, and its socket."""

    address: str
    came: bool
    at_s: float
    """When the kernel told of it."""
    after_s: float
    """How much later its socket was there, or gone."""
    seen: bool
    """Whether it was seen to happen then; it may have been earlier if not."""


class SocketAccount(msgspec.Struct, frozen=True, kw_only=True):
    """How the sockets of an end followed its addresses over a run."""

    end: str
    opened: int
    dropped: int
    """How many addresses came, and went."""
    slowest_opened_s: float | None
    slowest_dropped_s: float | None
    """Of those that were seen, of all where none was; None where none came, or went."""
    unseen: int
    """How many of them the lab was too busy to time."""
    changes: list[Followed]


class Follower:
    """What is waited for, and what was: the account in the making, without clock or kernel."""

    def __init__(self, usable: Collection[Address]) -> None:
        """``usable`` addresses were there at the beginning, with their sockets."""
        self._usable = frozenset(usable)
        self._waiting: dict[Address, tuple[float, bool]] = {}
        self._looked = 0.0
        self._changes: list[Followed] = []

    @property
    def waiting(self) -> bool:
        """Whether a change is not followed yet."""
        return bool(self._waiting)

    def change(self, now: float, usable: Collection[Address]) -> None:
        """The kernel told ``now`` that these addresses can be used."""
        usable = frozenset(usable)
        for address in usable ^ self._usable:
            self._end(address, now, seen=True)  # it was not followed before it changed again
            self._waiting[address] = (now, address in usable)
        self._usable = usable

    def look(self, now: float, bound: Collection[Address]) -> None:
        """There are sockets bound to these addresses ``now``."""
        for address, (began, came) in list(self._waiting.items()):
            if (address in bound) == came:
                self._end(address, now, seen=now - max(began, self._looked) <= _BLIND_S)
        self._looked = now

    def account(self, end: str, now: float, zero: float) -> SocketAccount:
        """Return the account, in seconds after ``zero``. Nothing is waited for after ``now``."""
        for address in list(self._waiting):
            self._end(address, now, seen=True)
        changes = sorted(
            (msgspec.structs.replace(each, at_s=round(each.at_s - zero, 6)) for each in self._changes),
            key=lambda each: each.at_s,
        )
        opened = [each for each in changes if each.came]
        dropped = [each for each in changes if not each.came]
        return SocketAccount(
            end=end,
            opened=len(opened),
            dropped=len(dropped),
            slowest_opened_s=_slowest_s(opened),
            slowest_dropped_s=_slowest_s(dropped),
            unseen=sum(not each.seen for each in changes),
            changes=changes,
        )

    def _end(self, address: Address, now: float, *, seen: bool) -> None:
        began, came = self._waiting.pop(address, (None, False))
        if began is not None:
            after_s = round(now - began, 6)
            self._changes.append(Followed(address=str(address), came=came, at_s=began, after_s=after_s, seen=seen))


def _slowest_s(changes: Sequence[Followed]) -> float | None:
    return max((each.after_s for each in [each for each in changes if each.seen] or changes), default=None)


class SocketWatch:
    """Watches the sockets of one port of a host."""

    def __init__(self, host: Host, links: Collection[str], port: int) -> None:
        """Begin to watch the addresses of these ``links``."""
        self._host = host
        self._links = frozenset(links)
        self._port = port
        self._watch = host.call(LinkWatch)
        self._follower = Follower(self._usable())
        self._stop_fd = os.eventfd(0)
        self._thread = threading.Thread(target=self._look, name=f"sockets of {host.name}")
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer. To be called once."""
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        os.close(self._stop_fd)
        self._watch.close()
        self._stopped = time.monotonic()

    def account(self, end: str, zero: float) -> SocketAccount:
        """Return the account, in seconds after ``zero``. Not before ``stop``."""
        return self._follower.account(end, self._stopped, zero)

    def _look(self) -> None:
        while True:
            timeout = _LOOK_S if self._follower.waiting else None
            ready, _, _ = select.select([self._watch.fileno(), self._stop_fd], [], [], timeout)
            now = time.monotonic()
            if self._stop_fd in ready:
                return
            try:
                if ready:
                    self._watch.drain()
                    self._follower.change(now, self._usable())
                bound = set(self._bound())
                self._follower.look(time.monotonic(), bound)
            except (LabError, HostError, OSError):  # the host was taken away, for time is up: the attempt says so
                return

    def _usable(self) -> set[Address]:
        def body() -> set[Address]:
            with Links() as links:
                return {each.address for each in links.addresses() if each.link in self._links}

        return self._host.call(body)

    def _bound(self) -> Iterator[Address]:
        for table in ("udp", "udp6"):
            text = Path(f"/proc/{self._host.anchor_pid}/net/{table}").read_text()
            yield from (address for address, port in bound(text) if port == self._port)


def bound(table: str) -> Iterator[tuple[Address, int]]:
    """Yield the local addresses and ports in ``/proc/net/udp`` or ``udp6``, in 32-bit words of the machine."""
    for line in table.splitlines()[1:]:
        address, _, port = line.split()[1].partition(":")
        words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
        yield ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words)), int(port, 16)
