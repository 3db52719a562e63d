"""A guest: a small virtual machine with a stock Debian kernel, for what this machine's own kernel lacks.

Owns the virtual machine's process, its command line, and the judgement whether it came to its end. Must not know what
runs inside. The guest sees this machine's root file system read-only under an overlay, so that programs, checkout and
virtual environment are at their own paths, and whatever it writes is gone with it, except below one directory, which it
shares with this machine under the same path. It has no network.

Invariants: a guest that ended without writing its exit status has failed, whatever QEMU says of itself (it ends with 0
after a panic); a guest ends with the process that started it; only its own process group is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import initramfs
from lab.accelerator import Accelerator, Choice, choose
from lab.errors import LabError, NotReadyError
from lab.guest_kernel import GuestKernel, fetch, guest_kernel
from lab.pace import VARIABLE as SLOWNESS
from lab.process import Process, wait_until
from lab.registry import RunDirectory
from lab.setup import cache_directory

QEMU = "qemu-system-x86_64"
IN_GUEST = "LAB_IN_GUEST"
"""Set to 1 in the environment of everything that runs in a guest."""
DESCRIPTION = "LAB_GUEST"
"""What the guest is, in words, in the environment of everything that runs in it."""
MEMORY_MIB = 2048
PROCESSORS_MAX = 4
LIMIT_S = 600.0
_KVM_LIMIT_S = 15.0
"""How long a guest may take to show that KVM works; a second or two where it does."""
_KEPT_ENVIRONMENT = ("PATH", "HOME", "XDG_CACHE_HOME", "LANG", "LC_ALL", "TERM", "USER", "LOGNAME")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_QEMU_LOG = "qemu"
_CONSOLE_LINES = 16
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[c78=>])|\r")
_PANIC = re.compile(r"Kernel panic|guest: |BUG: |Out of memory")


class GuestError(LabError):
    """A guest could not be started, or did not come to its end. The text shows the end of its console."""


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What became of a command in a guest."""

    status: int
    """The command's exit status."""
    boot_s: float
    """From the start of QEMU until the command began."""
    seconds: float
    """From the start of QEMU to its end."""


def in_guest() -> str | None:
    """Return what guest this process runs in, in words; None if it is in none."""
    return os.environ.get(DESCRIPTION, "a guest") if os.environ.get(IN_GUEST) else None


def qemu_refusal() -> str | None:
    """Return why no guest can be started here, in words, or None."""
    if os.environ.get(IN_GUEST):
        return "this is a guest already, and a guest has no guests"
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed: apt-get install --no-install-recommends qemu-system-x86"
    return None


class Guest:
    """A virtual machine that can be started any number of times, one after the other."""

    def __init__(
        self,
        kernel: GuestKernel,
        accelerator: Accelerator,
        *,
        processors: int | None = None,
        memory_mib: int = MEMORY_MIB,
    ) -> None:
        """``processors``: None for as many as this process may use, but no more than ``PROCESSORS_MAX``."""
        self.kernel = kernel
        self.accelerator = accelerator
        self._processors = processors or min(PROCESSORS_MAX, len(os.sched_getaffinity(0)))
        self._memory_mib = memory_mib

    def __str__(self) -> str:
        return (
            f"Linux {self.kernel.release} in QEMU, {self.accelerator.label}, "
            f"{self._processors} processors, {self._memory_mib} MiB"
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        out: Path,
        limit_s: float = LIMIT_S,
        environment: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> GuestRun:
        """Run a command in a fresh guest, in this process's working directory, and return when the guest has ended.

        ``out`` is an existing directory that the command can write to, under the same path; in its subdirectory
        ``guest``, which must not exist yet, there are then the files ``stdout``, ``stderr``, ``status`` and
        ``console``. What the command says is also copied to the descriptors ``stdout`` and ``stderr`` as it comes;
        ``tell`` gets lines of progress. Raises GuestError for a guest that cannot be started, ends without the
        command's exit status, or takes longer than ``limit_s``.
        """
        files = self._prepare(argv, out, environment or {})
        console = files / "console"
        pumps = [_Pump(files / name, to) for name, to in (("stdout", stdout), ("stderr", stderr)) if to is not None]
        with self._started(out, ("-serial", f"file:{console}"), stdin=subprocess.DEVNULL) as process:
            began = time.monotonic()
            tell(f"guest: starting {self}")
            boot_s = None

            def ended() -> bool:
                nonlocal boot_s
                if boot_s is None and (files / initramfs.STARTED).exists():
                    boot_s = time.monotonic() - began
                    tell(f"guest: the command began after {boot_s:.1f} s")
                over = not process.running
                for pump in pumps:
                    pump.copy()
                return over

            try:
                wait_until(ended, timeout_s=limit_s, what="the end of the guest")
            except NotReadyError:
                raise GuestError(
                    f"the guest did not come to its end within {limit_s:g} s{console_end(console)}"
                ) from None
            seconds = time.monotonic() - began
        status = _status(files)
        tell(f"guest: the command ended with {status}, the guest after {seconds:.1f} s")
        return GuestRun(status, boot_s or seconds, seconds)

    def shell(self, argv: Sequence[str], *, out: Path) -> int:
        """Run a program on this process's terminal, which becomes the guest's, and return its exit status.

        ``out`` is as for ``run``. Takes as long as it takes. Raises GuestError for a guest that cannot be started or
        ends without the exit status.
        """
        size = shutil.get_terminal_size()
        files = self._prepare(
            ["sh", "-c", f'stty rows {size.lines} cols {size.columns}; exec "$@"', "sh", *argv], out, {}
        )
        (files / "interactive").touch()
        serial = ("-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal")
        with _terminal_restored(), self._started(out, serial, stdin=None) as process:
            wait_until(lambda: not process.running, timeout_s=float("inf"), what="the end of the guest")
        return _status(files)

    def _prepare(self, argv: Sequence[str], out: Path, environment: Mapping[str, str]) -> Path:
        """Write what /init looks for, and return the directory of it."""
        files = out / initramfs.FILES
        try:
            files.mkdir()
        except FileExistsError:
            raise GuestError(f"{files} is there already: a guest's results want a directory of their own") from None
        settings = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        settings |= {
            "TMPDIR": str(initramfs.TEMPORARY),
            IN_GUEST: "1",
            DESCRIPTION: str(self),
            SLOWNESS: f"{self.accelerator.slowness:g}",
            **environment,
        }
        own = shlex.quote(str(out.resolve()))
        lines = [
            f"PATH={_SYSTEM_PATH}",
            f"mkdir -p {own} && mount --bind {initramfs.OUT} {own} || exit 125",
            f"cd {shlex.quote(str(Path.cwd()))} || exit 125",
            shlex.join(["exec", "env", "-i", *(f"{name}={value}" for name, value in settings.items()), *argv]),
        ]
        (files / "command").write_text("\n".join(lines) + "\n")
        (files / "modules").write_text(str(self.kernel.modules_root.resolve()))
        return files

    @contextmanager
    def _started(self, out: Path, serial: Sequence[str], *, stdin: int | None) -> Iterator[Process]:
        """Start QEMU, and end it with the context if it has not ended by itself."""
        reason = qemu_refusal()
        if reason is not None:
            raise GuestError(f"no guest here: {reason}")
        log = out / initramfs.FILES / _QEMU_LOG
        with closing(RunDirectory()) as scratch, log.open("wb") as errors:
            initrd = scratch.path / "initramfs"
            initrd.write_bytes(initramfs.build(self.kernel.busybox_program, self.kernel.modules))
            # It is not to outlive this process, whatever becomes of it.
            argv = ["setpriv", "--pdeathsig", "KILL", QEMU, *self._options(initrd, out), *serial]
            popen = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=errors if stdin is not None else None,
                stderr=errors,
                start_new_session=True,
            )
            process = Process(popen, host="guest", argv=argv, log=log)
            try:
                yield process
            finally:
                process.stop()

    def _options(self, initrd: Path, out: Path) -> list[str]:
        # Warnings may tell what led to a panic, but are none of the business of somebody at a shell.
        level = 1 if (out / initramfs.FILES / "interactive").exists() else 5
        append = f"console=ttyS0 loglevel={level} panic=-1 oops=panic reboot=t mitigations=off"
        if self.accelerator is Accelerator.TCG:
            append += " tsc=reliable"
        return [
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"),
            *self.accelerator.options,
            *("-smp", str(self._processors), "-m", f"{self._memory_mib}M"),
            *("-kernel", str(self.kernel.image), "-initrd", str(initrd), "-append", append),
            *_share(Path("/"), initramfs.HOST_TAG, "readonly=on,multidevs=remap"),
            *_share(out.resolve(), initramfs.OUT_TAG, "multidevs=remap"),
        ]


def refusal() -> str | None:
    """Return why no guest can be started here, in words, or None."""
    return qemu_refusal() or (
        "the guest's kernel has not been fetched: python -m lab guest fetch" if guest_kernel() is None else None
    )


def available(
    wanted: Accelerator | None = None, *, processors: int | None = None, memory_mib: int = MEMORY_MIB
) -> Guest:
    """Return the guest of this machine, by the fastest accelerator that works unless one is wanted.

    Raises GuestError if there is none.
    """
    reason = refusal()
    kernel = guest_kernel()
    if reason is not None or kernel is None:
        raise GuestError(f"no guest here: {reason}")
    chosen = wanted or accelerator(kernel).accelerator
    return Guest(kernel, chosen, processors=processors, memory_mib=memory_mib)


def make_available(tell: Callable[[str], None]) -> Guest:
    """Return what ``available`` does, having fetched the kernel if need be. Raises GuestError or FetchError."""
    reason = qemu_refusal()
    if reason is not None:
        raise GuestError(f"no guest here: {reason}")
    if guest_kernel() is None:
        tell("guest: fetching its kernel from Debian")
        fetch()
    return available()


def accelerator(kernel: GuestKernel) -> Choice:
    """Return how guests of this kernel are run here. May start one, to find out."""

    def trial() -> None:
        with closing(RunDirectory()) as scratch:
            Guest(kernel, Accelerator.KVM).run(["true"], out=scratch.path, limit_s=_KVM_LIMIT_S)

    return choose(f"{kernel.release} {kernel.version}", cache_directory(), trial)


class _Pump:
    """Copies what a file grows by."""

    def __init__(self, path: Path, target: int) -> None:
        self._path = path
        self._target = target
        self._offset = 0

    def copy(self) -> None:
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            while piece := file.read(65536):
                self._offset += len(piece)
                while piece:
                    piece = piece[os.write(self._target, piece) :]


def console_end(console: Path) -> str:
    """Return the last lines of a console as an addition to a message, what a panic said first among them."""
    try:
        text = _ESCAPES.sub("", console.read_text(errors="replace"))
    except FileNotFoundError:
        return ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "; its console is empty"
    told = [line for line in lines[:-_CONSOLE_LINES] if _PANIC.search(line)][:3]
    return "\n".join(["; the end of its console:", *(f"  {line}" for line in [*told, *lines[-_CONSOLE_LINES:]])])


def _status(files: Path) -> int:
    """Return the command's exit status. Raises GuestError if the guest has not left one."""
    try:
        return int((files / "status").read_text())
    except (OSError, ValueError):
        said = (files / _QEMU_LOG).read_text(errors="replace").strip()
        words = f": QEMU says: {said.splitlines()[-1]}" if said else ""
        raise GuestError(
            f"the guest ended without the command's exit status{words}{console_end(files / 'console')}"
        ) from None


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _share(path: Path, tag: str, options: str) -> tuple[str, ...]:
    return (
        *("-fsdev", f"local,id={tag},path={_escaped(path)},security_model=none,{options}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    )


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Put the terminal back as it was: QEMU does so by itself only if it ends by itself."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
