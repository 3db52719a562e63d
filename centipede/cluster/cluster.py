"""Cluster: the members that one daemon knows, and what they have been told. docs/protocol.md "A cluster".

Pure: gets the time and datagrams, gives datagrams. Each second every member says HELLO to the others. The member that
made a session tells it to each other at once, and again each second until that has acknowledged. Timestamps go the same
way: the greatest wins. A member that comes, or comes back, is told everything. Data that came to the wrong member goes
on to the one whose shard it names, once and no faster than a bucket allows.

Nothing here is waited for: a member that hears nobody serves what it has, and renews it.

Invariants: a message counts only if it was sealed with the identity's key, to this life, and after all others of its
sender's that counted; a session is taken over once in a life, whatever becomes of other machines' clocks.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from centipede.cluster.grants import Grants, owner
from centipede.cluster.message import ACK, DATA, HELLO, LIFE_BYTES, NO_LIFE, STATE, Message
from centipede.errors import HandoverError
from centipede.protocol.bucket import Bucket
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import MOST_SESSIONS, Handover
from centipede.protocol.identity import KEY_BYTES, PublicKey
from centipede.protocol.session import LARGEST_K, parse_header
from centipede.protocol.wire import ADDRESS_BYTES, MOST_ADDRESSES, decode_address, encode_address

HELLO_S = 1.0
SILENT_S = 3.0
"""A member not heard for this long is shown as silent."""
_ANSWER_GAP_S = 0.1
_MOST_AT_ONCE = 64
"""States told to one member and not acknowledged; the others follow as these are, or a second later."""
_FORGET_S = 600.0
"""Longer than any session lives."""
_MOST_LIVES = 65536
"""Lives that are remembered. It would take as many restarts until one could be played again."""
_NEWS_S = 240.0
"""A session that was granted longer ago is not taken over: more than any session lives, less than _FORGET_S."""
FORWARDS_PER_S = 5000
FORWARDS_AT_ONCE = 1000
"""Data that goes on to other members: what comes while a client learns whose an address is now, not all there is."""

_HELLO = struct.Struct(">BBH")
_STATE = struct.Struct(">B7xQ")
_HEARD = struct.Struct(">Q")
_ACK = struct.Struct(f">Q{KEY_BYTES}s")


class Sessions(Protocol):
    """What the cluster wants of the node."""

    def share(
        self, public_key: PublicKey, grants: Grants, member: int, life: bytes, k: int, addresses: Sequence[Endpoint]
    ) -> Handover | None:
        """What another member is to know of a peer, with the shards it gets; None if there is no such peer."""

    def absorb(self, handover: Handover) -> None:
        """Serve what another member told."""

    def inject(self, datagram: bytes) -> None:
        """Receive data that another member forwarded."""

    def bases(self) -> set[bytes]:
        """Those of all sessions that are not over."""


@dataclass(slots=True)
class Member:
    """Another member, at one address of the channel."""

    address: Endpoint
    number: int | None = None
    """None until it was heard."""
    life: bytes = NO_LIFE
    k: int = 0
    outer: tuple[Endpoint, ...] = ()
    """Where peers may find it."""
    generation: int = 0
    """Another after it got further peers."""
    heard_at: float = float("-inf")
    untold: dict[PublicKey, int] = field(default_factory=dict)
    """Peers whose state it has not acknowledged, with the revision that it must."""
    telling: dict[PublicKey, int] = field(default_factory=dict)
    """Those that it was told in this second, with the revision that it was told."""
    mistake: str = ""
    """Why nothing that it says counts, in words."""
    answered_at: float = float("-inf")


class Cluster:
    """One member's view of all."""

    def __init__(
        self,
        secret: bytes,
        member: int,
        of: int,
        k: int,
        others: Sequence[Endpoint],
        life: bytes,
        sessions: Sessions,
        most_lives: int | None = None,
    ) -> None:
        """``member`` counts from 1; ``others`` are addresses of the channel; ``life`` 16 random bytes.

        To how many lives of a member it grants a session may be limited, see grants.py.
        """
        assert len(life) == LIFE_BYTES
        self.member = member
        self.of = of
        self.members = [Member(address) for address in others]
        self.refused = 0
        """Datagrams that were not authentic, not new, not to this life, or made no sense."""
        self.forwarded = 0
        """Data that came here and went on to another member."""
        self.received = 0
        """Data that others forwarded here."""
        self.next_timer = float("-inf")
        self._secret = secret
        self._k = k
        self._life = life
        self._sessions = sessions
        self._grants = Grants(of, most_lives)
        self._forwards = Bucket(FORWARDS_PER_S, FORWARDS_AT_ONCE)
        self._outer: tuple[Endpoint, ...] = ()
        self._peers: set[PublicKey] = set()
        self._counter = 0
        self._revision = 0
        self._hello_at = float("-inf")
        self._taken: dict[bytes, float] = {}
        """Bases of sessions taken over in this life, and when."""
        self._lives: dict[bytes, int] = {}
        """All that were heard in this one, in order, with the counter of their last message that counted.

        They are remembered when the member is gone: what it said is not to count again.
        """
        self._generation = 0
        self._noted: deque[tuple[float, int]] = deque()
        """This one's counter, each second of the last _NEWS_S."""
        self._datagrams: list[tuple[Endpoint, bytes]] = []

    def set_outer(self, addresses: Sequence[Endpoint]) -> None:
        """Say where peers may find this member."""
        outer = tuple(addresses[:MOST_ADDRESSES])
        if outer != self._outer:
            self._outer = outer
            self._hurry()

    def set_peers(self, peers: Iterable[PublicKey]) -> None:
        """Say whom this member serves."""
        before, self._peers = self._peers, set(peers)
        gone = before - self._peers
        for member in self.members:
            for public_key in gone:
                member.untold.pop(public_key, None)
                member.telling.pop(public_key, None)
        if self._peers - before:
            self._generation = self._generation + 1 & 0xFFFF
            self._hurry()

    def set_others(self, others: Sequence[Endpoint], now: float) -> None:
        """Say where the others are. Those that are heard stay in any case."""
        kept = [each for each in self.members if each.address in others or self.is_heard(each, now)]
        known = {each.address for each in kept}
        fresh = [Member(address) for address in others if address not in known]
        self.members = kept + fresh
        if fresh:
            self._hurry()

    def has(self, base: bytes) -> bool:
        """Whether another member's session was taken over, by its base."""
        return base in self._taken

    def absorb(self, handover: Handover, now: float) -> None:
        """Serve what another member told, except what was taken over before."""
        fresh = tuple(each for each in handover.sessions if each.base not in self._taken)
        self._taken.update((each.base, now) for each in fresh)
        self._sessions.absorb(replace(handover, sessions=fresh))

    def tell(self, peers: Iterable[PublicKey]) -> None:
        """These have a new session or timestamp, which all members are to know."""
        for public_key in peers:
            self._revision += 1
            for member in self.members:
                if member.number is not None:
                    member.untold[public_key] = self._revision
            self.next_timer = float("-inf")

    def is_heard(self, member: Member, now: float) -> bool:
        return now < member.heard_at + SILENT_S

    def forward(self, datagram: bytes, now: float) -> DropReason | None:
        """Send data on to the member whose shard it names, as it is. Returns why that cannot be."""
        header = parse_header(datagram)
        number = None if header is None else owner(header.shard, self.of)
        member = next((each for each in self.members if each.number == number and self.is_heard(each, now)), None)
        if number is None or member is None:
            return DropReason.FOREIGN_SHARD
        if not self._forwards.take(now):
            return DropReason.FORWARD_LIMITED
        self.forwarded += 1
        self._send(member, DATA, datagram)
        return None

    def receive(self, source: Endpoint, data: bytes, now: float) -> None:
        """Take a datagram of the channel. Never raises."""
        member = next((each for each in self.members if each.address == source), None)
        message = Message.open(self._secret, data) if member is not None else None
        if member is not None and message is not None and message.kind == DATA and self._is_data(member, message):
            self.received += 1
            self._sessions.inject(message.body)
            return
        if member is None or message is None or not self._counts(member, message, now):
            self.refused += 1
            return
        body = message.body
        if message.kind == HELLO and len(body) >= _HELLO.size:
            k, count, generation = _HELLO.unpack_from(body)
            if k <= LARGEST_K and len(body) == _HELLO.size + count * ADDRESS_BYTES and count <= MOST_ADDRESSES:
                found = (decode_address(body, _HELLO.size + n * ADDRESS_BYTES) for n in range(count))
                outer = tuple(each for each in found if each is not None)
                self._hear(member, message, k, outer, generation, now)
        elif message.kind == STATE and len(body) >= _STATE.size:
            self._take(member, body, now)
        elif message.kind == ACK and len(body) == _ACK.size:
            revision, raw = _ACK.unpack(body)
            public_key = PublicKey(raw)
            if member.untold.get(public_key, revision + 1) <= revision:
                del member.untold[public_key]
                member.telling.pop(public_key, None)
            if len(member.telling) < len(member.untold):  # there is room for others
                self.next_timer = float("-inf")

    def handle_timer(self, now: float) -> None:
        """Do what is due. Harmless at any time."""
        if now < self.next_timer:
            return
        if now >= self._hello_at:
            self._hello_at = now + HELLO_S
            self._taken = {base: at for base, at in self._taken.items() if now < at + _FORGET_S}
            self._grants.keep(self._sessions.bases())
            self._counter += 1  # also with nobody there to say it to
            # The first: nothing is forgotten yet, and a member may have been answered before.
            self._noted.append((now, self._counter if self._noted else 0))
            while self._noted[0][0] <= now - _NEWS_S:
                self._noted.popleft()
            for member in self.members:
                self._greet(member)
                member.telling.clear()
        for member in self.members:
            self._tell(member, now)
        self.next_timer = self._hello_at

    def take(self) -> list[tuple[Endpoint, bytes]]:
        """Datagrams to send."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def _is_data(self, member: Member, message: Message) -> bool:
        """Whether this is data of a member that is known, for this life. It has a replay window: order is no matter."""
        header = parse_header(message.body)
        return header is not None and not header.control and message.life == member.life and message.to == self._life

    def _counts(self, member: Member, message: Message, now: float) -> bool:
        if message.life == self._life:  # somebody sends back what this member said
            return False
        if (reason := self._mistake(message)) is not None:
            member.mistake = reason
            return False
        if message.counter <= self._lives.get(message.life, -1):
            return False
        if message.to != self._life:  # it does not know us yet, or this is old: only who answers is believed
            if message.kind == HELLO and now >= member.answered_at + _ANSWER_GAP_S:
                member.answered_at = now
                self._greet(member, to=message.life)
            return False
        if message.kind != HELLO and message.life != member.life:
            return False
        member.mistake = ""
        if message.life == member.life:
            member.heard_at = now
        if message.life in self._lives:
            self._lives[message.life] = message.counter
        return True

    def _mistake(self, message: Message) -> str | None:
        """What of a sender's configuration does not go with this member's, in words."""
        if message.of != self.of:
            return f"it has of = {message.of}, this machine {self.of}: give all the same"
        if message.member == self.member:
            return f"it has number {message.member}, as this machine: give each its own"
        return None if 1 <= message.member <= self.of else f"it has number {message.member} of {message.of}"

    def _hear(
        self, member: Member, message: Message, k: int, outer: tuple[Endpoint, ...], generation: int, now: float
    ) -> None:
        member.heard_at = now
        fresh = message.life != member.life
        if fresh or (outer, generation) != (member.outer, member.generation):
            member.number, member.life, member.k = message.member, message.life, k
            member.outer, member.generation = outer, generation
            self._revision += 1
            member.untold = dict.fromkeys(self._peers, self._revision)
            member.telling.clear()
            self._hurry()
        if fresh:
            self._lives[message.life] = message.counter
            if len(self._lives) > _MOST_LIVES:
                present = {each.life for each in self.members}
                del self._lives[next(life for life in self._lives if life not in present)]

    def _take(self, member: Member, body: bytes, now: float) -> None:
        sessions, revision = _STATE.unpack_from(body)
        start = _STATE.size + sessions * _HEARD.size
        try:
            handover = Handover.decode(body[start:], sessions=min(sessions, MOST_SESSIONS + 1), k=self._k)
        except HandoverError:
            self.refused += 1
            return
        # Sessions that were taken over are not remembered for ever. What was granted before, and heard or kept from
        # arriving, must not be news then. By its own clock the maker cannot say when that was: its machine may have
        # stood still since. So it says what it had heard of this one then.
        heard = [each for (each,) in _HEARD.iter_unpack(body[_STATE.size : start])]
        known = self._noted[0][1] if self._noted else 0
        fresh = tuple(each for each, then in zip(handover.sessions, heard, strict=True) if then >= known)
        handover = replace(handover, sessions=fresh)
        if handover.peer in self._peers:  # if it is configured later, all is told again
            self.absorb(handover, now)
        self._send(member, ACK, _ACK.pack(revision, handover.peer.raw))

    def _hurry(self) -> None:
        """Greet all, and tell them what they were not told, as soon as may be."""
        self._hello_at = self.next_timer = float("-inf")

    def _greet(self, member: Member, to: bytes | None = None) -> None:
        body = _HELLO.pack(self._k, len(self._outer), self._generation) + b"".join(map(encode_address, self._outer))
        self._send(member, HELLO, body, to)

    def _tell(self, member: Member, now: float) -> None:
        if member.number is None or not self.is_heard(member, now):
            return
        room = _MOST_AT_ONCE - len(member.telling)
        waiting = ((key, due) for key, due in member.untold.items() if member.telling.get(key) != due)
        for public_key, revision in list(islice(waiting, room)):
            handover = self._sessions.share(
                public_key, self._grants, member.number, member.life, member.k, member.outer
            )
            if handover is None:
                del member.untold[public_key]
                member.telling.pop(public_key, None)
            else:
                # to the end, so that those which it does not acknowledge leave the others their turn
                member.untold[public_key] = member.untold.pop(public_key)
                member.telling[public_key] = revision
                known = self._lives[member.life]
                heard = (self._grants.heard(each.base, member.life, known) for each in handover.sessions)
                head = _STATE.pack(len(handover.sessions), revision) + b"".join(map(_HEARD.pack, heard))
                self._send(member, STATE, head + handover.encode())

    def _send(self, member: Member, kind: int, body: bytes, to: bytes | None = None) -> None:
        message = Message(kind, self.member, self.of, self._life, to or member.life, self._counter, body)
        self._counter += 1
        self._datagrams.append((member.address, message.seal(self._secret)))
