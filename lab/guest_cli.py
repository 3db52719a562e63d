"""``python -m lab guest``: fetch the guest's kernel, run a command or a shell in a guest, calibrate links in one."""

from __future__ import annotations

import datetime as dt
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click

from lab import guest_kernel
from lab.accelerator import Accelerator
from lab.guest import LIMIT_S, MEMORY_MIB, Guest, accelerator, available
from lab.namespace import ensure_privileged
from lab.registry import RunDirectory
from lab.results import new_directory

_out = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory the command can write to, under this very path. What it says goes to guest/ there.",
)
_memory = click.option("--memory", type=click.IntRange(256), default=MEMORY_MIB, show_default=True, metavar="MIB")
_processors = click.option("--processors", type=click.IntRange(1, 64), help="By default as many as here, at most 4.")
_accelerator = click.option(
    "--accelerator", "wanted", type=click.Choice([each.value for each in Accelerator]), help="By default what works."
)


@click.group()
def guest() -> None:
    """A virtual machine with a stock Debian kernel, for what this machine's kernel lacks.

    It sees this machine's files under their own paths; what it writes is gone with it, except below --out. It has no
    network, and nothing of it is left when it has ended.
    """


@guest.command()
def fetch() -> None:
    """Download and unpack the guest's kernel, if there is a newer one, and say how guests run here."""
    click.echo(f"looking for a kernel in Debian's {', '.join(guest_kernel.SUITES)}", err=True)
    kernel = guest_kernel.fetch()
    click.echo(f"Linux {kernel.release} ({kernel.version} from {kernel.suite}): {kernel.directory}")
    choice = accelerator(kernel)
    because = f"; KVM does not work here: {choice.refusal}" if choice.refusal else ""
    click.echo(f"guests here: {choice.accelerator.label}{because}")


@guest.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_out
@_memory
@_processors
@_accelerator
@click.option("--limit", "limit_s", type=float, default=LIMIT_S, show_default=True, help="Seconds it may take in all.")
def run(
    command: Sequence[str],
    out: Path | None,
    memory: int,
    processors: int | None,
    wanted: str | None,
    limit_s: float,
) -> None:
    """Run COMMAND in a fresh guest, here in this directory, and end with its exit status. Put -- before it.

    A guest that does not come to its end is an error, and the end of its console is shown.
    """
    machine = _guest(memory, processors, wanted)
    sys.stdout.flush()
    with _directory(out) as directory:
        done = machine.run(
            command,
            out=directory,
            limit_s=limit_s,
            tell=lambda line: click.echo(line, err=True),
            stdout=sys.stdout.fileno(),
            stderr=sys.stderr.fileno(),
        )
    sys.exit(done.status)


@guest.command()
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), help="Where results go; must be new.")
def calibrate(results: Path | None) -> None:
    """Measure the lab's link emulator here and netem in a guest, and put both beside what was asked of them."""
    from lab import guest_calibration  # here, for it and what it needs take a while to load

    ensure_privileged()
    directory = results or new_directory(Path("results"), dt.datetime.now(dt.UTC), platform.node())
    directory.mkdir(parents=True, exist_ok=True)
    found = guest_calibration.calibrate(directory, lambda line: click.echo(line, err=True))
    for line in guest_calibration.lines(found):
        click.echo(line)
    click.echo(f"results are in {directory / guest_calibration.FILE}", err=True)


@guest.command()
@_out
@_memory
@_processors
@_accelerator
def shell(out: Path | None, memory: int, processors: int | None, wanted: str | None) -> None:
    """Open a shell in a fresh guest, on its serial console. Leaving the shell ends the guest."""
    machine = _guest(memory, processors, wanted)
    click.echo(f"{machine}. Leave with exit.", err=True)
    with _directory(out) as directory:
        status = machine.shell(["bash", "--norc", "--noprofile", "-i"], out=directory)
    sys.exit(status)


def _guest(memory_mib: int, processors: int | None, wanted: str | None) -> Guest:
    return available(None if wanted is None else Accelerator(wanted), processors=processors, memory_mib=memory_mib)


@contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    """The directory of a guest's command and results: the user's own, or one that goes with it."""
    if out is None:
        with closing(RunDirectory()) as scratch:
            yield scratch.path
        return
    out.mkdir(parents=True, exist_ok=True)
    yield out
