"""Linux namespaces: making a set of them, working inside, running the lab without root.

Owns the system calls. Must not know hosts, links or scenarios.

Nothing here has a name that another run could meet. A set of namespaces lives as long as its anchor, a process that
does nothing but wait for the end of its standard input. It is process 1 of a PID namespace, so whatever runs inside
dies with it, daemons that detached themselves included; and its input ends when this process ends, however it ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from lab.errors import HostGoneError, LabError

_T = TypeVar("_T")

_CLONE_FS = 0x00000200
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_KINDS = {_CLONE_NEWNS: "mnt", _CLONE_NEWUTS: "uts", _CLONE_NEWNET: "net", _CLONE_NEWPID: "pid_for_children"}
"""What is entered, in this order, and the file of /proc/PID/ns that names it."""
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--uts", "--fork")
_INSIDE = "CENTIPEDE_LAB_USER_NAMESPACE"

_libc = ctypes.CDLL(None, use_errno=True)

# A program that detached itself is inherited by process 1, which must bury it; with SIGCHLD ignored the kernel does.
# /proc and /sys are renewed so that they show the inside; where a container forbids that, the outside ones remain.
_ANCHOR_SCRIPT = """
set -e
mount --bind "$1" /run
if [ -d /var/run ] && [ ! -L /var/run ]; then mount --bind "$1" /var/run; fi
hostname "$2" 2>/dev/null || true
mount -t proc proc /proc 2>/dev/null || true
mount -t sysfs sysfs /sys 2>/dev/null || true
echo ready
if env --ignore-signal=CHLD true 2>/dev/null; then exec env --ignore-signal=CHLD cat; fi
exec cat
"""


class Namespaces:
    """A network, mount, PID and UTS namespace of one's own, with a private ``/run``."""

    def __init__(self, name: str, *, run_directory: Path) -> None:
        """Make the namespaces; ``run_directory`` becomes ``/run`` inside. Raises LabError if the host refuses."""
        self.name = name
        argv = [*_UNSHARE, "sh", "-c", _ANCHOR_SCRIPT, "sh"]
        try:
            self._anchor = subprocess.Popen(
                [*argv, str(run_directory), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # An interrupt from the terminal is for the lab, which then ends its hosts in order.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise LabError("the program unshare is missing: install util-linux") from None
        assert self._anchor.stdout is not None
        if self._anchor.stdout.readline() != b"ready\n":
            _, errors = self._anchor.communicate()
            raise LabError(f"no namespaces for host {name}: {errors.decode(errors='replace').strip() or 'refused'}")
        directory = f"/proc/{self._anchor.pid}/ns"
        self._fds = {kind: os.open(f"{directory}/{file}", os.O_RDONLY) for kind, file in _KINDS.items()}
        self.network_fd = self._fds[_CLONE_NEWNET]
        """An open descriptor of the network namespace."""
        self.network = f"/proc/{os.getpid()}/fd/{self.network_fd}"
        """A path that names it, outside, while it stands."""

    @property
    def anchor_pid(self) -> int:
        """The process whose end is the end of the namespaces."""
        return self._anchor.pid

    @property
    def alive(self) -> bool:
        """Whether the namespaces still stand."""
        return self._anchor.poll() is None

    def call(self, function: Callable[[], _T]) -> _T:
        """Call ``function`` inside, in a short-lived thread, and return its result or raise what it raised.

        Files it opens and processes it starts are the inside's. It must not start threads. The calling thread stays
        where it is. Raises HostGoneError if the namespaces have ended.
        """
        outcome: list[_T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                # Entering a mount namespace needs a working directory that no other thread shares.
                _check(_libc.unshare(_CLONE_FS), "unshare")
                for kind, fd in self._fds.items():
                    _check(_libc.setns(fd, kind), f"enter a namespace of {self.name}")
                outcome.append(function())
            except OSError as error:
                # pid_namespaces(7): where the first process has ended, fork says that there is no memory.
                gone = HostGoneError(f"host {self.name} is gone, or has no memory left: nothing can be started there")
                failure.append(gone if error.errno == errno.ENOMEM else error)
            except BaseException as error:  # noqa: BLE001 - it is raised again in the calling thread
                failure.append(error)

        if not self.alive:
            raise HostGoneError(f"host {self.name} is gone")
        thread = threading.Thread(target=body, name=f"inside {self.name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def kill(self) -> None:
        """End everything that runs inside. ``close`` is still due."""
        os.killpg(self._anchor.pid, signal.SIGKILL)

    def close(self) -> None:
        """End everything that runs inside and give the namespaces up. Twice is harmless."""
        if not self._fds:
            return
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}
        for stream in (self._anchor.stdin, self._anchor.stdout, self._anchor.stderr):
            assert stream is not None
            stream.close()
        self._anchor.wait()


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise LabError(f"cannot {what}: {os.strerror(number)}")


def outer_uid() -> int:
    """Return the user the lab runs as, seen from outside any user namespace it has entered."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = (int(field) for field in line.split())
        if inside <= os.getuid() < inside + count:
            return outside + os.getuid() - inside
    return os.getuid()


def can_make() -> str | None:
    """Return why this process cannot make namespaces, or None if it can."""
    probe = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else probe.stderr.strip() or f"unshare ended with {probe.returncode}"


def user_namespace_refusal() -> str | None:
    """Return why an unprivileged user cannot enter a user namespace here, or None. Finds out by trying."""
    probe = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if probe.returncode == 0 else probe.stderr.strip() or f"unshare ended with {probe.returncode}"


def exec_privileged(argv: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> NoReturn:
    """Replace this process by ``argv`` as root of a user namespace of its own. Raises LabError if that is refused."""
    reason = user_namespace_refusal()
    if reason is not None:
        raise LabError(
            f"the lab needs root or unprivileged user namespaces, and this host refuses the latter: {reason}"
        )
    inside = ["unshare", "--user", "--map-root-user", "--mount", *argv]
    os.execvpe(inside[0], inside, {**environ, _INSIDE: "1"})  # noqa: S606 - no shell is wanted


def ensure_privileged() -> None:
    """Continue if this process may build networks; otherwise start the same command again in a user namespace.

    Returns, or replaces the process, or raises LabError saying why neither is possible.
    """
    reason = can_make()
    if reason is None:
        return
    if os.environ.get(_INSIDE):
        raise LabError(f"no network namespaces, not even inside a user namespace: {reason}")
    exec_privileged([sys.executable, *sys.orig_argv[1:]])
