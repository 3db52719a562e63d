"""Initiation: the attempts of this node to reach one peer, and their rhythm. docs/protocol.md "Timestamps".

An attempt sends the same Initiate again and again for a few seconds; then a new one takes its place, after pauses that
grow. Whether there should be one at all, and over which pairs it goes, is the peer's question. An attempt stays open to
a late Acknowledge until the next one begins or it is dropped.
"""

from __future__ import annotations

from collections.abc import Collection

from centipede.protocol.bucket import Bucket
from centipede.protocol.cookie import LIFE_S as COOKIE_LIFE_S
from centipede.protocol.cookie import answered_mac1, mac1_of, open_cookie, with_mac2
from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import Attempt, Finished
from centipede.protocol.path import Path
from centipede.protocol.status import HandshakeStatus
from centipede.protocol.timing import Timing

_TRIES_PER_S = 20
"""Acknowledges that are tried per attempt: each costs a Diffie-Hellman."""


class Initiation:
    """At most one attempt at a time."""

    def __init__(self, timing: Timing, now: float) -> None:
        self._timing = timing
        self.attempt: Attempt | None = None
        self.attempts = 0
        """Since the last success."""
        self.since = now
        """When the first of them began."""
        self.reason: DropReason | None = None
        """Why something that concerned the handshake went no further, last."""
        self.pairs: set[tuple[Endpoint, Endpoint]] = set()
        """Where the Initiate of the attempt was sent."""
        self._cookies: dict[tuple[Endpoint, Endpoint], tuple[bytes, float]] = {}
        """The cookies the peer gave for pairs, and until when they are used; they outlive the attempt."""
        self._proven: set[tuple[Endpoint, Endpoint]] = set()
        """Pairs on which the Initiate of the attempt was sent again because a cookie came."""
        self._started = float("-inf")
        self._sends = 0
        self._pauses = 0
        self._next_at = float("-inf")
        self._tries = Bucket(_TRIES_PER_S, _TRIES_PER_S)

    def may_begin(self, now: float) -> bool:
        """Whether the pause before the next attempt is over."""
        return now >= self._next_at

    def over_at(self) -> float:
        """When the attempt has had its time."""
        return self._started + self._timing.attempt_s

    def is_over(self, now: float) -> bool:
        """Whether the attempt had its time."""
        return now >= self.over_at()

    def begin(self, attempt: Attempt, now: float) -> None:
        """Start an attempt; the one before is forgotten."""
        if not self.attempts:
            self.since = now
        self.attempt = attempt
        self.attempts += 1
        self.pairs = set()
        self._proven = set()
        self._cookies = {pair: cookie for pair, cookie in self._cookies.items() if now < cookie[1]}
        self._started = now
        self._sends = 0
        pauses = self._timing.back_off_s
        self._next_at = now + self._timing.attempt_s + pauses[min(self._pauses, len(pauses) - 1)]
        self._pauses += 1
        self._tries = Bucket(_TRIES_PER_S, _TRIES_PER_S)

    def take_send(self, now: float) -> bool:
        """Whether the Initiate is to go out on every pair now."""
        if self.attempt is None or now < self._send_at():
            return False
        while self._send_at() <= now:
            self._sends += 1
        return True

    def message_on(self, local: Endpoint, remote: Endpoint, now: float) -> bytes:
        """The Initiate of the attempt as it goes out on a pair; it counts as sent there. ValueError without one."""
        if self.attempt is None:
            raise ValueError("there is no attempt")
        self.pairs.add((local, remote))
        cookie, until = self._cookies.get((local, remote), (b"", float("-inf")))
        return with_mac2(self.attempt.message, cookie) if now < until else self.attempt.message

    def receive_cookie(self, local: Endpoint, remote: Endpoint, datagram: bytes, now: float) -> bool:
        """Keep a Cookie that answers the attempt's Initiate. True if it is worth sending that again at once.

        Raises Refused.
        """
        pair = (local, remote)
        if self.attempt is None or pair not in self.pairs or answered_mac1(datagram) != mac1_of(self.attempt.message):
            raise Refused(DropReason.UNKNOWN_ATTEMPT)
        if not self._tries.take(now):
            raise Refused(DropReason.RATE_LIMITED)
        self._cookies[pair] = (open_cookie(self.attempt.remote, datagram), now + COOKIE_LIFE_S)
        # Once: somebody who sees the Initiate could forge Cookies and would otherwise be answered by each.
        again = pair not in self._proven
        self._proven.add(pair)
        return again

    def next_at(self) -> float:
        """When ``take_send`` or ``may_begin`` says yes next."""
        return min(self._send_at(), self._next_at) if self.attempt is not None else self._next_at

    def reset(self, now: float) -> None:
        """There is reason to try at once: go without pauses from here on."""
        self._pauses = 0
        self._next_at = min(self._next_at, max(now, self.over_at()))

    def restart(self, now: float) -> None:
        """The pairs changed: the attempt's Initiate goes out on all of them again, from the first sending on."""
        self.reset(now)
        if self.attempt is not None and not self.is_over(now):
            self._started = now
            self._sends = 0
            self._next_at = now + self._timing.attempt_s

    def finish(self, datagram: bytes, now: float) -> Finished:
        """Open an Acknowledge. Raises Refused."""
        if self.attempt is None:
            raise Refused(DropReason.UNKNOWN_ATTEMPT)
        if not self._tries.take(now):
            raise Refused(DropReason.RATE_LIMITED)
        return self.attempt.finish(datagram)

    def drop(self) -> None:
        """Forget the attempt and its secrets. The pause before the next one stays."""
        self.attempt = None
        self.pairs = set()
        self._proven = set()

    def succeed(self) -> None:
        """There is a session: start over without pauses next time."""
        self.drop()
        self.attempts = 0
        self.reason = None
        self._pauses = 0
        self._next_at = float("-inf")

    def _send_at(self) -> float:
        times = self._timing.resend_s
        return self._started + times[self._sends] if self._sends < len(times) else float("inf")

    def status(self, now: float, *, answering: bool, pairs: Collection[Path]) -> HandshakeStatus:
        """A picture for ``show``; ``answering`` when an Initiate of the peer's waits to be confirmed."""
        tried = len(self.pairs)
        if answering:
            step = "the peer's Initiate is answered, no packet has confirmed it"
        elif not pairs:
            step = "there is no address pair to send an Initiate on"
        elif tried:
            step = f"Initiate sent on {tried} address pair{'s' * (tried > 1)}, no valid answer yet"
        else:
            step = "about to begin"
        return HandshakeStatus(step, self.reason, self.attempts, max(0.0, now - self.since) if self.attempts else 0.0)
