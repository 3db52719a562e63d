"""Names: which host names the peers' endpoints use, what they were found to mean, and when to ask again.

A name is asked for when it first appears; after a failure again and again, ever more slowly, without limit; and when it
is known, at once when no path to its peer answers any more, and again while none does, for the peer may have moved.
What was once found stays until a later answer replaces it. Knows no resolver and no clock: ``now`` is passed in,
questions go out through ``ask``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from centipede.fields import Target
from centipede.protocol.endpoint import Endpoint
from centipede.system.resolve import Answer

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


@dataclass(slots=True)
class _Name:
    endpoints: tuple[Endpoint, ...] = ()
    pause_s: float = FIRST_PAUSE_S
    ask_at: float = math.inf
    """When to ask next; infinite while a question is out."""
    error: str = ""
    silent: bool = True
    """Whether no path to its peer answers, as was said last."""


class Names:
    """The host names among a set of targets."""

    def __init__(self, ask: Callable[[str, int], None]) -> None:
        self._ask = ask
        self._names: dict[tuple[str, int], _Name] = {}

    def want(self, targets: Iterable[Target]) -> None:
        """Replace the set of targets. New names are asked for at once, old ones forgotten."""
        wanted = {(target.host, target.port) for target in targets if target.endpoint is None}
        for gone in self._names.keys() - wanted:
            del self._names[gone]
        for new in sorted(wanted - self._names.keys()):
            self._names[new] = _Name()
            self._ask(*new)

    def endpoints(self, targets: Iterable[Target]) -> tuple[Endpoint, ...]:
        """All numeric endpoints of these targets, names replaced by what is known of them."""
        found: dict[Endpoint, None] = {}
        for target in targets:
            known = self._names.get((target.host, target.port))
            found.update(dict.fromkeys((target.endpoint,) if target.endpoint else known.endpoints if known else ()))
        return tuple(found)

    def unresolved(self, targets: Iterable[Target]) -> dict[str, str]:
        """Those names among the targets that have no address yet, each with the reason, empty while asking."""
        names = {target.host: self._names.get((target.host, target.port)) for target in targets if not target.endpoint}
        return {host: name.error for host, name in names.items() if name and not name.endpoints}

    def take(self, answer: Answer, now: float) -> bool:
        """Take an answer in. True if it changed what is known."""
        name = self._names.get((answer.host, answer.port))
        if name is None:
            return False
        if answer.error and answer.error != name.error:
            log.warning("host name %s cannot be resolved: %s; trying again", answer.host, answer.error)
        name.error = answer.error
        name.ask_at = now + name.pause_s
        name.pause_s = min(2 * name.pause_s, LONGEST_PAUSE_S)
        if answer.error or set(answer.endpoints) == set(name.endpoints):
            return False
        name.endpoints = answer.endpoints
        name.pause_s = FIRST_PAUSE_S
        log.info("host name %s is %s", answer.host, ", ".join(endpoint.host for endpoint in answer.endpoints))
        return True

    def handle_timer(self, now: float, silent: Collection[tuple[str, int]]) -> None:
        """Ask for what is due: names without an address, and those whose peers (``silent``) nothing is heard of."""
        for key, name in self._names.items():
            if name.ask_at <= now:
                if name.endpoints and key not in silent:
                    name.pause_s = FIRST_PAUSE_S
                    name.ask_at = now + LONGEST_PAUSE_S
                else:
                    name.ask_at = math.inf
                    self._ask(*key)

    def note_silent(self, silent: Collection[tuple[str, int]], now: float) -> None:
        """Say which names' peers nothing is heard of. A name whose peer was heard until now is due at once."""
        for key, name in self._names.items():
            if key in silent and not name.silent and name.ask_at < math.inf:
                name.pause_s = FIRST_PAUSE_S
                name.ask_at = min(name.ask_at, now)
            name.silent = key in silent

    def hurry(self, now: float) -> None:
        """The host's addresses changed: what could not be resolved before may be found now."""
        for name in self._names.values():
            name.pause_s = FIRST_PAUSE_S
            if name.ask_at < math.inf:
                name.ask_at = now

    @property
    def empty(self) -> bool:
        """Whether there are none."""
        return not self._names

    @property
    def next_timer(self) -> float:
        return min((name.ask_at for name in self._names.values()), default=math.inf)
