"""The lab's command line, ``python -m lab``.

Owns what users type and read. Must not know how anything is measured.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NoReturn

import click
import msgspec
from rich.console import Console
from rich.table import Table

from centipede.errors import CentipedeError
from lab import capabilities, registry, scenario
from lab.attempt import SIDES, stores, tunnel_end, tunnel_options, unavailable
from lab.campaign import Tally, choose, clear, continuation, standing
from lab.errors import LabError
from lab.guest_runs import execute_in_guest, guest_only
from lab.machine import Machine, machine
from lab.namespace import can_make, ensure_privileged, exec_privileged
from lab.pace import slowness
from lab.progress import render_seconds
from lab.results import FILE, RunResult, Verdict, new_directory
from lab.runner import Run, execute, figures
from lab.topology import Topology
from lab.tunnels import TUNNELS, make_tunnel

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "red",
    Verdict.MEASURED: "cyan",
    Verdict.VOID: "magenta",
    Verdict.UNAVAILABLE: "yellow",
}
_IN_GUEST = 3.0
"""How many times longer a run takes in a guest, if that is emulated."""
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON in place of text.")


class _Group(click.Group):
    """Turns what a user can act on into one sentence and exit status 1.

    Commands that draw live in modules of their own, imported when asked for: their libraries take a while to load.
    """

    elsewhere: ClassVar = {
        "bench": "lab.bench_cli",
        "chart": "lab.chart",
        "guest": "lab.guest_cli",
        "report": "lab.matrix",
        "summary": "lab.summary",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.elsewhere:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(self.elsewhere[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CentipedeError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """Run tunnels through networks built of namespaces, and measure what becomes of the traffic.

    A scenario is one TOML file in scenarios/. Nothing is left on the machine after a run.
    """


@cli.command("list")
@_json
def list_command(as_json: bool) -> None:
    """List the scenarios of the project."""
    found = [scenario.load(path) for path in scenario.every()]
    if as_json:
        _write_json([{"name": s.name, "title": s.title, "budget_s": s.budget_s, "long": s.long} for s in found])
        return
    table = Table("scenario", "what it shows", "budget", box=None, pad_edge=False, header_style="bold")
    for each in found:
        table.add_row(each.name, each.title, render_seconds(each.budget_s))
    _console().print(table)


@cli.command("check")
@click.argument("files", metavar="SCENARIO...", nargs=-1, required=True)
@_json
def check(files: Sequence[str], as_json: bool) -> None:
    """Validate scenarios, given as files or by name, and say what would be built."""
    checked = [scenario.load(scenario.find(text)) for text in files]
    if as_json:
        _write_json({each.name: [str(step) for step in each.plan().steps()] for each in checked})
        return
    for each in checked:
        click.echo(f"{each.name}: {each.title}")
        for step in each.plan().steps():
            click.echo(f"  {step}")
        for event in sorted(each.timeline, key=lambda event: event.at):
            click.echo(f"  at {event.at:g} s: {event.title}")


@cli.command("run")
@click.argument("scenarios", metavar="[SCENARIO]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every scenario that is not long.")
@click.option("--full", is_flag=True, help="Every scenario, long ones too, repeated, and other tunnels beside it.")
@click.option("--tunnel", "tunnels", multiple=True, type=click.Choice(list(TUNNELS)), help="Which tunnel. Repeatable.")
@click.option("--repeat", type=click.IntRange(1, 1000), help="Repetitions of each run, in place of the scenario's own.")
@click.option(
    "--guest", is_flag=True, help="Make all runs in a guest (see guest), with less load where it is emulated."
)
@click.option("--pcap", is_flag=True, help="Capture every link into a file beside the result.")
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), help="Where results go; without results yet."
)
@click.option("--resume", is_flag=True, help="Go on in --results: runs whose result stands are not made again.")
@_json
def run_command(
    scenarios: Sequence[str],
    everything: bool,
    full: bool,
    tunnels: Sequence[str],
    repeat: int | None,
    guest: bool,
    pcap: bool,
    results: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Run scenarios, given as files or by name, and say whether they met what they expect.

    Without --tunnel a scenario runs through the first tunnel it names, which is Centipede. A full run has kernel
    WireGuard in a guest where this machine's kernel lacks it. Exit status 1 if an
    expectation was missed or nothing could be found out. Results go to results/DATE-HOST/SCENARIO/TUNNEL/REPETITION/.

    An interrupted command leaves a report of what was done and says how to go on. With --resume a result stands if its
    scenario is unchanged, it is not void and, for Centipede, the checkout is the same.
    """
    if not scenarios and not everything and not full:
        raise click.UsageError("name a scenario, or give --all")
    if scenarios and everything:
        raise click.UsageError("--all takes every scenario that is not long: leave it out, or the names")
    if resume and results is None:
        raise click.UsageError("--resume goes on in a directory: name it by --results")
    if results is not None and not resume and any(results.glob(f"*/*/*/{FILE}")):
        raise LabError(f"{results} holds results; --resume goes on there, another directory begins anew")
    if results is not None:
        _make(results)
    if not guest:
        ensure_privileged()
    paths = [scenario.find(text) for text in scenarios] or scenario.every()
    wanted = [each.slowed(slowness()) for each in map(scenario.load, paths) if scenarios or full or not each.long]
    runs = choose(wanted, full=full, tunnels=tunnels, repeat=repeat, pcap=pcap)
    console = _console(stderr=as_json)
    directory = results or new_directory(Path("results"), dt.datetime.now(dt.UTC), platform.node())
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    here = machine()
    found = {number: standing(run, directory, here) if resume else None for number, run in enumerate(runs)}
    left = [run for number, run in enumerate(runs) if found[number] is None]
    elsewhere = left if guest else guest_only(left, tell) if full else []
    native = [run for run in left if run not in elsewhere]
    planned_s = [run.planned_s for run in native] + [run.planned_s * _IN_GUEST for run in elsewhere]
    if len(runs) > 1:
        kept = f"{len(runs) - len(left)} of them made before, " if len(left) < len(runs) else ""
        tell(f"{len(runs)} runs, {kept}{len(elsewhere)} in a guest: about {render_seconds(sum(planned_s))}")
    done = [result for result in found.values() if result is not None]
    tally = Tally(len(runs), planned_s, time.monotonic())
    clear(left, directory)
    try:
        done += _execute(native, directory, here, console, tally)
        if elsewhere:
            done += execute_in_guest(elsewhere, directory, tell, partial(_announce, tell, tally))
    except (KeyboardInterrupt, SystemExit):
        tell(f"interrupted; this goes on:\n  {continuation(sys.argv[1:], directory)}")
        _report(directory, tell)
        raise
    if not done:
        raise LabError("there is no result")
    if as_json:
        _write_json([_summary(result, directory) for result in done])
    else:
        console.print(_verdicts(done))
    _report(directory, tell)
    bad = [result for result in done if result.verdict in (Verdict.FAILED, Verdict.VOID)]
    if bad:
        raise LabError(f"{len(bad)} of {len(done)} runs failed or were void")
    if len(done) < len(runs):
        raise LabError(f"{len(runs) - len(done)} of {len(runs)} runs have no result")


@cli.command("shell")
@click.argument("name", metavar="SCENARIO")
@click.argument("host_name", metavar="HOST")
@click.option("--tunnel", type=click.Choice(list(TUNNELS)), help="Bring this tunnel up first.")
@click.option("--command", metavar="WORDS", help="Run this by sh -c in place of an interactive shell.")
def shell(name: str, host_name: str, tunnel: str | None, command: str | None) -> None:
    """Build a scenario's network and open a shell on one of its hosts. Leaving the shell takes everything down."""
    chosen = scenario.load(scenario.find(name))
    if host_name not in {host.name for host in chosen.host}:
        raise LabError(f"{chosen.name} has no host {host_name!r}; it has {', '.join(h.name for h in chosen.host)}")
    ensure_privileged()
    carrier = None if tunnel is None else make_tunnel(tunnel)
    reason = None if carrier is None else unavailable(chosen, carrier)
    if reason is not None:
        raise LabError(f"{tunnel} cannot run here: {reason}")
    with Topology.build(chosen.plan()) as topology, ExitStack() as stack:
        if carrier is not None:
            stack.enter_context(stores(chosen, topology))
            left, right = (tunnel_end(chosen, side, topology, carrier) for side in SIDES)
            carrier.up(left, right, tunnel_options(chosen))
        others = ", ".join(other for other in topology.hosts if other != host_name)
        click.echo(f"This is {host_name} of {chosen.name}; the others are {others}. Leave with exit.", err=True)
        environment = {"PS1": f"{chosen.name}:{host_name}$ "}
        argv = ["sh", "-c", command] if command is not None else ["bash", "--norc", "--noprofile", "-i"]
        try:
            status = topology.host(host_name).interact(argv, env=environment)
        finally:
            if carrier is not None:
                carrier.down()
    sys.exit(status)


@cli.command("enter", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def enter(command: Sequence[str]) -> None:
    """Run COMMAND as root of a user namespace, so that it may build networks; as it is where it may already.

    Where the machine refuses user namespaces that is said, and the command runs without.
    """
    if can_make() is not None:
        try:
            exec_privileged(command)
        except LabError as error:
            click.echo(f"{error}; going on without", err=True)
    os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted


@cli.command("clean")
@_json
def clean(as_json: bool) -> None:
    """End what runs that died have left, and only that."""
    done = registry.clean()
    if as_json:
        _write_json(done)
        return
    click.echo("\n".join(done) or "nothing to clean")


@cli.command("capabilities")
@_json
def capabilities_command(as_json: bool) -> None:
    """Say what this machine can do for the lab, and why not where it cannot. Finds out by trying."""
    ensure_privileged()
    found = capabilities.probe()
    if as_json:
        _write_json([msgspec.to_builtins(each) for each in found])
        return
    table = Table("capability", "here", "detail", box=None, pad_edge=False, header_style="bold")
    for each in found:
        table.add_row(each.name, "[green]yes[/]" if each.there else "[yellow]no[/]", each.detail)
    _console().print(table)


def _execute(runs: Sequence[Run], directory: Path, here: Machine, console: Console, tally: Tally) -> list[RunResult]:
    """Make runs one after the other."""
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    done = []
    for run in runs:
        say(f"[{tally.begin(time.monotonic())}] {run.title}")
        result = execute(run, directory, here, say)
        done.append(result)
        reason = f": {result.reason}" if result.reason else ""
        say(f"  {result.verdict.value} after {result.seconds:.1f} s{reason}", style=_STYLES[result.verdict])
    return done


def _announce(tell: Callable[[str], None], tally: Tally, runs: Sequence[Run]) -> None:
    """Say that runs begin, which a guest makes."""
    tell(f"[{tally.begin(time.monotonic(), len(runs))}] in a guest")


def _report(directory: Path, tell: Callable[[str], None]) -> None:
    """Make the report of all results there are in a directory, and say where it is."""
    from lab.matrix import write_report  # here, for what draws takes a while to load

    if any(directory.glob(f"*/*/*/{FILE}")):
        tell(f"results are in {directory}, the report is {write_report(directory, anew=False)}")


def _summary(result: RunResult, directory: Path) -> dict[str, Any]:
    return {
        "scenario": result.scenario,
        "tunnel": result.tunnel.name,
        "repetition": result.repetition,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "judgements": msgspec.to_builtins(result.judgements),
        "result": str(directory / result.scenario / result.tunnel.name / str(result.repetition) / FILE),
    }


def _verdicts(results: Sequence[RunResult]) -> Table:
    table = Table("scenario", "tunnel", "verdict", "figures", box=None, pad_edge=False, header_style="bold")
    for result in results:
        told = ", ".join(f"{figure} {found}" for figure, found in figures(result).items())
        verdict = f"[{_STYLES[result.verdict]}]{result.verdict.value}[/]"
        table.add_row(result.scenario, result.tunnel.name, verdict, told)
    return table


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{directory} cannot be made: {error.strerror}; name another directory") from None


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr)


def _write_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _end_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line. SIGTERM and SIGHUP take everything down, as an interrupt does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_on_signal)
    cli(prog_name="python -m lab")
