"""Which runs are made in a guest, how it is told of them, and what a slow machine is asked."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab import guest_runs, scenario
from lab.guest import GuestError
from lab.guest_runs import GuestRunSpec, guest_only
from lab.initramfs import FILES, STARTED
from lab.pace import slowness
from lab.process import wait_until
from lab.results import FILE, dump
from lab.runner import Run
from lab.tunnels.wireguard_kernel import WireguardKernel
from tests.unit.runs import run as made

EVERY = [scenario.load(path) for path in scenario.every()]


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.name)
def test_a_guest_is_told_the_whole_scenario(each: scenario.Scenario) -> None:
    spec = GuestRunSpec(scenario=each, tunnel="plain", repetition=2, pcap=True)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=GuestRunSpec) == spec


@pytest.fixture
def runs() -> list[Run]:
    return [Run(EVERY[0], tunnel) for tunnel in ("plain", "wireguard-go", "wireguard-kernel", "wireguard-interop")]


def test_only_what_the_kernel_lacks_goes_to_a_guest(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_runs, "make_available", lambda tell: None)
    monkeypatch.setattr(WireguardKernel, "unavailable", lambda self: "no WireGuard")
    assert [run.tunnel for run in guest_only(runs, print)] == ["wireguard-kernel", "wireguard-interop"]
    monkeypatch.setattr(WireguardKernel, "unavailable", lambda self: None)
    assert guest_only(runs, print) == []


def test_without_a_guest_the_reason_is_told(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_tell: object) -> None:
        raise GuestError("no guest here: a test")

    monkeypatch.setattr(guest_runs, "make_available", refuse)
    monkeypatch.setattr(WireguardKernel, "unavailable", lambda self: "no WireGuard")
    told: list[str] = []
    assert guest_only(runs, told.append) == []
    assert told == ["kernel WireGuard stays unavailable: no guest here: a test"]


def test_a_guest_that_breaks_leaves_the_results_there_are(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Path] = []

    class Broken:
        class accelerator:  # noqa: N801 - stands for an instance
            slowness = 10.0

        def run(self, argv: list[str], **options: Any) -> None:
            listed, results = argv[-2:]
            given.append(Path(listed))
            assert len(msgspec.json.decode(Path(listed).read_bytes(), type=list[GuestRunSpec])) == 8
            assert options["out"] == Path(results)
            raise GuestError("the guest ended without the command's exit status")

    monkeypatch.setattr(guest_runs, "make_available", lambda tell: Broken())
    told: list[str] = []
    # One that does not begin is the last: there is no reason why the next should.
    assert guest_runs.execute_in_guest([*runs, *runs, Run(EVERY[1], "plain")], tmp_path, told.append) == []
    assert told == ["the guest ended without the command's exit status"]
    assert len(given) == 1
    assert not given[0].exists()


def test_a_run_that_breaks_its_guest_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_runs, "_AT_A_TIME", 4)
    runs = [Run(EVERY[0], tunnel) for tunnel in ("plain", "wireguard-go", "wireguard-kernel", "centipede")]
    runs.append(Run(EVERY[1], "plain"))
    given: list[list[str]] = []

    class Brittle:
        """Breaks at whatever is to go through wireguard-go, once it has begun."""

        class accelerator:  # noqa: N801 - stands for an instance
            slowness = 10.0

        def run(self, argv: list[str], out: Path, **options: Any) -> None:
            (out / FILES).mkdir()
            (out / FILES / STARTED).touch()
            specs = msgspec.json.decode(Path(argv[-2]).read_bytes(), type=list[GuestRunSpec])
            given.append([spec.tunnel for spec in specs])
            for spec in specs:
                if spec.tunnel == "wireguard-go":
                    raise GuestError("the guest panicked")
                done = made(spec.tunnel, scenario=spec.scenario.name)
                dump(done, Run(spec.scenario, spec.tunnel).directory(Path(argv[-1])) / FILE)

    monkeypatch.setattr(guest_runs, "make_available", lambda tell: Brittle())
    told: list[str] = []
    announced: list[int] = []
    found = guest_runs.execute_in_guest(runs, tmp_path, told.append, lambda runs: announced.append(len(runs)))
    assert announced == [4, 1]
    assert [result.tunnel.name for result in found] == ["plain", "wireguard-kernel", "centipede", "plain"]
    assert given == [["plain", "wireguard-go", "wireguard-kernel", "centipede"], given[0][2:], ["plain"]]
    assert told[0] == "the guest panicked"
    assert "wireguard-go has no result; another guest makes the 2 runs that follow" in told[1]
    assert (tmp_path / f"{FILES}-2").is_dir()
    # Whoever goes on there finds the place taken by the guest before.
    guest_runs.execute_in_guest(runs[-1:], tmp_path, told.append)
    assert (tmp_path / f"{FILES}-3").is_dir()


def test_time_stamping_stays_on_while_runs_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def make(specs: list[GuestRunSpec], results: Path) -> int:
        found = (Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - no iteration
        sockets = [int(path.name) for path in found if path.exists() and str(path.readlink()).startswith("socket:")]
        for fd in sockets:
            with socket.socket(fileno=os.dup(fd)) as each:
                asked.append(each.getsockopt(socket.SOL_SOCKET, 29))
        return 0

    monkeypatch.setattr(guest_runs, "_make_here", make)
    file = tmp_path / "runs.json"
    file.write_text("[]")
    assert guest_runs.main([str(file), str(tmp_path)]) == 0
    assert 1 in asked


def test_a_slow_machine_gets_less_load_and_more_time() -> None:
    chosen = next(each for each in EVERY if each.name == "two-hosts")
    slow = chosen.slowed(10)
    assert slow.budget_s == chosen.budget_s * 10
    rates = {probe.name: msgspec.to_builtins(probe) for probe in slow.probe}
    assert rates["stream"]["rate"] == 200
    assert rates["tcp"]["rate_bps"] == 2_000_000
    assert [probe.seconds for probe in slow.probe] == [probe.seconds for probe in chosen.probe]
    bounds = {each.figure: each.bound for each in slow.expect}
    assert bounds["tcp.bits_per_second"] == ">= 1.9e+06"
    assert bounds["stream.lost"] == "= 0"
    assert bounds["ping.received"] == ">= 198"
    assert slow.digest == chosen.digest
    assert chosen.slowed(1) is chosen


def test_deadlines_are_stretched_on_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_SLOWNESS", raising=False)
    assert slowness() == 1
    monkeypatch.setenv("LAB_SLOWNESS", "4")
    asked = 0

    def often_enough() -> bool:
        nonlocal asked
        asked += 1
        return asked == 12

    # Twelve questions take eleven pauses of 10 ms: more than 50 ms, less than four times that.
    wait_until(often_enough, timeout_s=0.05, what="the twelfth question")
