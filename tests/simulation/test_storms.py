"""Seeded storms between two nodes; `python -m lab.simulate` runs more of them."""

from __future__ import annotations

import pytest

from lab.simulate import KINDS, Kind, Storm, main

SEEDS = 5


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_storm_breaks_no_promise(kind: Kind, seed: int) -> None:
    report = Storm(kind, seed).run()  # raises, naming kind and seed
    assert report.packets > 400


def test_a_storm_is_repeated_exactly_by_its_seed() -> None:
    kind = KINDS[-1]
    first, second, other = Storm(kind, 77).run(), Storm(kind, 77).run(), Storm(kind, 78).run()
    assert first == second
    assert first.log != other.log


def test_the_command_line_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--kind", "clocks"]) == 0
    assert "1 of 1 seeds kept every promise" in capsys.readouterr().out
