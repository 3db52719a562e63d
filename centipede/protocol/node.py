"""Node: the pure control plane of one identity. docs/protocol.md.

Gets the time, the engine's events and counters; gives effects. Everything about one peer is in peer.py; the way of an
Initiate in responder.py; what they share in context.py. Here datagrams find their peer, discards are counted, and the
forwarding table is put together.

Invariants: no event content makes a method raise; a table is given only when it differs from the one before; after a
few rounds of ``handle_timer(now)`` and ``take_effects`` the next timer is later than ``now``. Not thread-safe: one
control thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address

from centipede.errors import HandoverError
from centipede.protocol.context import Context
from centipede.protocol.cookie import answered_mac1
from centipede.protocol.counters import EngineCounters
from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.effects import Effects, LogLine, Outgoing
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import Handover
from centipede.protocol.handshake import acknowledge_sid, check_mac1
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.migration import OFFER_LIFE_S, Migration
from centipede.protocol.path_mtu import LEAST_INTERFACE_MTU, START_BYTES
from centipede.protocol.path_set import MOST_LOCALS
from centipede.protocol.peer import Peer
from centipede.protocol.responder import Responder
from centipede.protocol.session import ANY_SHARD, HEADER_BYTES, is_handshake, parse_header
from centipede.protocol.spec import Network, PeerRecord, PeerSpec
from centipede.protocol.status import NodeStatus
from centipede.protocol.table import (
    Datagram,
    Event,
    FirstData,
    ForwardingTable,
    NewRemote,
    ReceiveSession,
    Resumed,
    Route,
    Run,
    TablePeer,
)
from centipede.protocol.timing import Timing

__all__ = ["Effects", "LogLine", "Node", "Outgoing", "PeerRecord", "PeerSpec"]


class Node:
    """One identity and its peers."""

    def __init__(
        self,
        identity: Identity,
        *,
        run: Run,
        timing: Timing,
        random: Callable[[int], bytes],
        largest_bytes: int = START_BYTES,
        spare: range | None = None,
    ) -> None:
        """``random(n)`` gives n bytes fit for keys; ``largest_bytes`` is the UDP payload of the configured MTU.

        ``spare`` are shards that may be granted to machines sessions are moved to; None for all behind the run.
        """
        self._context = Context(identity, run, timing, random, largest_bytes, spare)
        self._peers: dict[PublicKey, Peer] = {}
        self._numbered: dict[int, Peer] = {}
        self._responder = Responder(self._context, self._peers)
        self._migration = Migration(identity, random)
        self._locals: tuple[Endpoint, ...] = ()
        self._now = float("-inf")
        self._touched: set[int] = set()
        self._timers: dict[int, float] = {}
        self._parts: dict[int, tuple[TablePeer, tuple[ReceiveSession, ...], tuple[Route, ...]]] = {}
        self._generation = 0
        self._table_due = True
        self._largest: dict[int, int] = {}
        """By peer: the largest UDP payload that all its usable paths carry."""
        self._mtu = START_BYTES - HEADER_BYTES
        self._raise_mtu_at = float("inf")
        self._engine_drops: Counter[DropReason] = Counter()

    @property
    def drops(self) -> Counter[DropReason]:
        """What the node itself discarded, by reason. Not a copy."""
        return self._context.drops

    # What the owner changes.

    def add_peer(self, spec: PeerSpec, record: PeerRecord | None, now: float) -> int:
        """Serve one more peer; returns its number.

        Raises ValueError for the node's own key, for one it serves already, and for an unknown scheduler.
        """
        if spec.public_key == self._context.identity.public:
            raise ValueError("a node is not its own peer")
        if spec.public_key in self._peers:
            raise ValueError(f"there is a peer with the key {spec.public_key.short} already")
        peer = Peer(self._context.next_peer(), spec, record, self._context, now)
        self._peers[spec.public_key] = self._numbered[peer.number] = peer
        peer.set_locals(self._locals, now)
        self._touch(peer, now)
        return peer.number

    def remove_peer(self, public_key: PublicKey, now: float) -> None:
        """Say bye to a peer and forget it. KeyError if there is none."""
        self._peers[public_key].close(now)
        self._drop(public_key)
        self._context.records.pop(public_key, None)

    def _drop(self, public_key: PublicKey) -> None:
        """End a peer, and what others could find of it."""
        peer = self._peers.pop(public_key)
        del self._numbered[peer.number]
        peer.clear()
        self._touched.discard(peer.number)
        self._timers.pop(peer.number, None)
        self._largest.pop(peer.number, None)
        self._parts.pop(peer.number, None)
        self._table_due = True

    def replace_peer(self, spec: PeerSpec, now: float) -> None:
        """Change a peer's settings; its sessions and paths stay. KeyError if there is none, ValueError as add_peer."""
        peer = self._peers[spec.public_key]
        peer.replace_spec(spec, now)
        self._touch(peer, now)

    def fence(self, now: float) -> None:
        """Begin anew without a word, as a restarted process would: whatever was secret here may be in use elsewhere.

        All sessions, attempts, offers and what was about to be sent are gone. Peers keep their records alone: where
        they can be found is to be said again.
        """
        self._migration.clear()
        self._context.datagrams.clear()
        for public_key, peer in tuple(self._peers.items()):
            self._drop(public_key)
            self.add_peer(peer.spec, peer.record, now)

    def set_locals(self, locals_: Sequence[Endpoint], now: float, chosen: Collection[Endpoint] = ()) -> None:
        """Say which local addresses the engine serves; at most 8 are used.

        Peers are told of those that are the same everywhere, and of the ``chosen`` ones, which the owner named.
        """
        self._locals = tuple(dict.fromkeys(locals_))[:MOST_LOCALS]
        self._context.announced = tuple(
            local for local in self._locals if local in chosen or ip_address(local.host).is_global
        )
        for peer in self._peers.values():
            peer.set_locals(self._locals, now)
            self._touch(peer, now)

    def set_endpoints(self, public_key: PublicKey, endpoints: Sequence[Endpoint], now: float) -> None:
        """Say where a peer can be tried, names resolved; replaces the set before. KeyError if there is none."""
        peer = self._peers[public_key]
        peer.set_endpoints(endpoints, now)
        self._touch(peer, now)

    def set_tunnelled(self, networks: Iterable[Network], now: float) -> None:
        """Say which networks are the tunnel's own: no peer is looked for, or believed to be, at their addresses."""
        self._context.tunnelled = tuple(networks)
        for peer in self._peers.values():
            peer.bar(now)
            self._touch(peer, now)

    def set_links(self, links: Mapping[str, str], now: float) -> None:
        """Say which interface each local address belongs to, both by name: links may be metered by either."""
        if links != self._context.links:
            self._context.links = dict(links)
            for peer in self._peers.values():
                self._touch(peer, now)

    def set_draining(self, draining: bool, now: float) -> None:
        """Ask all peers to send elsewhere if they can, or ask that no longer."""
        if draining != self._context.draining:
            self._context.draining = draining
            for peer in self._peers.values():
                peer.beat(now)
                self._touch(peer, now)

    def set_weight(self, weight: int, now: float) -> None:
        """Ask all peers for this part of their flows, 0..255, where other machines have the same identity."""
        if weight != self._context.weight:
            self._context.weight = weight
            for peer in self._peers.values():
                peer.beat(now)
                self._touch(peer, now)

    def set_forwarding(self) -> None:
        """Ask the engine for data that is other machines', from the next table on: there is a way to them."""
        self._context.forwards = self._table_due = True

    def hurry(self, now: float) -> None:
        """The host's routes changed: try at once what could not be reached before."""
        for peer in self._peers.values():
            peer.hurry(now)
            self._touch(peer, now)

    # Handing over to another machine with the same identity.

    def offer(self, now: float) -> bytes:
        """Offer to take over sessions from another machine: an OFFER, good for 30 s."""
        return self._migration.offer(self._context.run.k, self._context.announced, now)

    def export(self, public_key: PublicKey, offer: bytes, now: float, *, move: bool) -> bytes:
        """Hand a peer's sessions to the machine that made ``offer``: an EXPORT.

        With ``move`` this machine takes its leave of the peer; else both serve it. Whatever becomes of the export, the
        shards in it are no longer ours. KeyError if there is no such peer, HandoverError if it cannot be.
        """
        peer = self._touch(self._peers[public_key], now)
        to = self._migration.read(offer)
        return self._migration.seal(peer.hand_over(to, now, move=move), offer, move=move)

    def import_(self, data: bytes, now: float) -> PublicKey:
        """Serve the sessions in an EXPORT that answers an offer of this node; returns whose they are.

        Raises HandoverError, with all as before, unless it is one, in time, for the first time, and the peer is known.
        """
        export, offered = self._migration.open(data, now, self._check_ours)
        # At the latest when the other machine, which exported after the offer, sees that nobody took over.
        until = offered + self._context.timing.taken_over_s if export.move else float("inf")
        peer = self._touch(self._peers[export.handover.peer], now)
        peer.take_over(export.handover, now, move=export.move, until=until)
        return export.handover.peer

    def _check_ours(self, handover: Handover) -> None:
        if handover.local != self._context.identity.public:
            raise HandoverError("this export is of another identity; both machines need the same private key")
        if handover.peer not in self._peers:
            raise HandoverError(
                f"this export is for a peer with the key {handover.peer.text}, which is not configured here; "
                f"add it with 'centipede sync' and import the same text again, within {OFFER_LIFE_S:g} s of the offer"
            )

    # Sharing with other members of a cluster.

    @property
    def announced(self) -> tuple[Endpoint, ...]:
        """Own addresses that peers are told of."""
        return self._context.announced

    @property
    def bases(self) -> set[bytes]:
        """Those of all sessions that are not over; what is left of one that moved away counts as well."""
        return {session.base for peer in self._peers.values() for session in peer.sessions}

    def share(
        self, public_key: PublicKey, grant: Callable[[bytes], Run | None], addresses: Sequence[Endpoint], now: float
    ) -> Handover | None:
        """What another member, whom peers find at these addresses, is to know of a peer; None if there is no such peer.

        ``grant`` gives that member's run by the base of a session; it is asked for sessions that this node made.
        """
        peer = self._peers.get(public_key)
        return None if peer is None else self._touch(peer, now).share(grant, addresses, now)

    def absorb(self, handover: Handover, now: float) -> None:
        """Serve the sessions that another member made, and take over its timestamps. Unknown peers are ignored."""
        peer = self._peers.get(handover.peer)
        if peer is not None and handover.local == self._context.identity.public:
            self._touch(peer, now).absorb(handover, now)

    def seek(self, public_key: PublicKey, now: float) -> None:
        """Try to reach a peer at once, whatever was tried before. KeyError if there is none."""
        peer = self._peers[public_key]
        peer.seek(now)
        self._touch(peer, now)

    # What the engine reports.

    def observe(self, counters: EngineCounters) -> None:
        """Take a reading of the engine's counters. Called before each batch of events or timer."""
        self._engine_drops = Counter(counters.drops)
        for peer in self._peers.values():
            if peer.observe(counters):
                self._touched.add(peer.number)

    def receive(self, event: Event, now: float, wall_ns: int) -> None:
        """Take one event of the engine. Never raises, whatever a stranger or a peer sent.

        ``now`` is monotonic seconds, ``wall_ns`` nanoseconds since 1970.
        """
        self._now = max(self._now, now)
        try:
            match event:
                case Datagram():
                    self._receive_datagram(event, now)
                case FirstData():
                    session = self._context.numbered.get(event.session)
                    if session is not None and session.established is None:
                        peer = self._touch(self._numbered[session.peer], now)
                        peer.receive_data(session, event.local, event.remote, 0, event.arrived, now)
                case NewRemote():
                    session = self._context.numbered.get(event.session)
                    if session is not None:
                        peer = self._touch(self._numbered[session.peer], now)
                        peer.receive_data(session, event.local, event.remote, event.size_bytes, event.arrived, now)
                case Resumed():
                    resumed = self._numbered.get(event.peer)
                    if resumed is not None:
                        self._touch(resumed, now).resume(event.at, now)
        except Refused as refused:
            self._context.drops[refused.reason] += 1

    def _receive_datagram(self, event: Datagram, now: float) -> None:
        if is_handshake(event.data):
            sid = acknowledge_sid(event.data)
            if sid is not None:
                self._receive_acknowledge(sid, event, now)
            elif (mac1 := answered_mac1(event.data)) is not None:
                self._receive_cookie(mac1, event, now)
            else:
                self._touch(self._responder.receive(event, now), now)
            return
        header = parse_header(event.data)
        if header is None:
            raise Refused(DropReason.TOO_SHORT)
        session = self._context.sessions.get(header.base)
        if session is None:
            raise Refused(DropReason.UNKNOWN_SESSION)
        if not header.control:
            raise Refused(DropReason.CONTROL_MALFORMED)
        if header.shard != ANY_SHARD and header.shard not in session.own:
            raise Refused(DropReason.FOREIGN_SHARD)
        peer = self._touch(self._numbered[session.peer], now)
        peer.receive_control(session, header, event, now)

    def _receive_acknowledge(self, sid: bytes, event: Datagram, now: float) -> None:
        check_mac1(self._context.identity.public, event.data)
        number = self._context.attempts.get(sid)
        if number is None:
            raise Refused(DropReason.UNKNOWN_ATTEMPT)
        self._touch(self._numbered[number], now).receive_acknowledge(event, now)

    def _receive_cookie(self, mac1: bytes, event: Datagram, now: float) -> None:
        number = self._context.initiates.get(mac1)
        if number is None:
            raise Refused(DropReason.UNKNOWN_ATTEMPT)
        self._touch(self._numbered[number], now).receive_cookie(event, now)

    # Time.

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Do what is due. Harmless at any time."""
        self._now = max(self._now, now)
        self._migration.expire(now)
        self._settle()
        for number, due in self._timers.items():
            if due <= now:
                peer = self._touch(self._numbered[number], now)
                peer.handle_timer(now, wall_ns)

    def close(self, now: float) -> None:
        """Say bye on every usable path. The node is of no use afterwards."""
        for peer in self._peers.values():
            peer.close(now)

    def take_effects(self) -> Effects:
        """What is to be done since the last call, in the order of its fields."""
        self._settle()
        context = self._context
        mtu = self._next_mtu()
        effects = Effects(
            table=self._next_table(),
            records=tuple(context.records.values()),
            mtu=mtu,
            datagrams=tuple(context.datagrams),
            log=tuple(context.log),
            news=tuple(context.news),
            next_timer=min((self._raise_mtu_at, self._migration.expires_at(), *self._timers.values())),
        )
        context.records.clear()
        context.news.clear()
        context.datagrams.clear()
        context.log.clear()
        return effects

    def status(self, now: float) -> NodeStatus:
        """A picture for ``show``."""
        drops = self._engine_drops + self._context.drops
        return NodeStatus(
            public_key=self._context.identity.public,
            locals=self._locals,
            peers=tuple(peer.status(now) for peer in self._peers.values()),
            drops={reason: drops[reason] for reason in sorted(drops)},
        )

    def _touch(self, peer: Peer, now: float) -> Peer:
        self._now = max(self._now, now)
        self._touched.add(peer.number)
        return peer

    def _settle(self) -> None:
        """Let plans, timers and the table's parts follow from what happened."""
        for number in self._touched:
            peer = self._numbered[number]
            self._timers[number] = max(self._now, peer.settle(self._now))
            self._note_largest(number, peer.largest_bytes)
            routes = tuple(Route(network, number) for network in peer.spec.allowed_ips)
            part = (peer.table_peer, peer.table_sessions, routes)
            if part != self._parts.get(number):
                self._parts[number] = part
                self._table_due = True
        self._touched.clear()

    def _note_largest(self, number: int, largest_bytes: int | None) -> None:
        if largest_bytes is None:
            self._largest.pop(number, None)
        else:
            self._largest[number] = largest_bytes

    def _next_mtu(self) -> int | None:
        """The inner MTU if it changes now: at once to a smaller one, to a larger one when that has held for a while."""
        least = min(self._largest.values(), default=None)
        mtu = self._mtu if least is None else least - HEADER_BYTES
        if mtu <= self._mtu:
            self._raise_mtu_at = float("inf")
        elif self._raise_mtu_at == float("inf"):
            self._raise_mtu_at = self._now + self._context.timing.mtu_hold_s
        if mtu == self._mtu or self._now < self._raise_mtu_at < float("inf"):
            return None
        self._raise_mtu_at = float("inf")
        self._table_due |= _narrow(mtu) != _narrow(self._mtu)
        self._mtu = mtu
        return mtu

    def _next_table(self) -> ForwardingTable | None:
        if not self._table_due:
            return None
        self._table_due = False
        self._generation += 1
        parts = self._parts.values()
        return ForwardingTable(
            generation=self._generation,
            run=self._context.run,
            routes=tuple(route for _, _, routes in parts for route in routes),
            peers=tuple(peer for peer, _, _ in parts),
            sessions=tuple(session for _, sessions, _ in parts for session in sessions),
            narrow_bytes=_narrow(self._mtu),
            forwards=self._context.forwards,
        )


def _narrow(mtu: int) -> int:
    """The inner MTU where an interface cannot say it, else 0."""
    return mtu if mtu < LEAST_INTERFACE_MTU else 0
