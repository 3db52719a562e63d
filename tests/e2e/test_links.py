"""Links against the kernel: which addresses count, and what a plan changes."""

from __future__ import annotations

import json
import select
from ipaddress import ip_interface, ip_network

import pytest

from centipede.errors import HostError
from centipede.system.links import LinkPlan, Links, LinkWatch
from tests.e2e.world import DEADLINE_S, Site, World

pytestmark = pytest.mark.netns

TUN = "cpd0"
FULL = LinkPlan.of(
    1400,
    [ip_interface("10.7.0.1/24"), ip_interface("fd07::1/64")],
    [ip_network("10.99.0.0/16"), ip_network("fd99::/64")],
)


def addresses(site: Site) -> set[tuple[str, str]]:
    def read() -> set[tuple[str, str]]:
        with Links() as links:
            return {(each.link, str(each.address)) for each in links.addresses() if not each.loopback}

    return site.host.call(read)


def configure(site: Site, plan: LinkPlan, previous: LinkPlan | None = None) -> None:
    def change() -> None:
        with Links() as links:
            links.configure(TUN, plan, previous)

    site.host.call(change)


def state(site: Site) -> tuple[int, set[str], set[str]]:
    """MTU, addresses and routes of the tunnel's interface."""
    (link,) = json.loads(site.host.run(["ip", "-json", "addr", "show", TUN]).stdout)
    routes = {
        route["dst"]
        for version in ("-4", "-6")
        for route in json.loads(site.host.run(["ip", version, "-json", "route", "show", "dev", TUN]).stdout)
    }
    return link["mtu"], {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"]}, routes


def test_only_usable_global_addresses_count(world: World) -> None:
    fixed = {("l0", "192.0.2.1"), ("l1", "198.51.100.1")}
    assert addresses(world.a) == fixed  # not the link-local ones, which are there as well
    world.a.ip("addr", "add", "2001:db8::1/64", "dev", "l0", "nodad")
    world.a.ip("addr", "add", "2001:db8::2/64", "dev", "l0", "nodad", "preferred_lft", "0")
    world.a.ip("addr", "add", "10.1.0.1", "peer", "10.1.0.2", "dev", "l1")
    world.a.ip("addr", "add", "169.254.7.7/16", "dev", "l1", "scope", "link")
    assert addresses(world.a) == fixed | {("l0", "2001:db8::1"), ("l1", "10.1.0.1")}
    world.a.ip("link", "set", "l1", "down")
    assert addresses(world.a) == {("l0", "192.0.2.1"), ("l0", "2001:db8::1")}


def test_a_tentative_address_does_not_count_until_it_is_checked(world: World) -> None:
    world.a.host.sysctl("net.ipv6.conf.l0.accept_dad", 1)
    world.a.host.sysctl("net.ipv6.conf.l0.dad_transmits", 100)
    world.a.ip("addr", "add", "2001:db8::1/64", "dev", "l0")
    assert ("l0", "2001:db8::1") not in addresses(world.a)


def test_the_watch_tells_of_addresses_and_links(world: World) -> None:
    with world.a.host.call(LinkWatch) as watch:
        for change in (
            ("addr", "add", "10.1.0.1/24", "dev", "l0"),
            ("addr", "del", "10.1.0.1/24", "dev", "l0"),
            ("link", "set", "l1", "down"),
        ):
            watch.drain()
            world.a.ip(*change)
            assert select.select([watch], [], [], DEADLINE_S)[0], change


def test_the_watch_survives_an_overflow(world: World) -> None:
    batch = world.a.host.directory / "batch"
    lines = [f"addr {verb} 10.{n // 250}.{n % 250}.1/32 dev l0" for verb in ("add", "del") for n in range(3000)]
    batch.write_text("\n".join(lines))
    with world.a.host.call(LinkWatch) as watch:
        world.a.ip("-batch", str(batch))
        watch.drain()
        world.a.ip("link", "set", "l1", "down")
        assert select.select([watch], [], [], DEADLINE_S)[0]


def test_a_plan_is_made_true_and_changed_by_its_differences(world: World) -> None:
    world.a.ip("tuntap", "add", "dev", TUN, "mode", "tun")
    configure(world.a, FULL)
    mtu, own, routes = state(world.a)
    assert (mtu, own) == (1400, {"10.7.0.1/24", "fd07::1/64"})  # no link-local address among them
    assert routes == {"10.7.0.0/24", "10.99.0.0/16", "fd07::/64", "fd99::/64"}
    other = LinkPlan.of(1300, [ip_interface("10.7.0.1/24"), ip_interface("10.8.0.1/24")], [ip_network("10.98.0.0/16")])
    configure(world.a, other, FULL)
    assert state(world.a) == (1300, {"10.7.0.1/24", "10.8.0.1/24"}, {"10.7.0.0/24", "10.8.0.0/24", "10.98.0.0/16"})
    configure(world.a, FULL, other)
    assert state(world.a) == (mtu, own, routes)
    configure(world.a, FULL, LinkPlan(1400, (), ()))  # what is there already is no obstacle
    assert state(world.a) == (mtu, own, routes)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (LinkPlan(99999999, (), ()), "interface cpd0 could not be brought up with mtu 99999999: Invalid argument"),
        (
            LinkPlan(1400, (), (ip_network("192.0.2.0/24"),)),
            r"the route to 192.0.2.0/24 \(allowed_ips\) exists already through another interface; remove it",
        ),
    ],
)
def test_what_the_kernel_refuses(world: World, plan: LinkPlan, sentence: str) -> None:
    world.a.ip("tuntap", "add", "dev", TUN, "mode", "tun")
    with pytest.raises(HostError, match=sentence):
        configure(world.a, plan)


def test_ipv6_switched_off(world: World) -> None:
    world.a.host.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    world.a.ip("tuntap", "add", "dev", TUN, "mode", "tun")
    with pytest.raises(HostError, match=r"address fd07::1/64 .* IPv6 is switched off on this host; run 'sysctl"):
        configure(world.a, FULL)


def test_an_interface_that_is_not_there(world: World) -> None:
    with pytest.raises(HostError, match="interface cpd0 does not exist"):
        configure(world.a, FULL)
