"""Directories of running labs, and clearing up after runs that died.

Owns the directory ``centipede-lab-<user>`` in the system's temporary directory: one directory per run, with the run's
owner and the anchors of its hosts on record. Must not know what hosts are for. Invariant: only processes on record
whose start time still matches are ever ended, and only directories of dead runs removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from lab.errors import LabError
from lab.namespace import outer_uid

_OWNER = "owner"
_ANCHOR = "anchor"
_PATH_BYTES_MAX = 60
"""Paths of sockets may have 107 bytes, and lie below a host's name of up to 15."""


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _identity(pid: int) -> str:
    """Return what tells a process from any other that ever had or will have its number."""
    start_ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{pid} {start_ticks} {_boot_id()}"


def _alive(identity: str) -> bool:
    try:
        return _identity(int(identity.split()[0])) == identity
    except (OSError, ValueError, IndexError):
        return False


def base_directory() -> Path:
    """Return the directory of all runs of this user, made if need be. Raises LabError if it is somebody else's."""
    path = Path(tempfile.gettempdir()) / f"centipede-lab-{outer_uid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise LabError(f"{path} is not a directory of this user: remove it")
    return path


class RunDirectory:
    """The files of one run of the lab, on record as long as it lives."""

    def __init__(self) -> None:
        self.path = base_directory() / f"{os.getpid()}-{secrets.token_hex(3)}"
        if len(os.fsencode(self.path)) > _PATH_BYTES_MAX:
            raise LabError(f"{self.path} is too long a path for sockets below it: set TMPDIR to a shorter one")
        self.path.mkdir(mode=0o700)
        (self.path / _OWNER).write_text(_identity(os.getpid()))

    def host_directory(self, name: str) -> Path:
        """Return where the files of host ``name`` go; not made yet."""
        return self.path / name

    def record_anchor(self, name: str, pid: int) -> None:
        """Put the anchor of host ``name`` on record."""
        (self.path / f"{name}.{_ANCHOR}").write_text(_identity(pid))

    def close(self) -> None:
        """Remove the directory. Twice is harmless."""
        shutil.rmtree(self.path, ignore_errors=True)


def dead_runs() -> list[Path]:
    """Return the directories of runs whose owner is no more."""
    dead = []
    for path in sorted(base_directory().iterdir()):
        with contextlib.suppress(FileNotFoundError):
            owner = (path / _OWNER).read_text() if path.is_dir() else ""
            if owner and not _alive(owner):  # one that is just being written is not dead
                dead.append(path)
    return dead


def clean() -> list[str]:
    """End what is left of dead runs, remove their directories, and return a line for each thing done."""
    done = []
    for path in dead_runs():
        for record in path.glob(f"*.{_ANCHOR}"):
            identity = record.read_text()
            if _alive(identity):
                pid = int(identity.split()[0])
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                done.append(f"ended host {record.stem} of run {path.name} (process {pid})")
        shutil.rmtree(path, ignore_errors=True)
        done.append(f"removed {path}")
    return done
