"""EngineModel: what the engine contract asks, in memory, for one peer; workers take turns.

For simulated networks (simulate.py): no TUN device, no socket, no thread; datagrams go to a function, packets are any
bytes. It keeps windows, sending counters and path counters as the contract says, and reports the same events.

Invariant checked here: tables follow one another, and no session number lives twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

from centipede.engine.contract import RESUMED_AFTER_S, RESUMED_AGAIN_S, UNHEARD_PACKETS, UNHEARD_S, WAITING_PACKETS
from centipede.protocol.counters import EngineCounters, PathCounters
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.session import Header, Opener, Sealer, is_handshake, parse_header
from centipede.protocol.table import (
    BUCKETS,
    Datagram,
    Event,
    FirstData,
    Foreign,
    ForwardingTable,
    NewRemote,
    ReceiveSession,
    Resumed,
    Run,
    SendPlan,
    TablePath,
)
from centipede.protocol.window import Verdict, Window
from lab.promises import InvariantError


class EngineModel:
    """What the contract asks of an engine, for one worker and one peer, without a TUN device or a socket."""

    def __init__(self, now: Callable[[], float], transmit: Callable[[Endpoint, Endpoint, bytes], None]) -> None:
        self.delivered: list[bytes] = []
        self._now = now
        self._transmit = transmit
        self._table = ForwardingTable(0, Run())
        self._windows: dict[int, dict[int, Window]] = {}
        self._counters: dict[int, list[int]] = {}
        self._own: dict[int, Run] = {}
        self._turn = 0
        self._told: set[int] = set()
        self._newest = 0
        self._strangers: set[tuple[Endpoint, Endpoint]] = set()
        self._paths: dict[int, PathCounters] = {}
        self._waiting: list[bytes] = []
        self._unheard: deque[tuple[float, Endpoint, Endpoint, bytes]] = deque(maxlen=UNHEARD_PACKETS)
        self._events: list[Event] = []
        self._drops: dict[DropReason, int] = {}
        self._last_tx: float | None = None
        self._resumed_at = float("-inf")

    def apply(self, table: ForwardingTable) -> None:
        if table.generation <= self._table.generation:
            raise InvariantError(f"table {table.generation} after {self._table.generation}")
        if [peer.peer for peer in table.peers] != [peer.peer for peer in self._table.peers]:
            self._waiting.clear()  # they waited for a peer that is no more
        self._table = table
        numbers = {session.session for session in table.sessions}
        for session in table.sessions:
            if session.session not in self._windows:
                if session.session <= self._newest:
                    raise InvariantError(f"session {session.session} lives twice")
                self._windows[session.session] = {}
                self._counters[session.session] = [0] * session.own.size
                self._own[session.session] = session.own
            elif self._own[session.session] != session.own:
                raise InvariantError(f"session {session.session} has other shards than before")
        self._newest = max((self._newest, *numbers))
        for session_number in set(self._windows) - numbers:
            del self._windows[session_number], self._counters[session_number], self._own[session_number]
        self._strangers.clear()
        known = {path.path for peer in table.peers for path in peer.paths}
        self._paths = {number: self._paths.get(number, PathCounters()) for number in known}
        if self.plan is not None:
            waiting, self._waiting = self._waiting, []
            for packet in waiting:
                self._send(packet)
        unheard = list(self._unheard)
        self._unheard.clear()
        for came, local, remote, data in unheard:
            if self._now() - came <= UNHEARD_S:
                self._receive(came, local, remote, data)

    def send_packet(self, packet: bytes) -> None:
        """An inner packet for the peer."""
        now, plan = self._now(), self.plan
        resumed = self._last_tx is None or now - self._last_tx >= RESUMED_AFTER_S
        self._last_tx = now
        if self._table.peers and (resumed or (plan is None and now - self._resumed_at >= RESUMED_AGAIN_S)):
            self._resumed_at = now
            self._events.append(Resumed(self._table.peers[0].peer, now))
        if plan is not None:
            self._send(packet)
        elif len(self._waiting) < WAITING_PACKETS:
            self._waiting.append(packet)

    def receive(self, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        """A datagram from the network."""
        self._receive(self._now(), local, remote, data)

    def _receive(self, came: float, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        header = parse_header(data)
        path = self._path(local, remote)
        known = header is not None and any(one.base == header.base for one in self._table.sessions)
        if is_handshake(data) or (header is not None and header.control and known):
            received = self._paths[path.path].rx_packets if path else 0
            self._events.append(Datagram(local, remote, data, self._now(), received))
            return
        pair = local, remote
        reason = DropReason.TOO_SHORT if header is None else self._receive_data(header, pair, path, data)
        if reason is DropReason.UNKNOWN_SHARD:
            self._unheard.append((came, local, remote, data))
        elif reason is not None:
            self._drops[reason] = self._drops.get(reason, 0) + 1

    def inject(self, data: bytes) -> None:
        """Data that another member forwarded."""
        header = parse_header(data)
        reason = DropReason.TOO_SHORT if header is None else self._receive_data(header, None, None, data)
        if reason is not None:
            self._drops[reason] = self._drops.get(reason, 0) + 1

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def counters(self) -> EngineCounters:
        peers = {peer.peer: self._last_tx or 0.0 for peer in self._table.peers}
        return EngineCounters(paths=dict(self._paths), peers_tx=peers, drops=dict(self._drops))

    @property
    def table(self) -> ForwardingTable:
        return self._table

    @property
    def plan(self) -> SendPlan | None:
        """How data is sent now; the first of several plans."""
        plans = self._table.peers[0].plans if self._table.peers else ()
        return plans[0] if plans else None

    @property
    def session_keys(self) -> tuple[bytes, bytes] | None:
        """The keys that data is sealed and opened with under the session data is sent under now."""
        plan = self.plan
        if plan is None:
            return None
        return plan.key, next(one.key for one in self._table.sessions if one.session == plan.session)

    @property
    def own(self) -> Run | None:
        """The machine's shards under that session."""
        plan = self.plan
        return None if plan is None else self._own[plan.session]

    def _path(self, local: Endpoint, remote: Endpoint) -> TablePath | None:
        paths = self._table.peers[0].paths if self._table.peers else ()
        return next((path for path in paths if path.local == local and path.remote == remote), None)

    def _send(self, packet: bytes) -> None:
        peer = self._table.peers[0]
        # The packets of the simulation are no IP packets: each is a flow of its own.
        plan = peer.plans[peer.shares[crc32(packet) % BUCKETS] if peer.shares else 0]
        own = self._own[plan.session]
        worker = self._turn = (self._turn + 1) % own.size
        counter = self._counters[plan.session][worker]
        self._counters[plan.session][worker] = counter + 1
        datagram = Sealer(plan.key).seal(
            counter,
            source=own.shard_of(worker),
            base=plan.base,
            shard=plan.run.shard_of(worker),
            plaintext=packet,
        )
        # Nor do they say what is urgent: every fifth one is.
        urgent = plan.urgent and counter % 5 == 0
        paths = plan.urgent if urgent else plan.paths[: plan.copies]
        if plan.lanes and not urgent:  # nor does time pass while one is sent: they take turns
            paths = (plan.lanes[counter % len(plan.lanes)].path,)
        for path in paths:
            old = self._paths[path.path]
            self._paths[path.path] = replace(old, tx_packets=old.tx_packets + 1, tx_bytes=old.tx_bytes + len(datagram))
            self._transmit(path.local, path.remote, datagram)

    def _receive_data(
        self, header: Header, came: tuple[Endpoint, Endpoint] | None, path: TablePath | None, data: bytes
    ) -> DropReason | None:
        """``came`` is the pair of addresses that it came over; None if it was injected."""
        session = next((one for one in self._table.sessions if one.base == header.base), None)
        if session is None:
            return DropReason.UNKNOWN_SESSION
        if header.shard not in session.own:
            if came is None or not self._table.forwards:
                return DropReason.FOREIGN_SHARD
            self._events.append(Foreign(data))
            return None
        if not any(header.source in run for run in session.sources):
            return DropReason.UNKNOWN_SHARD
        window = self._windows[session.session].setdefault(header.source, Window())
        verdict = window.test(header.counter)
        plaintext = b""
        if verdict is Verdict.NEW:
            opened = Opener(session.key).open(data)
            if opened is None:
                return DropReason.BAD_TAG
            plaintext = opened
            window.insert(header.counter)
        if verdict is Verdict.OLD:
            return DropReason.OLD
        if came is not None:
            self._account(session, path, *came, len(data), verdict)
        if verdict is Verdict.SEEN:
            return DropReason.DUPLICATE
        self.delivered.append(plaintext)
        return None

    def _account(
        self,
        session: ReceiveSession,
        path: TablePath | None,
        local: Endpoint,
        remote: Endpoint,
        size: int,
        verdict: Verdict,
    ) -> None:
        now = self._now()
        new = verdict is Verdict.NEW
        if new and session.pending and session.session not in self._told:
            self._told.add(session.session)
            self._events.append(FirstData(session.session, local, remote, now))
        if path is None:
            if new and (local, remote) not in self._strangers:
                self._strangers.add((local, remote))
                self._events.append(NewRemote(session.session, local, remote, size, now))
            return
        old = self._paths[path.path]
        self._paths[path.path] = replace(
            old,
            rx_packets=old.rx_packets + 1,
            rx_bytes=old.rx_bytes + size,
            rx_copies=old.rx_copies + (not new),
            largest=max(old.largest, size) if new else old.largest,
            last_rx=now if new else old.last_rx,
        )
