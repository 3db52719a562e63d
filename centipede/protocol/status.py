"""NodeStatus: what ``show`` tells of the node, as plain values taken at one moment.

Times are ages in seconds, so that a reader needs no clock of the node's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import PublicKey
from centipede.protocol.spec import Network
from centipede.protocol.table import Run

SessionState: TypeAlias = Literal["none", "initiating", "established"]


@dataclass(frozen=True, slots=True)
class PathStatus:
    """One path."""

    path: int
    local: Endpoint
    remote: Endpoint
    shard: int
    """First shard of the peer's run that the path leads to."""
    state: str
    """probing, usable, suspect or lost."""
    carries: bool
    """Whether the scheduler sends data on it now."""
    reason: str
    """Why it is in its state and why it carries data or not, in words."""
    rtt_ms: float | None
    jitter_ms: float | None
    loss: float | None
    """Share of the packets sent on it that did not arrive, 0..1."""
    mtu: int
    """Largest UDP payload used on it, in bytes."""
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    tx_share: float | None
    """Share of the bytes sent to the peer that went on it in the last second with traffic, 0..1; None without any."""
    last_heard_s: float | None
    """Since anything authentic came over it; None for never."""
    observed: Endpoint | None
    """The address at which the peer sees this end of the path, as it said; None if it did not."""


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """The session data is sent under, or the lack of one."""

    state: SessionState
    age_s: float | None
    rekeys: int
    """Sessions that followed another one since the peer was added."""
    moved: bool = False
    """Whether another machine took the peer over, or is about to."""
    shards: int = 0
    """The peer's, under all sessions: each has a replay window."""


@dataclass(frozen=True, slots=True)
class HandshakeStatus:
    """How far the handshake has come that is under way, and why not further."""

    step: str
    """In words, such as ``Initiate sent to 2 address pairs, no answer``."""
    reason: DropReason | None
    """The last refusal that concerned this peer since the handshake began, of either direction."""
    attempts: int
    """Attempts since the last success."""
    age_s: float
    """Since the first of them."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One of the machines that share a peer's identity, as this end sees it."""

    run: Run
    """Its shards under the session it is sent to under."""
    remotes: tuple[Endpoint, ...]
    """Its addresses, as far as usable."""
    weight: int
    """What it asks for, 0..255."""
    share: float
    """Of the flows to the peer, 0..1."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer. Traffic is that of its data packets, every copy counted."""

    public_key: PublicKey
    name: str
    session: SessionStatus
    handshake: HandshakeStatus | None
    allowed_ips: tuple[Network, ...]
    scheduler: str
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    duplicates: int
    """Those of ``rx_packets`` that had already come over another path."""
    members: tuple[MemberStatus, ...]
    """Those of the peer's that data goes to."""
    paths: tuple[PathStatus, ...]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The whole node."""

    public_key: PublicKey
    locals: tuple[Endpoint, ...]
    peers: tuple[PeerStatus, ...]
    drops: Mapping[DropReason, int]
    """The node's own and those the engine reported last; only reasons that occurred."""
