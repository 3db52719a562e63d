"""Two nodes over a simulated network: sessions, paths and what users see of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.node import PeerSpec
from centipede.protocol.status import PathStatus, PeerStatus
from centipede.protocol.table import SendPlan
from centipede.protocol.timing import Timing
from lab.promises import InvariantError
from lab.world_model import PORT, Machine, Nat, Uplink, Weather, World

ROUND_TRIP_S = 0.04
"""Of calm weather: two uplinks and two downlinks, 10 ms each."""


def started(**options: object) -> tuple[World, Machine, Machine]:
    """Two machines that have just begun."""
    world = World.quiet(**options)  # type: ignore[arg-type]  # the options of World.quiet, by name
    a, b = world.machines
    b.start()
    a.start()
    return world, a, b


def peer(machine: Machine) -> PeerStatus:
    machine.node.observe(machine.engine.counters())
    return machine.node.status(machine.now).peers[0]


def paths(machine: Machine) -> dict[tuple[str, str], PathStatus]:
    return {(path.local.host, path.remote.host): path for path in peer(machine).paths}


def states(machine: Machine) -> dict[tuple[str, str], str]:
    return {pair: path.state for pair, path in paths(machine).items()}


def may_send(machine: Machine) -> bool:
    return machine.engine.plan is not None


def plan(machine: Machine) -> SendPlan:
    assert machine.engine.plan is not None
    return machine.engine.plan


def test_no_pause_is_longer_than_a_heartbeat_can_announce() -> None:
    """Neither the configuration nor a peer that tolerates any pause (0) makes one that does not fit."""
    world, a, b = started(timing=Timing(gap_s=0.004, up_s=700.0, idle_s=1000.0))
    world.clock.run_until(10.0)
    assert may_send(a)
    assert may_send(b)


def lost(world: World, name: str) -> int:
    """Packets for a machine that did not arrive and are not under way any more."""
    until = world.clock.now - 0.5
    return sum(key not in world.received for key, at in world.sent.items() if key[0] == name and at <= until)


def wait_for(world: World, condition: Callable[[], bool], within_s: float, step_s: float = 0.01) -> float:
    """Let virtual time pass until the condition holds; returns how long that took."""
    start = world.clock.now
    while not condition():
        assert world.clock.now - start < within_s, "\n".join(world.log)
        world.clock.run_until(world.clock.now + step_s)
    return world.clock.now - start


def test_one_round_trip_and_both_may_send() -> None:
    world, a, b = started()
    world.clock.run_until(ROUND_TRIP_S + 0.001)
    assert may_send(a)
    assert not may_send(b)
    world.clock.run_until(1.5 * ROUND_TRIP_S + 0.001)
    assert may_send(b)
    assert world.agree()
    assert peer(a).session.rekeys == peer(b).session.rekeys == 0


def test_two_links_carry_two_copies_on_pairs_that_share_nothing() -> None:
    world, a, b = started(links=(2, 2))
    world.clock.run_until(2.0)
    for machine in (a, b):
        assert set(states(machine).values()) == {"usable"}
        first, second = plan(machine).paths
        assert first.local != second.local
        assert first.remote != second.remote
    world.send_packets(a, 0.01, 4.0)
    world.clock.run_until(5.0)
    assert lost(world, "b") == 0
    status = peer(b)
    assert status.rx_packets == 2 * len(world.sent)
    assert status.duplicates == len(world.sent)
    assert peer(a).tx_packets == status.rx_packets
    assert peer(a).tx_bytes == status.rx_bytes > 0


def test_a_quiet_pair_gets_no_new_tables() -> None:
    world, a, b = started(links=(2, 2))
    world.clock.run_until(5.0)
    before = [machine.engine.table.generation for machine in (a, b)]
    world.clock.run_until(100.0)
    assert [machine.engine.table.generation for machine in (a, b)] == before


def test_measurements_are_right() -> None:
    world, a, b = started(links=(2, 1))
    a.uplinks[1].up = Weather(delay_s=0.1)
    world.send_packets(a, 0.05, 20.0)
    world.send_packets(b, 0.05, 20.0)
    world.clock.run_until(10.0)
    a.uplinks[0].up.loss = 0.25
    world.clock.run_until(20.0)
    near, far = (paths(a)[f"10.1.{link}.1", "10.2.1.1"] for link in (1, 2))
    assert near.rtt_ms == pytest.approx(40, abs=1)
    assert far.rtt_ms == pytest.approx(130, abs=1)
    assert near.loss is not None
    assert 0.1 < near.loss < 0.45
    assert far.loss == pytest.approx(0.0, abs=0.01)
    assert paths(b)["10.2.1.1", "10.1.1.1"].loss == pytest.approx(0.0, abs=0.05), "the other direction is well"


def test_a_rekey_adds_nothing_to_what_is_measured_of_loss() -> None:
    timing = Timing(rekey_s=5.0, rekey_jitter_s=0.5, rekey_fallback_s=7.0, reject_s=10.0)
    world, a, b = started(links=(2, 1), timing=timing)
    world.send_packets(a, 0.5, 40.0)
    while world.clock.now < 40.0:
        world.clock.run_until(world.clock.now + 0.25)
        for machine in (a, b):
            (known,) = machine.node._peers.values()
            measured = [path._loss for path in known._reach._paths if path.usable]
            assert min(measured, default=0.0) > -0.01, "less than none would hide some that comes later"
    assert peer(a).session.rekeys >= 5


def test_heartbeats_keep_the_rhythm_of_the_traffic() -> None:
    world, a, _ = started()
    world.clock.run_until(0.5)
    sent: list[float] = []
    world.watch = lambda machine, local, remote, data: sent.append(world.clock.now) if machine is a else None
    world.send_packets(a, 0.5, 10.0)
    world.clock.run_until(9.0)
    busy = len(sent)
    # Heartbeats; packets; a probe of the path's MTU each second, and an answer to that of the other end.
    assert busy == pytest.approx(8.5 / 0.2 + 8.5 / 0.5 + 2 * 8.5, abs=8)
    world.clock.run_until(12.5)  # the traffic stopped at 10, a path counts as in use until 12
    sent.clear()
    world.clock.run_until(18.5)
    assert len(sent) == pytest.approx(6, abs=2)
    world.clock.run_until(30.0)
    sent.clear()
    world.clock.run_until(90.0)
    assert len(sent) == pytest.approx(6, abs=2)


@pytest.mark.parametrize(("scheduler", "compares"), [("aggregate", True), ("fastest", False)])
def test_a_scheduler_that_compares_has_spare_paths_measured_as_often(scheduler: str, compares: bool) -> None:
    world, a, b = started(links=(2, 2), scheduler=scheduler)
    a.uplinks[1].up.delay_s = 0.1
    world.blocked |= {(f"10.1.{i}.1", f"10.2.{3 - i}.1") for i in (1, 2)}
    world.clock.run_until(1.0)
    heard: list[float] = []
    spare = (b.uplinks[1].local, a.uplinks[1].local)
    world.watch = lambda machine, local, remote, data: (
        heard.append(world.clock.now) if machine is b and (local, remote) == spare else None
    )
    world.send_packets(a, 0.05, 10.0)
    world.clock.run_until(10.0)
    assert (len(heard) > 40) == compares
    assert len(heard) < 60
    heard.clear()
    world.clock.run_until(13.0)
    heard.clear()
    world.clock.run_until(20.0)
    assert len(heard) < 15, "there is no traffic"


@pytest.mark.parametrize("scheduler", ["redundant", "fastest"])
def test_nothing_is_lost_across_rekeys(scheduler: str) -> None:
    timing = Timing(rekey_s=3.0, rekey_jitter_s=0.5, rekey_fallback_s=4.0, reject_s=6.0)
    world, a, b = started(links=(2, 2), timing=timing, scheduler=scheduler)
    for machine in (a, b):
        for uplink in machine.uplinks:
            uplink.up.jitter_s = 0.08  # packets of two sessions overtake each other
    world.clock.run_until(1.0)
    for machine in (a, b):
        world.send_packets(machine, 0.01, 30.0)
    world.clock.run_until(32.0)
    assert lost(world, "a") == lost(world, "b") == 0
    assert peer(a).session.rekeys >= 8
    for machine in (a, b):
        drops = machine.node.status(machine.now).drops
        assert not drops.keys() & {DropReason.UNKNOWN_SESSION, DropReason.UNKNOWN_SHARD, DropReason.NO_SESSION}


def test_with_one_link_gone_the_rekey_waits_a_second_and_loses_nothing() -> None:
    timing = Timing(rekey_s=3.0, rekey_jitter_s=0.5, rekey_fallback_s=4.0, reject_s=6.0)
    world, a, b = started(links=(2, 2), timing=timing)
    world.clock.run_until(1.0)
    for machine in (a, b):
        world.send_packets(machine, 0.01, 20.0)
    moment = 2.0
    while moment < 20.0:  # the second link comes and goes all the time
        world.clock.run_until(moment)
        a.uplinks[1].up.loss = a.uplinks[1].down.loss = 1.0 - a.uplinks[1].up.loss
        moment += 0.7
    world.clock.run_until(22.0)
    assert lost(world, "a") == lost(world, "b") == 0
    assert peer(a).session.rekeys >= 4


def test_both_may_begin_at_once() -> None:
    for seed in range(10):
        world = World.quiet(links=(2, 1), seed=seed)
        a, b = world.machines
        assert b.spec is not None
        b.configure(b.spec, [uplink.local for uplink in a.uplinks])
        a.wall_s, b.wall_s = 50.0 * (seed % 2), 50.0 * (seed // 2 % 2)
        a.start()
        world.clock.run_until(0.001 * seed)
        b.start()
        for machine in (a, b):
            world.send_packets(machine, 0.05, 3.0)
        world.clock.run_until(3.5)
        assert world.agree()
        assert lost(world, "a") == lost(world, "b") == 0


def test_without_traffic_a_session_lapses_and_comes_back_with_the_first_packet() -> None:
    world, a, b = started()
    world.clock.run_until(400.0)
    assert [peer(machine).session.state for machine in (a, b)] == ["none", "none"]
    world.send_packets(a, 1.0, 400.5)
    world.clock.run_until(401.0)
    assert lost(world, "b") == 0, "it waited for the handshake"


def test_the_last_known_address_is_tried_after_any_time() -> None:
    world, a, b = started()
    world.clock.run_until(5000.0)
    assert not peer(b).paths
    assert b.record is not None
    assert b.record.addresses == (a.uplinks[0].local,)
    world.send_packets(b, 1.0, 5000.5)
    world.clock.run_until(5001.0)
    assert lost(world, "a") == 0
    assert len(world.received) == 1


def test_keepalive_keeps_the_session_through_rekeys() -> None:
    world, a, b = started(keepalive=True)
    world.clock.run_until(1000.0)
    assert [peer(machine).session.state for machine in (a, b)] == ["established"] * 2
    assert 6 <= peer(a).session.rekeys <= 8
    assert world.agree()


def test_keepalive_does_not_take_a_pair_that_never_worked_for_a_dead_peer() -> None:
    world, a, _ = started(links=(2, 1), keepalive=True)
    a.uplinks[1].up.loss = 1.0
    world.clock.run_until(100.0)
    assert peer(a).session.rekeys == 0


def test_a_path_that_only_the_peer_uses_is_kept_in_time_for_it() -> None:
    """Each end chooses by what it loses itself. Whoever gets data on a path it does not use must still say it works."""
    world, a, b = started(links=(2, 1), scheduler="fastest")
    a.uplinks[1].up = a.uplinks[1].down = Weather(delay_s=0.05)
    a.uplinks[0].down = Weather(delay_s=0.01, loss=0.2)
    world.send_packets(a, 0.01, 60.0)
    world.send_packets(b, 0.01, 60.0)
    near, far = a.uplinks[0].local.host, a.uplinks[1].local.host
    world.clock.run_until(1.0)
    wait_for(world, lambda: plan(b).paths[0].remote.host == far, 20.0)
    world.clock.run_until(world.clock.now + 4.0)
    assert plan(a).paths[0].local.host == near
    a.uplinks[0].up = a.uplinks[0].down = Weather(delay_s=0.01, loss=1.0)
    assert wait_for(world, lambda: plan(a).paths[0].local.host == far or len(plan(a).paths) > 1, 2.0) < 0.6


def test_a_cut_link_costs_nothing_with_two_copies() -> None:
    world, a, b = started(links=(2, 2))
    for machine in (a, b):
        world.send_packets(machine, 0.01, 10.0)
    world.clock.run_until(3.0)
    a.uplinks[0].up.loss = a.uplinks[0].down.loss = 1.0
    took = wait_for(world, lambda: "lost" in states(a).values(), 1.5)
    assert 0.9 < took < 1.3
    assert set(states(a).values()) >= {"lost", "usable"}
    world.clock.run_until(7.0)
    a.uplinks[0].up.loss = a.uplinks[0].down.loss = 0.0
    wait_for(world, lambda: set(states(a).values()) == {"usable"}, 2.0)
    world.clock.run_until(11.0)
    assert lost(world, "a") == lost(world, "b") == 0


def test_fastest_leaves_a_dead_path_within_the_suspicion_time() -> None:
    world, a, _ = started(links=(2, 1), scheduler="fastest")
    a.uplinks[1].up.delay_s = 0.05
    world.send_packets(a, 0.01, 10.0)
    world.clock.run_until(5.0)
    assert [path.local.host for path in plan(a).paths] == ["10.1.1.1"]
    a.uplinks[0].up.loss = a.uplinks[0].down.loss = 1.0
    world.clock.run_until(11.0)
    gap_s = 0.01 * lost(world, "b")
    assert gap_s < 0.2 * 1.1 * 1.5 + 0.2 + ROUND_TRIP_S
    assert [path.local.host for path in plan(a).paths] == ["10.1.2.1"]


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_one_way_block_is_noticed_at_both_ends(direction: str) -> None:
    world, a, b = started(links=(2, 1))
    for machine in (a, b):
        world.send_packets(machine, 0.01, 10.0)
    world.clock.run_until(3.0)
    blocked = ("10.1.1.1", "10.2.1.1")
    world.blocked.add(blocked if direction == "there" else blocked[::-1])
    wait_for(world, lambda: states(a)[blocked] == "lost", 2.0)
    wait_for(world, lambda: states(b)[blocked[::-1]] == "lost", 1.0)
    assert states(a)["10.1.2.1", "10.2.1.1"] == "usable"
    world.clock.run_until(8.0)
    world.blocked.clear()
    wait_for(world, lambda: states(a)[blocked] == states(b)[blocked[::-1]] == "usable", 2.0)
    assert peer(a).session.rekeys == 0


def test_a_nat_that_rebinds_costs_a_round_trip() -> None:
    world, a, b = started(nat=True)
    for machine in (a, b):
        world.send_packets(machine, 0.005, 10.0)
    world.clock.run_until(3.0)
    nat = a.uplinks[0].nat
    assert nat is not None
    nat.rebind()
    old = next(path.remote for path in peer(b).paths)
    took = wait_for(world, lambda: any(path.remote != old for path in plan(b).paths), 1.0, 0.001)
    # The next packet, 5 ms later, half a round trip to the other end, then a challenge and its answer.
    assert took <= 0.005 + 1.5 * ROUND_TRIP_S + 0.005
    world.clock.run_until(10.5)
    assert lost(world, "b") == 0, "this direction did not suffer"
    assert lost(world, "a") * 0.005 <= 2 * ROUND_TRIP_S + 0.01
    assert peer(b).session.rekeys == 0


def test_a_symmetric_nat_with_two_links_works_on_all_pairs() -> None:
    world = World.quiet(links=(2, 2))
    a, b = world.machines
    a.uplinks = [
        Uplink(uplink.local, Nat(f"192.0.1.{number}", symmetric=True)) for number, uplink in enumerate(a.uplinks, 1)
    ]
    b.start()
    a.start()
    world.clock.run_until(3.0)
    assert set(states(a).values()) == {"usable"}
    assert sum(path.state == "usable" for path in peer(b).paths) == 4


def test_roaming_keeps_the_session() -> None:
    world, a, b = started()
    for machine in (a, b):
        world.send_packets(machine, 0.01, 10.0)
    world.clock.run_until(3.0)
    a.move([Uplink(Endpoint("10.1.77.1", PORT))])
    world.clock.run_until(10.5)
    assert peer(a).session.rekeys == peer(b).session.rekeys == 0
    assert lost(world, "b") * 0.01 <= 2 * ROUND_TRIP_S
    assert lost(world, "a") * 0.01 <= 2 * ROUND_TRIP_S
    assert {path.remote.host for path in plan(b).paths} == {"10.1.77.1"}


def test_a_restarted_peer_with_its_record_is_back_in_a_round_trip() -> None:
    world, a, b = started()
    world.send_packets(a, 0.01, 10.0)
    world.clock.run_until(3.0)
    b.restart(keep_record=True, bye=False)  # b knows a's address from the record alone
    took = wait_for(world, lambda: any(at > 3.0 for (name, _), at in world.received.items() if name == "b"), 2.0)
    assert took < 1.0 + 3 * ROUND_TRIP_S, "a waits up to a second for its other paths before it trusts the new session"


def test_a_restarted_peer_that_forgot_everything_is_found_by_the_dead_session_rule() -> None:
    world, a, b = started()
    world.send_packets(a, 0.01, 20.0)
    world.clock.run_until(3.0)
    b.restart(keep_record=False, bye=False)
    took = wait_for(world, lambda: any(at > 3.1 for (name, _), at in world.received.items() if name == "b"), 6.0)
    assert 3.0 < took < 3.0 + 0.5 + 3 * ROUND_TRIP_S


def test_a_peer_that_restarts_right_after_its_own_handshake_is_back_as_soon() -> None:
    """The session it lost is new, and by a clock that is ahead: no reason to prefer it to the one that replaces it."""
    world, a, b = started()
    world.send_packets(a, 0.05, 20.0)
    world.clock.run_until(5.0)
    b.wall_s = 100.0
    b.restart(keep_record=True, bye=False)  # and has a session with a at once
    world.clock.run_until(6.5)
    b.restart(keep_record=False, bye=False)
    world.clock.run_until(20.0)
    lost = [at for key, at in world.sent.items() if key[0] == "b" and at > 6.5 and key not in world.received]
    assert max(lost) < 6.5 + Timing().dead_s + 1.0


def test_after_a_long_outage_a_peer_that_forgot_everything_is_found_while_there_is_traffic() -> None:
    world, a, b = started()
    world.send_packets(a, 0.05, 100.0)
    world.clock.run_until(3.0)
    a.uplinks[0].up = a.uplinks[0].down = Weather(loss=1.0)
    world.clock.run_until(74.0)  # by then the pauses between attempts would be 15 s long, and a has its session still
    b.restart(keep_record=False, bye=False)
    a.uplinks[0].up = a.uplinks[0].down = Weather()
    assert wait_for(world, lambda: any(at > 74.0 for at in world.received.values()), 5.0) < 2.0 + 3 * ROUND_TRIP_S


def test_a_peer_that_lost_state_and_time_is_locked_out_until_the_other_side_calls() -> None:
    world, a, b = started()
    world.clock.run_until(1.0)
    a.wall_s = -5000.0
    a.restart(keep_record=False, bye=False)
    world.clock.run_until(1.6)
    assert a.engine.plan is None
    assert b.node.drops[DropReason.STALE_TIMESTAMP] >= 1
    world.send_packets(b, 0.05, 8.0)
    world.clock.run_until(8.5)
    assert world.agree()


def test_bye_ends_paths_at_once() -> None:
    world, a, b = started(links=(2, 1))
    world.clock.run_until(2.0)
    a.stop()
    world.clock.run_until(2.0 + ROUND_TRIP_S)
    assert set(states(b).values()) == {"lost"}
    assert b.engine.plan is None


def test_a_dead_peer_without_traffic_is_left_alone() -> None:
    world, a, b = started()
    world.clock.run_until(30.0)
    b.uplinks[0].down.loss = 1.0
    sent: list[int] = []
    world.watch = lambda machine, local, remote, data: sent.append(len(data)) if machine is a else None
    world.clock.run_until(118.0)  # then the session would be renewed
    assert 208 not in sent, "no Initiate"
    assert len(sent) < 25


def test_foreign_sources_are_refused() -> None:
    world, a, b = started(links=(2, 1), allow_remote=(ip_network("10.1.1.0/24"), ip_network("10.2.0.0/16")))
    world.send_packets(a, 0.05, 3.0)
    world.clock.run_until(3.5)
    assert set(states(b)) == {("10.2.1.1", "10.1.1.1")}
    assert b.node.drops[DropReason.REMOTE_NOT_ALLOWED] > 0
    assert lost(world, "b") == 0


def test_a_replayed_heartbeat_from_elsewhere_costs_one_small_datagram_and_nothing_else() -> None:
    world, a, b = started(nat=True)
    world.send_packets(a, 0.05, 20.0)
    world.clock.run_until(3.0)
    thief = Endpoint("203.0.113.9", 9)
    towards_thief: list[int] = []
    captured: list[bytes] = []

    def watch(machine: Machine, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        if remote == thief:
            towards_thief.append(len(data))
        if machine is a and data[0] >> 6 == 1 and len(data) == 96 and not captured:
            captured.append(data)  # a heartbeat, which the thief brings over before the original arrives
            world.inject(thief, remote, data, Weather(delay_s=0.0))
            b.uplinks[0].down.delay_s = 0.0

    world.watch = watch
    world.clock.run_until(8.0)
    assert captured
    assert towards_thief == [96]
    assert lost(world, "b") == 0
    assert all(path.remote != thief for path in peer(b).paths)


def test_settings_change_without_losing_the_session() -> None:
    world, a, _ = started(links=(2, 2))
    world.clock.run_until(2.0)
    assert a.spec is not None
    key = plan(a).key
    changes: list[tuple[PeerSpec, int]] = [
        (replace(a.spec, copies=1), 1),
        (replace(a.spec, copies=None), 4),
        (replace(a.spec, scheduler="fastest"), 1),
    ]
    for spec, carrying in changes:
        a.reconfigure(spec)
        assert plan(a).copies == len(plan(a).paths) == carrying
        assert plan(a).key == key
    a.reconfigure(replace(a.spec, allowed_ips=(ip_network("10.7.0.0/24"),)))
    assert [str(route.network) for route in a.engine.table.routes] == ["10.7.0.0/24"]
    a.reconfigure(replace(a.spec, allow_remote=(ip_network("10.2.1.0/24"),)))
    assert {path.remote.host for path in plan(a).paths} == {"10.2.1.1"}


def test_a_removed_peer_leaves_nothing() -> None:
    world, a, _ = started()
    world.clock.run_until(2.0)
    assert a.spec is not None
    a.node.remove_peer(a.spec.public_key, a.now)
    effects = a.node.take_effects()
    assert effects.table is not None
    assert (effects.table.peers, effects.table.sessions, effects.table.routes) == ((), (), ())
    assert [len(datagram.data) for datagram in effects.datagrams] == [96], "a bye"
    assert effects.next_timer == float("inf")
    assert a.node.status(a.now).peers == ()
    with pytest.raises(KeyError):
        a.node.remove_peer(a.spec.public_key, a.now)


def test_log_lines_name_the_peer_and_no_secret() -> None:
    world, _, _ = started()
    world.clock.run_until(2.0)
    lines = [line for line in world.log if line.split()[1] == "a"]
    assert any("peer b (" in line and "session established" in line for line in lines)
    assert any("is usable" in line for line in lines)
    assert any("carries 1472 bytes" in line for line in lines)
    assert len(lines) == 3


def test_the_simulation_notices_what_it_looks_for() -> None:
    world, a, b = started()
    world.send_packets(a, 0.1, 1.0)
    world.clock.run_until(1.0)
    with pytest.raises(InvariantError, match="twice"):
        world.note_delivered("b", (1).to_bytes(8, "big"))
    with pytest.raises(InvariantError, match="nobody sent"):
        world.note_delivered("b", (10**6).to_bytes(8, "big"))
    b.engine.apply(replace(b.engine.table, generation=10**6, sessions=()))
    with pytest.raises(InvariantError, match="lives twice"):
        b.engine.apply(replace(b.engine.table, generation=10**6 + 1, sessions=a.engine.table.sessions))
    _, _, data = next(one for one in world.captured if one[2][0] < 0x80)
    with pytest.raises(InvariantError, match="one key and nonce"):
        world.transmit(a, a.uplinks[0], Endpoint("10.2.1.1", PORT), data[:20] + b"else" + data[24:])


def test_paths_narrower_than_an_interface_can_say_stand_in_the_table() -> None:
    world, a, _ = started(timing=Timing(mtu_hold_s=1.0))
    world.send_packets(a, 0.01, until=40.0)
    world.clock.run_until(5.0)
    assert (a.mtu, a.engine.table.narrow_bytes) == (1440, 0)
    a.uplinks[0].up = Weather(largest_bytes=1240)
    wait_for(world, lambda: a.mtu == 1200, within_s=5.0)
    assert a.engine.table.narrow_bytes == 1200
    a.uplinks[0].up = Weather()
    wait_for(world, lambda: a.mtu == 1440, within_s=20.0)
    assert a.engine.table.narrow_bytes == 0
