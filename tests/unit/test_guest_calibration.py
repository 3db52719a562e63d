"""The calibration's table."""

from __future__ import annotations

from lab.calibration import BARE, CASES, BackendResults, Calibration, CaseResult
from lab.guest_calibration import lines
from tests.unit.comparisons import make_comparison


def part(backend: str, lost: int, fault: str = "") -> BackendResults:
    cases = [
        CaseResult(
            case=name,
            backend=backend,
            sent=1000,
            received=1000 - lost,
            lost=lost,
            duplicated=50,
            reordered=0,
            longest_lost_run=3,
            delay_us={"p10": 19_900.0, "median": 20_000.0, "p90": 20_100.0},
            received_bps=1_500_000,
            fault=fault if name != BARE else "",
        )
        for name in CASES
    ]
    return BackendResults(machine=make_comparison().machine, cases=cases)


def test_both_back_ends_stand_beside_what_was_asked() -> None:
    found = list(lines(Calibration(asked=dict(CASES), emulator=part("emulator", 40, "late"), netem=part("netem", 55))))
    rows = [line for line in found if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == [name for name in CASES if name != BARE]
    assert rows[0] == (
        "| delay 20 ms | 4.00% / 5.50% | 3 / 3 | 5.00% / 5.00% | 0.00% / 0.00% "
        "| 19.9 ms / 19.9 ms | 20.0 ms / 20.0 ms | 20.1 ms / 20.1 ms | 1.50 / 1.50 |"
    )
    assert "emulator, loss 5 %: late" in found
    assert not any(line.startswith("netem, ") for line in found)
