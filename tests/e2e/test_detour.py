"""allowed_ips that hold the peer's own address: what the tunnel sends does not go round in circles."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.world import NAME, Site, World, eventually

pytestmark = pytest.mark.netns

EVERYTHING = '["0.0.0.0/0", "::/0"]'
FIXED = '["192.0.2.1:51820", "198.51.100.1:51820"]'
"""Sockets that are tied to no interface: only their mark keeps them out of the tunnel."""
KERNEL_RULES = {0, 32766, 32767}


def rules(site: Site) -> list[dict[str, Any]]:
    """All rules but the kernel's own."""
    both = [json.loads(site.host.run(["ip", version, "-json", "rule"]).stdout) for version in ("-4", "-6")]
    return [rule for some in both for rule in some if rule["priority"] not in KERNEL_RULES]


def through_tunnel(site: Site, address: str) -> bool:
    """Whether the host routes packets to this address into the tunnel."""
    return f"dev {NAME}" in site.host.run(["ip", "route", "get", address]).stdout


@pytest.mark.parametrize("listen", [FIXED, '["auto:51820"]'])
def test_a_default_route_through_the_tunnel(world: World, listen: str) -> None:
    world.b.ip("addr", "add", "203.0.113.2/32", "dev", "lo")  # behind b
    world.b.configure(world.a)
    world.a.configure(world.b, allowed_ips=EVERYTHING, listen=listen)
    world.b.up()
    world.a.up()
    world.settle()
    assert through_tunnel(world.a, "203.0.113.2")
    assert not through_tunnel(world.a, "192.0.2.2")  # the networks it is on stay reachable
    assert world.a.ping(to="203.0.113.2").received == 5
    assert {remote for _, remote in world.a.paths()} == {"192.0.2.2", "198.51.100.2"}
    world.a.cli("down", NAME)
    assert rules(world.a) == []
    world.a.assert_nothing_is_left()


@pytest.mark.parametrize("listen", [FIXED, '["auto:51820"]'])
def test_an_endpoint_inside_allowed_ips_beyond_a_default_route(world: World, listen: str) -> None:
    """The peer is reached at 203.0.113.2, and all of 203.0.113.0/24 is behind it."""
    world.b.ip("addr", "add", "203.0.113.2/32", "dev", "lo")
    world.b.ip("addr", "add", "203.0.113.3/32", "dev", "lo")
    world.a.ip("route", "add", "default", "via", "192.0.2.2")
    world.a.ip("route", "add", "203.0.0.0/16", "via", "198.51.100.2")  # shorter than the tunnel's: does not win
    world.a.ip("route", "add", "203.0.113.128/25", "via", "198.51.100.2")  # longer: wins
    world.b.configure(world.a, listen='["203.0.113.2:51820"]', endpoints="[]")
    world.a.configure(
        world.b, listen=listen, endpoints='["203.0.113.2:51820"]', allowed_ips='["10.7.0.2", "203.0.113.0/24"]'
    )
    world.b.up()
    world.a.up()
    eventually(world.a.reaches, "a packet going through")
    assert through_tunnel(world.a, "203.0.113.3")
    assert not through_tunnel(world.a, "203.0.113.129")
    assert not through_tunnel(world.a, "203.0.1.1")
    assert world.a.ping(to="203.0.113.3").received == 5
    world.a.cli("peer", NAME, "set", "b", "--allowed-ips", "10.7.0.2")
    eventually(lambda: rules(world.a) == [], "the rules taken away with the network")


def test_a_killed_daemon_s_rules_are_taken_away_by_the_next(world: World) -> None:
    world.b.configure(world.a)
    world.a.configure(world.b, allowed_ips=EVERYTHING)
    world.b.up()
    daemon = world.a.run()
    world.settle()
    before = rules(world.a)
    assert len(before) == 4
    daemon.kill()
    eventually(lambda: NAME not in world.a.interfaces(), "the interface gone with its daemon")
    assert len(rules(world.a)) == 4
    world.a.configure(world.b)
    world.a.up()
    world.settle()
    assert rules(world.a) == []


def test_two_tunnels_keep_their_rules_apart(world: World) -> None:
    world.b.configure(world.a)
    world.a.configure(world.b, allowed_ips=EVERYTHING)
    world.b.up()
    world.a.up()
    world.settle()
    other = world.a.file.with_name("cpd1.toml")
    text = world.a.file.read_text().replace('"::/0"', '"::/0", "10.66.0.0/16"').replace("51820", "51821")
    text = text.replace("10.7.0.1/24", "10.67.0.1/24").replace("fd07::1/64", "fd67::1/64")
    other.touch(mode=0o600)
    other.write_text(text)
    world.a.cli("up", other, "--state-dir", world.a.host.state_directory)
    assert len(rules(world.a)) == 8
    world.a.cli("down", "cpd1")
    assert len(rules(world.a)) == 4
    assert world.a.ping().received == 5


def test_a_strict_rp_filter_is_told_of(world: World) -> None:
    world.a.host.sysctl("net.ipv4.conf.l0.rp_filter", 1)
    world.b.configure(world.a)
    world.a.configure(world.b, allowed_ips=EVERYTHING)
    world.a.up()
    assert "interface l0 has a strict rp_filter" in world.a.log.read_text()


def test_no_routes_where_none_are_wanted(world: World) -> None:
    world.b.configure(world.a)
    world.a.configure(world.b, allowed_ips='["10.7.0.2", "fd07::2", "0.0.0.0/0"]', interface='table = "off"')
    world.b.up()
    world.a.up()
    world.settle()
    assert rules(world.a) == []
    assert not through_tunnel(world.a, "192.0.2.2")
