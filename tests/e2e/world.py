"""Two hosts with two links between them, and the command line on each: what the end-to-end tests play with.

a  192.0.2.1 ---- l0 ---- 192.0.2.2  b
   198.51.100.1 - l1 - 198.51.100.2           inner: 10.7.0.1, fd07::1 and 10.7.0.2, fd07::2
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from centipede.protocol.identity import Identity, render_key
from centipede.system.wall import VARIABLE
from lab.host import Host
from lab.link import EndPlan, LinkPlan
from lab.process import Process, wait_until
from lab.topology import HostPlan, Plan, RoutePlan, Topology

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-P", "-m", "centipede"]
NAME = "cpd0"
DEADLINE_S = 20.0
"""For what happens within milliseconds on a quiet machine."""
REKEY_OFTEN = "[timing]\nrekey_s = 1\nrekey_jitter_s = 0\ntie_s = 0.2"
"""With the protocol's tie window of 5 s, sessions this close would all be ties and no rekeys."""
PSK = render_key(bytes([9]) * 32)


@dataclass
class Site:
    """One host and its end of the tunnel."""

    host: Host
    number: int
    """1 or 2: the last part of all its addresses."""
    identity: Identity

    @property
    def file(self) -> Path:
        return self.host.directory / f"{NAME}.toml"

    @property
    def log(self) -> Path:
        return self.host.state_directory / f"{NAME}.log"

    @property
    def runtime_dir(self) -> Path:
        """As seen from outside."""
        return self.host.run_directory / "centipede"

    def configure(self, other: Site, *, interface: str = "", peer: str = "", tail: str = "", **keys: str) -> None:
        """Write the configuration; ``keys`` replace single ones, as TOML text."""
        far = other.number
        values = {
            "address": f'["10.7.0.{self.number}/24", "fd07::{self.number}/64"]',
            "listen": '["l0:51820", "l1:51820"]',
            "engine": '"python"',
            "endpoints": f'["192.0.2.{far}", "198.51.100.{far}"]',
            "allowed_ips": f'["10.7.0.{far}", "fd07::{far}"]',
        } | keys
        key_file = self.host.directory / "own.key"
        private_file(key_file, self.identity.text())
        private_file(self.host.directory / "both.psk", PSK)
        private_file(
            self.file,
            f"""[interface]
private_key_file = "{key_file.name}"
address = {values["address"]}
listen = {values["listen"]}
engine = {values["engine"]}
{interface}

[[peer]]
name = "{"ab"[far - 1]}"
public_key = "{other.identity.public.text}"
preshared_key_file = "both.psk"
endpoints = {values["endpoints"]}
allowed_ips = {values["allowed_ips"]}
{peer}

{tail}
""",
        )

    def cli(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``centipede`` on the host to its end."""
        return self.host.run([*PROGRAM, *arguments], env=environment(), check=check, timeout_s=60.0)

    def up(self, *arguments: str) -> None:
        """Bring the tunnel up in the background."""
        self.cli("up", self.file, "--state-dir", self.host.state_directory, "--log-level", "debug", *arguments)

    def run(self, *arguments: str, wall_offset: Path | None = None) -> Process:
        """Bring the tunnel up in the foreground of a process of the test's; its log is that process's output.

        ``wall_offset`` is a file with the seconds by which the daemon's wall clock is wrong.
        """
        command = ["run", self.file, "--state-dir", self.host.state_directory, "--log-level", "debug", *arguments]
        socket = self.runtime_dir / f"{NAME}.sock"
        return self.host.start(
            [*PROGRAM, *map(str, command)],
            env={**environment(), **({VARIABLE: str(wall_offset)} if wall_offset else {})},
            log=self.log,
            ready=lambda: socket.exists() and self.cli("show", NAME, check=False).returncode == 0,
            ready_timeout_s=DEADLINE_S,
        )

    def show(self) -> dict[str, Any]:
        """The one interface of ``show --json``."""
        (interface,) = json.loads(self.cli("show", NAME, "--json").stdout)["interfaces"]
        assert isinstance(interface, dict)
        return interface

    def peer(self) -> dict[str, Any]:
        """The one peer of it."""
        (peer,) = self.show()["peers"]
        assert isinstance(peer, dict)
        return peer

    def paths(self, state: str = "usable") -> set[tuple[str, str]]:
        """Local and remote host of the paths in this state."""
        return {
            (path["local"].rpartition(":")[0], path["remote"].rpartition(":")[0])
            for path in self.peer()["paths"]
            if path["state"] == state
        }

    def ping(self, *options: str, to: str = "") -> Pinged:
        """Ping the other end of the tunnel, or ``to``; five times if not told otherwise."""
        target = to or f"10.7.0.{3 - self.number}"
        count = () if "-c" in options else ("-c", "5")
        # Once one answer came, ping waits no longer for the last than its interval, whatever -W says: on a busy machine
        # a short interval makes a late answer look like a lost one.
        done = self.host.run(
            ["ping", "-n", "-i", "0.3", "-W", "2", *count, *options, target], check=False, timeout_s=60
        )
        return Pinged.parse(done.stdout + done.stderr)

    def reaches(self) -> bool:
        """Whether one packet goes through and back."""
        return self.ping("-c", "1", "-W", "1").received == 1

    def interfaces(self) -> set[str]:
        """Names of the host's interfaces."""
        return {link["ifname"] for link in json.loads(self.host.run(["ip", "-json", "link"]).stdout)}

    def ip(self, *arguments: str) -> None:
        """Run ip(8) on the host."""
        self.host.run(["ip", *arguments])

    def assert_nothing_is_left(self) -> None:
        """No interface, socket or lock of the tunnel, and no daemon."""
        assert self.interfaces() == {"lo", "l0", "l1"}
        assert not self.runtime_dir.exists() or list(self.runtime_dir.iterdir()) == []
        assert "-m centipede" not in self.host.run(["ps", "-A", "-o", "args"]).stdout


@dataclass(frozen=True)
class Pinged:
    """What ping counted."""

    sent: int
    received: int
    duplicates: int
    text: str

    @classmethod
    def parse(cls, text: str) -> Pinged:
        line = next(
            (each for each in text.splitlines() if "packets transmitted" in each), "0 packets transmitted, 0 received"
        )
        fields = {
            words.split()[1].lstrip("+"): words.split()[0] for words in line.split(", ") if len(words.split()) > 1
        }
        duplicates = fields.get("duplicates", "0")
        return cls(int(fields["packets"]), int(fields["received"]), int(duplicates.lstrip("+")), text)


@dataclass
class World:
    """Both sites."""

    topology: Topology
    a: Site
    b: Site

    def up(self, **options: Any) -> None:
        """Configure both ends alike, bring them up and wait until both links are used."""
        self.configure(**options)
        self.a.up()
        self.b.up()
        self.settle()

    def configure(self, **options: Any) -> None:
        """Configure both ends alike."""
        self.a.configure(self.b, **options)
        self.b.configure(self.a, **options)

    def settle(self) -> None:
        """Wait until both links are used in both directions."""
        both = {("192.0.2.1", "192.0.2.2"), ("198.51.100.1", "198.51.100.2")}
        eventually(lambda: self.a.reaches(), "a packet going through")
        eventually(lambda: self.a.paths() >= both, "both paths of a")
        eventually(lambda: self.b.paths() >= {(remote, local) for local, remote in both}, "both paths of b")


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is so; fails with ``what`` after the deadline."""
    wait_until(condition, timeout_s=DEADLINE_S, what=what, interval_s=0.05)


def two_networks(outside: Mapping[str, str], inside: Mapping[str, str], routes: Sequence[RoutePlan] = ()) -> Plan:
    """Hosts on one or two networks, each a switch: ``net`` outside, ``lan`` inside. Addresses by name, with prefix."""
    links = [
        LinkPlan(f"{switch}-{name}", (EndPlan(name, (ip_interface(address),)), EndPlan(switch)))
        for switch, addresses in (("net", outside), ("lan", inside))
        for name, address in addresses.items()
    ]
    hosts = (*map(HostPlan, {**outside, **inside}), HostPlan("net", "switch"), HostPlan("lan", "switch"))
    return Plan(hosts=hosts, links=tuple(links), routes=tuple(routes))


@contextmanager
def two_hosts() -> Iterator[World]:
    """The world, in namespaces of its own; everything in it ends with it."""
    plan = Plan(
        hosts=(HostPlan("a"), HostPlan("b")),
        links=tuple(
            LinkPlan(
                name,
                (
                    EndPlan("a", (ip_interface(f"{network}.1/24"),)),
                    EndPlan("b", (ip_interface(f"{network}.2/24"),)),
                ),
            )
            for name, network in (("l0", "192.0.2"), ("l1", "198.51.100"))
        ),
    )
    with Topology.build(plan) as topology:
        sites = [
            Site(topology.host(name), number, Identity.from_seed(bytes([number]) * 32))
            for number, name in enumerate("ab", start=1)
        ]
        yield World(topology, *sites)


def private_file(path: Path, text: str) -> None:
    """Write a file only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)


def environment() -> Mapping[str, str]:
    """Lets ``python -m centipede`` find this source tree from anywhere."""
    return {"PYTHONPATH": str(ROOT)}
