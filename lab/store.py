"""A store: etcd on a host of a topology, in which the machines of a cluster find each other.

Owns its program and where that keeps its data: in the host's directory, so that it is there again when the program is.
Must not know scenarios, tunnels, or what is put there.
"""

from __future__ import annotations

import re
import subprocess

from centipede.cluster.etcd import Etcd, Range, StoreError
from lab.host import Host
from lab.link import Address
from lab.process import Process

_PORT = 2379
_PEER_PORT = 2380
_READY_TIMEOUT_S = 20.0


def version() -> str | None:
    """Return the version of the etcd installed, None without one."""
    try:
        done = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=False, timeout=10.0)
    except OSError:
        return None
    found = re.match(r"etcd Version: (\S+)", done.stdout)
    return found[1] if found else None


def unavailable() -> str | None:
    """Return why this machine can run no store, in words, or None if it can."""
    return None if version() else "it has no etcd: apt-get install --no-install-recommends etcd-server"


def endpoint(address: Address, port: int = _PORT) -> str:
    """Return the URL at which members reach the store whose host has this address."""
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


class Store:
    """One etcd. Its host ends it, if nobody else has."""

    def __init__(self, host: Host, address: Address) -> None:
        """``address`` is the host's, at which the store is to be reached."""
        self._host = host
        self._address = address
        self._process: Process | None = None

    @property
    def processes(self) -> list[Process]:
        """Its program, if it was started."""
        return [] if self._process is None else [self._process]

    def start(self) -> None:
        """Start it, with what it had, and return when it answers. Raises LabError if it does not come up."""
        self.stop()
        members, peers = endpoint(self._address), endpoint(self._address, _PEER_PORT)
        options = {
            "name": "store",
            "data-dir": self._host.state_directory / "etcd",
            "listen-client-urls": members,
            "advertise-client-urls": members,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"store={peers}",
            "logger": "zap",
        }
        self._process = self._host.start(
            ["etcd", *(f"--{name}={value}" for name, value in options.items())],
            ready=lambda: self._host.call(self._answers),
            ready_timeout_s=_READY_TIMEOUT_S,
        )

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        for process in self.processes:
            process.stop()

    def _answers(self) -> bool:
        etcd = Etcd([endpoint(self._address)], None)
        try:
            etcd.look([Range("/")])
        except StoreError:
            return False
        finally:
            etcd.close()
        return True
