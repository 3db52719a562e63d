"""Two engines in two namespaces, any with any: whatever IP carries arrives as it left."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Datagram, TablePath, TablePeer
from tests.contract.harness import LOCAL_ADDRESS, PEER_ADDRESS, Rig, engine_param, eventually, readable
from tests.contract.packets import udp
from tests.contract.traffic import Datagrams, payloads, transfer
from tests.contract.tunnel import MTU, TUN, Bad, Tunnel, World, delete_link, inner, link_local, set_offloads, tunnel

pytestmark = pytest.mark.netns

LARGEST_UDP = {4: MTU - 28, 6: MTU - 48}
LOSSY = Bad(loss=0.03, duplicate=0.05, reorder=0.2)


def pairings() -> list[Any]:
    """Every engine with every other, either way round."""
    params = []
    for left, right in itertools.product(("python", "native"), repeat=2):
        marks = [mark for name in {left, right} for mark in engine_param(name).marks][:1]
        params.append(pytest.param((left, right), marks=marks, id=f"{left}-{right}"))
    return params


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    built = World()
    yield built
    built.close()


@pytest.fixture(scope="module", params=pairings())
def engines(request: pytest.FixtureRequest) -> tuple[str, str]:
    pair: tuple[str, str] = request.param
    return pair


@pytest.fixture
def direct(world: World, engines: tuple[str, str]) -> Iterator[Tunnel]:
    """A tunnel over good paths."""
    with tunnel(world, engines) as built:
        yield built


def expect_no_drops(built: Tunnel) -> None:
    assert not built.a.drops()
    assert not built.b.drops()


# Every size.


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("sender", "receiver"), ["AB", "BA"])
def test_udp_of_every_size(world: World, direct: Tunnel, version: int, sender: str, receiver: str) -> None:
    with Datagrams(world, sender, receiver, version) as datagrams:
        datagrams.pass_on(payloads(range(LARGEST_UDP[version] + 1)))
    expect_no_drops(direct)


@pytest.mark.parametrize("version", [4, 6])
def test_udp_in_fragments(world: World, direct: Tunnel, version: int) -> None:
    largest = LARGEST_UDP[version]
    sizes = [largest + 1, largest + 2, 2 * largest, 2 * largest + 1, 4001, 9000, 30001, 65507 - 20 * (version == 6)]
    with Datagrams(world, "A", "B", version) as datagrams:
        datagrams.pass_on(payloads(sizes), at_once=1)
    expect_no_drops(direct)


@pytest.mark.parametrize("version", [4, 6])
def test_a_protocol_of_its_own(world: World, direct: Tunnel, version: int) -> None:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with (
        world.socket("A", family, socket.SOCK_RAW, 253) as sender,
        world.socket("B", family, socket.SOCK_RAW, 253) as receiver,
    ):
        for payload in payloads([0, 1, 2, 7, 100, 1001, MTU - (20 if version == 4 else 40)]):
            sender.sendto(payload, (inner("B", version), 0))
            assert receiver.recv(65535)[20 if version == 4 else 0 :] == payload
    expect_no_drops(direct)


# TCP.


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outer_version", [4, 6])
@pytest.mark.parametrize(("sender", "receiver"), ["AB", "BA"])
def test_tcp(
    world: World, engines: tuple[str, str], version: int, outer_version: int, sender: str, receiver: str
) -> None:
    with tunnel(world, engines, version=outer_version):
        transfer(world, sender, receiver, version, 3_000_001, streams=3)


@pytest.mark.parametrize("size_bytes", [1, 2, 1367, 1368, 1369, 2737, 65537])
def test_tcp_tails(world: World, direct: Tunnel, size_bytes: int) -> None:
    transfer(world, "A", "B", 4, size_bytes)
    transfer(world, "B", "A", 6, size_bytes)
    expect_no_drops(direct)


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_with_several_workers(world: World, engines: tuple[str, str], version: int) -> None:
    with tunnel(world, engines, workers=(2, 3), copies=2):
        transfer(world, "A", "B", version, 2_000_003, streams=4)
        transfer(world, "B", "A", version, 2_000_003, streams=4)


# Forwarded traffic: the engine's host is a router, and meets packets that others made.


@pytest.mark.parametrize("offloads", ["on", "off"])
@pytest.mark.parametrize("version", [4, 6])
def test_forwarded(world: World, direct: Tunnel, version: int, offloads: str) -> None:
    links = [
        ("C", "eth"),
        ("A", "in"),
        ("A", "out0"),
        ("R", "a0"),
        ("R", "b0"),
        ("B", "out0"),
        ("B", "in"),
        ("D", "eth"),
    ]
    for host, name in links:
        world.hosts[host].run(set_offloads, name, offloads)
    try:
        transfer(world, "C", "D", version, 2_000_003, streams=2)
        transfer(world, "D", "C", version, 2_000_003)
        with Datagrams(world, "C", "D", version) as datagrams:
            datagrams.pass_on(payloads([0, 1, 2, 3, 100, 1001, LARGEST_UDP[version], LARGEST_UDP[version] - 1]))
            if version == 4:  # a router does not fragment IPv6, and the sender has yet to learn of the smaller MTU
                datagrams.sender.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: without DF
                datagrams.pass_on(payloads([1472, 1500, 4000]), at_once=1)
    finally:
        for host, name in links:
            world.hosts[host].run(set_offloads, name, "on")


# Header fields.


@pytest.mark.parametrize("tos", [0x00, 0x01, 0x02, 0x03, 0xB8, 0xFF])
@pytest.mark.parametrize("version", [4, 6])
def test_ecn_and_dscp_are_kept(world: World, direct: Tunnel, version: int, tos: int) -> None:
    level, option, receive = (
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS)
        if version == 6
        else (socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS)
    )
    with Datagrams(world, "A", "B", version) as datagrams:
        datagrams.sender.setsockopt(level, option, tos)
        datagrams.receiver.setsockopt(level, receive, 1)
        datagrams.sender.send(b"marked")
        data, ancillary, _, _ = datagrams.receiver.recvmsg(100, 100)
    assert data == b"marked"
    (value,) = (content for _, _, content in ancillary)
    assert value[0] == tos


def test_ip_options_are_kept(world: World, direct: Tunnel) -> None:
    options = b"\x01\x94\x04\x00\x00\x01\x01\x00"  # no-operation, router alert (RFC 2113), no-operation twice, end
    with (
        Datagrams(world, "A", "B", 4) as datagrams,
        world.socket("B", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw,
    ):
        datagrams.sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        datagrams.pass_on(payloads([0, 1, 700, LARGEST_UDP[4] - len(options)]))
        while (packet := raw.recv(65535))[12:16] != socket.inet_aton(inner("A", 4)):
            pass  # an outer packet
    assert packet[0] == 0x47
    assert packet[20:28] == options
    expect_no_drops(direct)


def test_ipv6_extension_headers_are_kept(world: World, direct: Tunnel) -> None:
    options = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # next header and length, both filled in or 8 bytes; PadN of 6
    with Datagrams(world, "A", "B", 6) as datagrams:
        datagrams.sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
        datagrams.receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVDSTOPTS, 1)
        for payload in payloads([0, 1, 700, LARGEST_UDP[6] - len(options)]):
            datagrams.sender.send(payload)
            data, ancillary, _, _ = datagrams.receiver.recvmsg(65535, 100)
            assert data == payload
            assert [content[2:] for _, _, content in ancillary] == [options[2:]]
    expect_no_drops(direct)


# Addresses that mean something only together with their interface.


def test_link_local_addresses(world: World, engine: str) -> None:
    """A path between A and R by their link-local addresses; the test is the peer, on R."""
    host, other = world.hosts["A"], world.hosts["R"]
    near = eventually(lambda: host.run(link_local, "out1"), "a link-local address")
    far = eventually(lambda: other.run(link_local, "a1"), "a link-local address")
    with (
        closing(host.run(Rig, engine, paths=0)) as built,
        world.socket("R", socket.AF_INET6, socket.SOCK_DGRAM) as remote,
    ):
        remote.bind((far, 0, 0, other.run(socket.if_nametoindex, "a1")))
        local = host.run(built.add_local, f"{near}%out1")
        path = TablePath(5, local, Endpoint.of(f"{far}%out1", remote.getsockname()[1]))
        host.run(built.apply, peers=(TablePeer(built.PEER, (built.plan(paths=(path,)),), (path,)),))

        built.tun.ends[0].socket.send(udp(LOCAL_ADDRESS, PEER_ADDRESS, b"out"))
        datagram, source = remote.recvfrom(2000)
        assert built.unseal(datagram) == udp(LOCAL_ADDRESS, PEER_ADDRESS, b"out")
        remote.sendto(built.seal(0, udp(PEER_ADDRESS, LOCAL_ADDRESS, b"in")), source)
        assert built.tun.ends[0].take() == udp(PEER_ADDRESS, LOCAL_ADDRESS, b"in")
        eventually(lambda: built.engine.counters().paths[5].rx_packets == 1)

        remote.sendto(b"\x81 up", source)
        event = host.run(built.event, Datagram)
        assert (event.local, event.remote) == (path.local, path.remote)
        assert host.run(built.engine.send, path.local, path.remote, b"\x81 down") is None
        assert remote.recv(2000) == b"\x81 down"
        assert not built.drops()


# Bad paths.


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_over_bad_paths(world: World, engines: tuple[str, str], version: int, copies: int) -> None:
    with tunnel(world, engines, copies=copies, bad=LOSSY, version=10 - version, seed=version) as built:
        transfer(world, "A", "B", version, 700_001)
        transfer(world, "B", "A", version, 700_001)
        duplicates = built.a.drops()[DropReason.DUPLICATE] + built.b.drops()[DropReason.DUPLICATE]
        assert duplicates
        assert {*built.a.drops(), *built.b.drops()} == {DropReason.DUPLICATE}


def test_udp_over_bad_paths_is_neither_doubled_nor_damaged(world: World, engines: tuple[str, str]) -> None:
    made = [struct.pack(">I", number) + payload for number, payload in enumerate(payloads([300] * 2000))]
    arrived: list[bytes] = []
    with tunnel(world, engines, copies=2, bad=LOSSY) as built, Datagrams(world, "A", "B", 4) as datagrams:
        for sent, payload in enumerate(made, start=1):
            datagrams.sender.send(payload)
            if sent % 50 == 0:
                count = built.wait_for_arrival(sent)
                arrived += [datagrams.receiver.recv(65535) for _ in range(count - len(arrived))]
        assert not readable(datagrams.receiver, 0)
    assert len(set(arrived)) == len(arrived)
    assert set(arrived) <= set(made)
    assert len(arrived) >= 0.98 * len(made)  # a packet is lost if both its copies are: one in a thousand


def test_a_cut_path_costs_nothing(world: World, engines: tuple[str, str]) -> None:
    """Two copies over two paths, one of which is cut half-way, and later mended: none lost, none doubled."""
    made = payloads([200] * 300)
    with tunnel(world, engines, copies=2) as built, Datagrams(world, "A", "B", 4) as datagrams:
        datagrams.pass_on(made[:100])
        with world.cut("A", 0):
            datagrams.pass_on(made[100:200])
        datagrams.pass_on(made[200:])
        assert not readable(datagrams.receiver, 0)
        counts = {0: 200, 1: 300}
        eventually(lambda: {n: path.rx_packets for n, path in built.b.engine.counters().paths.items()} == counts)
        assert built.a.drops() == {DropReason.SEND_UNREACHABLE: 100}
        assert built.b.drops() == {DropReason.DUPLICATE: 200}


# Faults of the host.


def test_a_link_without_room(world: World, engines: tuple[str, str]) -> None:
    """A slow link fills the socket's buffer: what does not fit is dropped and counted, and the engine goes on."""
    with tunnel(world, engines, send_buffer_bytes=8192) as built, Datagrams(world, "A", "B", 4) as datagrams:
        with world.slow("A", 0):
            for payload in payloads([1000] * 600):
                datagrams.sender.send(payload)
            eventually(lambda: built.a.engine.counters().paths[0].tx_packets + sum(built.a.drops().values()) == 600)
        assert set(built.a.drops()) == {DropReason.SEND_NO_BUFFERS}
        datagrams.sender.send(b"later")
        while datagrams.receiver.recv(65535) != b"later":
            pass


def test_a_tun_device_that_vanishes(world: World, engines: tuple[str, str]) -> None:
    with tunnel(world, engines) as built:
        world.hosts["A"].run(delete_link, TUN)
        eventually(lambda: built.a.drops().get(DropReason.RECEIVE_FAILED, 0) >= 2, "two failed reads")
        assert built.a.drops()[DropReason.RECEIVE_FAILED] < 1000, "the worker spins"
        assert built.b.engine.send(built.b.locals[0], built.a.locals[0], b"\x81 control all the same") is None
        assert readable(built.a.engine.event_fd)
        (event,) = (event for event in built.a.engine.events() if isinstance(event, Datagram))
        assert event.data == b"\x81 control all the same"
        with world.socket("B", socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"to a device that is gone", (inner("A", 4), 9))
            eventually(lambda: built.a.drops().get(DropReason.TUN_REFUSED) == 1, "a refused write")
