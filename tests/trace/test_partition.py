"""Members that hear neither each other nor the store, as real daemons with the trace: no nonce is used twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from lab import scenario
from lab.namespace import can_make
from tests.contract.harness import ENGINES
from tests.trace import build
from tests.trace.entry import Account, captured, load

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.xdist_group("trace")]

ROOT = Path(__file__).resolve().parents[2]
LINKS = ("net-a", "net-b", "net-c")
"""One of these is crossed by whatever the client and a server send each other."""
(PARTITION,) = [scenario.load(path) for path in scenario.every() if path.stem == "partition-store"]


@pytest.mark.timeout(3 * PARTITION.budget_s + 60)
@pytest.mark.parametrize("engine", ENGINES)
def test_members_cut_off_from_others_and_store_repeat_no_nonce(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if (reason := can_make()) is not None:
        pytest.skip(f"this machine gives no network namespaces: {reason}")
    extension = request.getfixturevalue("extension") if engine == "native" else None
    trace, results = tmp_path / "trace", tmp_path / "results"
    words = ["-m", "lab", "run", PARTITION.name, "--tunnel", f"centipede-{engine}", "--pcap", "--json"]
    done = subprocess.run(
        [sys.executable, *words, "--results", str(results)],
        cwd=ROOT,
        env={**os.environ, **build.environment(extension, trace)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    (summary,) = json.loads(done.stdout)
    if summary["verdict"] == "unavailable":
        pytest.skip(f"Centipede cannot run here: {summary['reason']}")
    assert summary["verdict"] == "passed", f"{summary['reason']}; files are in {tmp_path}"

    files = [file for link in LINKS for file in results.rglob(f"{link}.pcap")]  # of all attempts
    found = Account.of(load(trace), chain.from_iterable(map(captured, files)))
    assert found.sealed > 32_000
    assert (found.reused, found.unsealed) == (0, 0)
    assert found.copies == {1}
    assert found.sealed == found.seen + found.unseen
    assert found.unseen <= missed(results)
    shutil.rmtree(results)  # some 100 MB, which only a failure is worth


def missed(results: Path) -> int:
    """The packets that the captures did not get to write, for want of time: none, on a machine that is not busy."""
    count = 0
    for log in results.rglob("*-tcpdump.log"):
        text = log.read_text()
        if any(f"listening on {link}," in text for link in LINKS):
            written, matched, dropped = (int(number) for number in re.findall(r"^(\d+) packets? ", text, re.MULTILINE))
            count += matched - written + dropped
    return count
