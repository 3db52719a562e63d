"""Tunnels of different shapes: either engine, several workers, IPv6 outside, initiators without a port, keepalive."""

from __future__ import annotations

import json

import pytest

from centipede.engine import native_unavailable
from tests.e2e.test_changes import Pinging
from tests.e2e.world import NAME, REKEY_OFTEN, World, eventually

pytestmark = pytest.mark.netns

SIZES = (0, 1, 100, 1392, 1393, 9000)
"""Of pings, the inner MTU being 1420: the last two come in fragments."""


@pytest.fixture
def native() -> None:
    if (reason := native_unavailable()) is not None:
        pytest.skip(f"the native engine cannot be used: {reason}")


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("left", "right"), [("native", "native"), ("native", "python"), ("python", "native")])
def test_engines_speak_to_each_other(world: World, left: str, right: str) -> None:
    world.a.configure(world.b, engine=f'"{left}"', tail=REKEY_OFTEN)
    world.b.configure(world.a, engine=f'"{right}"', tail=REKEY_OFTEN)
    world.a.up()
    world.b.up()
    world.settle()
    assert (world.a.show()["engine"], world.b.show()["engine"]) == (left, right)
    pinging = Pinging(world.a)
    for to in ("10.7.0.2", "fd07::2"):
        for size in SIZES:
            pinged = world.a.ping("-s", str(size), to=to)
            assert (pinged.received, pinged.duplicates) == (5, 0), pinged.text
    eventually(lambda: world.a.peer()["session"]["rekeys"] >= 2, "two rekeys")
    world.a.ip("addr", "del", "192.0.2.1/24", "dev", "l0")
    world.a.ip("addr", "add", "192.0.2.77/24", "dev", "l0")
    eventually(lambda: ("192.0.2.2", "192.0.2.77") in world.b.paths(), "b using the new address")
    assert pinging.lost() == []
    for site in (world.a, world.b):
        site.cli("down", NAME)
        site.assert_nothing_is_left()


@pytest.mark.parametrize("engine", ["python", "native"])
def test_several_workers(world: World, engine: str, request: pytest.FixtureRequest) -> None:
    if engine == "native":
        request.getfixturevalue("native")
    world.up(engine=f'"{engine}"', interface="workers = 3")
    assert world.a.show()["workers"] == 3
    for port in range(4):  # flows are spread over the queues by their addresses and ports
        assert world.a.ping("-s", str(port)).received == 5
    assert world.b.ping().received == 5


def test_ipv6_outside(world: World) -> None:
    for site in (world.a, world.b):
        for link, network in (("l0", "2001:db8:0"), ("l1", "2001:db8:1")):
            site.ip("addr", "add", f"{network}::{site.number}/64", "dev", link, "nodad")
    for site, other in ((world.a, world.b), (world.b, world.a)):
        site.configure(
            other,
            listen=f'["[2001:db8:0::{site.number}]:51820", "l1:51820"]',
            endpoints=f'["[2001:db8:0::{other.number}]:51820", "[2001:db8:1::{other.number}]"]',
        )
        site.up()
    expected = {("[2001:db8::1]", "[2001:db8::2]"), ("[2001:db8:1::1]", "[2001:db8:1::2]")}
    eventually(world.a.reaches, "a packet going through")
    eventually(lambda: world.a.paths() >= expected, "both paths")
    assert world.a.ping().received == 5
    assert world.a.ping(to="fd07::2").received == 5


def test_who_only_initiates_needs_no_port_and_no_addresses(world: World) -> None:
    """a names nothing of its own; b knows no endpoint of a and listens on all it has."""
    world.a.configure(world.b)
    world.a.file.write_text("".join(line for line in world.a.file.read_text().splitlines(True) if "listen" not in line))
    world.b.configure(world.a, endpoints="[]", listen='["auto"]')
    world.b.up()
    world.a.up()
    eventually(world.a.reaches, "a packet going through")
    eventually(lambda: {("192.0.2.1", "192.0.2.2"), ("198.51.100.1", "198.51.100.2")} <= world.a.paths(), "both paths")
    listen = world.a.show()["listen"]
    assert sorted(each.rpartition(":")[0] for each in listen) == ["192.0.2.1", "198.51.100.1"]
    assert sorted(world.b.show()["listen"]) == ["192.0.2.2:51820", "198.51.100.2:51820"]
    # A link that comes later is used as well.
    world.a.ip("addr", "add", "203.0.113.1/24", "dev", "l0")
    eventually(lambda: len(world.a.show()["listen"]) == 3, "the new address being served")


def test_keepalive_brings_the_session_up_without_traffic(world: World) -> None:
    world.configure(peer="keepalive = true")
    world.a.up()
    world.b.up()
    eventually(lambda: world.a.peer()["session"]["state"] == "established", "a session without a packet")
    assert world.a.peer()["tx_packets"] == 0


def test_a_failing_handshake_says_what_it_waits_for(world: World) -> None:
    world.a.configure(world.b)
    world.a.up()
    world.a.ping("-c", "1", "-W", "1")
    eventually(lambda: world.a.peer()["handshake"] is not None, "the handshake being shown")
    peer = world.a.peer()
    assert peer["session"]["state"] == "initiating"
    assert peer["handshake"]["step"]
    assert f"handshake: {peer['handshake']['step']}" in world.a.cli("show").stdout
    # A wrong preshared key is refused, and named.
    world.b.configure(world.a)
    (world.b.host.directory / "both.psk").write_text((world.b.host.directory / "own.key").read_text())
    world.b.up()
    eventually(
        lambda: "acknowledge_undecryptable" in json.dumps(world.a.show()), "the reason of the refusal being shown"
    )
    assert not world.a.reaches()
