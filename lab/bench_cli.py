"""``python -m lab bench``: measure, draw, report; kernel WireGuard in a guest where this machine's kernel lacks it."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from lab import comparison, setup
from lab.bench import Bench, chosen, failed
from lab.chart import draw
from lab.comparison import Comparison
from lab.contest import PROFILES, Entrant
from lab.errors import LabError
from lab.guest import make_available
from lab.guest_bench import GuestBench, measure
from lab.namespace import ensure_privileged
from lab.progress import Progress, render_seconds
from lab.report import render_report, render_table
from lab.results import dump, new_directory

KERNEL = "wireguard-kernel"
_GUEST_COMMAND = "./run bench -- --kernel-wireguard guest"


@click.command("bench")
@click.option("--quick", "size", flag_value="quick", help="Under a minute: fewer figures.")
@click.option("--full", "size", flag_value="full", help="Every contender and seven repetitions; says first how long.")
@click.option("--repeat", type=click.IntRange(1, 100), metavar="N", help="Repetitions, in place of the size's own.")
@click.option(
    "--tunnel", "tunnels", multiple=True, metavar="KEY", help="Only these contenders, and no VPN. Repeatable."
)
@click.option(
    "--kernel-wireguard",
    "where",
    type=click.Choice(["auto", "native", "guest", "off"]),
    default="auto",
    show_default=True,
    help="Where the kernel's WireGuard is measured; auto: here if the kernel has it, else in a guest in a full run.",
)
@click.option("--inner", type=click.Choice(["4", "6"]), default="4", show_default=True, help="IP version inside.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Directory for the results.")
def bench(
    size: str | None, repeat: int | None, tunnels: tuple[str, ...], where: str, inner: str, output: Path | None
) -> None:
    """Compare Centipede with wireguard-go, the kernel's WireGuard and no VPN, and draw the chart."""
    ensure_privileged()
    console = Console()
    profile = PROFILES[size or "usual"]
    entrants = [each for each in chosen(profile, tunnels) if where != "off" or each.key != KERNEL]
    repetitions = repeat or profile.repetitions
    fetched = setup.fetch_wireguard_go()
    if fetched is not None and fetched.note:
        console.print(f"wireguard-go {fetched.version}: {fetched.note}", markup=False, highlight=False)
    asked = GuestBench(max(repeat or 0, GuestBench().repetitions), tunnels)
    in_guest = where == "guest" or (where == "auto" and size == "full" and _is_missing(entrants))
    estimate = render_seconds(profile.turn_s() * len(entrants) * repetitions + (asked.planned_s() if in_guest else 0.0))
    console.print(f"{len(entrants)} contenders, repetitions: {repetitions}, at most about {estimate}", highlight=False)
    progress = Progress(console)
    run = Bench(profile, entrants, repetitions, progress, 6 if inner == "6" else 4)
    try:
        result = run.run(sys.argv[1:])
    finally:
        progress.end()
    directory = output or new_directory(
        Path("results"), dt.datetime.fromisoformat(result.began_at), result.machine.host
    )
    directory.mkdir(parents=True, exist_ok=True)
    dump(result, directory / comparison.FILE)  # at once: the guest takes its time, and may fail
    failures = failed(result)
    guest, trouble = _measure_in_guest(asked, directory, console) if in_guest else (None, "")
    if trouble:
        console.print(trouble, markup=False, highlight=False, soft_wrap=True)
        failures.append(trouble.splitlines()[0])
    _tell_where_else(result, where, guest, trouble)
    dump(result, directory / comparison.FILE)
    draw(result, directory, guest)
    (directory / "report.html").write_text(render_report(result, (directory / "benchmark.svg").read_text(), guest))
    console.print(render_table(result))
    if guest is not None:
        console.print(render_table(guest))
    for name in (comparison.FILE, "benchmark.png", "report.html"):
        console.print(str(directory / name), highlight=False, soft_wrap=True)
    if failures:
        others = f", and {len(failures) - 1} failures more" if len(failures) > 1 else ""
        raise LabError(f"{failures[0]}{others}")


def _is_missing(entrants: Sequence[Entrant]) -> bool:
    """Whether the kernel's WireGuard should take part and cannot."""
    return any(each.key == KERNEL and each.make().unavailable() is not None for each in entrants)


def _measure_in_guest(asked: GuestBench, directory: Path, console: Console) -> tuple[Comparison | None, str]:
    """Return the guest's comparison, or why there is none."""

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        return measure(asked, make_available(tell), directory, tell), ""
    except LabError as error:
        return None, str(error)


def _tell_where_else(result: Comparison, where: str, guest: Comparison | None, trouble: str) -> None:
    """Say with a kernel WireGuard that is missing here where it can be found: a results file says it all."""
    contender = result.contender(KERNEL)
    if contender is None or not contender.unavailable:
        return
    if guest is not None:
        contender.unavailable += "; below it is measured in a guest"
    elif trouble:
        contender.unavailable += f"; a guest failed: {trouble.splitlines()[0]}"
    elif where == "auto":
        contender.unavailable += f"; in a guest: {_GUEST_COMMAND}"
