"""Every scenario of the project, once, through Centipede; and what WireGuard does where the difference is the point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import scenario
from lab.pairing import ATTEMPTS
from lab.tunnels import make_tunnel

pytestmark = pytest.mark.netns

ROOT = Path(__file__).resolve().parent.parent.parent
LOADED = [scenario.load(path) for path in scenario.every()]
CASES = [
    pytest.param(
        each,
        id=each.name,
        marks=[
            pytest.mark.timeout(each.budget_s * ATTEMPTS + 60),
            pytest.mark.slow,
            *([pytest.mark.alone] if each.serial else []),
        ],
    )
    for each in LOADED
    if not each.long
]


def run(name: str, tunnel: str, results: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "lab", "run", name, "--tunnel", tunnel, "--json", "--results", str(results)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    assert done.stdout, done.stderr
    (summary,) = json.loads(done.stdout)
    assert (done.returncode == 0) == (summary["verdict"] not in {"failed", "void"})
    return dict(summary)


@pytest.mark.parametrize("case", CASES)
def test_centipede_meets_what_is_expected(case: scenario.Scenario, tmp_path: Path) -> None:
    summary = run(case.name, case.tunnels[0], tmp_path / "results")
    if summary["verdict"] == "unavailable":
        pytest.skip(f"{case.tunnels[0]} cannot run here: {summary['reason']}")
    assert summary["verdict"] == "passed", f"{summary['reason']}; files are in {tmp_path}"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_wireguard_loses_what_goes_while_its_link_is_down(tmp_path: Path) -> None:
    reason = make_tunnel("wireguard-go").unavailable()
    if reason is not None:
        pytest.skip(f"wireguard-go cannot run here: {reason}")
    summary = run("two-links-redundant", "wireguard-go", tmp_path / "results")
    assert summary["verdict"] == "measured", summary["reason"]
    found = {each["figure"]: each["found"] for each in summary["judgements"]}
    assert found["stream.lost"] > 2000, "three seconds at 2000 datagrams a second, or there was no cut"
