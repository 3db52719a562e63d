"""Succession: which machine serves a peer: this one, or one it hands the peer's sessions to, or got them from.

docs/protocol.md "Handing over". What travels is a Handover (handover.py); how the old machine leaves says leave.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from centipede.errors import HandoverError
from centipede.protocol.association import Association, Session
from centipede.protocol.context import Context
from centipede.protocol.effects import Level
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.grant import Grant
from centipede.protocol.handover import MOST_SESSIONS, HandedSession
from centipede.protocol.identity import PublicKey
from centipede.protocol.leave import Leave
from centipede.protocol.offer import Offer
from centipede.protocol.reach import Reach
from centipede.protocol.table import Run


class Succession:
    """The succession in one peer's sessions."""

    def __init__(
        self, number: int, context: Context, association: Association, reach: Reach, now: float, *, moved: bool
    ) -> None:
        """``number`` is the peer's; ``moved`` if another machine took it over before this process began."""
        self._number = number
        self._context = context
        self._association = association
        self._reach = reach
        self._leave = Leave((), context.timing, now, gone=True) if moved else None
        self.lingering: tuple[Session, ...] = ()
        """Sessions that are over here, under which packets may still be under way: nothing is sent under them."""
        self._linger_until = float("inf")
        self._expected_until = float("inf")
        """The peer was taken over and is not reached yet: by then the machine that had it serves it on."""

    @property
    def moved(self) -> bool:
        """Whether another machine serves the peer, or is about to."""
        return self._leave is not None

    def answers(self, timestamp: int, now: float) -> bool:
        """Whether an Initiate of the peer is to be answered here."""
        return self._leave is None or self._leave.answers(timestamp, now)

    def hand_over(self, offer: Offer, now: float, *, move: bool) -> tuple[HandedSession, ...]:
        """The peer's sessions for another machine, with shards that are no longer ours; ``move`` begins the leave.

        Raises HandoverError if there is none.
        """
        handed: list[HandedSession] = []
        last_traffic = self._reach.pulse.last_traffic
        for session in self._association.established:
            if len(handed) == MOST_SESSIONS:  # a peer with many machines may have more
                break
            try:
                granted = session.cut(offer.k, rest=move)
            except ValueError:  # others may have some left, and the next rekey brings new ones
                continue
            handed.append(describe(session, granted, self._context, last_traffic, now))
        if not handed:
            why = "there is none"
            if self._association.established:
                why = "its shards are all granted: try again after the next rekey"
            elif self.moved:
                why = "it was handed over already"
            raise HandoverError(f"no session with peer {self._reach.spec.name} can be exported; {why}")
        if move:
            self._leave = Leave(offer.addresses, self._context.timing, now)
            self._association.drop_pending()  # or one that is confirmed now would be here and nowhere else
            self._drain(True, now)
            self._say("session handed over to another machine", now)
        else:
            self._reach.introduce(offer.addresses, now)
        return tuple(handed)

    def share(
        self, grant: Callable[[bytes], Run | None], addresses: Sequence[Endpoint], now: float
    ) -> tuple[HandedSession, ...]:
        """The sessions made here, for another member, which peers find at ``addresses``; ``grant`` gives its run."""
        made_here = [each for each in self._association.established if each.made_here and not self.moved]
        mine = [(each, grant(each.base)) for each in made_here[:MOST_SESSIONS]]
        if mine and addresses:
            self._reach.introduce(addresses, now)
        last_traffic = self._reach.pulse.last_traffic
        return tuple(
            describe(each, Grant(run, 0, 0), self._context, last_traffic, now) for each, run in mine if run is not None
        )

    def take_over(
        self, sessions: Sequence[HandedSession], remote: PublicKey, now: float, *, home: bool, until: float
    ) -> None:
        """Serve the peer (its key is ``remote``) under sessions that another machine handed over, from now on.

        If it is not reached ``until`` then, the other machine is to serve it on, or both are to wait for it.
        """
        self.stay(now)
        self._expected_until = until
        for handed in reversed(sessions):
            known = self._context.sessions.get(handed.base)
            if known is None:
                lingering = next((one for one in self.lingering if one.base == handed.base), None)
                sent = self._reach.traffic.tx_packets
                known = lingering or adopt(handed, self._number, remote, self._context, sent, now, home=home)
                self._context.register(known)
                self._association.adopt(known)
            if known.peer == self._number:  # one that was handed over from here and back goes on with its own counters
                known.spare = range(handed.grant.first, handed.grant.end)
        self.lingering = ()
        self._say("session taken over from another machine", now)

    def note_established(self, now: float) -> None:
        """A session was made here. The peer is this machine's, unless another one may still take it over."""
        self._expected_until = float("inf")
        if self._leave is not None and (self._leave.gone or now >= self._leave.in_vain_at()):
            self.stay(now)

    def stay(self, now: float) -> None:
        """The peer is this machine's, whatever it was."""
        self._expected_until = float("inf")
        if self._leave is not None:
            self._leave = None
            self._drain(False, now)

    def handle_timer(self, now: float) -> None:
        """Do what is left to do for a peer that another machine took over."""
        leave = self._leave
        if now >= self._linger_until:
            self.lingering, self._linger_until = (), float("inf")
        if self._reach.is_reached:
            self._expected_until = float("inf")
        elif now >= self._expected_until:
            self._expected_until = float("inf")
            self._part(now)
            self._leave = Leave((), self._context.timing, now, gone=True)
            self._say("not reached in time: left to the machine that handed it over", now, "warning")
            return
        if leave is None or leave.gone:
            return
        if not leave.judged and now >= leave.in_vain_at() and leave.judge(self._reach.pulse.last_rx, now):
            self.stay(now)
            self._say("the other machine did not take over: serving it on", now, "warning")
        elif now >= leave.quiet_at(self._reach.pulse.last_traffic) or not self._association.established:
            self._part(now)
            leave.gone = True
            self._say("left to another machine", now)
        elif addresses := leave.take(now):
            self._reach.introduce(addresses, now)

    def due_at(self) -> float:
        """When :meth:`handle_timer` has something to do."""
        leave = self._leave
        due = min(self._linger_until, self._expected_until)
        if leave is None or leave.gone:
            return due
        due = min(due, leave.quiet_at(self._reach.pulse.last_traffic), leave.tell_at())
        return due if leave.judged else min(due, leave.in_vain_at())

    def _part(self, now: float) -> None:
        self._reach.pulse.say_bye(now)
        self.lingering = tuple(self._association.established)
        self._linger_until = now + self._context.timing.linger_s
        self._association.clear()
        self._reach.part(now)

    def _drain(self, draining: bool, now: float) -> None:
        self._reach.pulse.draining = draining
        if self._association.established:
            self._reach.pulse.beat_usable(now)

    def _say(self, text: str, now: float, level: Level = "info") -> None:
        self._context.say(level, f"peer {self._reach.spec.label}: {text}", now)


def describe(session: Session, grant: Grant, context: Context, last_traffic: float, now: float) -> HandedSession:
    """What another machine is told of a session, of which it gets these shards."""
    return HandedSession(
        grant=grant,
        ours=session.ours,
        timestamp=session.timestamp,
        base=session.base,
        peer_base=session.peer_base,
        peer_run=session.run,
        age_s=now - session.born,
        idle_s=now - max(last_traffic, session.born),
        params=context.params,
        peer_params=session.params,
        keys=session.keys,
    )


def adopt(
    handed: HandedSession, peer: int, remote: PublicKey, context: Context, tx_before: int, now: float, *, home: bool
) -> Session:
    """The session of a peer (its number and key) out of what another machine told.

    A ``home`` renews it as if it had made it; another machine leaves that to the home, as long as that does it in time.
    """
    timing, born = context.timing, now - handed.age_s
    due_s = timing.rekey_fallback_s + (0.0 if home else timing.rekey_jitter_s * context.fraction())
    if home and handed.ours:
        due_s = min(timing.rekey_s + timing.rekey_jitter_s * context.fraction(), due_s)
    return Session(
        number=context.next_session(),
        peer=peer,
        base=handed.base,
        peer_base=handed.peer_base,
        run=handed.peer_run,
        own=handed.grant.run,
        spare=range(handed.grant.first, handed.grant.end),
        made_here=False,
        keys=handed.keys,
        timestamp=handed.timestamp,
        initiator=context.identity.public if handed.ours else remote,
        ours=handed.ours,
        params=handed.peer_params,
        born=born,
        rekey_at=born + due_s,
        established=born,
        tx_before=tx_before,
    )
