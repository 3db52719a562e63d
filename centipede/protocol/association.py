"""Session and Association: the sessions of one peer, in order, and which of them may send.

A :class:`Session` is what one handshake yielded, as this node keeps it: numbers, keys, the control class's counter and
windows, and on which paths it was heard. The :class:`Association` holds the peer's slots: established sessions in the
order of docs/protocol.md "Timestamps", newest first, and pending ones, oldest first. A session is inert until it is
confirmed, so nothing here believes a timestamp before that.

What a path is worth, when a handshake starts and what is sent are not known here. Session numbers ascend and are never
used again; a counter of the control class is used once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.grant import Grant
from centipede.protocol.handshake import Params, SessionKeys
from centipede.protocol.identity import PublicKey
from centipede.protocol.session import COUNTER_LIMIT, COUNTER_REKEY, LAST_SHARD, Header, Opener, Sealer
from centipede.protocol.table import ReceiveSession, Run
from centipede.protocol.timing import Timing
from centipede.protocol.window import SMALLEST_WINDOW, Verdict, Window

ESTABLISHED_SLOTS = 3
MOST_ESTABLISHED = 16
"""With several machines at the other end: one for each address that the peer may have."""
PENDING_SLOTS = 4
MOST_SOURCES = 256
"""Source shards a session accepts."""
WORN_SOURCES = 192
"""Of the peer's shards heard, after which a new session is asked for."""
_WORN_AFTER_S = 30.0
"""But not sooner: a dozen large machines have as many at once, under the next session too."""
_FULL_AFTER_S = 5.0
"""Nor sooner than this when one was refused, and not twice in a row: there may be too many in all."""
MOST_FAILED_OPENS = 2**36
"""Forgeries after which a new session is asked for."""


@dataclass(slots=True, eq=False)
class Session:
    """One session with one peer."""

    number: int
    peer: int
    base: bytes
    """6 bytes: what this node receives under."""
    peer_base: bytes
    """6 bytes: what the peer receives under."""
    run: Run
    """The shards of the peer's machine that the handshake was made with."""
    own: Run
    """This machine's own shards under the session."""
    keys: SessionKeys = field(repr=False)
    timestamp: int
    initiator: PublicKey
    ours: bool
    """Whether this node initiated it."""
    params: Params
    """The peer's."""
    born: float
    """When its keys were made here; what its age counts from."""
    rekey_at: float
    """When this node asks for the next one."""
    digest: bytes = b""
    """Of the Initiate a pending session answers."""
    message: bytes = field(default=b"", repr=False)
    """The Acknowledge that answers it."""
    acknowledged: dict[tuple[Endpoint, Endpoint], float] = field(default_factory=dict)
    """The pairs the Acknowledge went out on, and when it last did."""
    established: float | None = None
    """When it was; None while pending."""
    heard: set[int] = field(default_factory=set)
    """Numbers of the paths it was heard on."""
    heard_at: dict[int, float] = field(default_factory=dict)
    """When it was heard on a path last, by control."""
    sources: list[Run] = field(default_factory=list)
    """The peer's runs heard under it."""
    full: bool = False
    """Whether there was no room for one."""
    spare: range = field(default=range(0))
    """Shards that this machine may grant to others."""
    made_here: bool = True
    """Whether it is this machine's handshake, which makes it the one that tells other members of it."""
    tx_before: int = 0
    """Data packets sent to the peer when it was born."""
    tx_since: int = 0
    """And since then, under whatever session: no data counter of this one is greater."""
    _counter: int = 0
    _failed: int = 0
    _windows: dict[int, Window] = field(default_factory=dict, repr=False)
    _sealer: Sealer = field(init=False, repr=False)
    _opener: Opener = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.sources.append(self.run)
        self._sealer = Sealer(self.keys.tx_control)
        self._opener = Opener(self.keys.rx_control)

    @property
    def order(self) -> tuple[int, bytes]:
        """What settles a tie; equal at both ends."""
        return self.timestamp, self.initiator.raw

    @property
    def worn(self) -> bool:
        """Whether its counters ask for a new session at once."""
        return max(self._counter, self.tx_since) >= COUNTER_REKEY or self._failed >= MOST_FAILED_OPENS

    @property
    def crowded(self) -> bool:
        """Whether few of the peer's shards can be heard under it that were not."""
        return self._heard_shards >= WORN_SOURCES

    @property
    def _heard_shards(self) -> int:
        return sum(run.size for run in self.sources)

    def seal_control(self, plaintext: bytes, *, source: int, shard: int) -> bytes | None:
        """The control datagram to one of the peer's shards; None once the counter is used up."""
        if self._counter >= COUNTER_LIMIT:
            return None
        counter = self._counter
        self._counter += 1
        return self._sealer.seal(
            counter, source=source, base=self.peer_base, shard=shard, plaintext=plaintext, control=True
        )

    def open_control(self, header: Header, datagram: bytes) -> bytes | DropReason:
        """The plaintext of a control datagram, each counter once; or why not."""
        window = self._windows.get(header.source)
        if window is None:
            if header.source > LAST_SHARD or len(self._windows) >= MOST_SOURCES:
                return DropReason.UNKNOWN_SHARD
            window = Window(SMALLEST_WINDOW)
        verdict = window.test(header.counter)
        if verdict is not Verdict.NEW:
            return DropReason.OLD if verdict is Verdict.OLD else DropReason.DUPLICATE
        plaintext = self._opener.open(datagram)
        if plaintext is None:
            self._failed += 1
            return DropReason.BAD_TAG
        window.insert(header.counter)
        self._windows[header.source] = window
        return plaintext

    def cut(self, k: int, *, rest: bool) -> Grant:
        """Shards for another machine, which are no longer ours: a run of 2^k, and half or the ``rest`` of the others.

        Raises ValueError if there are too few.
        """
        kept, granted = Grant(self.own, self.spare.start, self.spare.stop).cut(k, rest=rest)
        self.spare = range(kept.first, kept.end)
        return granted

    def hear_run(self, run: Run) -> bool:
        """Note shards of the peer's that were heard. False if they contradict those heard before, or are too many."""
        if run in self.sources:
            return True
        overlaps = any(
            run.first < other.first + other.size and other.first < run.first + run.size for other in self.sources
        )
        full = self._heard_shards + run.size > MOST_SOURCES
        self.full = self.full or (full and not overlaps)
        if overlaps or full:
            return False
        self.sources.append(run)
        return True

    def table_entry(self, reorder_s: float) -> ReceiveSession:
        """What the engine must know to receive data under it; ``reorder_s`` as there."""
        return ReceiveSession(
            session=self.number,
            peer=self.peer,
            base=self.base,
            key=self.keys.rx_data,
            pending=self.established is None,
            sources=tuple(self.sources),
            own=self.own,
            reorder_s=reorder_s,
        )


class Association:
    """The slots of one peer: four pending sessions, and three established ones.

    There are more of the latter while data goes to several of the peer's machines under different sessions: each keeps
    its own.
    """

    def __init__(self, timing: Timing, forget: Callable[[Session], None]) -> None:
        """``forget`` is told of each session that ends."""
        self._timing = timing
        self._forget = forget
        self.established: list[Session] = []
        """In order, the current one first."""
        self.pending: list[Session] = []
        """Oldest first."""
        self.sending: tuple[Session, ...] = ()
        """Those data is sent under, one for each of the peer's machines; several may share one."""

    @property
    def current(self) -> Session | None:
        return self.established[0] if self.established else None

    def add_pending(self, session: Session) -> bool:
        """Keep a handshake that was answered. True if the oldest one had to give way."""
        evicted = len(self.pending) >= PENDING_SLOTS
        if evicted:
            self._forget(self.pending.pop(0))
        self.pending.append(session)
        return evicted

    def drop_pending(self) -> None:
        """Forget handshakes that were answered and not confirmed."""
        while self.pending:
            self._forget(self.pending.pop())

    def adopt(self, session: Session) -> None:
        """Put in a session that another machine established, by its age."""
        assert session.established is not None
        place = sum(_established(other) > session.established for other in self.established)
        self.established.insert(place, session)
        self._make_room()

    def establish(self, session: Session, now: float) -> None:
        """Put a confirmed session in its place: the newest, unless one that came just before wins the tie.

        The two ends may see two handshakes end in different orders; comparing what both know makes them agree.
        """
        if session in self.pending:
            self.pending.remove(session)
        place = 0
        while place < len(self.established):
            other = self.established[place]
            if not self.is_tie(other, now) or session.order > other.order:
                break
            place += 1
        session.established = now
        session.message = b""
        self.established.insert(place, session)
        self._make_room()

    def is_tie(self, session: Session, now: float) -> bool:
        """Whether a session established now is so close to this one that their order decides."""
        return now - _established(session) < min(self._timing.tie_s, self._timing.dead_s)

    def choose(self, paths: Collection[int], now: float) -> Session | None:
        """The session to send data under to one of the peer's machines, whose usable paths (their numbers) these are.

        The newest that was heard on each of them, or, from the age of ``heard_s``, on any; so copies of a packet share
        a session that the other end is known to hold. One that was only acknowledged serves if there is no other.
        """
        usable = set(paths)
        return (
            next((one for one in self.established if self._is_ripe(one, usable, now)), None)
            or next((one for one in self.established if one.heard & usable), None)
            or self.current
        )

    def lasts(self, session: Session, paths: Collection[int], now: float) -> bool:
        """Whether a machine, to which these paths lead, has the session and will have it for a while."""
        return not session.heard.isdisjoint(paths) and now < self._fades_at(session)

    def choice_at(self, now: float) -> float:
        """When :meth:`choose` or :meth:`lasts` may answer otherwise for no other reason than time."""
        times = [_established(one) + self._timing.heard_s for one in self.established]
        times += [self._fades_at(one) for one in self.sending]
        return min((at for at in times if at > now), default=float("inf"))

    def speaking(self, now: float, path: int) -> list[Session]:
        """The sessions heartbeats go under on a path (its number), newest first.

        The current one; the one before it as long as the current one is young; and that which was heard there last, for
        the machine there may have no other. Where none was heard it may be any, so it is all of them.
        """
        if not self.established:
            return []
        current = self.established[0]
        speaking = [current]
        if len(self.established) > 1 and now < _established(current) + self._timing.overlap_s:
            speaking.append(self.established[1])
        heard = self._heard_on(path)
        others = self.established if heard is None else [heard]
        speaking += [session for session in others if session not in speaking]
        return speaking

    def hear(self, session: Session, path: int, now: float, lull_s: float) -> None:
        """Control came under a session on a path (its number).

        A machine speaks under the newest session it has. One that was heard under an older one alone for this long has
        lost the newer ones: it began anew, at the same address.
        """
        session.heard.add(path)
        session.heard_at[path] = now
        for newer in self.established:
            if newer is session:
                break
            if path in newer.heard and now > newer.heard_at.get(path, _established(newer)) + lull_s:
                newer.heard.discard(path)

    def known_on(self, path: int) -> Session | None:
        """The newest session that was heard on a path (its number); the current one if none was."""
        return self._heard_on(path) or self.current

    def rekey_at(self) -> float:
        """When the next handshake is due by age or use; infinite without a session."""
        current = self.current
        if current is None:
            return float("inf")
        # One that never was heard does not count: its handshake may have been lost on the other side.
        proven = next((one for one in self.established if one.heard), current)
        due = float("-inf") if proven.worn else proven.rekey_at
        if proven.crowded:
            hurry = proven.full and not any(one.full for one in self.established if one is not proven)
            due = min(due, _established(proven) + (_FULL_AFTER_S if hurry else _WORN_AFTER_S))
        return due if proven is current else max(due, _established(current) + self._timing.attempt_s)

    def expire(self, now: float) -> None:
        """End the sessions whose time is over."""
        for session in [one for one in self.pending if now >= one.born + self._timing.pending_s]:
            self.pending.remove(session)
            self._forget(session)
        for session in [one for one in self.established if now >= one.born + self._timing.reject_s]:
            self._erase(session)

    def expires_at(self) -> float:
        """When :meth:`expire` has something to do."""
        ends = [one.born + self._timing.pending_s for one in self.pending]
        ends += [one.born + self._timing.reject_s for one in self.established]
        return min(ends, default=float("inf"))

    def clear(self) -> None:
        """End all of them."""
        for session in (*self.pending, *self.established):
            self._forget(session)
        self.pending.clear()
        self.established.clear()
        self.sending = ()

    def _heard_on(self, path: int) -> Session | None:
        return next((one for one in self.established if path in one.heard), None)

    def _is_ripe(self, session: Session, usable: set[int], now: float) -> bool:
        heard = session.heard & usable
        return heard == usable or (bool(heard) and now >= _established(session) + self._timing.heard_s)

    def _fades_at(self, session: Session) -> float:
        """When it is too near its end to send under if there is a choice: the two ends do not end it at one moment."""
        return session.born + self._timing.reject_s - self._timing.overlap_s

    def _make_room(self) -> None:
        """End the oldest session that is not in use, if there are too many."""
        slots = ESTABLISHED_SLOTS + max(0, len(self.sending) - 1)
        if len(self.established) > min(slots, MOST_ESTABLISHED):
            unused = (one for one in reversed(self.established) if one not in self.sending)
            self._erase(next(unused, self.established[-1]))

    def _erase(self, session: Session) -> None:
        self.established.remove(session)
        self.sending = tuple(one for one in self.sending if one is not session)
        self._forget(session)


def _established(session: Session) -> float:
    assert session.established is not None
    return session.established


def run_of(first: int, k: int, reason: DropReason) -> Run:
    """The run a peer says it has; Refused for this reason if there is no such run."""
    try:
        return Run(first, k)
    except ValueError:
        raise Refused(reason) from None
