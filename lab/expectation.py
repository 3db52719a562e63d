"""An expectation of a scenario: one figure, one bound, and the tunnels it binds.

Owns the judgement of a figure. Must not know how it was measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any

import msgspec

from lab.measurement import Measurement

STATES = ("left", "right")
"""What the tunnel says of itself at an end when all is over, named like a probe; so are the hosts of members."""

PROGRAMS = ("left-programs", "right-programs")
"""What the tunnel's programs at an end held (lab/footprint.py), named like a probe."""
SOCKETS = ("left-sockets", "right-sockets")
"""How soon the sockets of an end followed its addresses (lab/sockets.py), named like a probe."""
MEETING = "meeting"
"""What a meeting found (lab/meeting.py), named like a probe."""
PAIRING = "pairing"
"""What a pairing found (lab/pairing.py), named like a probe; below it are its rows."""
_EVERY_ROW = f"{PAIRING}.*."
_UNITS_S = {"_us": 1e-6, "_ms": 1e-3, "_s": 1.0}


class Outcome(Enum):
    """What became of an expectation."""

    MET = "met"
    MISSED = "missed"
    MEASURED = "measured"
    """The figure is told, and binds nobody: the expectation is not this tunnel's."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """An expectation and what was found."""

    figure: str
    bound: str
    found: float | None
    """None: there is no such figure in the result."""
    met: bool = False
    """Whether the figure keeps the bounds, whomever they bind."""
    outcome: Outcome


class Expectation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[expect]]``: a figure of a probe's result, such as ``stream.lost``, and one or two bounds.

    In place of a probe, ``meeting`` is what a meeting found, and ``pairing.ROW`` a row of a pairing (``*`` each);
    ``left``, ``right`` and the hosts of members are what the tunnel says of itself there when all is over, such as
    ``left.peers.0.session.rekeys`` of Centipede.
    """

    figure: str
    equals: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    above: str | None = None
    """A time that the same run measured, such as ``echo.max_us``: the bounds are for what the figure has beyond it."""
    tunnels: tuple[str, ...] = ("centipede",)
    """Whom it binds: a tunnel by name, with all its variants (``centipede`` binds ``centipede-python``)."""

    @property
    def bound(self) -> str:
        """The bounds in words."""
        words = (("=", self.equals), (">=", self.at_least), ("<=", self.at_most))
        bounds = " and ".join(f"{sign} {value:g}" for sign, value in words if value is not None)
        return f"{bounds} above {self.above}" if bounds and self.above else bounds

    def binds(self, tunnel: str) -> bool:
        """Whether the expectation is this tunnel's."""
        return any(tunnel == name or tunnel.startswith(f"{name}-") for name in self.tunnels)

    def each(self, rows: Collection[str]) -> Iterator[Expectation]:
        """Yield what it says of each row, if it is of ``pairing.*``; else itself."""
        if not self.figure.startswith(_EVERY_ROW):
            yield self
            return
        for row in rows:
            yield msgspec.structs.replace(self, figure=f"{PAIRING}.{row}.{self.figure.removeprefix(_EVERY_ROW)}")

    def judge(self, tunnel: str, values: Mapping[str, Any]) -> Judgement:
        """Judge the results of a run, given by probe name."""
        found = held = read_figure(values, self.figure)
        if self.above is not None:
            base = read_figure(values, self.above)
            held = None if found is None or base is None else _seconds(self.figure, found) - _seconds(self.above, base)
        met = (
            held is not None
            and (self.equals is None or held == self.equals)
            and (self.at_least is None or held >= self.at_least)
            and (self.at_most is None or held <= self.at_most)
        )
        outcome = Outcome.MEASURED if not self.binds(tunnel) else Outcome.MET if met else Outcome.MISSED
        return Judgement(figure=self.figure, bound=self.bound, found=found, met=met, outcome=outcome)

    def problems(
        self,
        measurements: Mapping[str, Measurement],
        members: Collection[str] = (),
        *,
        meeting: bool = False,
        rows: Collection[str] = (),
    ) -> Iterator[str]:
        """Yield what is wrong with it.

        Given are the scenario's probes, hosts of members, whether it is a meeting, and the rows of its pairing.
        """
        if not self.bound:
            yield f"expect {self.figure}: give equals, at_least or at_most"
        if self.above is not None:
            yield from (f"expect {each}: is no time" for each in (self.figure, self.above) if not _unit_s(each))
        for figure in (self.figure, self.above):
            if figure is not None:
                yield from _unknown(figure, measurements, members, meeting=meeting, rows=rows)


def _unknown(
    figure: str,
    measurements: Mapping[str, Measurement],
    members: Collection[str],
    *,
    meeting: bool,
    rows: Collection[str],
) -> Iterator[str]:
    """Yield what is wrong with the name of a figure."""
    probe, _, rest = figure.partition(".")
    if probe in (*STATES, *PROGRAMS, *SOCKETS) or probe in members or (meeting and probe == MEETING):
        return
    if probe == PAIRING and rest.partition(".")[0] in rows:
        return
    if probe not in measurements:
        yield f"expect {figure}: there is no probe {probe!r}"
        return
    fields = measurements[probe].result.__struct_fields__
    if rest.partition(".")[0] not in fields:
        yield f"expect {figure}: a {type(measurements[probe]).__name__} probe has {', '.join(fields)}"


def _unit_s(figure: str) -> float | None:
    """The unit that the name of a time ends with."""
    return next((unit_s for ending, unit_s in _UNITS_S.items() if figure.endswith(ending)), None)


def _seconds(figure: str, value: float) -> float:
    return value * (_unit_s(figure) or 1.0)


def read_figure(values: Any, path: str) -> float | None:
    """Return the number at a dotted path of JSON values, None if there is none. Numbers index lists."""
    for step in path.split("."):
        if isinstance(values, Mapping):
            values = values.get(step)
        elif isinstance(values, list) and step.isdecimal() and int(step) < len(values):
            values = values[int(step)]
        else:
            return None
    return float(values) if isinstance(values, int | float) else None
