"""A machine of its own for one command: what is there before and after it, as JSON on standard output.

``python leak_witness.py DIRECTORY SIGNAL|- WORD...``, to be run as process 1 of new PID, network and mount namespaces,
so that nobody else's doings are seen. Runs WORD..., waits, if a signal is named, for a host of the lab to be busy and
then sends it, and looks at everything once before and once after all has become quiet. Files are those in DIRECTORY.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab import registry
from lab.process import wait_until

_BUSY_PROGRAM = "lab.probes.stream"
_TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "unix", "netlink")


def processes() -> list[str]:
    """The command line of every process but this one and its threads."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and int(path.name) != os.getpid():
            try:
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(words or (path / "comm").read_text().strip())
            except OSError:
                continue
    return sorted(found)


def namespaces() -> list[str]:
    """Every namespace that a process lives in or that is mounted somewhere."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue
    return sorted(found)


def snapshot(directory: Path) -> dict[str, Any]:
    """What is on this machine."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    return {
        "processes": processes(),
        "namespaces": namespaces(),
        "links": sorted(line.split(":")[1] for line in links.splitlines()),
        "rules": rules,
        "mounts": sorted(
            line.split(" - ")[0].split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        "sockets": {name: len(Path("/proc/net", name).read_text().splitlines()) for name in _TABLES},
        "files": sorted(str(path.relative_to(directory)) for path in directory.rglob("*")),
    }


def _busy() -> bool:
    return any(_BUSY_PROGRAM in each for each in processes())


def main() -> None:
    """Run the command, look, clean, look again."""
    directory, number = Path(sys.argv[1]), sys.argv[2]
    before = snapshot(directory)
    command = subprocess.Popen(sys.argv[3:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if number != "-":
        wait_until(lambda: _busy() or command.poll() is not None, timeout_s=60, what="a busy host")
        command.send_signal(int(number))
    said, _ = command.communicate(timeout=60)

    def quiet() -> bool:
        while True:  # this is process 1, and inherits what the command left
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        return not processes()

    wait_until(quiet, timeout_s=20, what=f"quiet ({processes()})")
    after = snapshot(directory)
    cleaned = registry.clean()
    report = {"before": before, "after": after, "cleaned": cleaned, "clean": snapshot(directory)}
    print(json.dumps({**report, "said": said, "status": command.returncode}))


if __name__ == "__main__":
    main()
