"""Counters an engine keeps and the node reads: plain values, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from centipede.protocol.drops import DropReason


@dataclass(frozen=True, slots=True)
class PathCounters:
    """Data traffic (class 0) of one path since it first stood in a table, summed over the workers."""

    rx_packets: int = 0
    """Every authentic packet and every copy of one."""
    rx_bytes: int = 0
    """UDP payload bytes of the same."""
    rx_copies: int = 0
    """Those of rx_packets that were already accepted over another path."""
    tx_packets: int = 0
    tx_bytes: int = 0
    largest: int = 0
    """Largest authentic UDP payload received."""
    last_rx: float = 0.0
    """Monotonic time of the newest; 0 for never."""


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """One reading of an engine's counters."""

    paths: Mapping[int, PathCounters] = field(default_factory=dict)
    """By ``TablePath.path``; each path of the current table is present."""
    peers_tx: Mapping[int, float] = field(default_factory=dict)
    """Monotonic time of the newest inner packet for each peer of the table, sent or not; 0 for never."""
    drops: Mapping[DropReason, int] = field(default_factory=dict)
    """Since the engine started; only reasons that occurred."""
