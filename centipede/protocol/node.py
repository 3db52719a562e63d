"""Node: the pure control plane. Interface; the parts behind it follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from centipede.protocol.counters import EngineCounters
from centipede.protocol.effects import Effects, LogLine, Outgoing
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.spec import PeerRecord, PeerSpec
from centipede.protocol.status import NodeStatus
from centipede.protocol.table import Event, Run
from centipede.protocol.timing import Timing

__all__ = ["Effects", "LogLine", "Node", "Outgoing", "PeerRecord", "PeerSpec"]


class Node:
    """One identity and its peers. Pure: gets the time and the events, gives effects."""

    def __init__(self, identity: Identity, *, run: Run, timing: Timing, random: Callable[[int], bytes]) -> None:
        raise NotImplementedError

    def add_peer(self, spec: PeerSpec, record: PeerRecord | None, now: float) -> int:
        """Serve one more peer; returns its number. Raises ValueError for the own key, and for one already there."""
        raise NotImplementedError

    def remove_peer(self, public_key: PublicKey, now: float) -> None:
        """Say bye to a peer and forget it. KeyError if there is none."""
        raise NotImplementedError

    def replace_peer(self, spec: PeerSpec, now: float) -> None:
        """Change a peer's settings; its sessions and paths stay. KeyError if there is none."""
        raise NotImplementedError

    def set_locals(self, locals_: Sequence[Endpoint], now: float) -> None:
        """Say which local addresses the engine serves; at most 8 are used."""
        raise NotImplementedError

    def set_endpoints(self, public_key: PublicKey, endpoints: Sequence[Endpoint], now: float) -> None:
        """Say where a peer can be tried, names resolved; replaces the set before. KeyError if there is none."""
        raise NotImplementedError

    def observe(self, counters: EngineCounters) -> None:
        """Take a reading of the engine's counters. Called before each batch of events or timer."""
        raise NotImplementedError

    def receive(self, event: Event, now: float, wall_ns: int) -> None:
        """Take one event of the engine. Never raises, whatever a stranger or a peer sent."""
        raise NotImplementedError

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Do what is due. Harmless at any time."""
        raise NotImplementedError

    def close(self, now: float) -> None:
        """Say bye on every usable path."""
        raise NotImplementedError

    def take_effects(self) -> Effects:
        """What is to be done since the last call, in the order of its fields."""
        raise NotImplementedError

    def status(self, now: float) -> NodeStatus:
        """A picture for ``show``."""
        raise NotImplementedError
