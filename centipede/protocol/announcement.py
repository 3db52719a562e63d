"""Announcement: when this node tells a peer its other addresses. docs/protocol.md "Addresses".

After a session was established, and whenever the addresses change, they are told three times: nothing answers an
ADDRESSES message, and three copies seldom all get lost. Which addresses are told is the node's question, on which paths
the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

from centipede.protocol.endpoint import Endpoint

REPEATS_S = (0.0, 1.0, 3.0)


class Announcement:
    """The telling of one node's addresses to one peer."""

    def __init__(self) -> None:
        self._addresses: tuple[Endpoint, ...] = ()
        self._due: list[float] = []

    def change(self, addresses: Sequence[Endpoint], now: float) -> None:
        """These are the addresses from now on."""
        if tuple(addresses) != self._addresses:
            self._addresses = tuple(addresses)
            self.begin(now)

    def begin(self, now: float) -> None:
        """Tell them from the beginning: the peer may not know them."""
        self._due = [now + after_s for after_s in REPEATS_S] if self._addresses else []

    def take(self, now: float) -> tuple[Endpoint, ...]:
        """The addresses if they are to be told now, else nothing."""
        if now < self.due_at():
            return ()
        self._due = [at for at in self._due if at > now]
        return self._addresses

    def due_at(self) -> float:
        """When :meth:`take` gives something."""
        return self._due[0] if self._due else float("inf")
