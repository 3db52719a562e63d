"""Rings: one worker's events on their way up to the control thread.

There is a bounded ring for each kind of event, so that a flood of one cannot starve another. The worker pushes, the
control thread takes; neither ever waits for the other.
"""

from __future__ import annotations

import os
from collections import deque

from centipede.engine.contract import RING_SIZE
from centipede.protocol.drops import DropReason
from centipede.protocol.table import Event

KINDS = (
    DropReason.HANDSHAKE_RING_FULL,
    DropReason.CONTROL_RING_FULL,
    DropReason.EVENT_RING_FULL,
    DropReason.FOREIGN_RING_FULL,
)
"""A kind is named by the reason for which an event of it is dropped."""


class Rings:
    """The rings of one worker."""

    __slots__ = ("_event_fd", "_rings", "_serial")

    def __init__(self, event_fd: int) -> None:
        """``event_fd`` is an eventfd that becomes readable with each push."""
        self._event_fd = event_fd
        self._rings: dict[DropReason, deque[tuple[int, Event]]] = {kind: deque() for kind in KINDS}
        self._serial = 0

    def push(self, kind: DropReason, event: Event) -> bool:
        """Queue an event; False if the ring of its kind is full. Called by the worker."""
        ring = self._rings[kind]
        if len(ring) >= RING_SIZE:
            return False
        self._serial += 1
        ring.append((self._serial, event))
        os.eventfd_write(self._event_fd, 1)
        return True

    def take(self) -> list[Event]:
        """All events that wait, oldest first. Called by the control thread."""
        entries = [ring.popleft() for ring in self._rings.values() for _ in range(len(ring))]
        return [event for _, event in sorted(entries, key=lambda entry: entry[0])]
