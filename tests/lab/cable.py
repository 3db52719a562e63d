"""Two hosts and one emulated link between them, with nothing on it but what a test sends."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lab.emulated_link import EmulatedEnd, EmulatedLink
from lab.emulator import Way, WayStats
from lab.host import Host
from lab.impairment import Impairment
from lab.namespace import can_make
from lab.process import wait_until

NAME = "cable"
ADDRESS = {"a": "192.0.2.1", "b": "192.0.2.2"}
MAC = {"a": "02:00:00:00:00:0a", "b": "02:00:00:00:00:0b"}
OTHER = {"a": "b", "b": "a"}
PORT = 5000
BATCH = 100
BARE = Impairment()

Hosts = dict[str, Host]


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Make hosts ``a`` and ``b``, or skip with the reason."""
    reason = can_make()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"no TAP interfaces here: /dev/net/tun: {error.strerror}")
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        made = {}
        for name in ADDRESS:
            made[name] = Host(name, Path(directory) / name)
            stack.callback(made[name].close)
            made[name].sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        yield made


def ends(hosts: Hosts) -> tuple[EmulatedEnd, EmulatedEnd]:
    a, b = (EmulatedEnd(host.netns_fd, NAME, MAC[name]) for name, host in hosts.items())
    return a, b


@contextlib.contextmanager
def cable(
    hosts: Hosts, ab: Impairment = BARE, ba: Impairment = BARE, *, seed: int = 1, mtu: int = 1500
) -> Iterator[EmulatedLink]:
    """Lay an emulated link with addresses and no need of ARP."""
    with EmulatedLink.start(*ends(hosts), ab=ab, ba=ba, seed=seed, mtu=mtu, name=NAME) as link:
        configure(hosts)
        yield link


def configure(hosts: Hosts) -> None:
    for name, host in hosts.items():
        host.run(["ip", "-batch", "-"], input=configuration(name))


def configuration(name: str) -> str:
    far = OTHER[name]
    return (
        f"address replace {ADDRESS[name]}/24 dev {NAME}\n"
        f"link set {NAME} up\n"
        f"neighbour replace {ADDRESS[far]} lladdr {MAC[far]} dev {NAME} nud permanent\n"
    )


def interface(host: Host) -> dict[str, object]:
    """Return what the host knows of its end; empty if there is none."""
    listed = host.run(["ip", "-j", "link", "show", "dev", NAME], check=False).stdout
    found: list[dict[str, object]] = msgspec.json.decode(listed or "[]")
    return found[0] if found else {}


@contextlib.contextmanager
def sockets(hosts: Hosts) -> Iterator[dict[str, socket.socket]]:
    """Open a UDP socket on each host, connected to the other's."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name, host in hosts.items():
            made[name] = stack.enter_context(host.socket(socket.AF_INET, socket.SOCK_DGRAM))
            made[name].bind((ADDRESS[name], PORT))
            made[name].setblocking(False)
        for name in made:
            made[name].connect((ADDRESS[OTHER[name]], PORT))
        yield made


def drain(receiver: socket.socket) -> list[bytes]:
    received = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(receiver.recv(65536))
    return received


def send_numbered(hosts: Hosts, count: int, way: Way, size: int, settled: Callable[[int, int], bool]) -> list[int]:
    """Send numbered datagrams one way and return the numbers in the order of their arrival.

    ``settled(sent, received)`` says whether none of those sent is still under way: so many at a time go out as the
    receiver's socket can hold.
    """
    received: list[bytes] = []
    with sockets(hosts) as pair:
        sender, receiver = (pair[end] for end in way.value)
        for first in range(0, count, BATCH):
            sent = min(first + BATCH, count)
            for number in range(first, sent):
                sender.send(number.to_bytes(4, "big").ljust(size, b"."))

            def quiet(sent: int = sent) -> bool:
                received.extend(drain(receiver))
                return settled(sent, len(received))

            wait_until(quiet, timeout_s=10, what="the arrival of all that was not dropped", interval_s=0.001)
    return [int.from_bytes(data[:4], "big") for data in received]


def transfer(link: EmulatedLink, hosts: Hosts, count: int, *, way: Way = Way.AB, size: int = 100) -> list[int]:
    """Send numbered datagrams over an emulated link and return the numbers in the order of their arrival."""
    before = of(link, way)

    def settled(sent: int, received: int) -> bool:
        stats = of(link, way)
        taken = stats.in_frames + stats.unread - before.in_frames - before.unread
        return taken == sent and not stats.under_way and received == stats.out_frames - before.out_frames

    numbers = send_numbered(hosts, count, way, size, settled)
    assert of(link, way).unread == before.unread
    return numbers


def of(link: EmulatedLink, way: Way) -> WayStats:
    stats: WayStats = getattr(link.stats(), way)
    return stats
