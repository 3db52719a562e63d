"""The lab's command line, as its users meet it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import scenario
from lab.namespace import can_make, user_namespace_refusal
from lab.process import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
HEAD = 'title = "x"\ndescription = "x"\nbudget_s = 20\n'
BODY = """
host = [{ name = "left" }, { name = "right" }]
link = [{ name = "one", ends = ["left", "right"] }]
tunnel = { left = { host = "left", links = ["one"] }, right = { host = "right", links = ["one"] } }
probe = [{ name = "stream", kind = "datagrams", duration_s = 0.3, rate = 100 }]
expect = [{ figure = "stream.lost", equals = 0, tunnels = ["plain"] }]
"""


def lab(*words: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*prefix, sys.executable, "-m", "lab", *(str(word) for word in words)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture
def brief(tmp_path: Path) -> Path:
    path = tmp_path / "brief.toml"
    path.write_text(HEAD + BODY)
    return path


def test_every_command_says_what_it_is_for() -> None:
    said = lab("--help").stdout
    for name in ("bench", "capabilities", "chart", "check", "clean", "enter", "list", "run", "shell"):
        assert f"\n  {name} " in said
        assert lab(name, "--help").returncode == 0, name


def test_scenarios_are_listed() -> None:
    found = json.loads(lab("list", "--json").stdout)
    assert [each["name"] for each in found] == [path.stem for path in scenario.every()]
    assert "two-links-redundant" in lab("list").stdout


def test_check_says_what_would_be_built(brief: Path) -> None:
    assert lab("check", brief).stdout.splitlines() == [
        "brief: x",
        "  start host left",
        "  start host right",
        "  link left and right by one",
    ]
    assert json.loads(lab("check", "--json", brief).stdout) == {
        "brief": ["start host left", "start host right", "link left and right by one"]
    }


def test_a_bad_scenario_is_refused_in_a_sentence_and_with_1(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(HEAD + "colour = 3\n" + BODY)
    done = lab("check", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: scenario odd: Object contains unknown field `colour`\n"


def test_a_scenario_that_is_not_there_is_named() -> None:
    done = lab("run", "nowhere")
    assert done.returncode == 1
    assert done.stderr == "Error: there is no scenario 'nowhere'; `python -m lab list` names them\n"


def test_a_directory_that_cannot_be_made_is_told_before_anything_runs(brief: Path) -> None:
    done = lab("run", brief, "--tunnel", "plain", "--results", brief / "below")
    assert done.returncode == 1
    assert done.stderr == f"Error: {brief / 'below'} cannot be made: Not a directory; name another directory\n"


def test_usage_errors_end_with_2() -> None:
    assert lab("run").returncode == 2
    assert lab("run", "two-hosts", "--resume").returncode == 2
    assert lab("run", "two-hosts", "--all").returncode == 2
    assert lab("run", "two-hosts", "--tunnel", "string").returncode == 2
    assert lab("dance").returncode == 2


@pytest.mark.netns
def test_a_run_tells_and_writes_what_it_found(brief: Path, tmp_path: Path) -> None:
    done = lab(
        "run", brief, "--tunnel", "plain", "--repeat", "2", "--pcap", "--json", "--results", tmp_path / "results"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\[2 of 2, about \d+ s left\] brief through plain, repetition 2", done.stderr)
    first, second = json.loads(done.stdout)
    assert (first["verdict"], second["repetition"]) == ("passed", 2)
    (judgement,) = first["judgements"]
    assert {"figure": "stream.lost", "bound": "= 0", "found": 0.0, "outcome": "met"}.items() <= judgement.items()
    assert Path(first["result"]) == tmp_path / "results" / "brief" / "plain" / "1" / "result.json"
    assert (tmp_path / "results" / "brief" / "plain" / "2" / "one.pcap").stat().st_size > 1000


@pytest.mark.netns
def test_an_interrupted_run_reports_what_it_has_and_says_how_to_go_on(brief: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless.toml"
    endless.write_text(brief.read_text().replace("duration_s = 0.3", "duration_s = 18"))
    results = tmp_path / "results"
    words = ["run", str(brief), str(endless), "--tunnel", "plain", "--results", str(results)]
    argv = [sys.executable, "-m", "lab", *words]
    said = tmp_path / "said"
    with said.open("wb") as out, subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as run:
        try:
            wait_until(lambda: "endless through" in said.read_text(), timeout_s=60, what="the second run")
            run.send_signal(signal.SIGINT)
            assert run.wait(timeout=60) != 0
        finally:
            run.kill()
    assert f"interrupted; this goes on:\n  {shlex.join(argv)} --resume\n" in said.read_text()
    assert (results / "report.html").is_file()

    # What was done is not done again, and nothing stands in the way of what was not.
    endless.write_text(brief.read_text())
    first = (results / "brief" / "plain" / "1" / "result.json").read_bytes()
    refused = lab(*words)
    assert refused.returncode == 1
    assert "holds results; --resume goes on there" in refused.stderr
    done = lab(*words, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert "2 runs, 1 of them made before" in done.stderr
    assert {each["scenario"]: each["verdict"] for each in json.loads(done.stdout)} == {
        "brief": "passed",
        "endless": "passed",
    }
    assert (results / "brief" / "plain" / "1" / "result.json").read_bytes() == first


@pytest.mark.netns
def test_a_run_over_its_budget_has_failed_and_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(
        (HEAD + BODY).replace("budget_s = 20", "budget_s = 5").replace("duration_s = 0.3", "duration_s = 600")
    )
    done = lab("run", path, "--tunnel", "plain", "--json", "--results", tmp_path / "results")
    assert done.returncode == 1
    (summary,) = json.loads(done.stdout)
    assert (summary["verdict"], summary["reason"]) == ("failed", "it took longer than its budget of 5 s")


@pytest.mark.netns
def test_a_shell_is_inside_a_host(brief: Path) -> None:
    done = lab("shell", brief, "right", "--command", "hostname; ip -o -4 address show one; exit 7")
    assert done.returncode == 7
    assert done.stdout.split()[0] == "right"
    assert "10.1.0.2/24" in done.stdout
    assert "This is right of brief; the others are left." in done.stderr


def test_a_shell_on_a_host_that_is_not_there_is_refused(brief: Path) -> None:
    done = lab("shell", brief, "middle")
    assert (done.returncode, done.stderr) == (1, "Error: brief has no host 'middle'; it has left, right\n")


@pytest.mark.netns
def test_capabilities_are_told_with_reasons() -> None:
    found = json.loads(lab("capabilities", "--json").stdout)
    assert {
        "network namespaces",
        "kernel WireGuard",
        "netem",
        "tbf",
        "nft",
        "tun",
        "iperf3",
        "wireguard-go",
        "etcd",
    } <= {each["name"] for each in found}
    assert all(each["detail"] for each in found if not each["there"])


def test_clean_has_nothing_to_do_or_says_what_it_did() -> None:
    done = lab("clean", "--json")
    assert done.returncode == 0
    assert all(line.startswith(("removed", "ended")) for line in json.loads(done.stdout))


def test_without_root_a_run_enters_a_user_namespace(brief: Path, tmp_path: Path) -> None:
    reason = user_namespace_refusal()
    if reason is not None:
        pytest.skip(f"user namespaces are refused here: {reason}")
    # User 0 without a power but the one that the kernel asks for when just this user is mapped.
    powerless = ("setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all") if os.geteuid() == 0 else ()
    assert not powerless or subprocess.run([*powerless, "unshare", "--net", "true"], check=False).returncode != 0
    done = lab("run", brief, "--tunnel", "plain", "--json", "--results", tmp_path / "results", prefix=powerless)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["verdict"] == "passed"


@pytest.mark.netns
def test_enter_runs_a_command_where_networks_may_be_built() -> None:
    done = lab("enter", "sh", "-c", "unshare --net true && echo $#", "sh", "--json")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert can_make() is None
