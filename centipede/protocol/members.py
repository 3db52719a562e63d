"""Members: the machines of one peer that data goes to, each with its session and its share of the flows.

Which paths lead to one machine, and which of them it gets, is known (reach.py), and so are the sessions
(association.py). Here the two meet: a machine is sent to under the newest session that was heard from it, so each has
its own pace in a rekey, whether it learns of a session from the others or makes one of its own. See docs/protocol.md
"Members".
"""

from __future__ import annotations

from collections.abc import Sequence

from centipede.protocol.association import Association
from centipede.protocol.reach import Choice
from centipede.protocol.shares import allot
from centipede.protocol.status import MemberStatus
from centipede.protocol.table import BUCKETS, SendPlan


class Members:
    """How data goes to the machines of one peer."""

    def __init__(self) -> None:
        self.plans: tuple[SendPlan, ...] = ()
        """One for each machine."""
        self.shares: tuple[int, ...] = ()
        """For each bucket of flows the index of its plan; empty for fewer than two."""
        self._choices: tuple[Choice, ...] = ()
        self._weighted: list[tuple[str, int]] = []

    @property
    def carrying(self) -> frozenset[int]:
        """Numbers of the paths that carry data."""
        return frozenset(path.path for plan in self.plans for path in plan.listed)

    def settle(self, choices: Sequence[Choice], association: Association, now: float) -> None:
        """Follow a choice of machines and paths; the association is told which sessions are in use."""
        found = [(choice, association.choose(choice.usable, now)) for choice in choices]
        pairs = [(choice, session) for choice, session in found if session is not None]
        # One that shares no session with us any more has lost its flows, unless that is true of all.
        pairs = [pair for pair in pairs if association.lasts(pair[1], pair[0].usable, now)] or pairs
        association.sending = tuple(dict.fromkeys(session for _, session in pairs))
        self.plans = tuple(
            SendPlan(
                session=session.number,
                base=session.peer_base,
                key=session.keys.tx_data,
                run=choice.runs.get(session.number, session.run),
                paths=choice.selection.paths,
                copies=choice.selection.copies,
                urgent=choice.selection.urgent,
                lanes=choice.selection.lanes,
            )
            for choice, session in pairs
        )
        self._choices = tuple(choice for choice, _ in pairs)
        weighted = [(choice.name, choice.weight) for choice in self._choices]
        if weighted != self._weighted:
            self._weighted = weighted
            self.shares = allot(weighted)

    def status(self) -> tuple[MemberStatus, ...]:
        """A picture for ``show``."""
        return tuple(
            MemberStatus(
                plan.run, choice.remotes, choice.weight, self.shares.count(index) / BUCKETS if self.shares else 1.0
            )
            for index, (choice, plan) in enumerate(zip(self._choices, self.plans, strict=True))
        )
