"""Starting the daemon in the background, and hearing from it whether the tunnel came up.

The daemon is ``centipede run`` in a session of its own: no fork of a half-initialised process. It tells that it is up
through a pipe; until then its standard error is kept, so that its sentence reaches the user.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import centipede
from centipede.errors import HostError

READY_WITHIN_S = 30.0
STOP_WITHIN_S = 5.0


def start(arguments: Sequence[str]) -> None:
    """Run ``centipede run ARGUMENTS`` in the background and return when its tunnel is up.

    If it ends before, what it wrote on standard error is written on ours and SystemExit carries its status. Raises
    HostError, with the daemon ended, if it takes too long.
    """
    read_fd, write_fd = os.pipe()
    # -P: the current directory is no place to import from; the package may have been found by way of it, however.
    source = str(Path(centipede.__file__ or "").parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-P", "-m", "centipede", "run", *arguments, "--ready-fd", str(write_fd)]
    with tempfile.TemporaryFile() as said, os.fdopen(read_fd, "rb", buffering=0) as ready:
        try:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                pass_fds=(write_fd,),
                env=environment,
                cwd="/",
            )
        finally:
            os.close(write_fd)
        try:
            readable, _, _ = select.select([ready], [], [], READY_WITHIN_S)
            if readable and ready.read(1):
                daemon.returncode = 0  # it goes on without us: nobody waits for it
                return
        except BaseException:
            _stop(daemon)
            raise
        if not readable:
            _stop(daemon)
            raise HostError(f"the tunnel did not come up within {READY_WITHIN_S:g} s; run 'centipede run' to watch it")
        status = daemon.wait(STOP_WITHIN_S)
        said.seek(0)
        sys.stderr.write(said.read().decode(errors="replace"))
        sys.exit(status or 1)


def announce(ready_fd: int | None) -> None:
    """In the daemon: tell whoever started it that the tunnel is up, and let go of its terminal."""
    if ready_fd is None:
        return
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
