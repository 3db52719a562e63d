"""``listen = "auto"``: which interfaces are used, and how soon what comes and goes is followed."""

from __future__ import annotations

import pytest

from tests.e2e.world import World, eventually

pytestmark = pytest.mark.netns

AUTO = '"auto:51820"'


def listen(world: World) -> set[str]:
    return {text.removesuffix(":51820") for text in world.a.show()["listen"]}


def test_every_link_is_used_and_no_tunnel_is(world: World) -> None:
    world.a.ip("tuntap", "add", "dev", "tun9", "mode", "tun")
    world.a.ip("addr", "add", "10.99.0.1/24", "dev", "tun9")
    world.a.ip("link", "set", "tun9", "up")
    world.a.ip("addr", "add", "203.0.113.1/32", "dev", "lo")
    world.a.ip("addr", "add", "169.254.7.7/16", "dev", "l0")
    world.a.ip("link", "add", "dark", "type", "veth", "peer", "name", "nowhere")
    world.a.ip("addr", "add", "10.98.0.1/24", "dev", "dark")
    world.a.ip("link", "set", "dark", "up")  # without a carrier: its other end is down
    world.up(listen=AUTO)
    assert listen(world) == {"192.0.2.1", "198.51.100.1"}
    world.a.ip("link", "set", "nowhere", "up")
    eventually(lambda: "10.98.0.1" in listen(world), "a link used once it has a carrier")
    world.a.ip("link", "set", "nowhere", "down")
    eventually(lambda: "10.98.0.1" not in listen(world), "a link given up when its carrier goes")
    assert world.a.ping().received == 5


def test_each_path_leaves_by_its_own_link(world: World) -> None:
    """Both links have a default route; the routing table alone would prefer the first for everything."""
    for site, number in ((world.a, 2), (world.b, 1)):
        site.ip("addr", "add", f"203.0.113.{3 - number}/32", "dev", "lo")
        site.ip("route", "add", "default", "via", f"192.0.2.{number}", "dev", "l0", "metric", "10")
        site.ip("route", "add", "default", "via", f"198.51.100.{number}", "dev", "l1", "metric", "20")
    world.b.configure(world.a, listen='["203.0.113.2:51820"]', endpoints="[]")
    world.a.configure(world.b, listen=AUTO, endpoints='["203.0.113.2:51820"]')
    world.b.up()
    world.a.up()
    both = {("192.0.2.1", "203.0.113.2"), ("198.51.100.1", "203.0.113.2")}
    eventually(lambda: world.a.reaches() and world.a.paths() >= both, "both paths of a")
    world.b.host.run(["nft", "table inet t { chain i { type filter hook input priority 0; iifname l0 drop; }; }"])
    eventually(lambda: world.a.paths() == both - {("192.0.2.1", "203.0.113.2")}, "the path over the dead link given up")


def test_a_route_that_comes_late_is_used_at_once(world: World) -> None:
    world.b.ip("addr", "add", "203.0.113.2/32", "dev", "lo")
    world.b.host.sysctl("net.ipv4.conf.all.arp_ignore", 1)
    world.b.configure(world.a, listen='["203.0.113.2:51820"]', endpoints="[]")
    world.a.configure(world.b, listen=AUTO, endpoints='["203.0.113.2:51820"]', tail="[timing]\nback_off_s = [3600]")
    world.b.up()
    world.a.up()
    # Linux takes what has no route, but an interface, for a neighbour there: it asks for its MAC address in vain.
    eventually(lambda: (world.a.peer()["handshake"] or {}).get("age_s", 0.0) > 5, "the first attempt being over")
    world.a.ip("route", "add", "default", "via", "192.0.2.2")
    eventually(world.a.reaches, "a packet going through")


def test_the_peer_s_other_addresses_are_found_and_each_path_is_explained(world: World) -> None:
    world.a.configure(world.b, endpoints='["192.0.2.2:51820"]')
    world.b.configure(world.a, endpoints="[]", listen='["192.0.2.2:51820", "198.51.100.2:51820"]')
    world.b.up()
    world.a.up()
    world.settle()  # over both links, though a was told of one
    (path,) = (path for path in world.a.peer()["paths"] if path["local"] == "198.51.100.1:51820" and path["carries"])
    assert path["observed"] == "198.51.100.1:51820"
    # which of the two is the better one is chance
    assert path["reason"] in ("carries data", "carries second copies of urgent packets")
    assert "usable (carries data), rtt " in world.a.cli("show").stdout
    assert world.a.show()["observed"] == {}, "no translator on the way"
