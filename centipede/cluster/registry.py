"""Registry: what one member makes of a store: who the others are, and sessions whose makers may be gone.

Pure: gets what the store's thread (store.py) saw, and the time; gives names and sealed records to put. A member puts
its channel's address, and for each peer the sessions that it made and the timestamps. From the records of others it
takes the addresses, the timestamps, and each session that nobody told it by the channel for a while.

Invariants: a session is served only with a run that the store counted out to this member's number and to nobody before,
from the slots that makers do not grant of; a session is put into one store and never into another, or into the same
after it lost anything or this member's registration, for that would count anew. docs/protocol.md "A store".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from centipede.cluster.grants import lives, slot
from centipede.cluster.record import Record, Sealer, blind, open_record
from centipede.errors import HandoverError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.grant import Grant
from centipede.protocol.handover import MOST_SESSIONS, HandedSession, Handover
from centipede.protocol.identity import PublicKey
from centipede.protocol.wire import ADDRESS_BYTES, decode_address, encode_address

GRACE_S = 3.0
"""For this long a session is left to its maker to tell."""
RECORD_S = 240
"""Lease of a peer's record: longer than its sessions live."""
GRANT_S = 3600
"""Lease of a count: longer than a session can be found, even if its maker's machine stood still for LEASE_S (store.py)
after each second in which it ran."""
MOST_OFFERED = 16384
_MOST_PUBLISHED = 16384

_SESSIONS = struct.Struct(">QB7x")


@dataclass(frozen=True, slots=True)
class View:
    """What the store's thread saw in one look."""

    store: bytes
    """Which store it is: another after it lost anything, or this member's registration ended there."""
    members: dict[str, bytes] = field(default_factory=dict)
    """All registrations, by name."""
    records: tuple[tuple[str, bytes], ...] = ()
    """Records of peers that were not seen before, by name."""
    grants: tuple[tuple[str, int], ...] = ()
    """What was claimed: name, and count from 1."""
    holder: bytes | None = None
    """Registration under this member's number, if it is another's."""
    anew: bool = False
    """Whether everything is to be put, because this member was registered just now or the store is another."""
    reason: str = ""
    """Why it did not do all that it was asked, though it showed this."""


@dataclass(slots=True)
class _Offered:
    """A session that the store has a record of."""

    handover: Handover
    """With this session alone."""
    put_wall_ns: int
    since: float
    """When it was seen."""
    claimed: bool = False


class Registry:
    """One life of a member, as far as the store is concerned."""

    def __init__(
        self, secret: bytes, member: int, of: int, k: int, address: Endpoint, life: bytes, session_life_s: float
    ) -> None:
        """``address`` is that of the channel; a session older than ``session_life_s`` is over."""
        self.holder: Endpoint | None = None
        """Who holds this member's number in its place."""
        self.others: tuple[Endpoint, ...] | None = None
        """Channels of the registered others; None until the store was seen."""
        self.refused = 0
        """Records that were not authentic or made no sense."""
        self._secret = secret
        self._member, self._of, self._k = member, of, k
        self._address = address
        self._life = life
        self._session_life_s = session_life_s
        self._sealer = Sealer(secret, life)
        self.name = f"members/{member}"
        self.registration = self._sealer.seal(self.name, encode_address(address))
        self.store: bytes | None = None
        """Which store was seen last."""
        self._published: dict[bytes, bytes] = {}
        """Which store a session, by its base, was put into."""
        self._offered: dict[bytes, _Offered] = {}
        self._claims: dict[str, bytes] = {}
        """Base by the name of its grant."""

    def is_own(self, value: bytes) -> bool:
        """Whether a registration under this member's number is this machine's: of this life or one before."""
        record = self._open(self.name, value)
        return record is not None and self._address_in(record) == self._address

    def publish(self, handover: Handover, wall_ns: int) -> tuple[str, bytes] | None:
        """Name and record for a peer; None if that must wait for the store, or there is nothing to tell."""
        if self.store is None:
            return None
        while len(self._published) > _MOST_PUBLISHED:
            del self._published[next(iter(self._published))]
        for session in handover.sessions:
            self._published.setdefault(session.base, self.store)
        sessions = tuple(each for each in handover.sessions if self._published[each.base] == self.store)
        if not sessions and (handover.sessions or not (handover.floor or handover.last_used)):
            return None  # what is there has the sessions, and the next one brings the timestamps
        name = f"sessions/{blind(self._secret, 'peer', handover.peer.raw)}/{self._life.hex()}"
        body = _SESSIONS.pack(wall_ns, len(sessions)) + replace(handover, sessions=sessions).encode()
        return name, self._sealer.seal(name, body)

    def take(self, view: View, now: float, wall_ns: int) -> list[Handover]:
        """Take what was seen; gives timestamps, and sessions that were granted, to be served from now on."""
        if view.store != self.store:  # what an earlier one had is not to be counted by this one
            self._offered.clear()
            self._claims.clear()
        self.store = view.store
        self.holder = None
        if view.holder is not None:
            holder = self._open(self.name, view.holder)
            self.holder = None if holder is None else self._address_in(holder)
        opened = [self._open(name, value) for name, value in view.members.items()]
        found = [self._address_in(record) for record in opened if record is not None and record.life != self._life]
        self.others = tuple(dict.fromkeys(each for each in found if each is not None and each != self._address))
        told = [handover for name, value in view.records if (handover := self._note(name, value, now)) is not None]
        granted = [each for name, count in view.grants if (each := self._grant(name, count, now, wall_ns)) is not None]
        for base in [base for base, each in self._offered.items() if self._is_over(each, now, wall_ns)]:
            del self._offered[base]
        return told + granted

    def claim(self, peers: Collection[PublicKey], has: Callable[[bytes], bool], now: float, wall_ns: int) -> list[str]:
        """Names of what to count: for sessions with these peers that nobody told so far (``has``, by base)."""
        claims = []
        for base in [base for base in self._offered if has(base)]:  # there is room for others
            del self._offered[base]
        for base, each in self._offered.items():
            due = not each.claimed and now >= each.since + GRACE_S and each.handover.peer in peers
            if due and self.holder is None and not self._is_over(each, now, wall_ns):
                each.claimed = True
                name = f"grants/{blind(self._secret, 'session', base)}/{self._member}"
                self._claims[name] = base
                claims.append(name)
        return claims

    def _note(self, name: str, value: bytes, now: float) -> Handover | None:
        """Remember the sessions of a record. Gives the timestamps in it."""
        record = self._open(name, value)
        if record is None or record.life == self._life:
            return None
        try:
            put_wall_ns, count = _SESSIONS.unpack_from(record.body)
            body = record.body[_SESSIONS.size :]
            handover = Handover.decode(body, sessions=min(count, MOST_SESSIONS + 1), k=self._k)
        except (struct.error, HandoverError):
            self.refused += 1
            return None
        for session in handover.sessions:
            if session.base not in self._offered and len(self._offered) < MOST_OFFERED:
                self._offered[session.base] = _Offered(replace(handover, sessions=(session,)), put_wall_ns, now)
        return replace(handover, sessions=())

    def _grant(self, name: str, count: int, now: float, wall_ns: int) -> Handover | None:
        base = self._claims.pop(name, None)
        each = None if base is None else self._offered.get(base)
        run = slot(self._member, self._of, lives(self._of) // 2 + count - 1, self._k)
        if each is None or run is None or self._is_over(each, now, wall_ns):
            return None
        (session,) = each.handover.sessions
        passed_s = self._passed_s(each, now, wall_ns)
        aged = replace(
            session, grant=Grant(run, 0, 0), age_s=session.age_s + passed_s, idle_s=session.idle_s + passed_s
        )
        return replace(each.handover, sessions=(aged,))

    def _is_over(self, each: _Offered, now: float, wall_ns: int) -> bool:
        session: HandedSession = each.handover.sessions[0]
        return session.age_s + self._passed_s(each, now, wall_ns) >= self._session_life_s

    def _passed_s(self, each: _Offered, now: float, wall_ns: int) -> float:
        """Since the record was sealed. Clocks of two machines differ: at least since it was seen."""
        return max(now - each.since, (wall_ns - each.put_wall_ns) / 1e9)

    def _open(self, name: str, value: bytes) -> Record | None:
        record = open_record(self._secret, name, value)
        if record is None:
            self.refused += 1
        return record

    def _address_in(self, record: Record) -> Endpoint | None:
        return decode_address(record.body, 0) if len(record.body) == ADDRESS_BYTES else None
