"""Members that find each other in etcd, which stops and comes back; one that joins serves what a dead one made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from centipede.cluster.grants import lives, slot
from centipede.protocol.identity import Identity
from lab.host import Host
from lab.process import Process
from lab.store import Store, endpoint, unavailable
from lab.topology import Topology
from tests.e2e.world import DEADLINE_S, NAME, PROGRAM, environment, eventually, private_file, two_networks

pytestmark = pytest.mark.netns

STORE = ip_address("10.8.0.9")
OF = 4
SERVER, CLIENT = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))


@dataclass
class Machine:
    """A host with one end of the tunnel."""

    host: Host
    number: int
    """1 to 3 of a server, the last part of its addresses; 0 for the client."""

    def configure(self) -> None:
        identity, other = (SERVER, CLIENT) if self.number else (CLIENT, SERVER)
        private_file(self.host.directory / "own.key", identity.text())
        inner, far = ("10.7.0.1", "10.7.0.2") if self.number else ("10.7.0.2", "10.7.0.1")
        listen = f"192.0.2.{self.number or 30}:51820"
        cluster = f"""[cluster]
member = {self.number}
of = {OF}
listen = "10.8.0.{self.number}:51821"
store = "etcd"
endpoints = ["{endpoint(STORE)}"]
"""
        private_file(
            self.host.directory / f"{NAME}.toml",
            f"""[interface]
private_key_file = "own.key"
address = ["{inner}/24"]
listen = ["{listen}"]
engine = "python"

{cluster if self.number else ""}
[[peer]]
name = "other"
public_key = "{other.public.text}"
allowed_ips = ["{far}/32"]
{"" if self.number else 'endpoints = ["192.0.2.1:51820"]'}
""",
        )

    def start(self) -> Process:
        """Bring the tunnel up in the foreground of a process."""
        self.configure()
        socket = self.host.run_directory / "centipede" / f"{NAME}.sock"
        state = str(self.host.state_directory)
        return self.host.start(
            [*PROGRAM, "run", str(self.host.directory / f"{NAME}.toml"), "--state-dir", state],
            env=environment(),
            log=self.host.state_directory / "log",
            ready=lambda: socket.exists() and self.cli("show", NAME, check=False) != "",
            ready_timeout_s=DEADLINE_S,
        )

    def cli(self, *arguments: str, check: bool = True) -> str:
        return self.host.run([*PROGRAM, *arguments], env=environment(), check=check, timeout_s=60.0).stdout

    def show(self) -> dict[str, Any]:
        (interface,) = json.loads(self.cli("show", NAME, "--json"))["interfaces"]
        assert isinstance(interface, dict)
        return interface

    def others_up(self) -> set[int]:
        return {each["member"] for each in self.show()["cluster"]["members"] if each["state"] == "up"}

    def store(self) -> str:
        return str(self.show()["cluster"]["store"]["state"])

    def shards(self) -> set[int]:
        """First shards of the members that this client sends to."""
        return {each["shard"] for each in self.show()["peers"][0]["members"]}


@dataclass
class World:
    """The client, three servers and the store."""

    client: Machine
    servers: list[Machine]
    store: Store


@pytest.fixture
def world(namespaces: None) -> Iterator[World]:
    if (reason := unavailable()) is not None:
        pytest.skip(f"this machine can run no store: {reason}")
    names = ("client", "one", "two", "three", "store")
    outside = {name: f"192.0.2.{last}/24" for name, last in zip(names, (30, 1, 2, 3), strict=False)}
    inside = {name: f"10.8.0.{last}/24" for name, last in zip(names[1:], (1, 2, 3, 9), strict=True)}
    with Topology.build(two_networks(outside, inside)) as topology:
        machines = [Machine(topology.host(name), number) for number, name in enumerate(names[:4])]
        yield World(machines[0], machines[1:], Store(topology.host("store"), STORE))


def test_the_store_stops_and_comes_back_and_a_member_joins_after_the_maker_died(world: World) -> None:
    one, two, three = world.servers
    client = world.client
    world.store.start()
    maker = one.start()
    second = two.start()
    eventually(lambda: one.others_up() == {2} and two.others_up() == {1}, "members finding each other in the store")
    client.start()
    eventually(lambda: len(client.shards()) == 2, "the client using both")

    ping = ["ping", "-n", "-i", "0.2", "-c", "30", "-W", "2", "10.7.0.1"]
    pinging = client.host.start(ping, log=client.host.state_directory / "ping.log")
    world.store.stop()
    eventually(lambda: one.store() == two.store() == "gone", "members missing the store")
    assert "store gone since" in one.cli("show", NAME)
    assert one.others_up() == {2}
    pinging.wait(timeout_s=DEADLINE_S)
    assert " 0% packet loss" in (client.host.state_directory / "ping.log").read_text()

    world.store.start()
    eventually(lambda: one.store() == two.store() == "up", "the store coming back")
    for process in (maker, second):
        process.kill()
    three.start()
    run = slot(3, OF, lives(OF) // 2, 0)
    assert run is not None
    eventually(lambda: run.first in client.shards(), "the client using a member that joined when all others were dead")
    one_ping = ["ping", "-n", "-c", "1", "-W", "1", "10.7.0.1"]
    eventually(lambda: client.host.run(one_ping, check=False).returncode == 0, "a packet going through by it")
