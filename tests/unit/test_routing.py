"""Longest prefix wins, as a look at every route would say."""

from __future__ import annotations

import random
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from centipede.protocol.routing import Routing
from centipede.protocol.table import Route

ROUTES = tuple(
    Route(ip_network(text), peer)
    for text, peer in (
        ("0.0.0.0/0", 1),
        ("10.0.0.0/8", 2),
        ("10.7.0.0/16", 3),
        ("10.7.0.2/32", 4),
        ("10.7.0.0/24", 5),
        ("fd00::/8", 6),
        ("fd07::/64", 7),
        ("fd07::1/128", 8),
    )
)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", 1),
        ("10.8.0.1", 2),
        ("10.7.1.1", 3),
        ("10.7.0.1", 5),
        ("10.7.0.2", 4),
        ("fd08::1", 6),
        ("fd07::2", 7),
        ("fd07::1", 8),
        ("fd07:0:0:1::1", 6),
        ("2001:db8::1", None),
    ],
)
def test_longest_prefix_wins(address: str, peer: int | None) -> None:
    routing = Routing(ROUTES)
    packed = ip_address(address).packed
    assert routing.lookup(packed) == peer
    assert routing.lookup(packed) == peer, "the second look-up comes from memory"


def test_no_routes_and_no_addresses() -> None:
    assert Routing(()).lookup(bytes(4)) is None
    assert Routing(ROUTES).lookup(b"") is None
    assert Routing(ROUTES).lookup(bytes(5)) is None


def test_an_ipv6_address_that_looks_like_ipv4_in_numbers_is_none() -> None:
    assert Routing([Route(ip_network("0.0.0.0/0"), 1)]).lookup(bytes(12) + bytes((10, 7, 0, 2))) is None


@pytest.mark.parametrize("seed", range(5))
def test_as_a_linear_scan(seed: int) -> None:
    dice = random.Random(seed)
    routes: list[Route] = []
    for peer in range(60):
        if dice.random() < 0.5:
            routes.append(Route(IPv4Network((dice.getrandbits(6) << 26, dice.randint(0, 32)), strict=False), peer))
        else:
            routes.append(Route(IPv6Network((dice.getrandbits(6) << 122, dice.randint(0, 128)), strict=False), peer))
    routing = Routing(routes)
    for _ in range(3000):
        size = dice.choice((4, 16))
        packed = (dice.getrandbits(8) << 8 * size - 8 | dice.choice((0, 1))).to_bytes(size, "big")
        address = ip_address(packed)
        holding = [route for route in routes if route.network.version == address.version and address in route.network]
        longest = max((route.network.prefixlen for route in holding), default=None)
        expected = next((route.peer for route in holding if route.network.prefixlen == longest), None)
        assert routing.lookup(packed) == expected
