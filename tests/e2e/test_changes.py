"""What changes under a running tunnel: addresses, links, names, peers, settings; and what strangers send."""

from __future__ import annotations

import random
import re
import signal
import socket
from pathlib import Path

import pytest

from centipede.names import FIRST_PAUSE_S
from centipede.protocol.identity import Identity
from lab.process import Process
from tests.e2e.world import NAME, REKEY_OFTEN, Site, World, eventually, private_file

pytestmark = pytest.mark.netns


class Pinging:
    """A ping that goes on while something happens."""

    def __init__(self, site: Site) -> None:
        log = site.host.directory / "ping.log"
        log.unlink(missing_ok=True)
        self._log = log
        self._process: Process = site.host.start(
            ["ping", "-n", "-i", "0.02", f"10.7.0.{3 - site.number}"],
            log=log,
            ready=lambda: "icmp_seq=" in log.read_text(),
        )

    def lost(self) -> list[int]:
        """End it; the numbers of the packets that did not come back, before the last one that did."""
        self._process.signal(signal.SIGINT)
        self._process.wait(10.0)
        text = self._log.read_text()
        assert "DUP!" not in text
        back = {int(number) for number in re.findall(r"icmp_seq=(\d+)", text)}
        assert len(back) > 5
        return [number for number in range(1, max(back)) if number not in back]


def test_an_address_that_changes_is_followed(world: World) -> None:
    world.up(peer="copies = 2")
    pinging = Pinging(world.a)
    world.a.ip("addr", "add", "192.0.2.77/25", "dev", "l0")  # of another prefix, or it would go with the first one
    world.a.ip("addr", "del", "192.0.2.1/24", "dev", "l0")
    eventually(lambda: ("192.0.2.77", "192.0.2.2") in world.a.paths(), "a path from the new address")
    eventually(lambda: ("192.0.2.2", "192.0.2.77") in world.b.paths(), "b using the new address")
    assert sorted(world.a.show()["listen"]) == ["192.0.2.77:51820", "198.51.100.1:51820"]
    assert pinging.lost() == []  # the other link carried a copy of each packet


def test_the_only_address_changes(world: World) -> None:
    world.configure(listen='["l0:51820"]')
    world.a.up()
    world.b.up()
    eventually(world.a.reaches, "a packet going through")
    world.a.ip("addr", "del", "192.0.2.1/24", "dev", "l0")
    eventually(lambda: world.a.show()["listen"] == [], "the old address given up")
    world.a.ip("addr", "add", "192.0.2.77/24", "dev", "l0")
    eventually(world.a.reaches, "a packet going through from the new address")
    assert world.a.peer()["session"]["rekeys"] == 0 or world.a.peer()["session"]["state"] == "established"


def test_a_link_that_vanishes_takes_nothing_with_it(world: World) -> None:
    world.up(peer='copies = "all"')
    pinging = Pinging(world.a)
    world.a.ip("link", "delete", "l1")
    eventually(lambda: world.a.show()["listen"] == ["192.0.2.1:51820"], "the link given up")
    eventually(lambda: ("192.0.2.2", "192.0.2.1") in world.b.paths(), "b staying on the other link")
    assert pinging.lost() == []
    # Its name comes back as another interface, as a USB modem's does.
    world.a.ip("link", "add", "l1", "type", "veth", "peer", "name", "elsewhere")
    world.a.ip("addr", "add", "198.51.100.9/24", "dev", "l1")
    world.a.ip("link", "set", "elsewhere", "up")  # else the new link has no carrier
    world.a.ip("link", "set", "l1", "up")
    eventually(lambda: "198.51.100.9:51820" in world.a.show()["listen"], "listening on the new interface")
    assert world.a.ping().received == 5


def test_a_link_that_goes_down_and_up(world: World) -> None:
    world.up()
    world.a.ip("link", "set", "l0", "down")
    eventually(lambda: world.a.show()["listen"] == ["198.51.100.1:51820"], "the link given up")
    assert world.a.ping().received == 5
    world.a.ip("link", "set", "l0", "up")
    world.settle()


def test_fixed_addresses_outlast_routes_and_refusals(world: World) -> None:
    """Sends that fail, for want of a route and by a firewall's word, are counted and end nothing."""
    world.a.configure(world.b, listen='["192.0.2.1:51820", "198.51.100.1:51820"]')
    world.b.configure(world.a)
    world.a.up()
    world.b.up()
    world.settle()
    world.a.ip("addr", "flush", "dev", "l0")
    refuse = "table inet t { chain o { type filter hook output priority 0; oifname l1 udp dport 51820 drop; }; }"
    eventually(lambda: world.a.ping("-c", "3").received == 3, "going on by the other link")
    eventually(lambda: world.a.show()["drops"].get("send_unreachable", 0) > 0, "sends without a route being counted")
    world.a.host.run(["nft", refuse])
    eventually(
        lambda: not world.a.reaches() and world.a.show()["drops"].get("send_refused", 0) > 0,
        "sends the firewall refuses being counted",
    )
    world.a.host.run(["nft", "delete table inet t"])
    world.a.ip("addr", "add", "192.0.2.1/24", "dev", "l0")
    world.settle()
    assert world.a.ping().received == 5


def test_the_tunnel_s_own_interface_vanishes(world: World) -> None:
    """The daemon ends with an error, so that a supervisor starts it again."""
    world.configure()
    world.b.up()
    daemon = world.a.run()
    world.settle()
    world.a.ip("link", "delete", NAME)
    assert daemon.wait(10.0) == 1
    assert "interface cpd0 was removed from outside" in world.a.log.read_text()
    eventually(lambda: not world.b.paths(), "the other end having been told")
    world.a.assert_nothing_is_left()
    world.a.up()
    world.settle()


def test_garbage_ends_nothing(world: World) -> None:
    world.up()
    chance = random.Random(1)
    before = sum(world.a.show()["drops"].values())
    with world.b.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for number in range(3000):
            size = chance.choice((0, 1, 8, 31, 32, 33, 72, 96, 168, 208, chance.randrange(1400)))
            head = chance.choice((b"", b"\x81\x01" + bytes(6), b"\x82\x01" + bytes(6), b"\x83\x01" + bytes(6), b"\x40"))
            data = (head + chance.randbytes(size))[: size or None]
            stranger.sendto(data if number else b"", ("192.0.2.1", 51820))
    eventually(lambda: sum(world.a.show()["drops"].values()) > before + 1000, "the garbage being counted")
    assert world.a.ping().received == 5
    assert "defect" not in world.a.log.read_text()
    drops = world.a.show()["drops"]
    assert {"too_short", "unknown_session", "bad_mac1", "handshake_malformed"} <= drops.keys()


# Names.


def resolve_by(site: Site, hosts: str) -> None:
    """Let the host know only these names. Its mounts are its own, the machine's files stay as they are."""
    files = {"hosts": hosts, "nsswitch.conf": "hosts: files\n"}
    for name, text in files.items():
        path = site.host.directory / name
        mounted = path.exists()
        path.write_text(text)
        path.chmod(0o644)
        if not mounted:
            site.host.run(["mount", "--bind", path, f"/etc/{name}"])


def test_host_names_are_resolved_and_resolved_again(world: World) -> None:
    resolve_by(world.a, "127.0.0.1 localhost\n")
    world.b.configure(world.a, endpoints="[]", listen='["l0:51820"]')
    world.a.configure(world.b, endpoints='["b.example:51820"]', listen='["l0:51820"]')
    world.b.up()
    world.a.up()  # is not held up by a name that cannot be resolved
    eventually(lambda: world.a.peer()["unresolved"] != {"b.example": ""}, "the name being looked up")
    assert "unresolved: b.example (" in world.a.cli("show").stdout
    resolve_by(world.a, "192.0.2.2 b.example\n")
    eventually(world.a.reaches, "a packet going through once the name is known")
    assert world.a.peer()["unresolved"] == {}
    # b moves, and a's firewall lets nobody call it: only the name tells. By now it would not be looked up for a minute.
    stateful = "chain i { type filter hook input priority 0; iifname l0 meta l4proto udp ct state new drop; }"
    world.a.host.run(["nft", f"table inet t {{ {stateful}; }}"])
    eventually(lambda: world.a.peer()["session"]["age_s"] > 2 * FIRST_PAUSE_S, "the name being left alone")
    resolve_by(world.a, "192.0.2.88 b.example\n")
    world.b.ip("addr", "del", "192.0.2.2/24", "dev", "l0")
    world.b.ip("addr", "add", "192.0.2.88/24", "dev", "l0")
    eventually(world.a.reaches, "a packet going through at the new address")


def test_a_name_inside_the_tunnel_is_not_used(world: World) -> None:
    resolve_by(world.a, "10.7.0.2 b.example\n192.0.2.2 b.example\n")
    world.b.configure(world.a, endpoints="[]")
    world.a.configure(world.b, endpoints='["b.example:51820"]')
    world.b.up()
    world.a.up()
    eventually(world.a.reaches, "a packet going through")
    assert "lies inside the tunnel: not used" in world.a.log.read_text()
    assert not any(path["remote"].startswith("10.7.") for path in world.a.peer()["paths"])


# Changes by the user.


def test_sync_touches_only_what_differs(world: World) -> None:
    world.up()
    session_age = world.a.peer()["session"]["age_s"]
    pinging = Pinging(world.a)
    assert world.a.cli("sync", NAME).stdout == "nothing to change\n"
    extra = Identity.from_seed(bytes([3]) * 32).public.text
    world.a.configure(
        world.b,
        interface="mtu = 1400",
        address='["10.7.0.1/24", "fd07::1/64", "10.8.0.1/24"]',
        peer='copies = "all"',
        tail=f'[[peer]]\nname = "extra"\npublic_key = "{extra}"\nallowed_ips = ["10.9.0.0/16"]\n',
    )
    assert world.a.cli("sync", NAME, world.a.file).stdout.splitlines() == [
        "addresses changed",
        "mtu changed",
        "peer extra added",
        "peer b changed",
    ]
    shown = world.a.show()
    assert shown["mtu"] == 1400
    assert {peer["name"] for peer in shown["peers"]} == {"b", "extra"}
    assert "10.9.0.0/16" in world.a.host.run(["ip", "route", "show", "dev", NAME]).stdout
    world.a.configure(world.b)
    world.a.cli("sync", NAME, world.a.file)
    assert "10.9.0.0/16" not in world.a.host.run(["ip", "route", "show", "dev", NAME]).stdout
    assert world.a.peer()["session"]["rekeys"] == 0
    assert world.a.peer()["session"]["age_s"] > session_age
    assert pinging.lost() == []


def test_sighup_reads_the_file_again(world: World) -> None:
    world.configure()
    daemon = world.a.run()
    world.b.up()
    world.settle()
    world.a.configure(world.b, interface="mtu = 1300")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: world.a.show()["mtu"] == 1300, "the new mtu")
    world.a.configure(world.b, interface="mtu = 13")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: "not reloaded: " in world.a.log.read_text(), "the refusal being logged")
    assert world.a.show()["mtu"] == 1300
    assert world.a.ping().received == 5


def test_sync_that_cannot_be_done_changes_nothing(world: World) -> None:
    world.a.ip("route", "add", "10.1.0.0/24", "via", "192.0.2.2")
    world.up()
    before = world.a.show()
    cases = {
        "listen: UDP 203.0.113.1:51820: no interface": {"listen": '["203.0.113.1:51820"]'},
        "the route to 10.1.0.0/24 (allowed_ips) exists already": {
            "allowed_ips": '["10.7.0.2", "fd07::2", "10.1.0.0/24"]',
            "interface": "mtu = 1300",
        },
        "engine and workers cannot change while cpd0 is running": {"engine": '"auto"', "interface": "workers = 2"},
        "did you mean mtu?": {"interface": "mtuu = 1"},
    }
    for sentence, keys in cases.items():
        world.a.configure(world.b, **keys)
        done = world.a.cli("sync", NAME, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert sentence.replace("listen: ", "") in done.stderr, done.stderr
    after = world.a.show()
    assert (after["mtu"], after["listen"], after["addresses"]) == (before["mtu"], before["listen"], before["addresses"])
    assert f"mtu {after['mtu']}" in world.a.host.run(["ip", "link", "show", NAME]).stdout
    assert world.a.ping().received == 5


def test_peers_are_added_changed_and_removed(world: World) -> None:
    world.b.configure(world.a)
    world.b.up()
    private_file(
        world.a.file,
        f'[interface]\nprivate_key = "{world.a.identity.text()}"\naddress = ["10.7.0.1/24"]\nengine = "python"\n',
    )
    world.a.up()
    key = world.b.identity.public.text
    world.a.cli("show")
    wrong = world.a.cli("peer", NAME, "add", key, "--allowed-ips", "10.7.0.2/24", check=False)
    assert (wrong.returncode, "allowed_ips[0]: '10.7.0.2/24' has bits set" in wrong.stderr) == (1, True)
    psk = Path(world.b.host.directory / "both.psk")
    added = world.a.cli(
        "peer", NAME, "add", key, "--name", "b", "--allowed-ips", "10.7.0.2", "--preshared-key-file", psk
    )
    assert added.stdout == "peer b added\n"
    world.a.cli("peer", NAME, "set", "b", "--endpoint", "192.0.2.2:51820", "--copies", "all")
    eventually(world.a.reaches, "a packet going through")
    assert world.a.peer()["copies"] == "all"
    assert world.a.peer()["endpoints"] == ["192.0.2.2:51820"]
    reset = world.a.cli("peer", NAME, "set", "b", "--reset-floor")
    assert reset.stdout == "floor of peer b reset\n"
    eventually(world.a.reaches, "a packet going through after the reset")
    assert world.a.cli("peer", NAME, "remove", key).stdout == "peer b removed\n"
    assert world.a.show()["peers"] == []
    assert not world.a.reaches()
    unknown = world.a.cli("peer", NAME, "remove", "b", check=False)
    assert (unknown.returncode, unknown.stderr) == (1, "centipede: there is no peer 'b'; there are: none\n")


def test_nothing_is_lost_across_rekeys(world: World) -> None:
    world.up(tail=REKEY_OFTEN)
    pinging = Pinging(world.a)
    begin = world.a.peer()["session"]["rekeys"]
    eventually(lambda: world.a.peer()["session"]["rekeys"] >= begin + 3, "three rekeys")
    assert pinging.lost() == []


def test_a_restart_is_noticed_by_the_other_end(world: World) -> None:
    world.up()
    world.a.cli("down", NAME)
    world.a.up()
    world.settle()
    assert world.b.ping().received == 5


def test_a_clock_that_jumps_back_by_years_does_not_lock_out(world: World) -> None:
    offset = world.a.host.directory / "offset"
    world.configure(tail=REKEY_OFTEN)
    world.b.up()
    daemon = world.a.run(wall_offset=offset)
    world.settle()
    offset.write_text("-300000000")
    begin = world.a.peer()["session"]["rekeys"]
    eventually(lambda: world.a.peer()["session"]["rekeys"] >= begin + 2, "two rekeys with a clock that is wrong")
    daemon.kill()
    eventually(lambda: NAME not in world.a.interfaces(), "the interface gone with its daemon")
    world.a.run(wall_offset=offset)
    world.settle()
