"""The link emulator does what it is told, and says what it has done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lab.emulated_link import EmulatedEnd, EmulatedLink
from lab.emulator import Way, WayStats
from lab.errors import LabError
from lab.impairment import Change, Impairment
from lab.process import wait_until
from tests.lab.cable import BARE, MAC, NAME, Hosts, cable, configuration, ends, interface, sockets, transfer, two_hosts

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with two_hosts() as made:
        yield made


def accounted(stats: WayStats) -> bool:
    outcomes = stats.out_frames + stats.under_way + stats.blackholed + stats.oversize + stats.lost
    return stats.in_frames + stats.duplicated == outcomes + stats.overflow + stats.cut + stats.refused


def carriers(hosts: Hosts) -> list[bool]:
    return ["NO-CARRIER" not in str(interface(host)["flags"]) for host in hosts.values()]


def test_a_bare_link_delivers_everything_in_order_both_ways(hosts: Hosts) -> None:
    with cable(hosts) as link:
        assert transfer(link, hosts, 500) == list(range(500))
        assert transfer(link, hosts, 300, way=Way.BA) == list(range(300))
        stats = link.stats()
    assert (stats.ab.in_frames, stats.ab.out_frames) == (500, 500)
    assert stats.ab.out_bytes == 500 * (100 + 8 + 20 + 14)
    assert (stats.ba.in_frames, stats.ba.out_frames) == (300, 300)
    assert 0 < stats.busy_s < stats.elapsed_s
    assert stats.ceiling_pps > 0


@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_the_largest_packet_passes_and_is_not_cut(hosts: Hosts, mtu: int) -> None:
    with cable(hosts, mtu=mtu) as link, sockets(hosts) as pair:
        assert interface(hosts["a"])["mtu"] == mtu
        assert interface(hosts["a"])["txqlen"] == 1000
        assert interface(hosts["b"])["address"] == MAC["b"]
        payload = os.urandom(mtu - 28)
        pair["a"].send(payload)
        pair["b"].settimeout(5)
        assert pair["b"].recv(65536) == payload
        assert link.stats().ab.out_bytes == mtu + 14


def test_every_frame_is_accounted_for(hosts: Hosts) -> None:
    everything = Impairment(
        rate_bps=4_000_000,
        limit_packets=20,
        delay_ms=5,
        jitter_ms=2,
        loss=0.1,
        burst_frames=3,
        duplicate=0.1,
        reorder=0.1,
    )
    with cable(hosts, everything) as link:
        received = transfer(link, hosts, 3000)
        stats = link.stats().ab
    assert accounted(stats)
    assert len(received) == stats.out_frames == 3000 + stats.duplicated - stats.lost - stats.overflow
    assert len(received) - len(set(received)) <= stats.duplicated
    assert min(stats.lost, stats.overflow, stats.duplicated, stats.reordered) > 0


def test_the_seed_decides_which_are_lost(hosts: Hosts) -> None:
    def survivors(seed: int, way: Way = Way.AB) -> list[int]:
        lossy = Impairment(loss=0.2)
        with cable(hosts, lossy, lossy, seed=seed) as link:
            return transfer(link, hosts, 300, way=way)

    first = survivors(5)
    assert survivors(5) == first
    assert survivors(6) != first
    assert survivors(5, Way.BA) != first


def test_the_queue_has_its_limit(hosts: Hosts) -> None:
    with cable(hosts, Impairment(rate_bps=1_000_000, limit_packets=10)) as link:
        received = transfer(link, hosts, 100, size=1000)
        stats = link.stats().ab
    # A frame lasts 8 ms: while all are sent, hardly one leaves.
    assert received[:10] == list(range(10))
    assert len(received) == 100 - stats.overflow
    assert stats.overflow > 50


def test_an_impairment_changes_while_traffic_flows(hosts: Hosts) -> None:
    with cable(hosts, Impairment(delay_ms=1, loss=1)) as link:
        assert transfer(link, hosts, 50) == []
        assert link.change(Way.AB, Change(loss=0)) == Impairment(delay_ms=1)
        assert link.impairment(Way.AB) == Impairment(delay_ms=1)
        assert transfer(link, hosts, 50) == list(range(50))
        with pytest.raises(ValueError, match="jitter_ms"):
            link.change(Way.AB, Change(jitter_ms=2))
        assert link.impairment(Way.AB) == Impairment(delay_ms=1)
        assert transfer(link, hosts, 50) == list(range(50))


def test_a_blackhole_is_one_way(hosts: Hosts) -> None:
    with cable(hosts) as link:
        link.change(Way.AB, Change(blackhole=True))
        assert transfer(link, hosts, 20) == []
        assert transfer(link, hosts, 20, way=Way.BA) == list(range(20))
        link.change(Way.AB, Change(blackhole=False))
        assert transfer(link, hosts, 20) == list(range(20))
        assert link.stats().ab.blackholed == 20


def test_large_packets_vanish_without_a_word(hosts: Hosts) -> None:
    with cable(hosts) as link:
        link.change(Way.AB, Change(mtu_bytes=1280))
        assert transfer(link, hosts, 10, size=1280 - 28) == list(range(10))
        assert transfer(link, hosts, 10, size=1280 - 27) == []  # and no error on either socket
        stats = link.stats()
        assert stats.ab.oversize == 10
        assert stats.ba.in_frames == 0


def test_both_ends_see_the_cable_pulled_and_what_is_under_way_is_gone(hosts: Hosts) -> None:
    with cable(hosts, Impairment(delay_ms=60_000)) as link:
        with sockets(hosts) as pair:
            pair["a"].send(b"on its way")
        wait_until(lambda: link.stats().ab.under_way == 1, timeout_s=5, what="a frame under way")
        link.set_carrier(False)
        wait_until(lambda: carriers(hosts) == [False, False], timeout_s=5, what="no carrier")
        link.change(Way.AB, Change(delay_ms=0))
        link.set_carrier(True)
        wait_until(lambda: carriers(hosts) == [True, True], timeout_s=5, what="the carrier")
        assert transfer(link, hosts, 10) == list(range(10))
        stats = link.stats().ab
        assert (stats.cut, stats.out_frames) == (1, 10)
        assert accounted(stats)


def test_a_receiver_that_is_down_is_counted(hosts: Hosts) -> None:
    with cable(hosts) as link:
        with sockets(hosts) as pair:
            hosts["b"].run(["ip", "link", "set", NAME, "down"])
            pair["a"].send(b"nobody is there")
        wait_until(lambda: link.stats().ab.refused == 1, timeout_s=5, what="a frame refused")
        hosts["b"].run(["ip", "-batch", "-"], input=configuration("b"))
        assert transfer(link, hosts, 10) == list(range(10))


def test_lateness_can_be_measured_afresh(hosts: Hosts) -> None:
    with cable(hosts, Impairment(delay_ms=1)) as link:
        transfer(link, hosts, 100)
        whole = link.stats(restart=True)
        assert whole.late_max_s > 0
        fresh = link.stats()
        assert fresh.elapsed_s < whole.elapsed_s
        assert fresh.ceiling_pps == 0
        assert fresh.ab.in_frames == 100


def test_a_measurement_counts_only_if_the_link_was_in_time(hosts: Hosts) -> None:
    with cable(hosts) as link:
        stats = link.stats()
    assert msgspec.structs.replace(stats, late_max_s=0.004).fault() is None
    assert msgspec.structs.replace(stats, late_max_s=0.0061).fault() == "the emulator was late by 6.1 ms (limit 5 ms)"
    assert "3 frames were not read" in str(msgspec.structs.replace(stats, unread_frames=3).fault())


def test_stop_takes_the_interfaces_away_and_keeps_the_statistics(hosts: Hosts) -> None:
    with cable(hosts) as link:
        transfer(link, hosts, 10)
    assert not interface(hosts["a"])
    assert not interface(hosts["b"])
    assert not link.process.running
    last = link.stop()
    assert last is not None
    assert last.ab.out_frames == 10
    assert link.stats() == last
    with pytest.raises(LabError, match="the emulator of link cable is gone"):
        link.change(Way.AB, Change(loss=1))


def test_a_name_in_use_is_refused_and_nothing_is_left(hosts: Hosts) -> None:
    with (
        cable(hosts),
        pytest.raises(LabError, match="link second: cannot make interface cable: Device or resource busy"),
    ):
        EmulatedLink.start(*ends(hosts), ab=BARE, ba=BARE, seed=1, name="second")
    a = EmulatedEnd(hosts["a"].netns_fd, NAME)
    b = EmulatedEnd(hosts["b"].netns_fd, "a-name-that-is-too-long")
    with pytest.raises(LabError, match="too-long: File name too long"):
        EmulatedLink.start(a, b, ab=BARE, ba=BARE, seed=1)
    assert not interface(hosts["a"])


def test_an_interface_taken_away_is_reported(hosts: Hosts) -> None:
    with cable(hosts) as link:
        transfer(link, hosts, 10)
        hosts["b"].run(["ip", "link", "del", NAME])
        wait_until(lambda: not link.process.running, timeout_s=5, what="the end of the emulator")
        with pytest.raises(LabError, match="link cable: interface cable is gone"):
            link.change(Way.AB, Change(loss=1))
        assert link.stats().ab.out_frames == 10


def test_a_signal_ends_it_with_a_last_word(hosts: Hosts) -> None:
    with cable(hosts) as link:
        transfer(link, hosts, 10)
        link.process.signal(signal.SIGTERM)
        wait_until(lambda: not link.process.running, timeout_s=5, what="the end of the emulator")
        last = link.stop()
        assert last is not None
        assert last.ab.out_frames == 10


PARENT = """
import os, sys
from lab.emulated_link import EmulatedEnd, EmulatedLink
from lab.impairment import Impairment
a, b = (EmulatedEnd(os.open(path, os.O_RDONLY), "cable") for path in sys.argv[1:])
link = EmulatedLink.start(a, b, ab=Impairment(), ba=Impairment(), seed=1)
print("laid", flush=True)
sys.stdin.read()
"""


def test_it_dies_with_its_parent(hosts: Hosts) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *(host.netns for host in hosts.values())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"laid\n"
        assert interface(hosts["a"])
        parent.kill()
    wait_until(
        lambda: not any(interface(host) for host in hosts.values()), timeout_s=5, what="the end of the interfaces"
    )
