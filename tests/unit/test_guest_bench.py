"""The guest's part of a benchmark: who is in it, where its figures stand, and what becomes of a guest that fails."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from lab import bench_cli, chart, comparison, results
from lab.bench_cli import bench
from lab.comparison import GUEST, LIMITED, RIVAL, Comparison, Contender, load_guest, measure_of, summary
from lab.contest import ENTRANTS
from lab.errors import LabError
from lab.guest import GuestError
from lab.guest_bench import PROFILE, GuestBench
from lab.report import render_report
from lab.settings import LIMITED_LINK
from tests.unit.comparisons import FIGURES, KERNEL, make_comparison, sample

IN_GUEST = "Linux 9.9 in QEMU, emulated (TCG), 2 processors, 2048 MiB"


def guest_comparison(virtualization: str = IN_GUEST) -> Comparison:
    figures = {
        "plain": {"tcp-1": [3e9], "ping-idle": [200.0]},
        "centipede-2x": {"tcp-1": [180e6], "ping-idle": [2200.0]},
        "wireguard-go": {"tcp-1": [150e6], "ping-idle": [3200.0]},
        "wireguard-kernel": {"tcp-1": [230e6], "ping-idle": [1700.0]},
    }
    made = make_comparison(figures)
    made.profile = GUEST
    made.machine = msgspec.structs.replace(made.machine, virtualization=virtualization, kernel="9.9")
    made.conditions = msgspec.structs.replace(made.conditions, impairments={LIMITED: msgspec.to_builtins(LIMITED_LINK)})
    made.samples += [sample(key, "tcp-1", 0, 4e6, LIMITED) for key in figures]
    return made


def test_all_are_in_the_guest_often_enough() -> None:
    assert PROFILE.repetitions >= 5
    tunnels = {ENTRANTS[key].tunnel for key in PROFILE.entrants}
    assert tunnels == {"plain", "centipede-native", "centipede-python", "wireguard-go", "wireguard-kernel"}
    assert {"centipede-2x", "centipede-python-2x"} <= set(PROFILE.entrants)
    assert {each.setting for each in PROFILE.measurements if each.measure == "tcp-1"} == {"usual", LIMITED}
    assert [each.key for each in GuestBench(wanted=("wireguard-kernel",)).entrants] == ["plain", "wireguard-kernel"]
    assert GuestBench(7).planned_s() == pytest.approx(GuestBench(1).planned_s() * 7)


def test_throughput_in_a_guest_is_in_smaller_units() -> None:
    guest = guest_comparison()
    assert measure_of(guest, "tcp-1").unit == "Mbit/s"
    assert measure_of(make_comparison(), "tcp-1").unit == "Gbit/s"
    assert measure_of(guest, "ping-idle").unit == "µs"
    found = summary(guest, "wireguard-kernel", "tcp-1")
    assert found is not None
    assert found.median == pytest.approx(230.0)


def test_a_guest_has_panels_of_its_own(tmp_path: Path) -> None:
    own, guest = make_comparison(FIGURES, KERNEL), guest_comparison()
    pictures = []
    for number, other in enumerate((None, guest, guest)):
        directory = tmp_path / str(number)
        directory.mkdir()
        chart.draw(own, directory, other)
        pictures.append((directory / "benchmark.svg").read_bytes())
    assert pictures[1] == pictures[2]
    heights = [float(picture.split(b'height="', 1)[1].split(b"pt", 1)[0]) for picture in pictures]
    assert heights[1] > 1.5 * heights[0]
    assert comparison.limits(guest) == "narrow links: 5 Mbit/s, 10 ms and 2 % loss each way"
    assert comparison.limits(guest) in chart.note(guest)
    assert comparison.limits(own) == ""


def test_the_chart_is_drawn_again_with_what_the_guest_found(tmp_path: Path) -> None:
    results.dump(make_comparison(FIGURES, KERNEL), tmp_path / "results.json")
    assert load_guest(tmp_path) is None
    CliRunner().invoke(chart.chart, [str(tmp_path)], catch_exceptions=False)
    alone = (tmp_path / "benchmark.svg").read_bytes()
    (tmp_path / GUEST).mkdir()
    results.dump(guest_comparison(), tmp_path / GUEST / "results.json")
    assert load_guest(tmp_path / "results.json") == guest_comparison()
    CliRunner().invoke(chart.chart, [str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "benchmark.svg").read_bytes() != alone


def test_the_report_says_what_emulation_distorts_and_mixes_nothing() -> None:
    own = make_comparison(FIGURES, KERNEL)
    page = render_report(own, "<svg></svg>", guest_comparison())
    before, after = page.split('<h1 class="guest">')
    assert "230" not in before.split("<h2>Contenders</h2>", maxsplit=1)[0]
    for words in (
        "every instruction is translated",
        "within a factor of two or three",
        f"only {RIVAL} stands",
        "Mbit/s",
    ):
        assert words in after.replace("\n", " ")
    assert "2 % loss" in after
    assert "every instruction is translated" not in render_report(own, "<svg></svg>", guest_comparison("QEMU, KVM"))
    assert '<h1 class="guest">' not in render_report(own, "<svg></svg>")


class Stage:
    """A benchmark that measures nothing, here or in a guest."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.guest: Comparison | LabError = guest_comparison()
        self.asked: list[GuestBench] = []
        monkeypatch.setattr(bench_cli, "ensure_privileged", lambda: None)
        monkeypatch.setattr("lab.setup.fetch_wireguard_go", lambda: None)
        monkeypatch.setattr(bench_cli, "make_available", lambda tell: None)
        monkeypatch.setattr(bench_cli, "measure", self._measure)
        monkeypatch.setattr(
            bench_cli, "_is_missing", lambda entrants: any(e.key == "wireguard-kernel" for e in entrants)
        )
        monkeypatch.setattr("lab.bench.Bench.run", lambda bench, arguments: self._run([e.key for e in bench.entrants]))

    def _run(self, keys: list[str]) -> Comparison:
        here = {key: figures for key, figures in FIGURES.items() if key in keys}
        others = [Contender(key=KERNEL.key, label=KERNEL.label, unavailable=KERNEL.unavailable)]
        return make_comparison(here, *(each for each in others if each.key in keys))

    def _measure(self, asked: GuestBench, *_: object) -> Comparison:
        self.asked.append(asked)
        if isinstance(self.guest, LabError):
            raise self.guest
        return self.guest

    def invoke(self, *words: str) -> Result:
        return CliRunner().invoke(bench, [*words, "--output", str(self.directory)])

    def kernel(self) -> Contender | None:
        return comparison.load(self.directory).contender("wireguard-kernel")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path / "out", monkeypatch)


@pytest.mark.parametrize(
    ("words", "in_guest"),
    [
        ((), False),
        (("--quick",), False),
        (("--full",), True),
        (("--quick", "--kernel-wireguard", "guest"), True),
        (("--full", "--kernel-wireguard", "native"), False),
        (("--full", "--kernel-wireguard", "off"), False),
    ],
)
def test_where_the_kernels_wireguard_is_measured(stage: Stage, words: tuple[str, ...], in_guest: bool) -> None:
    done = stage.invoke(*words)
    assert done.exit_code == 0, done.output
    assert bool(stage.asked) == in_guest
    kernel = stage.kernel()
    if "off" in words:
        assert kernel is None
        return
    assert kernel is not None
    assert ("below it is measured in a guest" in kernel.unavailable) == in_guest
    hint = "in a guest: ./run bench -- --kernel-wireguard guest"
    assert (hint in kernel.unavailable) == (not in_guest and "native" not in words)


def test_more_repetitions_are_the_guests_too_but_never_fewer_than_its_own(stage: Stage) -> None:
    for repeat in ("1", "9"):
        stage.invoke("--kernel-wireguard", "guest", "--repeat", repeat, "--tunnel", "wireguard-kernel")
    assert [asked.repetitions for asked in stage.asked] == [PROFILE.repetitions, 9]
    assert stage.asked[0].wanted == ("wireguard-kernel",)


def test_a_broken_guest_is_told_and_the_rest_is_there(stage: Stage) -> None:
    stage.guest = GuestError("the guest ended without the command's exit status; its console:\n  Kernel panic")
    done = stage.invoke("--full")
    assert isinstance(done.exception, LabError)
    assert "without the command's exit status" in str(done.exception)
    assert "Kernel panic" in done.output
    kernel = stage.kernel()
    assert kernel is not None
    assert "a guest failed: the guest ended without" in kernel.unavailable
    for name in ("benchmark.svg", "benchmark.png", "report.html"):
        assert (stage.directory / name).stat().st_size > 0
    assert '<h1 class="guest">' not in (stage.directory / "report.html").read_text()
