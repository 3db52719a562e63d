"""A host of the lab: a network of its own, a private ``/run``, programs started inside.

Owns the host's namespaces, its directory and the processes started on it. Must not know links or scenarios. Invariant:
when a host is closed, everything that ran on it has ended.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from lab.errors import LabError
from lab.namespace import Namespaces
from lab.pace import slowness
from lab.process import Process

_T = TypeVar("_T")


class Host:
    """One machine of a topology."""

    def __init__(self, name: str, directory: Path) -> None:
        """Start a host whose files are kept in ``directory``, which is made and belongs to it alone."""
        self.name = name
        self.directory = directory
        """Private to the host: ``run/`` is its ``/run``, ``state/`` is for what programs keep."""
        self.run_directory.mkdir(parents=True)
        self.state_directory.mkdir()
        self._namespaces = Namespaces(name, run_directory=self.run_directory)
        self._processes: list[Process] = []
        self._log_numbers = itertools.count(1)
        try:
            self.netlink(lambda netlink: netlink.link("set", index=1, state="up"))
        except BaseException:
            self._namespaces.close()
            raise

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    @property
    def run_directory(self) -> Path:
        """What programs on the host see as ``/run`` (and ``/var/run``)."""
        return self.directory / "run"

    @property
    def state_directory(self) -> Path:
        """A place for programs' state, seen under the same path inside and outside."""
        return self.directory / "state"

    @property
    def netns(self) -> str:
        """A path that names the network namespace while the host stands, outside."""
        return self._namespaces.network

    @property
    def netns_fd(self) -> int:
        """The open descriptor of the network namespace."""
        return self._namespaces.network_fd

    @property
    def anchor_pid(self) -> int:
        """Process number of the host's anchor."""
        return self._namespaces.anchor_pid

    @property
    def processes(self) -> tuple[Process, ...]:
        """Every process started on the host, ended ones included."""
        return tuple(self._processes)

    def call(self, function: Callable[[], _T]) -> _T:
        """Call ``function`` inside the host, as ``Namespaces.call`` does."""
        return self._namespaces.call(function)

    def netlink(self, function: Callable[[IPRoute], _T]) -> _T:
        """Call ``function`` with a netlink socket inside the host and return its result.

        The socket is made on the spot, since pyroute2's own way into a namespace forks this process.
        """

        def body() -> _T:
            with IPRoute() as netlink:
                return function(netlink)

        return self.call(body)

    def socket(self, family: int, type: int, proto: int = 0) -> socket.socket:  # noqa: A002 - the standard library's name
        """Return a socket made inside the host; it stays there, whichever thread uses it."""
        return self.call(lambda: socket.socket(family, type, proto))

    def sysctl(self, name: str, value: int | str) -> None:
        """Set a network parameter of the host, such as ``net.ipv4.ip_forward``."""
        path = Path("/proc/sys") / name.replace(".", "/")

        def write() -> None:
            path.write_text(f"{value}\n")

        try:
            self.call(write)
        except OSError as error:
            raise LabError(f"cannot set {name} on {self.name}: {error.strerror}") from None

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout_s: float = 30.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - subprocess's name
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return its output as text.

        ``timeout_s`` is stretched by this machine's slowness. Raises LabError if the program is missing, outlives it
        or, with ``check``, ends with another status than 0.
        """
        timeout_s *= slowness()
        words = [str(word) for word in argv]
        popen = self._popen(
            words,
            env=env,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process = Process(popen, host=self.name, argv=words, log=None)
        try:
            out, errors = popen.communicate(None if input is None else input.encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{process.name} on {self.name} took longer than {timeout_s:g} s") from None
        finally:
            if popen.returncode is None:
                process.kill()
            for stream in (popen.stdin, popen.stdout, popen.stderr):
                if stream is not None:
                    stream.close()
        done = subprocess.CompletedProcess(
            words, popen.returncode, out.decode(errors="replace"), errors.decode(errors="replace")
        )
        if check and done.returncode != 0:
            said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise LabError(f"{' '.join(words)} on {self.name} ended with {done.returncode}: {said}")
        return done

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        ready: Callable[[], bool] | None = None,
        ready_timeout_s: float = 10.0,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> Process:
        """Start a program in the background and return when ``ready()`` is true.

        It leads a process group of its own; its output is appended to ``log`` (by default a file in the host's
        directory). ``env`` is added to this process's environment. Raises LabError, with the end of the log, if it ends
        early or is not ready in time; it has then been ended.
        """
        words = [str(word) for word in argv]
        path = log or self.directory / f"{next(self._log_numbers):02}-{Path(words[0]).name}.log"
        with path.open("ab") as output:
            popen = self._popen(words, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        process = Process(popen, host=self.name, argv=words, log=path)
        self._processes.append(process)
        if ready is not None:
            try:
                process.wait_ready(ready, timeout_s=ready_timeout_s)
            except BaseException:
                process.kill()
                raise
        return process

    def _popen(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None, stdin: int, stdout: object, stderr: int
    ) -> subprocess.Popen[bytes]:
        # Entering a mount namespace moves a thread to its root, hence the explicit working directory.
        directory = Path.cwd()
        environment = {**os.environ, **(env or {})}
        try:
            return self.call(
                lambda: subprocess.Popen(
                    argv,
                    stdin=stdin,
                    stdout=stdout,  # type: ignore[call-overload]  # a descriptor or a file, as Popen takes
                    stderr=stderr,
                    cwd=directory,
                    env=environment,
                    start_new_session=True,
                )
            )
        except FileNotFoundError:
            raise LabError(f"the program {argv[0]} is not there to be started on {self.name}") from None

    def interact(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> int:
        """Run a program on this process's own terminal and return its exit status. For a person, not for the lab."""
        environment = {**os.environ, **(env or {})}
        directory = Path.cwd()
        popen = self.call(lambda: subprocess.Popen(argv, cwd=directory, env=environment))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the program
        try:
            return popen.wait()
        finally:
            signal.signal(signal.SIGINT, before)

    def abort(self) -> None:
        """End everything on the host at once, its namespaces included. ``close`` is still due."""
        self._namespaces.kill()

    def close(self) -> None:
        """End every program on the host, give up its namespaces, remove its directory. Twice is harmless."""
        # Every one, the ended ones too: a PID namespace does not end before the last of its dead has been collected.
        for process in reversed(self._processes):
            process.stop()
        self._namespaces.close()
        shutil.rmtree(self.directory, ignore_errors=True)
