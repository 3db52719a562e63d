"""View: a forwarding table as one worker of the reference engine uses it.

Owns two kinds of things. A :class:`View` is the table and the local addresses with everything resolved: immutable, made
by the control thread, taken by its worker in whole. What outlives a table is bound to the table's numbers and kept in
:class:`State`: a session's keys, windows and sending counters, a peer's waiting packets, a path's traffic.

What outlives a table is divided among the workers, so that none waits for another: a sending counter belongs to one
shard and thus to one worker, waiting packets and traffic are each worker's own. The workers share only the windows,
whose test-and-set takes a lock, and marks that are taken at most once.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from centipede.engine.contract import WAITING_PACKETS
from centipede.engine.reorder import Reorder
from centipede.engine.sockets import SocketAddress, socket_address
from centipede.protocol.counters import PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.inner import flow_hash
from centipede.protocol.routing import Routing
from centipede.protocol.session import Opener, Sealer
from centipede.protocol.table import BUCKETS, ForwardingTable, ReceiveSession, Run, SendPlan, TablePath, TablePeer
from centipede.protocol.window import Verdict, Window


class SharedWindow:
    """A replay window that all workers use: one lock around its test-and-set, none around the look before."""

    __slots__ = ("_lock", "_window", "test")

    def __init__(self) -> None:
        self._window = Window()
        self._lock = threading.Lock()
        self.test: Callable[[int], Verdict] = self._window.test

    def accepted(self, counter: int) -> bool:
        """Whether a counter is not to come any more."""
        return self.test(counter) is not Verdict.NEW

    def insert(self, counter: int) -> Verdict:
        """Accept a counter: NEW to exactly one caller, whatever the threads."""
        with self._lock:
            return self._window.insert(counter)


class Once:
    """A mark that exactly one of several threads takes. No lock: a list's ``pop`` is atomic."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = [True]

    def take(self) -> bool:
        """True for the first caller."""
        try:
            return self._left.pop()
        except IndexError:
            return False

    def put_back(self) -> None:
        """Let somebody else be the first."""
        self._left.append(True)


class Counter:
    """The counter to seal with next, of one (session, own shard). Touched by that shard's worker only."""

    __slots__ = ("next",)

    def __init__(self) -> None:
        self.next = 0


class Session:
    """What is kept for a session number while tables name it. It goes with the keys."""

    __slots__ = ("counters", "first_data", "opener", "own", "reorders", "sealer", "windows")

    def __init__(self, receive: ReceiveSession, workers: int) -> None:
        self.own = receive.own
        self.opener = Opener(receive.key)
        self.sealer: Sealer | None = None
        self.counters = [Counter() for _ in range(workers)]
        self.windows: dict[int, SharedWindow] = {}
        """By source shard."""
        self.reorders: dict[int, Reorder] = {}
        """By source shard; made when they are first asked for."""
        self.first_data = Once()

    def hear(self, sources: Sequence[Run]) -> None:
        """Have a window for each of these shards."""
        for run in sources:
            for shard in range(run.first, run.first + run.size):
                self.windows.setdefault(shard, SharedWindow())

    def reorder(self) -> None:
        """Have a place where its packets can wait, for each shard heard."""
        for shard, window in self.windows.items():
            if shard not in self.reorders:
                self.reorders[shard] = Reorder(window.accepted)


class Peer:
    """What is kept for a peer number. The times are written by all workers; whoever is last is right enough."""

    __slots__ = ("last_tx", "resumed_at", "waiting")

    def __init__(self, workers: int) -> None:
        self.last_tx = float("-inf")
        self.resumed_at = float("-inf")
        self.waiting: list[deque[bytes]] = [deque(maxlen=WAITING_PACKETS) for _ in range(workers)]


class Traffic:
    """One worker's share of a path's counters."""

    __slots__ = ("largest", "last_rx", "rx_bytes", "rx_copies", "rx_packets", "tx_bytes", "tx_packets")

    def __init__(self) -> None:
        self.rx_packets = self.rx_bytes = self.rx_copies = self.tx_packets = self.tx_bytes = self.largest = 0
        self.last_rx = 0.0


class Path:
    """What is kept for a path number: its traffic, counted by each worker apart."""

    __slots__ = ("busy_until", "traffic")

    def __init__(self, workers: int) -> None:
        self.traffic = [Traffic() for _ in range(workers)]
        self.busy_until = 0.0
        """As a lane. All workers write it; an estimate does not suffer from a lost update."""

    def received(self) -> int:
        return sum(part.rx_packets for part in self.traffic)

    def read(self) -> PathCounters:
        """The workers' shares added up."""
        return PathCounters(
            rx_packets=self.received(),
            rx_bytes=sum(part.rx_bytes for part in self.traffic),
            rx_copies=sum(part.rx_copies for part in self.traffic),
            tx_packets=sum(part.tx_packets for part in self.traffic),
            tx_bytes=sum(part.tx_bytes for part in self.traffic),
            largest=max(part.largest for part in self.traffic),
            last_rx=max(part.last_rx for part in self.traffic),
        )


class Hop(NamedTuple):
    """One path of a plan."""

    socket: socket.socket | None
    """None while the local address is not served or the remote one cannot be reached from it."""
    address: SocketAddress
    traffic: Traffic


class Lane(NamedTuple):
    """One lane of a plan."""

    hops: tuple[Hop]
    path: Path
    rate_bytes_per_s: int
    delay_s: float


LANE_BACKLOG_S = 0.1
"""All lanes busy for longer than this are given more than they take: their busy times are cut by the same amount."""


def choose_lane(lanes: Sequence[Lane], size_bytes: int, now: float) -> Lane:
    """The lane that delivers a datagram first; it is busy with it from now on."""
    chosen, until, arrival = lanes[0], 0.0, float("inf")
    for lane in lanes:
        free = max(lane.path.busy_until, now) + size_bytes / lane.rate_bytes_per_s
        if free + lane.delay_s < arrival:
            chosen, until, arrival = lane, free, free + lane.delay_s
    chosen.path.busy_until = until
    excess = min(lane.path.busy_until for lane in lanes) - now - LANE_BACKLOG_S
    if excess > 0:
        for lane in lanes:
            lane.path.busy_until -= excess
    return chosen


class Plan(NamedTuple):
    """A SendPlan."""

    sealer: Sealer
    counter: Counter
    source: int
    base: bytes
    shard: int
    hops: tuple[Hop, ...]
    urgent: tuple[Hop, ...]
    lanes: tuple[Lane, ...]


class Outlet(NamedTuple):
    """A peer to send to."""

    number: int
    peer: Peer
    waiting: deque[bytes]
    plans: tuple[Plan, ...]
    """Empty: packets wait."""
    shares: tuple[int, ...]
    """Empty, or for each value of a flow's hash the index of its plan."""

    def plan_for(self, packet: bytes) -> Plan:
        """The plan that the packet's flow takes; there is one."""
        return self.plans[self.shares[flow_hash(packet) % BUCKETS] if self.shares else 0]


class Inlet(NamedTuple):
    """A session to receive under."""

    number: int
    peer: int
    shards: range
    """This machine's own, any of which any worker may receive for."""
    opener: Opener
    windows: Mapping[int, SharedWindow]
    """By source shard."""
    first_data: Once | None
    """Set while the session is pending."""
    reorder_s: float
    reorders: Mapping[int, Reorder]
    """Of the source shards whose packets this worker puts in order: one worker each."""


Strangers: TypeAlias = dict[tuple[int, Endpoint, SocketAddress], Once]
"""4-tuples that are no path of the peer, marked when the node was told. Grows under one table, then starts afresh."""


class View(NamedTuple):
    """A forwarding table and the local addresses, resolved for one worker."""

    lookup: Callable[[bytes], int | None]
    """The peer that a packed inner address belongs to."""
    outlets: Mapping[int, Outlet]
    """By peer."""
    inlets: Mapping[bytes, Inlet]
    """By session base."""
    sockets: Mapping[Endpoint, socket.socket]
    paths: Mapping[Endpoint, Mapping[tuple[int, SocketAddress], Path]]
    """By local address, then by peer and remote address."""
    strangers: Strangers
    narrow_bytes: int
    """As in the table."""
    forwards: bool
    """As in the table."""
    taken: threading.Event
    """Set by the worker when it uses this view and none before."""


def empty_view() -> View:
    """The view before the first table."""
    return View(Routing(()).lookup, {}, {}, {}, {}, {}, 0, False, threading.Event())


class State:
    """The table that applies now and all that is kept from table to table. Belongs to the control thread."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._table = ForwardingTable(0, Run(0, (workers - 1).bit_length()))
        self._sessions: dict[int, Session] = {}
        self._newest_session = -1
        self._strangers: Strangers = {}
        self.peers: dict[int, Peer] = {}
        self.paths: dict[int, Path] = {}

    def adopt(self, table: ForwardingTable) -> None:
        """Keep what the table names, begin what is new, forget the rest.

        Raises ValueError, and changes nothing, if a session would live twice (its counters would begin again, and
        repeat nonces), if workers would have to share a shard, or if a plan's session is not among the table's.
        """
        for receive in table.sessions:
            if receive.own.size < self._workers:
                raise ValueError(f"{self._workers} workers cannot have a shard each of {receive.own}")
        named = {receive.session: receive for receive in table.sessions}
        begun = sorted(named.keys() - self._sessions.keys())
        if begun and begun[0] <= self._newest_session:
            raise ValueError(f"session {begun[0]} would live twice")
        if any(self._sessions[number].own != named[number].own for number in named.keys() & self._sessions.keys()):
            raise ValueError("a session would have other shards than before")
        if any(plan.session not in named for peer in table.peers for plan in peer.plans):
            raise ValueError("a plan's session is not among the table's sessions")
        if any(len(peer.shares) != (BUCKETS if len(peer.plans) > 1 else 0) for peer in table.peers):
            raise ValueError("a peer's shares do not fit its plans")

        workers = self._workers
        self._sessions = {n: self._sessions.get(n) or Session(receive, workers) for n, receive in named.items()}
        self._newest_session = max(begun, default=self._newest_session)
        for number, receive in named.items():
            self._sessions[number].hear(receive.sources)
        self.peers = {peer.peer: self.peers.get(peer.peer) or Peer(workers) for peer in table.peers}
        numbers = {path.path for peer in table.peers for path in _paths_of(peer)}
        self.paths = {number: self.paths.get(number) or Path(workers) for number in numbers}
        self._strangers = {}
        self._table = table

    def views(self, sockets: Mapping[Endpoint, Sequence[socket.socket]]) -> list[View]:
        """The present table for each worker. ``sockets`` are those of each local address, one per worker."""
        lookup = Routing(self._table.routes).lookup
        paths: dict[Endpoint, dict[tuple[int, SocketAddress], Path]] = {local: {} for local in sockets}
        for peer in self._table.peers:
            for path in _paths_of(peer):
                address = _address(path)
                if address and path.local in paths:
                    paths[path.local][peer.peer, address] = self.paths[path.path]
        views = []
        for worker in range(self._workers):
            own = {local: of_local[worker] for local, of_local in sockets.items()}
            inlets = {receive.base: self._inlet(receive, worker) for receive in self._table.sessions}
            outlets = {peer.peer: self._outlet(peer, own, worker) for peer in self._table.peers}
            views.append(
                View(
                    lookup,
                    outlets,
                    inlets,
                    own,
                    paths,
                    self._strangers,
                    self._table.narrow_bytes,
                    self._table.forwards,
                    threading.Event(),
                )
            )
        return views

    def _inlet(self, receive: ReceiveSession, worker: int) -> Inlet:
        session = self._sessions[receive.session]
        if receive.reorder_s > 0:
            session.reorder()
        return Inlet(
            number=receive.session,
            peer=receive.peer,
            shards=range(receive.own.first, receive.own.first + receive.own.size),
            opener=session.opener,
            windows=dict(session.windows),
            first_data=session.first_data if receive.pending else None,
            reorder_s=receive.reorder_s,
            reorders={
                shard: session.reorders[shard]
                for run in receive.sources
                for shard in range(run.first, run.first + run.size)
                # The worker that the sender of this shard addresses, and that its packets are steered to.
                if receive.reorder_s > 0 and (shard - run.first) % receive.own.size % self._workers == worker
            },
        )

    def _outlet(self, peer: TablePeer, sockets: Mapping[Endpoint, socket.socket], worker: int) -> Outlet:
        kept = self.peers[peer.peer]
        plans = tuple(self._plan(plan, sockets, worker) for plan in peer.plans)
        return Outlet(peer.peer, kept, kept.waiting[worker], plans, peer.shares)

    def _plan(self, plan: SendPlan, sockets: Mapping[Endpoint, socket.socket], worker: int) -> Plan:
        session = self._sessions[plan.session]
        session.sealer = session.sealer or Sealer(plan.key)

        def hop(path: TablePath) -> Hop:
            address = _address(path)
            traffic = self.paths[path.path].traffic[worker]
            return Hop(sockets.get(path.local) if address else None, address or ("", 0), traffic)

        return Plan(
            sealer=session.sealer,
            counter=session.counters[worker],
            source=session.own.shard_of(worker),
            base=plan.base,
            shard=plan.run.shard_of(worker),
            hops=tuple(hop(path) for path in plan.paths[: plan.copies]),
            urgent=tuple(hop(path) for path in plan.urgent),
            lanes=tuple(
                Lane((hop(lane.path),), self.paths[lane.path.path], lane.rate_bytes_per_s, lane.delay_s)
                for lane in plan.lanes
            ),
        )


def _paths_of(peer: TablePeer) -> tuple[TablePath, ...]:
    return (*peer.paths, *(path for plan in peer.plans for path in plan.listed))


def _address(path: TablePath) -> SocketAddress | None:
    """A path's remote address as its local socket takes it; None if it cannot, or if the address's zone is gone."""
    if path.local.version != path.remote.version:
        return None
    try:
        return socket_address(path.remote)
    except OSError:
        return None
