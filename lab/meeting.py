"""A meeting: ends that know each other by key alone, each behind another NAT; which pairs connect, and why not.

Owns the order of it. First nobody is told anything, so that only ends without a NAT are found. Then, for each pair,
each end is told the address at which a third, public peer sees the other (endpoints out of band), while it runs. Each
time it is waited until every pair has connected, or the NATs have shown why it cannot: nothing here is a matter of time
alone, but for the deadline of a pair that does neither.

Every end has one daemon for all its peers. Pairs do not disturb each other, as every end has its own outer address.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from centipede.protocol.endpoint import Endpoint
from lab.nat_theory import Cause, Evidence, Site, cause, theory
from lab.pace import slowness
from lab.process import wait_until
from lab.topology import Topology
from lab.tunnels.base import TunnelEnd, TunnelOptions, answers
from lab.tunnels.mesh import Mesh

READY_TIMEOUT_S = 30.0
"""Programs of all ends start at once."""
_DEADLINE_S = 25.0
_AT_ONCE = 6
_THIRD, _LEFT, _RIGHT = 1, 11, 21
"""Last bytes of the inner addresses, in a network that no link counts off; the ends of a side count on from these."""


class PairRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a pair."""

    left: str
    """What the end is behind."""
    right: str
    told: bool
    """Whether each end was told where the other is seen."""
    connected: bool
    """Whether a packet went through and its answer came back."""
    cause: str | None
    """Why not, by the evidence."""
    expected: str | None
    """The same by theory; None if it must connect."""
    seconds: float
    """How long was waited for it."""
    said: tuple[str, str] = ("", "")
    """What the ends said of their attempts then."""

    @property
    def explained(self) -> bool:
        """Whether it went as theory has it."""
        return self.connected == (self.expected is None) and self.cause == self.expected


class MeetingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all pairs."""

    pairs: list[PairRecord]
    untold: int
    """Pairs that connected while nobody was told anything."""
    told: int
    """Pairs that connected when each end was told where the other is seen."""
    unexplained: int
    """Pairs, told or not, that did not go as theory has it."""

    def table(self) -> dict[str, dict[str, str]]:
        """Return, by what the left end and what the right one is behind, what became of the pair, in a word or two."""
        found: dict[str, dict[str, str]] = {}
        for pair in self.pairs:
            row = found.setdefault(pair.left, {})
            if pair.right not in row or not row[pair.right].startswith("connects"):
                row[pair.right] = f"connects{' when told' * pair.told}" if pair.connected else f"no: {pair.cause}"
        return found


@dataclass(frozen=True, slots=True)
class Guest:
    """An end that takes part."""

    site: Site
    end: TunnelEnd
    router: str | None
    """The NAT it is behind."""


@dataclass(slots=True)
class Meeting:
    """A meeting on a topology that stands."""

    mesh: Mesh
    topology: Topology
    third: TunnelEnd
    left: Sequence[Guest]
    right: Sequence[Guest]
    options: TunnelOptions
    _seen: dict[str, Endpoint] = field(default_factory=dict)
    """Where the third peer sees each end, by host."""

    @property
    def pairs(self) -> list[tuple[Guest, Guest]]:
        return [(left, right) for left in self.left for right in self.right]

    def hold(self, check: Callable[[], None]) -> MeetingRecord:
        """Hold it; ``check`` is called again and again, to raise when time is up. The mesh stays up."""
        guests = [*self.left, *self.right]
        known = [(guest.end, self.third) for guest in guests] + [(a.end, b.end) for a, b in self.pairs]
        self.mesh.up_mesh(known, msgspec.structs.replace(self.options, ready_timeout_s=READY_TIMEOUT_S))
        for guest in guests:
            self._introduce(guest)
        found = self._settle(told=False, check=check)
        for left, right in self.pairs:
            for near, far in ((left, right), (right, left)):
                self.mesh.point(near.end, far.end, self._seen[far.end.host.name])
        found += self._settle(told=True, check=check)
        return MeetingRecord(
            pairs=found,
            untold=sum(pair.connected for pair in found if not pair.told),
            told=sum(pair.connected for pair in found if pair.told),
            unexplained=sum(not pair.explained for pair in found),
        )

    def _introduce(self, guest: Guest) -> None:
        """Wait until the third peer and an end reach each other, and the end is seen."""
        name, target = guest.end.host.name, str(self.third.inner[0].ip)

        def met() -> bool:
            seen = self.mesh.seen(guest.end, self.third) if answers(guest.end.host, target) else None
            if seen is not None:
                self._seen[name] = seen
            return seen is not None

        wait_until(met, timeout_s=_DEADLINE_S, what=f"{name} and {self.third.host.name} seeing each other")

    def _settle(self, *, told: bool, check: Callable[[], None]) -> list[PairRecord]:
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as threads:
            return list(threads.map(lambda pair: self._await(*pair, told=told, check=check), self.pairs))

    def _await(self, left: Guest, right: Guest, *, told: bool, check: Callable[[], None]) -> PairRecord:
        """Wait until a pair has connected or shown why it cannot."""
        expected = theory(left.site, right.site, told=told)
        target = str(right.end.inner[0].ip)
        began = time.monotonic()
        while True:
            check()
            # Looked for before the packet is sent: what is refused later would not explain its loss.
            found = None if expected is None else self._cause(left, right, told=told)
            connected = answers(left.end.host, target)
            late = time.monotonic() - began > _DEADLINE_S * slowness()
            if connected or found is Cause(expected or Cause.UNKNOWN) is not Cause.UNKNOWN or late:
                break
        if connected:
            found = None
        elif found is None:
            found = self._cause(left, right, told=told)
        return PairRecord(
            left=left.site,
            right=right.site,
            told=told,
            connected=connected,
            cause=found,
            expected=expected,
            seconds=round(time.monotonic() - began, 3),
            said=(self.mesh.said(left.end, right.end), self.mesh.said(right.end, left.end)),
        )

    def _cause(self, left: Guest, right: Guest, *, told: bool) -> Cause:
        return cause(self._evidence(left), self._evidence(right), told=told)

    def _evidence(self, guest: Guest) -> Evidence:
        refused = self.topology.nat(guest.router).refusals() if guest.router is not None else set()
        return Evidence(self._seen[guest.end.host.name], refused)


def inner(side: str, number: int = 0) -> tuple[Any, ...]:
    """Return the inner address of the n-th end of a side, or of the third peer (any other side)."""
    first: Mapping[str, int] = {"left": _LEFT, "right": _RIGHT}
    return (ipaddress.ip_interface(f"10.77.0.{first.get(side, _THIRD) + number}/24"),)
