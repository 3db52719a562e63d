"""What every engine does. engine/python.py is the reference; engine/native.py drives the C engine.

An engine moves packets between TUN queues and UDP sockets according to the current forwarding table. It gets open
descriptors and opens nothing, knows nothing of handshakes, and never raises because of what a packet contained.

Thread rule: one control thread calls the methods; the engine's workers are its own threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from centipede.protocol.counters import EngineCounters
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Event, ForwardingTable

WAITING_PACKETS = 64
"""Packets that may wait for a peer's session, per worker and peer; the oldest gives way to one more."""
RESUMED_AFTER_S = 2.0
"""A peer without outbound packets for this long is reported by Resumed when the next one comes."""
RESUMED_AGAIN_S = 1.0
"""While a peer's packets wait, Resumed is repeated this often, as long as more of them come."""
UNHEARD_PACKETS = 64
"""Data datagrams that may wait for their source shard to be heard, per worker; the oldest gives way to one more."""
UNHEARD_BYTES = 2048
"""A longer one does not wait."""
UNHEARD_S = 1.0
"""Nor is one taken in that has waited for longer than this."""
RING_SIZE = 1024
"""Events of one kind that may wait for the control thread, per worker; more are dropped and counted."""


class Engine(ABC):
    """Moves packets. Built with the descriptors of its TUN queues, one per worker."""

    name: ClassVar[str]
    """``python`` or ``native``, as in the configuration."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Number of workers, each with its own TUN queue, its own sockets and its own shard."""

    @property
    @abstractmethod
    def details(self) -> Mapping[str, str]:
        """What ``show`` says of the engine beyond its name, such as which AEAD implementation it uses."""

    @property
    @abstractmethod
    def event_fd(self) -> int:
        """A descriptor that is readable while events wait."""

    @abstractmethod
    def start(self) -> None:
        """Start the workers."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers, wipe keys, close all descriptors the engine was given. Twice is harmless."""

    @abstractmethod
    def add_local(self, local: Endpoint, fds: Sequence[int]) -> None:
        """Serve one more local address: one bound, non-blocking UDP socket per worker, owned by the engine from now."""

    @abstractmethod
    def remove_local(self, local: Endpoint) -> None:
        """Stop serving a local address and close its sockets."""

    @abstractmethod
    def apply(self, table: ForwardingTable) -> None:
        """Swap the table in whole. Packets that waited for a peer which now has a plan are sent.

        Datagrams that waited for their source shard to be heard are taken in.
        Raises ValueError, and keeps the old table, if the table would give an ended session number a second life.
        """

    @abstractmethod
    def send(
        self, local: Endpoint, remote: Endpoint, datagram: bytes, *, dont_fragment: bool = False
    ) -> DropReason | None:
        """Send one control datagram as it is. Returns why it could not be sent (and counts that), or None.

        With ``dont_fragment`` it carries the DF bit (IPv4) and this host does not fragment it either, whatever it
        believes of the path's MTU: a probe.
        """

    @abstractmethod
    def inject(self, datagram: bytes) -> DropReason | None:
        """Receive data that another machine forwarded, by a worker as ever, but over no path.

        No path is made, confirmed or counted for because of it; it is dropped if it is for yet another machine, or from
        a source shard that was not heard. Never blocks: returns why there is no room (and counts that), or None.
        """

    @abstractmethod
    def events(self) -> list[Event]:
        """Take all waiting events, each worker's in order. Never blocks. Clears ``event_fd``."""

    @abstractmethod
    def counters(self) -> EngineCounters:
        """Read the counters."""
