"""Somebody who follows a page of docs/ to the letter: its shell blocks, on hosts of the lab, in the order of the page.

A block's info string names the hosts it is for. ``/etc`` and ``/var/lib`` are overlaid inside the hosts, so that the
page's paths can stand as they are. ``ssh HOST COMMAND`` works between the hosts of a page.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.host import Host

BLOCK = re.compile(r"^```sh ([a-z ]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PASTED = re.compile(r"<the line ([a-z]+) printed>")
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_SSH = """#!{python}
import json, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    given = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    line.sendall(json.dumps([sys.argv[1], " ".join(sys.argv[2:]), given]).encode())
    line.shutdown(socket.SHUT_WR)
    out, errors, status = json.loads(b"".join(iter(lambda: line.recv(65536), b"")))
sys.stdout.write(out)
sys.stderr.write(errors)
sys.exit(status)
"""

_SYSTEMCTL = """#!/bin/sh
set -eua
test "$*" = "restart etcd"
ETCD_NAME=$(hostname)
ETCD_DATA_DIR=/var/lib/etcd/default
. /etc/default/etcd
log=/run/etcd.log
setsid setpriv --reuid etcd --regid etcd --clear-groups etcd >$log 2>&1 </dev/null &
ready="until grep -q 'ready to serve' $log; do sleep 0.05; done"
timeout 20 sh -c "$ready" || { cat $log >&2; exit 1; }
"""


class Follower:
    """Somebody who types the page's commands on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._program = host.directory / "bin" / "centipede"
        self._program.parent.mkdir()
        self._program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m centipede "$@"\n')
        self._program.chmod(0o755)

    def type(self, commands: str) -> str:
        """Run a block in a shell that stops at the first error, and return what it printed."""
        return self._host.run(self._shell(commands), timeout_s=60).stdout

    def answer(self, command: str, given: str) -> tuple[str, str, int]:
        """Run a command for somebody who came by ssh: what it printed, what it complained of, its status."""
        done = self._host.run(self._shell(command), timeout_s=60, check=False, input=given)
        return done.stdout, done.stderr, done.returncode

    def provide_ssh(self, address: Path) -> None:
        program = self._program.parent / "ssh"
        program.write_text(_SSH.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)

    def provide_etcd_service(self) -> None:
        """Let ``systemctl restart etcd`` do what Debian's unit does."""
        program = self._program.parent / "systemctl"
        program.write_text(_SYSTEMCTL)
        program.chmod(0o755)

    def _shell(self, commands: str) -> list[str]:
        overlays = "".join(map(self._overlay, ("/etc", "/var/lib")))
        script = f"set -e; {overlays}PATH={self._program.parent}:$PATH; cd /\n{commands}"
        return ["unshare", "--mount", "bash", "-o", "pipefail", "-c", script]

    def _overlay(self, top: str) -> str:
        """The commands that let this host write to a directory of the machine; what it writes lasts over the calls."""
        layer = self._host.state_directory / top.strip("/").replace("/", "-")
        upper, work = layer / "upper", layer / "work"
        options = f"lowerdir={top},upperdir={upper},workdir={work}"
        return f"mkdir -p {upper} {work}; mount -t overlay overlay -o {options} {top}; "


def follow(page: Path, followers: Mapping[str, Follower], until: str = "") -> Iterator[tuple[str, str, str]]:
    """Type all blocks of a page; after each, yield the host, the commands and what they printed.

    The key a host printed is pasted where the page says so. ``until`` is a heading at which the page is left; empty for
    its end.
    """
    printed: dict[str, str] = {}
    text = page.read_text()
    end = text.index(until) if until else None
    for hosts, commands in BLOCK.findall(text[:end]):
        for name in hosts.split():
            out = followers[name].type(_PASTED.sub(lambda match: printed[match[1]], commands))
            if (key := _KEY.search(out)) and "pubkey" in commands:
                printed[name] = key[0]
            yield name, commands, out


@contextmanager
def joined_by_ssh(followers: Mapping[str, Follower], address: Path) -> Iterator[None]:
    """Let each follower come to the others by ``ssh NAME COMMAND``, over a socket at ``address``."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        server.listen()
        for follower in followers.values():
            follower.provide_ssh(address)

        def serve(line: socket.socket) -> None:
            with line:
                name, command, given = json.loads(b"".join(iter(lambda: line.recv(65536), b"")))
                try:
                    answer = followers[name].answer(command, given)
                except (LabError, KeyError) as error:
                    answer = ("", f"ssh: {shlex.quote(str(error))}\n", 255)
                line.sendall(json.dumps(answer).encode())

        def accept() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:  # closed
                    return
                threading.Thread(target=serve, args=(line,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
