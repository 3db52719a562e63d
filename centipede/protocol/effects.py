"""Effects: what a step of the node wants done, in the order in which it must be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import PublicKey
from centipede.protocol.spec import PeerRecord
from centipede.protocol.table import ForwardingTable

Level: TypeAlias = Literal["debug", "info", "warning"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A control datagram to send as it is, out of the socket of ``local``."""

    local: Endpoint
    remote: Endpoint
    data: bytes
    dont_fragment: bool = False
    """Whether it may only arrive whole: it probes the path's MTU."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line for people. Names peers by name and short key; holds no secret and nothing a stranger wrote."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Effects:
    """Carried out from the first field to the last.

    A table is applied before the datagram that makes the peer use it, and no packet waits for a disk; a record is on
    disk before the Initiate it numbers leaves.
    """

    table: ForwardingTable | None = None
    """None: the one before stays."""
    records: tuple[PeerRecord, ...] = ()
    """Each replaces the stored record of its peer."""
    mtu: int | None = None
    """Inner MTU that all usable paths carry; None: as before."""
    datagrams: tuple[Outgoing, ...] = ()
    log: tuple[LogLine, ...] = ()
    news: tuple[PublicKey, ...] = ()
    """Peers with a session or a timestamp that other members do not know of."""
    next_timer: float = float("inf")
    """Monotonic time of the next ``handle_timer``: infinite if nothing is due, and never before the latest ``now``."""
