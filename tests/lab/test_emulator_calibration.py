"""A link measures what its impairment says, whatever carries it: emulator, netem or, for a rate alone, tbf.

Counts are held against the five-sigma bounds of chance; times against the emulator's own lateness: a run in which it
was late is void and repeated, and where the machine is never quiet enough the test is skipped with that reason.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TypeVar

import msgspec
import pytest

from lab.emulated_link import EmulatedLink
from lab.emulator import Way
from lab.host import Host
from lab.impairment import Backend, Impairment, netem_arguments, tbf_arguments
from tests.lab.cable import (
    BARE,
    MAC,
    NAME,
    Hosts,
    cable,
    configure,
    drain,
    send_numbered,
    sockets,
    transfer,
    two_hosts,
)

pytestmark = pytest.mark.netns

LATENESS_MAX_S = 0.002
ATTEMPTS = 3
SO_TIMESTAMPNS = 35
HEADERS = 14 + 20 + 8
MANY = 10_000

_T = TypeVar("_T")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with two_hosts() as made:
        yield made


class Carrier:
    """A link of any backend, laid."""

    def __init__(self, hosts: Hosts, emulated: EmulatedLink | None) -> None:
        self._hosts = hosts
        self._emulated = emulated

    def transfer(self, count: int, size: int = 100) -> list[int]:
        """Send numbered datagrams from a to b and return the numbers in the order of their arrival."""
        if self._emulated is not None:
            return transfer(self._emulated, self._hosts, count, size=size)
        begin = queue_discipline(self._hosts["a"])["packets"]

        def settled(_sent: int, received: int) -> bool:
            now = queue_discipline(self._hosts["a"])
            return not now["qlen"] and received == now["packets"] - begin

        return send_numbered(self._hosts, count, Way.AB, size, settled)

    def undisturbed(self, measure: Callable[[], _T]) -> _T:
        """Return a measurement during which the emulator was in time; netem and tbf live in the kernel and are."""
        if self._emulated is None:
            return measure()
        for _ in range(ATTEMPTS):
            self._emulated.stats(restart=True)
            result = measure()
            fault = self._emulated.stats().fault(lateness_limit_s=LATENESS_MAX_S)
            if fault is None:
                return result
        pytest.skip(f"this machine is too busy to measure times, {ATTEMPTS} times over: {fault}")


def queue_discipline(host: Host) -> dict[str, int]:
    listed = host.run(["tc", "-s", "-j", "qdisc", "show", "dev", NAME]).stdout
    first: dict[str, int] = msgspec.json.decode(listed)[0]
    return first


@contextlib.contextmanager
def lay(hosts: Hosts, backend: Backend, ab: Impairment, ba: Impairment = BARE) -> Iterator[Carrier]:
    if backend is Backend.EMULATOR:
        with cable(hosts, ab, ba) as link:
            yield Carrier(hosts, link)
        return
    a, b = hosts.values()
    far = {"ifname": NAME, "address": MAC["b"], "net_ns_fd": b.netns_fd}
    a.netlink(lambda netlink: netlink.link("add", ifname=NAME, kind="veth", address=MAC["a"], peer=far))
    try:
        for host, impairment in ((a, ab), (b, ba)):
            if impairment.impaired:
                arguments = netem_arguments if backend is Backend.NETEM else tbf_arguments
                discipline(host, backend, arguments(impairment))
        configure(hosts)
        yield Carrier(hosts, None)
    finally:
        a.run(["ip", "link", "del", NAME])


def discipline(host: Host, backend: Backend, arguments: tuple[str, ...]) -> None:
    done = host.run(["tc", "qdisc", "add", "dev", NAME, "root", backend.value, *arguments], check=False)
    if "Specified qdisc kind is unknown" in done.stderr or "No such file or directory" in done.stderr:
        pytest.skip(f"this kernel has no {backend.value}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def within_chance(count: int, of: int, share: float) -> bool:
    """Whether ``count`` of so many independent events is within five sigma of a share."""
    return abs(count - of * share) <= 5 * math.sqrt(of * share * (1 - share))


both = pytest.mark.parametrize("backend", [Backend.EMULATOR, Backend.NETEM])


@both
def test_random_loss(hosts: Hosts, backend: Backend) -> None:
    with lay(hosts, backend, Impairment(loss=0.05)) as carrier:
        assert within_chance(MANY - len(carrier.transfer(MANY)), MANY, 0.05)


@both
def test_loss_in_bursts(hosts: Hosts, backend: Backend) -> None:
    mean = 8
    with lay(hosts, backend, Impairment(loss=0.1, burst_frames=mean)) as carrier:
        arrived = set(carrier.transfer(MANY))
    runs = [len(list(run)) for lost, run in groupby(number not in arrived for number in range(MANY)) if lost]
    # The length of a burst is geometric, with a deviation just under its mean; so is the time between two.
    assert abs(sum(runs) / len(runs) - mean) <= 5 * mean / math.sqrt(len(runs))
    bursts = MANY * 0.1 / mean
    assert abs(len(runs) - bursts) <= 5 * math.sqrt(bursts)


@both
def test_duplicates(hosts: Hosts, backend: Backend) -> None:
    with lay(hosts, backend, Impairment(duplicate=0.05)) as carrier:
        numbers = carrier.transfer(MANY)
    assert set(numbers) == set(range(MANY))
    assert within_chance(len(numbers) - MANY, MANY, 0.05)


@both
def test_reordering(hosts: Hosts, backend: Backend) -> None:
    with lay(hosts, backend, Impairment(delay_ms=20, reorder=0.1)) as carrier:
        numbers = carrier.transfer(MANY)
    assert sorted(numbers) == list(range(MANY))
    overtook, lowest = 0, MANY
    for number in reversed(numbers):
        overtook += number > lowest
        lowest = min(lowest, number)
    # Those sent at once when nobody was under way overtook nobody; none else can have.
    assert overtook <= MANY * 0.1 + 5 * math.sqrt(MANY * 0.1 * 0.9)
    assert overtook >= MANY * 0.08


def round_trips_s(pair: dict[str, socket.socket], count: int) -> list[float]:
    """Send one datagram at a time there and back; return how long each took."""
    trips = []
    for number in range(count):
        data = number.to_bytes(4, "big")
        begin = time.monotonic()
        pair["a"].send(data)
        for end in ("b", "a"):
            assert select.select([pair[end]], [], [], 5)[0]
            assert drain(pair[end]) == [data]
            if end == "b":
                pair["b"].send(data)
        trips.append(time.monotonic() - begin)
    return trips


@both
def test_round_trip(hosts: Hosts, backend: Backend) -> None:
    with lay(hosts, backend, Impairment(delay_ms=15), Impairment(delay_ms=5)) as carrier, sockets(hosts) as pair:
        trips = carrier.undisturbed(lambda: round_trips_s(pair, 30))
    assert min(trips) >= 0.02
    assert min(trips) <= 0.02 + LATENESS_MAX_S


@both
def test_jitter(hosts: Hosts, backend: Backend) -> None:
    with lay(hosts, backend, Impairment(delay_ms=10, jitter_ms=8)) as carrier, sockets(hosts) as pair:
        trips = carrier.undisturbed(lambda: round_trips_s(pair, 100))
    assert 0.002 <= min(trips) <= 0.004
    assert max(trips) >= 0.016
    # The mean of 100 even draws, and what the way itself takes.
    assert abs(sum(trips) / len(trips) - 0.01) <= 5 * 0.008 / math.sqrt(3 * 100) + LATENESS_MAX_S


RATE_BPS = 10_000_000
PAYLOAD = 1000
BURST = 300


def spread_s(pair: dict[str, socket.socket]) -> float:
    """Send datagrams all at once; return the time between the arrivals of the first and the last, by the kernel."""
    pair["b"].setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sent = 0
    times: list[float] = []
    while len(times) < BURST:
        # Frames that wait in a queue of the kernel still belong to the sender, who may have only so many.
        readable, writable, _ = select.select([pair["b"]], [pair["a"]] if sent < BURST else [], [], 5)
        assert readable or writable
        if writable:
            pair["a"].send(sent.to_bytes(4, "big").ljust(PAYLOAD, b"."))
            sent += 1
        if not readable:
            continue
        _, ancillary, _, _ = pair["b"].recvmsg(2048, 64)
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
        times.append(seconds + nanoseconds / 1e9)
    return times[-1] - times[0]


# Of the kernel's lateness nothing is known, but on a slow machine it has some.
@pytest.mark.parametrize(("backend", "slack"), [(Backend.EMULATOR, 0.01), (Backend.NETEM, 0.1), (Backend.TBF, 0.1)])
def test_rate(hosts: Hosts, backend: Backend, slack: float) -> None:
    impairment = Impairment(rate_bps=RATE_BPS, limit_packets=BURST + 100)
    frame = PAYLOAD + HEADERS
    in_bucket = 0
    if backend is Backend.TBF:
        arguments = tbf_arguments(impairment)
        in_bucket = int(arguments[arguments.index("burst") + 1].removesuffix("b")) - frame
    with lay(hosts, backend, impairment) as carrier, sockets(hosts) as pair:
        spread = carrier.undisturbed(lambda: spread_s(pair))
    expected = ((BURST - 1) * frame - in_bucket) * 8 / RATE_BPS
    assert 0.99 * expected <= spread <= (1 + slack) * expected
