"""What two nodes tell each other of addresses: where else they are, how they are seen, where not to send."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from centipede.protocol.effects import Outgoing
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import Finished
from centipede.protocol.session import Opener
from centipede.protocol.status import PathStatus
from centipede.protocol.wire import Addresses, Heartbeat, Observed, decode_control
from lab.world_model import PORT, Machine, Nat, Uplink, World
from tests.unit.test_node_handshake import LOCAL, OTHER_LOCAL, REMOTE, Lone, confirmation, initiate, seal


def started(**options: object) -> tuple[World, Machine, Machine]:
    world = World.quiet(**options)  # type: ignore[arg-type]  # by name
    a, b = world.machines
    b.start()
    a.start()
    return world, a, b


def paths(machine: Machine) -> dict[tuple[str, str], PathStatus]:
    (peer,) = machine.node.status(machine.now).peers
    return {(path.local.host, path.remote.host): path for path in peer.paths}


def states(machine: Machine) -> dict[tuple[str, str], str]:
    return {pair: path.state for pair, path in paths(machine).items()}


# Other addresses.


def test_addresses_that_nobody_configured_are_found() -> None:
    world, a, b = started(links=(1, 3))
    assert a.spec is not None
    a.node.set_endpoints(a.spec.public_key, [b.uplinks[0].local], a.now)  # the only one a is told of
    world.send_packets(a, 0.1, 10.0)
    world.clock.run_until(5.0)
    every = {("10.1.1.1", f"10.2.{link}.1"): "usable" for link in (1, 2, 3)}
    assert states(a) == every
    new = Uplink(Endpoint("10.2.77.1", PORT))
    b.move([b.uplinks[0], new])
    world.clock.run_until(6.5)
    assert states(a)["10.1.1.1", "10.2.77.1"] == "usable"


def test_an_address_that_does_not_answer_gets_three_heartbeats_and_is_forgotten() -> None:
    world, a, b = started(nat=True)
    hidden = a.uplinks[0].local  # a tells it, but b can only answer to the translator's address
    towards: list[float] = []

    def watch(machine: Machine, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        if remote == hidden:
            assert len(data) == 96
            towards.append(world.clock.now)

    world.watch = watch
    world.send_packets(a, 0.1, 50.0)
    world.clock.run_until(50.0)
    assert len(towards) == 3
    assert set(states(b)) == {("10.2.1.1", "192.0.1.1")}


def established() -> tuple[Lone, Finished]:
    """A node to which the test is the peer, and the keys of their session."""
    lone = Lone()
    attempt = initiate()
    (answer,) = lone.receive(attempt.message)
    lone.receive(confirmation(attempt, answer.data))
    return lone, attempt.finish(answer.data)


@pytest.mark.parametrize("count", [1, 8, 16])
def test_what_a_peer_names_is_tried_within_bounds(count: int) -> None:
    lone, finished = established()
    lone.node.set_locals([LOCAL, OTHER_LOCAL], lone.now)
    lone.take()
    named = tuple(Endpoint(f"203.0.113.{number}", 9) for number in range(1, count + 1))
    counter = 100
    lone.sent.clear()
    for _ in range(50):  # over and over
        lone.receive(seal(finished, Addresses(named).encode(), counter))
        counter += 1
        lone.run_until(lone.now + 0.1)
    tries: dict[tuple[Endpoint, Endpoint], int] = {}
    for _, datagram in lone.sent:
        if datagram.remote in named:
            tries[datagram.local, datagram.remote] = tries.get((datagram.local, datagram.remote), 0) + 1
    assert max(tries.values()) <= 3
    assert sum(tries.values()) <= 8 * 5 + 8
    lone.run_until(lone.now + 5.0)
    assert not any(path.remote in named for path in lone.node.status(lone.now).peers[0].paths)


def test_an_address_the_peer_may_not_have_is_not_tried() -> None:
    world, a, b = started(links=(1, 2))
    assert a.spec is not None
    a.node.set_endpoints(a.spec.public_key, [b.uplinks[0].local], a.now)
    a.node.set_tunnelled([ip_network("10.2.2.0/24")], a.now)
    world.send_packets(a, 0.1, 5.0)
    world.clock.run_until(5.0)
    assert set(states(a)) == {("10.1.1.1", "10.2.1.1")}


def test_only_addresses_that_mean_something_elsewhere_are_told() -> None:
    told = {
        "10.1.1.1": False,
        "192.168.1.1": False,
        "100.64.0.1": False,
        "fd00::1": False,
        "1.1.1.1": True,
        "2606:4700::1111": True,
    }
    for host, expected in told.items():
        lone, _ = established()
        lone.node.set_locals([LOCAL, Endpoint(host, 7)], lone.now)
        lone.take()
        lone.run_until(lone.now + 0.5)
        small = {len(datagram.data) for _, datagram in lone.sent} - {96}
        assert (32 + 8 + 20 in small) == expected, host
    lone, _ = established()
    lone.sent.clear()
    lone.node.set_locals([LOCAL], lone.now, [LOCAL])  # named in the configuration
    lone.take()
    lone.run_until(lone.now + 0.5)
    assert [len(datagram.data) for _, datagram in lone.sent if len(datagram.data) < 96] == [60]


# As the peer sees it.


def test_each_end_learns_how_it_is_seen() -> None:
    world, a, b = started(nat=True, links=(2, 1))
    world.send_packets(a, 0.1, 3.0)
    world.clock.run_until(3.0)
    for (local, _), path in paths(a).items():
        assert path.observed is not None
        assert path.observed.host == local.replace("10.1", "192.0.1").removesuffix(".1")
        assert path.observed.port >= 20000
    assert {path.observed for path in paths(b).values() if path.state == "usable"} == {b.uplinks[0].local}
    before = {path.observed for path in paths(a).values()}
    for uplink in a.uplinks:
        assert uplink.nat is not None
        uplink.nat.rebind()
    world.send_packets(a, 0.1, 8.0)
    world.clock.run_until(8.0)
    after = {path.observed for path in paths(a).values()}
    assert before.isdisjoint(after)


def test_it_is_told_a_few_times_and_not_with_every_heartbeat() -> None:
    world, a, b = started()
    told: list[int] = []
    size = 32 + len(Observed(REMOTE).encode())
    world.watch = lambda machine, local, remote, data: told.append(1) if machine is b and len(data) == size else None
    world.send_packets(a, 0.1, 30.0)
    world.clock.run_until(30.0)
    assert len(told) == 3


def test_two_ends_behind_translators_meet_when_each_is_told_of_the_other() -> None:
    """Port-restricted both; somebody in between has told each the other's mapped address, one later than the other."""
    world, a, b = started()
    for machine, side in ((a, 1), (b, 2)):
        machine.move([Uplink(Endpoint(f"10.{side}.9.1", PORT), Nat(f"192.0.{side}.9", symmetric=False))])
        assert machine.spec is not None
        machine.node.set_endpoints(machine.spec.public_key, [], machine.now)
    world.clock.run_until(200.0)
    mapped = {}
    for machine in (a, b):
        nat = machine.uplinks[0].nat
        assert nat is not None
        mapped[machine.name] = nat.outbound(machine.uplinks[0].local, Endpoint("203.0.113.1", 1))
    for machine, other, moment in ((a, b, 200.0), (b, a, 204.0)):
        world.clock.run_until(moment)
        machine.point([mapped[other.name]])
    world.send_packets(a, 0.1, 215.0)
    world.send_packets(b, 0.1, 215.0)
    world.clock.run_until(210.0)
    for machine in (a, b):
        assert "usable" in states(machine).values()
    late = [key for key, at in world.sent.items() if at > 209 and key not in world.received]
    world.clock.run_until(216.0)
    assert not [key for key, at in world.sent.items() if 209 < at < 214.9 and key not in world.received], late


# Where not to send.


def test_a_draining_path_is_used_only_if_there_is_nothing_else() -> None:
    world, a, b = started(links=(2, 1), scheduler="fastest")
    world.send_packets(a, 0.05, 30.0)
    world.send_packets(b, 0.05, 30.0)
    world.clock.run_until(3.0)
    a.drain(True)
    world.clock.run_until(5.0)
    assert all(path.reason in ("carries data", "the peer asks to be sent to elsewhere") for path in paths(b).values())
    assert any(path.carries for path in paths(b).values()), "there is nothing else"
    a.drain(False)
    world.clock.run_until(7.0)
    assert "the peer asks to be sent to elsewhere" not in {path.reason for path in paths(b).values()}
    assert not [key for key, at in world.sent.items() if at < 6.9 and key not in world.received]


def test_one_draining_path_of_two_is_left() -> None:
    """The peer answers challenges on both paths; on one of them it asks to be left alone."""
    lone, finished = established()
    lone.node.set_locals([LOCAL, OTHER_LOCAL], lone.now)
    lone.take()
    opener, counter = Opener(finished.keys.rx_control), iter(range(200, 400))

    def beat(local: Endpoint, response: bytes | None = None, **more: Any) -> list[Outgoing]:
        message = Heartbeat(challenge=bytes(8), next_in_s=10.0, t1_us=1, response=response, **more)
        return lone.receive(seal(finished, message.encode(), next(counter)), local=local)

    def carrying() -> set[Endpoint]:
        (peer,) = lone.table.peers
        return {path.local for plan in peer.plans for path in plan.paths}

    (challenge,) = (out for out in beat(OTHER_LOCAL, answer_now=True) if out.local == OTHER_LOCAL)
    opened = decode_control(opener.open(challenge.data) or b"")
    assert isinstance(opened, Heartbeat)
    beat(OTHER_LOCAL, opened.challenge)
    assert carrying() == {LOCAL, OTHER_LOCAL}
    asks: tuple[dict[str, Any], ...] = ({"draining": True}, {"weight": 0})
    for flags in asks:
        beat(LOCAL, **flags)
        assert carrying() == {OTHER_LOCAL}
        beat(LOCAL)
        assert carrying() == {LOCAL, OTHER_LOCAL}
    beat(LOCAL, draining=True)
    beat(OTHER_LOCAL, bye=True)
    assert carrying() == {LOCAL}


# What show says.


def test_show_explains_each_path() -> None:
    world, a, b = started(links=(3, 1), scheduler="fastest")
    a.uplinks[1].up.delay_s = 0.2
    world.blocked.add((a.uplinks[2].local.host, b.uplinks[0].local.host))
    assert {path.reason for path in paths(a).values()} == {"not tried under a session yet"}
    world.send_packets(a, 0.05, 30.0)
    world.clock.run_until(5.0)
    reasons = {local: path.reason for (local, _), path in paths(a).items()}
    assert reasons == {
        "10.1.1.1": "carries data",
        "10.1.2.1": "spare, the scheduler prefers others",
        "10.1.3.1": "no answer so far",
    }
    shares = {local: path.tx_share for (local, _), path in paths(a).items()}
    assert shares == {"10.1.1.1": 1.0, "10.1.2.1": 0.0, "10.1.3.1": 0.0}
    world.blocked.add((b.uplinks[0].local.host, a.uplinks[0].local.host))
    world.clock.run_until(5.75)
    assert paths(a)["10.1.1.1", "10.2.1.1"].reason == "a heartbeat is missing; carries data"
    world.clock.run_until(10.0)
    assert paths(a)["10.1.1.1", "10.2.1.1"].reason == "nothing was heard for too long"
    world.blocked = {(a.uplinks[0].local.host, b.uplinks[0].local.host)}
    world.clock.run_until(15.0)
    assert paths(a)["10.1.1.1", "10.2.1.1"].state == "lost"
    world.clock.run_until(40.0)
    assert {path.tx_share for path in paths(a).values()} == {None}, "no traffic, no shares"


def test_show_says_that_the_peer_said_bye() -> None:
    world, a, b = started()
    world.clock.run_until(2.0)
    b.stop()
    world.clock.run_until(2.1)
    assert paths(a)["10.1.1.1", "10.2.1.1"].reason == "the peer said bye"


def test_show_tells_data_from_copies_and_metered_links_from_spare_ones() -> None:
    world, a, _ = started(links=(3, 1), scheduler="adaptive")
    assert a.spec is not None
    a.node.replace_peer(replace(a.spec, metered=("10.1.3.1",)), a.now)
    a.uplinks[1].up.delay_s = 0.1
    world.send_packets(a, 0.05, 10.0)
    world.clock.run_until(5.0)
    assert {local: path.reason for (local, _), path in paths(a).items()} == {
        "10.1.1.1": "carries data",
        "10.1.2.1": "carries second copies of urgent packets",
        "10.1.3.1": "spare, its link is metered",
    }
    assert [path.carries for path in paths(a).values()] == [True, True, False]
