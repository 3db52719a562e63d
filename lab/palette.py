"""Colours and type of everything the lab draws: a contender looks the same in every chart and table.

Must not know what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "plain": "#aab2bd",
        "centipede": "#c2410c",
        "centipede-native": "#7c2d12",
        "centipede-2x": "#ea7a3b",
        "centipede-1w": "#9a3412",
        "centipede-python": "#f2a878",
        "centipede-python-2x": "#f7cdae",
        "wireguard-go": "#1f5f8b",
        "wireguard-kernel": "#7fa8c9",
        "wireguard-interop": "#4d83aa",
    }
)
"""By the contender's name."""
OTHER = "#6b7280"
"""Of a contender that has none of its own."""
INK, MUTED, RULE = "#1f2933", "#5f6b7a", "#d5dae1"
STYLE: Mapping[str, Any] = MappingProxyType(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10.0,
        "text.color": INK,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": INK,
        # the SVG's identifiers are drawn from this in place of chance
        "svg.hashsalt": "centipede",
        "svg.fonttype": "path",
    }
)
"""Settings of matplotlib."""


def colour(contender: str) -> str:
    """Return the colour of a contender."""
    return COLOURS.get(contender, OTHER)
