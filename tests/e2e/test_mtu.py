"""The MTU of the paths, and what the interface and its routes make of it."""

from __future__ import annotations

import json
import socket

import pytest

from lab.offloads import switch_off
from tests.e2e.world import DEADLINE_S, NAME, World, eventually

pytestmark = pytest.mark.netns

LARGEST = "iifname { l0, l1 } meta length > 1280 drop"
"""As a link of 1280 bytes whose router says nothing."""
QUICK = "[timing]\nmtu_hold_s = 0.5"


def mtus(world: World) -> set[int]:
    return {path["mtu"] for path in world.a.peer()["paths"] if path["state"] == "usable"}


def route_mtu(world: World) -> int:
    """What IPv4 packets to the peer are kept to; 0 if nothing is said."""
    (route,) = json.loads(world.a.host.run(["ip", "-json", "-details", "route", "show", "10.7.0.0/24"]).stdout)
    (metrics,) = route.get("metrics", [{}])
    return int(metrics.get("mtu", 0))


def test_the_interface_follows_its_paths_down_and_up(world: World) -> None:
    world.up(tail=QUICK)
    eventually(lambda: mtus(world) == {1472} and world.a.show()["mtu"] == 1440, "the whole of Ethernet used")
    for site in (world.a, world.b):
        site.host.run(["nft", f"table inet t {{ chain i {{ type filter hook input priority 0; {LARGEST}; }}; }}"])
    # Sizes are checked while there is traffic, so there is some.
    eventually(
        lambda: world.a.reaches() and mtus(world) == {1232} and world.a.show()["mtu"] == 1280,
        "the narrow paths noticed",
    )
    eventually(lambda: route_mtu(world) == 1200, "IPv4 kept to what fits")
    assert world.a.ping("-s", "1350", "-M", "dont").received == 5  # in inner fragments
    for site in (world.a, world.b):
        site.host.run(["nft", "delete table inet t"])
    eventually(
        lambda: world.a.reaches() and world.a.show()["mtu"] == 1440 and route_mtu(world) == 0,
        "the wide paths used again",
    )
    assert world.a.ping("-s", "1412", "-M", "do").received == 5


@pytest.mark.parametrize("engine", ["python", "auto"])
def test_a_connection_over_ipv6_goes_on_when_paths_become_narrow(world: World, engine: str) -> None:
    """Its segments are as long as the interface's MTU allows, which cannot be as narrow."""
    for site in (world.a, world.b):
        for link in ("l0", "l1"):
            switch_off(site.host, link)  # or a train of datagrams would look like a long one
    world.up(engine=f'"{engine}"', tail=QUICK)
    eventually(lambda: mtus(world) == {1472}, "the whole of Ethernet used")
    address = ("fd07::2", 5000)
    with (
        world.b.host.call(lambda: socket.create_server(address, family=socket.AF_INET6)) as listener,
        world.a.host.call(lambda: socket.create_connection(address, DEADLINE_S)) as client,
    ):
        listener.settimeout(DEADLINE_S)
        server, _ = listener.accept()
        with server:
            server.settimeout(DEADLINE_S)
            for site in (world.a, world.b):
                site.host.run(
                    ["nft", f"table inet t {{ chain i {{ type filter hook input priority 0; {LARGEST}; }}; }}"]
                )
            eventually(
                lambda: world.a.reaches() and world.a.show()["mtu"] == 1280 and world.b.show()["mtu"] == 1280,
                "the narrow paths noticed",
            )
            for sender, receiver in ((client, server), (server, client)):
                sender.sendall(bytes(60_000))
                left = 60_000
                while left:
                    left -= len(receiver.recv(left))


def test_an_mtu_that_was_set_stays(world: World) -> None:
    world.up(interface="mtu = 1300", tail=QUICK)
    eventually(lambda: mtus(world) == {1472}, "the paths being probed all the same")
    assert world.a.show()["mtu"] == 1300
    assert "mtu 1300" in world.a.host.run(["ip", "link", "show", NAME]).stdout


def test_a_link_of_its_own_mtu(world: World) -> None:
    """The host itself refuses to send larger datagrams whole; those of data are fragmented meanwhile."""
    for site in (world.a, world.b):
        for link in ("l0", "l1"):
            site.ip("link", "set", link, "mtu", "1400")
    world.up(tail=QUICK)
    eventually(lambda: mtus(world) == {1372} and world.a.show()["mtu"] == 1340, "the size of the links found")
    assert world.a.ping("-s", "1312", "-M", "do").received == 5
