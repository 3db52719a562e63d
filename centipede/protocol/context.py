"""Context: what all parts of one node share: who it is, its numbers, its sessions by name, and what it wants done.

Owns the numbers of peers, sessions and paths, which ascend and are never used again, and the drop counts. Effects are
gathered here during a step and taken by the node at its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count

from centipede.protocol.association import Session
from centipede.protocol.bucket import Bucket
from centipede.protocol.drops import DropReason
from centipede.protocol.effects import Level, LogLine, Outgoing
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.grant import SHARDS_END
from centipede.protocol.handshake import Params
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.path import FULL_WEIGHT, Path
from centipede.protocol.path_mtu import PathMtu
from centipede.protocol.session import BASE_BYTES
from centipede.protocol.spec import Network, PeerRecord
from centipede.protocol.table import Run
from centipede.protocol.timing import Timing
from centipede.protocol.wire import CHALLENGE_BYTES

LARGEST_INNER = 0xFFFF
"""Largest inner packet accepted: any. Both engines take what fits into a UDP datagram."""

_LINES_PER_S = 10
_LINES_AT_ONCE = 50


class Context:
    """Shared by the parts of one node, and by nobody else."""

    def __init__(
        self,
        identity: Identity,
        run: Run,
        timing: Timing,
        random: Callable[[int], bytes],
        largest_bytes: int,
        spare: range | None = None,
    ) -> None:
        self.identity = identity
        self.run = run
        self.timing = timing
        self.random = random
        self.tunnelled: tuple[Network, ...] = ()
        """The tunnel's own networks: no outer address is in them."""
        self.announced: tuple[Endpoint, ...] = ()
        """Own addresses that peers are told of."""
        self.draining = False
        """Peers are asked to send elsewhere."""
        self.forwards = False
        """Whether data for other machines' shards can be brought to them."""
        self.weight = FULL_WEIGHT
        """The part of their flows that peers are asked for, 0..255."""
        self.links: Mapping[str, str] = {}
        """Name of the interface that a local address belongs to, as far as known."""
        self.largest_bytes = largest_bytes
        """UDP payload that the configured MTU asks for."""
        self.spare = range(run.first + run.size, SHARDS_END) if spare is None else spare
        """Shards that may be granted to other machines, of a session made here."""
        self.params = Params(timing.gap_s, LARGEST_INNER, k=run.k)
        self.drops: Counter[DropReason] = Counter()
        self.sessions: dict[bytes, Session] = {}
        """By own base: pending and established ones."""
        self.numbered: dict[int, Session] = {}
        """The same by number."""
        self.pending: dict[bytes, Session] = {}
        """Pending ones by the digest of the Initiate they answer."""
        self.attempts: dict[bytes, int] = {}
        """Number of the peer by sid of an outstanding attempt."""
        self.initiates: dict[bytes, int] = {}
        """The same by mac1 of its Initiate."""
        self.datagrams: list[Outgoing] = []
        self.log: list[LogLine] = []
        self.records: dict[PublicKey, PeerRecord] = {}
        self.news: set[PublicKey] = set()
        self._peers = count(1)
        self._sessions = count(1)
        self._paths = count(1)
        self._lines = Bucket(_LINES_PER_S, _LINES_AT_ONCE)

    def next_peer(self) -> int:
        return next(self._peers)

    def next_session(self) -> int:
        return next(self._sessions)

    def register(self, session: Session) -> None:
        """Make a session known by its names."""
        self.sessions[session.base] = session
        self.numbered[session.number] = session
        if session.digest:
            self.pending[session.digest] = session

    def confirm(self, session: Session) -> None:
        """Copies of its Initiate are answered no more."""
        if self.pending.get(session.digest) is session:
            del self.pending[session.digest]

    def forget(self, session: Session) -> None:
        """The session is over."""
        self.confirm(session)
        self.sessions.pop(session.base, None)
        self.numbered.pop(session.number, None)

    def new_path(self, local: Endpoint, remote: Endpoint, expected: bool, now: float) -> Path:
        """A path with its number and first challenge."""
        return Path(
            next(self._paths),
            local,
            remote,
            challenge=self.challenge(),
            expected=expected,
            now=now,
            mtu=PathMtu(local.version, self.largest_bytes, self.timing),
        )

    def challenge(self) -> bytes:
        return self.random(CHALLENGE_BYTES)

    def new_base(self) -> bytes:
        """A session base that no session and no attempt has."""
        while True:
            base = self.random(BASE_BYTES)
            if base not in self.sessions and not any(sid[:BASE_BYTES] == base for sid in self.attempts):
                return base

    def scatter(self, interval_s: float) -> float:
        """The interval, up to a tenth shorter or longer."""
        return interval_s * (0.9 + 0.2 * self.fraction())

    def fraction(self) -> float:
        """A random number, 0 <= it < 1."""
        return int.from_bytes(self.random(4), "big") / 2**32

    def send(self, local: Endpoint, remote: Endpoint, data: bytes, *, dont_fragment: bool = False) -> None:
        self.datagrams.append(Outgoing(local, remote, data, dont_fragment))

    def say(self, level: Level, text: str, now: float) -> None:
        """Log a line, unless there were too many just now."""
        if self._lines.take(now):
            self.log.append(LogLine(level, text))
