"""Listening: which addresses an entry means, and in which order sockets come and go."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import cast

import pytest

from centipede.engine.contract import Engine
from centipede.errors import HostError
from centipede.fields import ANYWHERE, parse_listen
from centipede.listening import RETRY_S, Listening, Place, places
from centipede.protocol.endpoint import Endpoint
from centipede.system.links import LinkAddress

HOME = LinkAddress("eth0", 2, ip_address("192.0.2.1"))
HOME6 = LinkAddress("eth0", 2, ip_address("2001:db8::1"))
MOBILE = LinkAddress("wwan0", 3, ip_address("198.51.100.1"))
LOOPBACK = LinkAddress("lo", 1, ip_address("203.0.113.1"), loopback=True)
OWN = LinkAddress("cpd0", 9, ip_address("10.7.0.1"))
OTHER_TUNNEL = LinkAddress("tun9", 10, ip_address("10.8.0.1"), tunnel=True)
ALL = (LOOPBACK, HOME, HOME6, OWN, OTHER_TUNNEL, MOBILE)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["192.0.2.9:7"], [Place("192.0.2.9", 7)]),
        (["eth0:7"], [Place("192.0.2.1", 7, "eth0", 2), Place("2001:db8::1", 7, "eth0", 2)]),
        (["lo:7"], [Place("203.0.113.1", 7, "lo", 1)]),
        (["tun8:7"], []),
        (["tun9:7"], [Place("10.8.0.1", 7, "tun9", 10)]),
        (
            ["auto:7"],
            [
                Place("192.0.2.1", 7, "eth0", 2),
                Place("2001:db8::1", 7, "eth0", 2),
                Place("198.51.100.1", 7, "wwan0", 3),
            ],
        ),
        (
            ["192.0.2.1:7", "eth0:7", "eth0:8"],
            [
                Place("192.0.2.1", 7),
                Place("2001:db8::1", 7, "eth0", 2),
                Place("192.0.2.1", 8, "eth0", 2),
                Place("2001:db8::1", 8, "eth0", 2),
            ],
        ),
        (["cpd0:7"], []),
    ],
)
def test_what_entries_mean(entries: list[str], expected: list[Place]) -> None:
    assert list(places(map(parse_listen, entries), ALL, "cpd0")) == expected


class FakeEngine:
    """Keeps a list of what it was told."""

    workers = 2

    def __init__(self) -> None:
        self.told: list[str] = []
        self.fds: dict[Endpoint, Sequence[int]] = {}

    def add_local(self, local: Endpoint, fds: Sequence[int]) -> None:
        assert len(fds) == self.workers
        self.told.append(f"+{local}")
        self.fds[local] = fds

    def remove_local(self, local: Endpoint) -> None:
        self.told.append(f"-{local}")

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return told


class Host:
    """A Listening over a host that refuses some addresses."""

    def __init__(self, *entries: str) -> None:
        self.engine = FakeEngine()
        self.refused: set[str] = set()
        self.devices: dict[Endpoint, str | None] = {}
        self.listening = Listening(
            cast("Engine", self.engine), [parse_listen(entry) for entry in entries], "cpd0", 9, self.open
        )

    def open(self, local: Endpoint, count: int, *, device: str | None, mark: int) -> tuple[int, ...]:
        assert mark == 9
        if local.host in self.refused:
            raise HostError(f"UDP {local} is in use")
        self.devices[local] = device
        return tuple(range(count))


def test_addresses_are_followed_new_ones_before_old_ones_go() -> None:
    host = Host("eth0:7")
    host.listening.open([HOME], 0.0)
    host.listening.close_stale()
    assert host.engine.take() == ["+192.0.2.1:7"]
    assert host.devices == {Endpoint("192.0.2.1", 7): "eth0"}
    moved = LinkAddress("eth0", 2, ip_address("192.0.2.2"))
    host.listening.open([moved], 1.0)
    assert host.listening.locals == (Endpoint("192.0.2.2", 7),)
    assert host.engine.take() == ["+192.0.2.2:7"]
    host.listening.close_stale()
    assert host.engine.take() == ["-192.0.2.1:7"]
    host.listening.open([moved], 2.0)
    host.listening.close_stale()
    assert host.engine.take() == []


def test_an_address_by_itself_is_served_whether_or_not_it_is_there() -> None:
    host = Host("192.0.2.1:7")
    host.listening.open([], 0.0)
    assert host.engine.take() == ["+192.0.2.1:7"]
    assert host.devices == {Endpoint("192.0.2.1", 7): None}
    host.listening.open([HOME], 1.0)
    host.listening.open([], 2.0)
    host.listening.close_stale()
    assert host.engine.take() == []


def test_an_address_that_moves_to_another_interface_gets_new_sockets() -> None:
    host = Host("auto:7")
    host.listening.open([HOME], 0.0)
    host.listening.open([LinkAddress("eth1", 5, HOME.address)], 1.0)
    host.listening.close_stale()
    assert host.engine.take() == ["+192.0.2.1:7", "-192.0.2.1:7", "+192.0.2.1:7"]
    assert host.devices == {Endpoint("192.0.2.1", 7): "eth1"}


def test_an_interface_that_went_and_came_back_gets_new_sockets() -> None:
    host = Host("eth0:7")
    host.listening.open([HOME], 0.0)
    host.listening.open([LinkAddress("eth0", 6, HOME.address)], 1.0)
    assert host.engine.take() == ["+192.0.2.1:7", "-192.0.2.1:7", "+192.0.2.1:7"]


def test_what_is_refused_is_logged_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    host = Host("eth0:7")
    host.refused = {"192.0.2.1"}
    host.listening.open([HOME, HOME6], 10.0)
    assert host.listening.locals == (Endpoint("2001:db8::1", 7),)
    assert host.listening.retry_at == 10.0 + RETRY_S
    host.listening.open([HOME, HOME6], 15.0)
    assert [line.getMessage() for line in caplog.records if line.levelname == "WARNING"] == [
        "UDP 192.0.2.1:7 is in use; trying again"
    ]
    host.refused = set()
    host.listening.open([HOME, HOME6], 20.0)
    assert set(host.listening.locals) == {Endpoint("192.0.2.1", 7), Endpoint("2001:db8::1", 7)}
    assert host.listening.retry_at == math.inf


def test_at_the_start_a_refusal_is_an_error() -> None:
    host = Host("eth0:7")
    host.refused = {"192.0.2.1"}
    with pytest.raises(HostError, match=r"UDP 192.0.2.1:7 is in use"):
        host.listening.open([HOME], 0.0, strict=True)


def test_no_more_than_eight_are_served(caplog: pytest.LogCaptureFixture) -> None:
    host = Host("eth0:7")
    host.listening.open([LinkAddress("eth0", 2, ip_address(f"192.0.2.{n}")) for n in range(1, 11)], 0.0)
    assert len(host.listening.locals) == 8
    assert "only 8 of 10 local addresses are used" in caplog.text


def test_an_interface_with_many_addresses_takes_no_other_its_first() -> None:
    host = Host("203.0.113.9:7", "203.0.113.8:7", "auto:7")
    many = [LinkAddress("br0", 2, ip_address(f"192.0.2.{n}")) for n in range(1, 11)]
    host.listening.open([*many, HOME6, MOBILE], 0.0)
    assert [local.host for local in host.listening.locals] == [
        "203.0.113.9",
        "203.0.113.8",
        "192.0.2.1",
        "2001:db8::1",
        "198.51.100.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.4",
    ]


def test_a_free_port_is_the_same_for_all_workers() -> None:
    engine = FakeEngine()
    listening = Listening(cast("Engine", engine), [ANYWHERE], "cpd0", None)
    listening.open([LinkAddress("lo", 1, ip_address("127.0.0.1"))], 0.0)
    ((local, fds),) = engine.fds.items()
    assert listening.locals == (local,)
    ports = set()
    for fd in fds:
        with socket.socket(fileno=fd) as bound:
            ports.add(bound.getsockname()[1])
    assert ports == {local.port}
    assert local.port != 0
