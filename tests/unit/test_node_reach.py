"""What changes around a node: its routes, its own networks, where its peer may be."""

from __future__ import annotations

from ipaddress import ip_network

from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from lab.world_model import World
from tests.unit.test_node_handshake import LOCAL, PEER, REMOTE, Lone, initiate

INNER = Endpoint("10.7.0.2", 51820)
TUNNELLED = [ip_network("10.7.0.0/24"), ip_network("fd07::/64")]


def test_no_peer_is_looked_for_inside_the_tunnel() -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE, INNER], lone.now)
    lone.take()
    lone.run_until(1.0)
    assert {datagram.remote for _, datagram in lone.sent} == {REMOTE, INNER}
    lone.node.set_tunnelled(TUNNELLED, lone.now)
    lone.sent.clear()
    lone.take()
    lone.run_until(4.0)
    assert {datagram.remote for _, datagram in lone.sent} == {REMOTE}
    lone.node.set_endpoints(PEER.public, [REMOTE, INNER], lone.now)
    lone.take()
    lone.run_until(10.0)
    assert {datagram.remote for _, datagram in lone.sent} == {REMOTE}


def test_no_peer_is_believed_to_be_inside_the_tunnel() -> None:
    lone = Lone()
    lone.node.set_tunnelled(TUNNELLED, lone.now)
    assert lone.receive(initiate().message, remote=INNER) == []
    assert lone.dropped() == {DropReason.REMOTE_TUNNELLED: 1}
    assert len(lone.receive(initiate(2**62).message)) == 1


def test_a_change_of_routes_starts_over_at_once() -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE], lone.now)
    lone.take()
    lone.run_until(60.0)
    lone.sent.clear()
    lone.node.hurry(lone.now)
    lone.take()
    lone.run_until(lone.now)
    assert [(at, datagram.local, datagram.remote) for at, datagram in lone.sent] == [(60.0, LOCAL, REMOTE)]


def test_a_peer_that_is_asked_for_again_is_sought_although_nothing_changed() -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE], lone.now)
    lone.take()
    lone.run_until(1000.0)
    lone.sent.clear()
    lone.node.seek(PEER.public, lone.now)
    lone.take()
    lone.run_until(1001.0)
    assert len(lone.initiates()) == 1


def test_a_pair_that_is_not_usable_is_probed_when_routes_change() -> None:
    world = World.quiet(links=(2, 1))
    a, b = world.machines
    world.blocked.add((a.uplinks[1].local.host, b.uplinks[0].local.host))
    b.start()
    a.start()
    world.send_packets(a, 5.0, 3.0)
    world.clock.run_until(40.0)  # quiet again: pairs that do not work are probed each 10 s
    world.blocked.clear()
    probed: list[Endpoint] = []
    world.watch = lambda machine, local, remote, data: probed.append(local) if machine is a else None
    a.hurry()
    world.clock.run_until(40.1)
    assert probed[0] == a.uplinks[1].local
    assert len(a.node.status(a.now).peers[0].paths) == 2
    assert {path.state for path in a.node.status(a.now).peers[0].paths} == {"usable"}
