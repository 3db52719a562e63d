"""A tunnel's life with real daemons: up, show, down; signals; a crash; what stands in its way; its secrets."""

from __future__ import annotations

import json
import re
import signal
import socket

import pytest

from centipede.protocol.identity import render_key
from tests.e2e.world import NAME, PROGRAM, PSK, REKEY_OFTEN, Site, World, environment, eventually

pytestmark = pytest.mark.netns


def test_up_ping_show_down(world: World) -> None:
    world.up()
    for target in ("10.7.0.2", "fd07::2"):
        pinged = world.a.ping(to=target)
        assert (pinged.received, pinged.duplicates) == (5, 0), pinged.text
    shown = world.a.show()
    assert (shown["name"], shown["engine"], shown["workers"], shown["mtu"]) == (NAME, "python", 1, 1420)
    assert shown["public_key"] == world.a.identity.public.text
    assert sorted(shown["listen"]) == ["192.0.2.1:51820", "198.51.100.1:51820"]
    assert shown["drops"].keys() <= {
        "duplicate",
        "unknown_attempt",
        "acknowledge_limited",
        "no_route",
        "stale_timestamp",
    }
    (peer,) = shown["peers"]
    assert (peer["name"], peer["scheduler"], peer["copies"]) == ("b", "adaptive", None)
    assert peer["session"]["state"] == "established"
    assert peer["allowed_ips"] == ["10.7.0.2/32", "fd07::2/128"]
    assert min(peer["rx_packets"], peer["tx_packets"], peer["duplicates"]) >= 10
    for path in peer["paths"]:
        if path["state"] == "usable":
            assert path["rtt_ms"] > 0
            assert path["last_heard_s"] is not None
    text = world.a.cli("show").stdout
    assert f"interface: {NAME}\n" in text
    assert "  session: established " in text
    for site in (world.a, world.b):
        site.cli("down", NAME)
        site.assert_nothing_is_left()


def test_interface_settings(world: World) -> None:
    world.a.configure(world.b, interface="mtu = 1380", allowed_ips='["10.7.0.2", "10.99.0.0/16", "fd99::/64"]')
    world.a.up()
    (link,) = json.loads(world.a.host.run(["ip", "-json", "addr", "show", NAME]).stdout)
    assert (link["mtu"], link["txqlen"]) == (1380, 5000)
    assert "UP" in link["flags"]
    assert sorted(f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"]) == ["10.7.0.1/24", "fd07::1/64"]
    routes = {
        route["dst"]
        for version in ("-4", "-6")
        for route in json.loads(world.a.host.run(["ip", version, "-json", "route", "show", "dev", NAME]).stdout)
    }
    assert {"10.7.0.0/24", "10.99.0.0/16", "fd07::/64", "fd99::/64"} <= routes
    assert "10.7.0.2" not in routes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_everything_down(world: World, number: signal.Signals, record_property: pytest.Function) -> None:
    world.configure()
    daemon = world.a.run()
    world.b.up()
    world.settle()
    daemon.signal(number)
    assert daemon.wait(10.0) == 0
    world.a.assert_nothing_is_left()
    # b was told: it does not have to find out by silence.
    eventually(lambda: not world.b.paths(), "b learning of the end")


def test_a_crash_leaves_no_interface_and_the_next_start_works(world: World) -> None:
    world.up()
    world.a.host.run(["kill", "-9", str(world.a.show()["pid"])])
    eventually(lambda: NAME not in world.a.interfaces(), "the interface going with its process")
    assert (world.a.runtime_dir / f"{NAME}.sock").exists()
    failed = world.a.cli("show", NAME, check=False)
    assert (failed.returncode, f"{NAME} is not running" in failed.stderr) == (1, True)
    world.a.up()
    world.settle()
    assert world.a.ping().received == 5


def test_the_service_manager_is_told(world: World) -> None:
    world.a.configure(world.b)
    path = world.a.host.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20.0)
        command = ["env", f"NOTIFY_SOCKET={path}", *_run_command(world.a)]
        daemon = world.a.host.start(command, env=environment())
        assert manager.recv(100) == b"READY=1"
        assert world.a.show()["name"] == NAME
        daemon.signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert daemon.wait(10.0) == 0


def _run_command(site: Site) -> list[str]:
    return [*PROGRAM, "run", str(site.file), "--state-dir", str(site.host.state_directory)]


# What stands in the way: one sentence, exit 1, nothing left behind.


def fails(site: Site, sentence: str, *prefix: str) -> None:
    """Both ``up`` and ``run`` end with 1 and this one sentence."""
    for verb in ("up", "run"):
        arguments = [verb, str(site.file), "--state-dir", str(site.host.state_directory)]
        done = site.host.run(
            [*prefix, *PROGRAM, *arguments],
            env=environment(),
            check=False,
        )
        assert done.returncode == 1, done
        assert done.stdout == ""
        assert re.fullmatch(rf"centipede: .*{re.escape(sentence)}.*\n", done.stderr), done.stderr
        site.assert_nothing_is_left()


def test_address_in_use(world: World) -> None:
    world.a.configure(world.b)
    with world.a.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("192.0.2.1", 51820))
        fails(world.a, f"{NAME}.toml: [interface]: listen: UDP 192.0.2.1:51820 is in use: stop")
        world.a.configure(world.b, listen='["192.0.2.1:51820"]')
        fails(world.a, f"{NAME}.toml: [interface]: listen: UDP 192.0.2.1:51820 is in use: stop")
    world.a.up()


def test_address_of_another_host(world: World) -> None:
    world.a.configure(world.b, listen='["203.0.113.1:51820"]')
    fails(world.a, "listen: UDP 203.0.113.1:51820: no interface of this host has this address")


def test_no_tun_device(world: World) -> None:
    world.a.configure(world.b)
    world.a.host.run(["mount", "-t", "tmpfs", "none", "/dev/net"])
    fails(world.a, "/dev/net/tun is missing: ")


def test_no_permission(world: World) -> None:
    world.a.configure(world.b)
    fails(world.a, "no permission to create interface cpd0: run as root", "setpriv", "--bounding-set", "-net_admin")


def test_interface_name_in_use(world: World) -> None:
    world.a.configure(world.b)
    world.a.ip("link", "add", NAME, "type", "veth", "peer", "name", "other")
    for verb in ("up", "run"):
        done = world.a.cli(verb, world.a.file, "--state-dir", world.a.host.state_directory, check=False)
        assert (done.returncode, "interface cpd0 exists already" in done.stderr) == (1, True), done
    world.a.ip("link", "delete", NAME)
    world.a.assert_nothing_is_left()


def test_a_route_in_the_way(world: World) -> None:
    world.a.configure(world.b, allowed_ips='["10.7.0.2", "192.0.2.0/24"]', endpoints='["198.51.100.2"]')
    fails(world.a, "the route to 192.0.2.0/24 (allowed_ips) exists already through another interface")


def test_a_second_daemon_of_the_same_name(world: World) -> None:
    world.up()
    for verb in ("up", "run"):
        done = world.a.cli(verb, world.a.file, "--state-dir", world.a.host.state_directory, check=False)
        assert done.returncode == 1
        assert re.fullmatch(r"centipede: .*cpd0 is running already .*'centipede down cpd0'\n", done.stderr), done.stderr
    assert world.a.ping().received == 5


def test_a_mistake_in_the_configuration(world: World) -> None:
    world.a.configure(world.b, interface="mtuu = 1400")
    fails(world.a, f"{NAME}.toml: [interface]: mtuu: there is no such key; did you mean mtu?")


def test_a_key_file_others_can_read(world: World) -> None:
    world.a.configure(world.b)
    (world.a.host.directory / "own.key").chmod(0o644)
    fails(world.a, "own.key is open to other users (mode 0644)")


def test_secrets_are_never_logged(world: World) -> None:
    """At the most talkative level, over handshakes, rekeys, garbage, a refused key and a crash of a request."""
    world.up(tail=REKEY_OFTEN)
    eventually(lambda: world.a.reaches() and world.a.peer()["session"]["rekeys"] >= 2, "two rekeys")
    with world.b.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for size in (0, 31, 72, 168, 208, 1200):
            stranger.sendto(b"\x81\x01" + bytes(size), ("192.0.2.1", 51820))
    world.a.configure(world.b, peer='preshared_key = "wrong"')
    world.a.cli("sync", NAME, check=False)
    secrets = [world.a.identity.text(), world.b.identity.text(), PSK]
    shown = world.a.cli("show", "--json").stdout + world.a.cli("show").stdout
    said = world.a.log.read_text() + world.b.log.read_text() + shown
    kept = "".join(path.read_text() for path in world.a.host.state_directory.iterdir())
    for secret, seed in zip(secrets, (bytes([1]) * 32, bytes([2]) * 32, bytes([9]) * 32), strict=True):
        assert render_key(seed) == secret
        for form in (secret, secret[:20], seed.hex(), repr(seed)):
            assert form not in said
            assert form not in kept
    assert "session established" in said
