"""PathSet: the paths of one peer, and which of them are worth having. docs/protocol.md "Paths".

Two kinds of pair become paths: every own socket with every address that is configured, resolved or was valid lately
(expected), and the pair an authentic packet came over (learned). The set keeps the bounds: a peer, or somebody who
replays its packets from many addresses, can neither fill the memory nor push out a path that works.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from ipaddress import ip_address

from centipede.protocol.counters import PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.path import Path, PathState
from centipede.protocol.timing import Timing

MOST_LOCALS = 8
MOST_REMOTES = 16
MOST_PATHS = 64
MOST_TOLD = 8
"""Addresses that are tried because the peer named them."""
MOST_LEARNED = 4
"""Paths to addresses known only from a packet and not validated yet."""

_TOLD_AGAIN_S = 8.0
"""An address that the peer named in vain is not tried again for so long, however often it is named."""


class PathSet:
    """Paths by address pair, in the order in which they were made."""

    def __init__(self, new_path: Callable[[Endpoint, Endpoint, bool, float], Path], timing: Timing) -> None:
        """``new_path`` makes a path of local, remote, whether it is expected, and now; it owns the numbers."""
        self._new_path = new_path
        self._timing = timing
        self._paths: dict[tuple[Endpoint, Endpoint], Path] = {}
        self._locals: tuple[Endpoint, ...] = ()
        self._configured: tuple[Endpoint, ...] = ()
        self._remembered: dict[Endpoint, float] = {}
        self._told: dict[Endpoint, float] = {}
        """When the peer named an address that was not known. It is tried for a short time, and not soon again."""
        self.retired = PathCounters()
        """Traffic of the paths that are no more."""

    def __iter__(self) -> Iterator[Path]:
        return iter(tuple(self._paths.values()))

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, local: Endpoint, remote: Endpoint) -> Path | None:
        """The path of this pair, if there is one."""
        return self._paths.get((local, remote))

    @property
    def usable(self) -> list[Path]:
        return [path for path in self._paths.values() if path.usable]

    @property
    def pairs(self) -> list[Path]:
        """The pairs over which the peer may be sought: all but those known only from a packet or from its word."""
        return [path for path in self._paths.values() if (path.expected and not path.told) or path.usable]

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """Remote addresses that are valid, or were within the time they are remembered; sorted."""
        return tuple(sorted(self._remembered))

    def set_locals(self, locals_: Sequence[Endpoint], now: float) -> None:
        """Say which local addresses there are; paths of others end."""
        self._locals = tuple(dict.fromkeys(locals_))[:MOST_LOCALS]
        self.refresh(now)

    def set_remotes(self, remotes: Sequence[Endpoint], now: float) -> None:
        """Say which addresses are configured and resolved; the set before is forgotten, paths that work stay."""
        self._configured = tuple(dict.fromkeys(remotes))[:MOST_REMOTES]
        self.refresh(now)

    def bar(self, allows: Callable[[Endpoint], bool], now: float) -> None:
        """End the paths to addresses that are not allowed any more, and forget these."""
        self._configured = tuple(remote for remote in self._configured if allows(remote))
        self._remembered = {remote: until for remote, until in self._remembered.items() if allows(remote)}
        for path in tuple(self._paths.values()):
            if not allows(path.remote):
                self._remove(path)
        self.refresh(now)

    def remember(self, remote: Endpoint, now: float) -> None:
        """Note an address that is valid or was until now."""
        self._remembered.pop(remote, None)
        self._remembered[remote] = now + self._timing.remembered_s
        while len(self._remembered) > MOST_REMOTES:
            del self._remembered[next(iter(self._remembered))]

    def tell(self, remotes: Sequence[Endpoint], now: float) -> None:
        """The peer says that it may be found at these addresses as well: try those that are new, for a short time."""
        known = {*self._configured, *self._remembered, *self._told, *(path.remote for path in self._paths.values())}
        for remote in remotes:
            if remote not in known and len(self._trying(now)) < MOST_TOLD:
                self._told[remote] = now
        while len(self._told) > MOST_REMOTES:
            del self._told[next(iter(self._told))]
        self.refresh(now)

    def learn(self, local: Endpoint, remote: Endpoint, now: float) -> Path | None:
        """Make a path of the pair an authentic packet came over; None if the bounds forbid it."""
        if local not in self._locals:
            return None
        if sum(path.learned for path in self._paths.values()) >= MOST_LEARNED:
            return None
        if not self._room_for(remote) and not self._make_room(remote):
            return None
        return self._add(local, remote, expected=False, now=now)

    def refresh(self, now: float) -> None:
        """Bring the set in line with the addresses: end what is of no use any more, add the pairs that are missing."""
        in_use = {path.remote for path in self._paths.values() if path.usable}
        self._remembered = {
            remote: until for remote, until in self._remembered.items() if until > now or remote in in_use
        }
        self._told = {remote: at for remote, at in self._told.items() if now < at + _TOLD_AGAIN_S}
        known = dict.fromkeys((*self._configured, *self._remembered))
        told = [remote for remote in self._trying(now) if remote not in known]
        for path in tuple(self._paths.values()):
            path.told = path.remote in told
            path.expected = path.told or path.remote in known
            if path.local not in self._locals and path.usable:
                self.remember(path.remote, now)
            if path.local not in self._locals or self._is_over(path, now):
                self._remove(path)
        for remote in (*told, *known):
            for local in self._locals:
                if (local, remote) in self._paths or not compatible(local, remote):
                    continue
                # Addresses of machines that are gone are remembered for long: they leave room for those that come.
                if self._room_for(remote) or (remote in told and self._make_room(remote, spared=self._configured)):
                    self._add(local, remote, expected=True, now=now).told = remote in told

    def refresh_at(self, now: float) -> float:
        """When :meth:`refresh` would end a path or forget an address by itself."""
        ends = [path.created + self._timing.new_s for path in self._paths.values() if path.limited]
        in_use = {path.remote for path in self._paths.values() if path.usable}
        ends += [until for remote, until in self._remembered.items() if remote not in in_use]
        ends += [now for path in self._paths.values() if path.state is PathState.GONE and not path.expected]
        return min(ends, default=float("inf"))

    def _trying(self, now: float) -> list[Endpoint]:
        """The addresses the peer named that are being tried, and have not answered."""
        answered = {path.remote for path in self._paths.values() if path.usable}
        return [remote for remote, at in self._told.items() if now < at + self._timing.new_s and remote not in answered]

    def _is_over(self, path: Path, now: float) -> bool:
        if path.expected or path.usable:
            return False
        return path.state is PathState.GONE or now >= path.created + self._timing.new_s

    def _room_for(self, remote: Endpoint) -> bool:
        if len(self._paths) >= MOST_PATHS:
            return False
        remotes = {path.remote for path in self._paths.values()}
        return remote in remotes or len(remotes) < MOST_REMOTES

    def _make_room(self, remote: Endpoint, spared: Collection[Endpoint] | None = None) -> bool:
        """End what was heard longest ago among what is not usable: a path, or all paths of one address."""
        by_remote: dict[Endpoint, list[Path]] = {}
        for path in self._paths.values():
            by_remote.setdefault(path.remote, []).append(path)
        if remote in by_remote or len(by_remote) < MOST_REMOTES:
            groups = [[path] for path in self._paths.values()]
        else:
            groups = list(by_remote.values())
        idle = [group for group in groups if not any(path.usable or path.learned for path in group)]
        if spared is not None:  # room for what is only told: others of that kind keep theirs as well
            idle = [group for group in idle if not any(path.told or path.remote in spared for path in group)]
        if not idle:
            return False
        for path in min(idle, key=lambda group: max(path.last_heard or 0.0 for path in group)):
            self._remove(path)
        return True

    def _add(self, local: Endpoint, remote: Endpoint, *, expected: bool, now: float) -> Path:
        path = self._paths[local, remote] = self._new_path(local, remote, expected, now)
        return path

    def _remove(self, path: Path) -> None:
        del self._paths[path.local, path.remote]
        self.retired = total((self.retired, path.counters))


def total(counters: Sequence[PathCounters]) -> PathCounters:
    """The traffic of several paths as one."""
    return PathCounters(
        rx_packets=sum(one.rx_packets for one in counters),
        rx_bytes=sum(one.rx_bytes for one in counters),
        rx_copies=sum(one.rx_copies for one in counters),
        tx_packets=sum(one.tx_packets for one in counters),
        tx_bytes=sum(one.tx_bytes for one in counters),
        largest=max((one.largest for one in counters), default=0),
        last_rx=max((one.last_rx for one in counters), default=0.0),
    )


def compatible(local: Endpoint, remote: Endpoint) -> bool:
    """Whether a datagram can go from one to the other at all, and to it alone: one IP version, one scope, one host."""
    if local.version != remote.version or remote.port == 0:
        return False
    ours, theirs = ip_address(local.host), ip_address(remote.host)
    if theirs.is_unspecified or theirs.is_multicast:
        return False
    if ours.is_unspecified:
        return True
    return ours.is_loopback == theirs.is_loopback and ours.is_link_local == theirs.is_link_local
