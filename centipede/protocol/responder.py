"""Responder: what becomes of an Initiate, step by step. docs/protocol.md "Handshake", responder's order.

Each step is cheaper than the next, and each failure is silent: :class:`Refused` with a drop reason, for the node to
count. Nothing is remembered of a stranger but a token bucket, in a bounded table. The Acknowledge goes back to where
the Initiate came from, out of the socket it came in on.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from centipede.protocol.association import Session, run_of
from centipede.protocol.bucket import Bucket, BucketTable
from centipede.protocol.context import Context
from centipede.protocol.cookie import CookieJar, seal_cookie
from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import MAC_BYTES, Initiate, check_mac1, initiate_digest, open_initiate
from centipede.protocol.identity import PublicKey
from centipede.protocol.peer import Peer
from centipede.protocol.table import Datagram

MOST_ACKNOWLEDGED_PAIRS = 16
"""Pairs that one handshake is acknowledged on."""

_PER_SOURCE_PER_S = 20
_PER_SOURCE_BURST = 5
_SOURCES = 4096
_CAPACITY_PER_S = 500
"""Initiates with a valid mac1, from whatever sources, that are no load: an eighth of what a core can answer."""
_CAPACITY_BURST = 64
"""And so many at once."""
_LOADED_S = 1.0
"""The node counts as under load for so long after the last one too many."""


class Responder:
    """Answers Initiates for one node."""

    def __init__(self, context: Context, peers: Mapping[PublicKey, Peer]) -> None:
        """``peers`` is read, never changed."""
        self._context = context
        self._peers = peers
        self._capacity = Bucket(_CAPACITY_PER_S, _CAPACITY_BURST)
        self._loaded_until = float("-inf")
        self._cookies = CookieJar(context.random)
        self._sources: BucketTable[bytes] = BucketTable(_PER_SOURCE_PER_S, _PER_SOURCE_BURST, _SOURCES)

    def receive(self, event: Datagram, now: float) -> Peer:
        """Answer an Initiate; returns the peer it came from. Raises Refused."""
        check_mac1(self._context.identity.public, event.data)
        loaded = self._is_loaded(now)
        session = self._pending(initiate_digest(event.data))
        if session is None:
            if loaded:
                self._demand_cookie(event, now)
            if not self._sources.take(_network(event.remote), now):
                raise Refused(DropReason.RATE_LIMITED)
            initiate = open_initiate(self._context.identity, event.data)
            peer = self._peer_of(initiate, event.remote, now)
            session = self._create(peer, initiate, now)
        else:
            peer = self._peers[session.initiator]
            self._check_remote(peer, event.remote)
        self._acknowledge(session, event.local, event.remote, now)
        return peer

    def _is_loaded(self, now: float) -> bool:
        """Whether Initiates come faster than they should be opened; one more has come."""
        if not self._capacity.take(now):
            self._loaded_until = now + _LOADED_S
        return now < self._loaded_until

    def _demand_cookie(self, event: Datagram, now: float) -> None:
        """Before anything is spent on a source, let it show that it receives where it claims to be. Raises Refused."""
        context = self._context
        if not self._cookies.accepts(event.data, event.remote, now):
            cookie = self._cookies.bake(event.remote, now)
            message = seal_cookie(context.identity.public, event.data, cookie, context.random(MAC_BYTES))
            context.send(event.local, event.remote, message)
            raise Refused(DropReason.COOKIE_REQUIRED)

    def _pending(self, digest: bytes) -> Session | None:
        return self._context.pending.get(digest)

    def _peer_of(self, initiate: Initiate, remote: Endpoint, now: float) -> Peer:
        peer = self._peers.get(initiate.remote)
        if peer is None:
            raise Refused(DropReason.UNKNOWN_IDENTITY)
        try:
            if initiate.timestamp <= peer.record.floor:
                raise Refused(DropReason.STALE_TIMESTAMP)
            initiate.verify()
        except Refused as refused:
            # Not proven to be the peer's, but worth showing to somebody who wonders why there is no session.
            peer.note_refusal(refused.reason)
            raise
        self._check_remote(peer, remote)
        if not peer.answers(initiate.timestamp, now):
            raise Refused(DropReason.PEER_MOVED)
        return peer

    def _check_remote(self, peer: Peer, remote: Endpoint) -> None:
        if (reason := peer.refusal(remote)) is not None:
            peer.note_refusal(reason)
            raise Refused(reason)

    def _create(self, peer: Peer, initiate: Initiate, now: float) -> Session:
        """A pending session, of which the peer and the engine will know before the Acknowledge leaves."""
        run = run_of(initiate.shard, initiate.params.k, DropReason.HANDSHAKE_MALFORMED)
        context = self._context
        base = context.new_base()
        message, keys = initiate.acknowledge(
            context.identity,
            peer.spec.preshared_key,
            base=base,
            shard=context.run.first,
            params=context.params,
            random=context.random(32),
        )
        session = Session(
            number=context.next_session(),
            peer=peer.number,
            base=base,
            peer_base=initiate.base,
            run=run,
            own=context.run,
            spare=context.spare,
            keys=keys,
            timestamp=initiate.timestamp,
            initiator=initiate.remote,
            ours=False,
            params=initiate.params,
            born=now,
            rekey_at=now + context.timing.rekey_fallback_s,
            digest=initiate.digest,
            message=message,
        )
        peer.add_pending(session)
        return session

    def _acknowledge(self, session: Session, local: Endpoint, remote: Endpoint, now: float) -> None:
        last = session.acknowledged.get((local, remote))
        if last is None:
            limited = len(session.acknowledged) >= MOST_ACKNOWLEDGED_PAIRS
        else:
            limited = now < last + self._context.timing.acknowledge_gap_s
        if limited:
            raise Refused(DropReason.ACKNOWLEDGE_LIMITED)
        session.acknowledged[local, remote] = now
        self._context.send(local, remote, session.message)


def _network(remote: Endpoint) -> bytes:
    """What shares a token bucket: an IPv4 address, or the /64 of an IPv6 address."""
    return ip_address(remote.host).packed[:8]
