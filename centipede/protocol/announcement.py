"""Announcement: when a peer is told what it does not answer: addresses, paths that are no more.

docs/protocol.md "Addresses". It is told three times, after a session was established and whenever it changes: three
copies seldom all get lost. What is told is the node's question, on which paths the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

REPEATS_S = (0.0, 1.0, 3.0)


class Announcement(Generic[Item]):
    """The telling of some items to one peer."""

    def __init__(self) -> None:
        self._items: tuple[Item, ...] = ()
        self._due: list[float] = []

    def change(self, items: Sequence[Item], now: float) -> None:
        """These are the items from now on."""
        if tuple(items) != self._items:
            self._items = tuple(items)
            self.begin(now)

    def begin(self, now: float) -> None:
        """Tell them from the beginning: the peer may not know them."""
        self._due = [now + after_s for after_s in REPEATS_S] if self._items else []

    def take(self, now: float) -> tuple[Item, ...]:
        """The items if they are to be told now, else nothing."""
        if now < self.due_at():
            return ()
        self._due = [at for at in self._due if at > now]
        return self._items

    def due_at(self) -> float:
        """When :meth:`take` gives something."""
        return self._due[0] if self._due else float("inf")
