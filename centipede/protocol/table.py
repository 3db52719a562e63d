"""The forwarding table and the events: all that the node and an engine say to each other.

Downward, the node hands the engine a :class:`ForwardingTable`: an immutable description that replaces the one before it
in whole. Upward, the engine hands the node :data:`Event` objects. Neither side sees the other's objects.

What a table *describes* is immutable; what an engine *keeps* for it is not, and is bound to the numbers in the table:

- ``ReceiveSession.session``: the engine creates one replay window per source shard when a session first appears in a
  table, keeps it over all later tables that name the session, and wipes it with the key when a table no longer does.
- ``SendPlan.session``: likewise one sending counter per own shard (``ReceiveSession.own``). It lives exactly as long
  as the ``ReceiveSession`` of the same number, which every table with the plan also holds: a plan may leave a session
  and come back to it.
- ``TablePath.path``: likewise the traffic counters of a path.

All three kinds of number ascend and are never used again, so an engine can refuse to give a session a second life:
that would repeat nonces. docs/protocol.md has the byte layouts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from centipede.protocol.endpoint import Endpoint

REORDER_PACKETS = 1024
"""Counters that the wait for earlier packets spans at most."""
LONGEST_REORDER_S = 0.1
"""And it takes no longer than this."""
BUCKETS = 256
"""Flows are told apart by so many values of a hash."""


@dataclass(frozen=True, slots=True)
class Run:
    """2^k neighbouring shards that one machine owns; ``first`` is a multiple of 2^k. One shard per worker."""

    first: int = 0
    k: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.k <= 4 and self.first % (1 << self.k) == 0 and 0 <= self.first <= 16383 - (1 << self.k)):
            raise ValueError(f"no such run of shards: first {self.first}, k {self.k}")

    @property
    def size(self) -> int:
        return 1 << self.k

    def shard_of(self, worker: int) -> int:
        """The shard that sending worker ``worker`` uses in, or addresses of, this run."""
        return self.first + worker % self.size

    def __contains__(self, shard: object) -> bool:
        return isinstance(shard, int) and self.first <= shard < self.first + self.size


@dataclass(frozen=True, slots=True)
class TablePath:
    """A path the node knows, whatever its state. ``path`` is its number for traffic counters."""

    path: int
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class Lane:
    """A path that takes a share of the packets, as far as it is estimated to be free."""

    path: TablePath
    rate_bytes_per_s: int
    """More than 0."""
    delay_s: float
    """One way, beyond that of the quickest lane."""


@dataclass(frozen=True, slots=True)
class SendPlan:
    """How to send to one machine of a peer: the key, its run of shards, and the paths to it in order of preference.

    It sends from this machine's own shards under the session (``ReceiveSession.own``): worker i from
    ``own.shard_of(i)``, to ``run.shard_of(i)``. Each packet is sealed once. A packet that is urgent goes to each of
    ``urgent``, if there are any. Another goes to the lane that would deliver it first, if there are lanes, else to the
    first ``copies`` of ``paths``. What is urgent says :func:`centipede.protocol.inner.is_urgent`; of a
    superpacket of several segments its class alone counts.

    A lane is busy until it has sent what it was given, at its rate. It delivers a packet when it is free, plus the time
    to send the packet, plus its delay; of equals the first is taken. That much is kept for the path's number, so a lane
    stays as busy as it is over a new table.
    """

    session: int
    base: bytes
    """6 bytes, chosen by the peer: the first part of the session id it receives under."""
    key: bytes = field(repr=False)
    """32 bytes: seals data towards the peer."""
    run: Run
    """The shards of the peer's machine."""
    paths: tuple[TablePath, ...]
    """Never empty, best first."""
    copies: int
    """1 or more; more than there are paths means all of them."""
    urgent: tuple[TablePath, ...] = ()
    lanes: tuple[Lane, ...] = ()

    @property
    def listed(self) -> tuple[TablePath, ...]:
        """Every path the plan names; one may come twice."""
        return (*self.paths, *self.urgent, *(lane.path for lane in self.lanes))


@dataclass(frozen=True, slots=True)
class ReceiveSession:
    """A session that data may arrive under: established, or pending and not yet confirmed."""

    session: int
    peer: int
    base: bytes
    """6 bytes, chosen by this machine."""
    key: bytes = field(repr=False)
    """32 bytes: opens data from the peer."""
    pending: bool
    """The engine reports the first packet it opens under a pending session as :class:`FirstData`."""
    sources: tuple[Run, ...]
    """The peer's runs heard so far: a window exists for each of their shards."""
    own: Run
    """This machine's own shards under the session: what it accepts data for and sends from, a shard for each worker at
    least. The same in all tables, or counters would begin again under shards that had them."""
    reorder_s: float = 0.0
    """More than 0: the packets of a source shard are delivered in order as far as possible.

    One that came too early waits for those before it, but not longer than this, nor while there are
    :data:`REORDER_PACKETS` counters between it and the first that is missing. One that comes too late is delivered at
    once. None is dropped.
    """


@dataclass(frozen=True, slots=True)
class TablePeer:
    """A peer: how to send to each of its machines (none: packets wait) and every path known to lead to it.

    With more than one plan, ``shares`` says which flow takes which: the packets whose inner addresses, protocol and
    ports have the hash h take the plan ``plans[shares[h % BUCKETS]]``. What has no ports, a fragment among them, is
    told apart without. The hash is the engine's own.
    """

    peer: int
    plans: tuple[SendPlan, ...]
    paths: tuple[TablePath, ...]
    shares: tuple[int, ...] = ()
    """Empty with fewer than two plans, else :data:`BUCKETS` indexes of plans."""


@dataclass(frozen=True, slots=True)
class Route:
    """Inner addresses that belong to a peer. The longest prefix wins, for destinations and for the source check."""

    network: IPv4Network | IPv6Network
    peer: int


@dataclass(frozen=True, slots=True)
class ForwardingTable:
    """Everything an engine needs to move packets, as one immutable value."""

    generation: int
    """Ascends by one with each table."""
    run: Run
    """This machine's own shards under the sessions it makes."""
    routes: tuple[Route, ...] = ()
    peers: tuple[TablePeer, ...] = ()
    sessions: tuple[ReceiveSession, ...] = ()
    narrow_bytes: int = 0
    """The largest inner packet that all paths carry, where that is less than an interface's MTU can say. No SYN
    that is sent asks for TCP segments which make larger ones, and over IPv6 segments that do are cut. 576 at least; 0:
    the interface can say it."""
    forwards: bool = False
    """Data for a shard that is not this machine's goes up as :class:`Foreign` instead of being dropped."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A datagram that is not data, unopened: a handshake message, or control (class 1) of a session in the table."""

    local: Endpoint
    remote: Endpoint
    data: bytes
    arrived: float
    """Monotonic seconds, taken when the worker read it."""
    path_received: int
    """Data packets received on this path so far, all copies and workers; 0 if the path is not in the table."""


@dataclass(frozen=True, slots=True)
class FirstData:
    """The first packet opened under a pending session, and the path it came over. Confirms the handshake."""

    session: int
    local: Endpoint
    remote: Endpoint
    arrived: float


@dataclass(frozen=True, slots=True)
class NewRemote:
    """Authentic new data from a 4-tuple that is no path of its peer. Told once per table and 4-tuple."""

    session: int
    local: Endpoint
    remote: Endpoint
    size_bytes: int
    """UDP payload of the packet that was seen; the packet itself was delivered."""
    arrived: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """An inner packet for a peer that had none for 2 s, or that has no session: the node should see to the peer."""

    peer: int
    at: float


@dataclass(frozen=True, slots=True)
class Foreign:
    """Data under a session of this machine's, unopened, for a shard that is another's."""

    data: bytes


Event: TypeAlias = Datagram | FirstData | NewRemote | Resumed | Foreign
