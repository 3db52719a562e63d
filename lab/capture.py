"""A capture of what crosses an interface, by tcpdump, into a file that any analyser reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.host import Host


@contextmanager
def capture(host: Host, interface: str, file: Path) -> Iterator[None]:
    """Write every packet that ``interface`` sends and receives to ``file``. Raises LabError without tcpdump."""
    program = shutil.which("tcpdump")
    if program is None:
        raise LabError("a capture needs tcpdump, which is not installed: apt-get install tcpdump")
    # As root throughout (-Z): the file lies in a directory that nobody else may write to.
    # Immediate (--immediate-mode): what the kernel still holds back when the capture ends would be lost.
    argv = [program, "-i", interface, "-U", "--immediate-mode", "-Z", "root", "-w", str(file)]
    process = host.start(argv, ready=file.exists)
    try:
        yield
    finally:
        process.stop()
