"""What is the reference engine's own business."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import centipede.engine.python
from centipede.engine.rings import Rings
from centipede.engine.sockets import endpoint_of, send_drop_reason, socket_address, tun_drop_reason
from centipede.engine.view import Once, SharedWindow
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Resumed, Run
from centipede.protocol.window import Verdict
from tests.contract.harness import LOCAL_ADDRESS, PEER_ADDRESS, rig
from tests.contract.packets import udp


@pytest.mark.usefixtures("restless_threads")
def test_a_window_hammered_by_four_threads_accepts_each_counter_once() -> None:
    window = SharedWindow()
    counters = list(range(64 * 50))
    start = threading.Barrier(4)

    def hammer(seed: int) -> list[int]:
        mine = counters.copy()
        rng = random.Random(seed)
        for at in range(0, len(mine), 64):  # disorder, as between paths
            mine[at : at + 64] = rng.sample(mine[at : at + 64], 64)
        start.wait()
        return [n for n in mine if window.test(n) is Verdict.NEW and window.insert(n) is Verdict.NEW]

    with ThreadPoolExecutor(4) as pool:
        accepted = Counter(number for part in pool.map(hammer, range(4)) for number in part)
    assert accepted == Counter(counters)
    assert all(window.test(number) is Verdict.SEEN for number in counters)


def test_a_mark_is_taken_once() -> None:
    mark = Once()
    start = threading.Barrier(4)

    def take(_: int) -> bool:
        start.wait()
        return mark.take()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, range(4))) == [False, False, False, True]
    mark.put_back()
    assert [mark.take(), mark.take()] == [True, False]


def test_rings_give_back_what_they_took_in_order() -> None:
    event_fd = os.eventfd(0, os.EFD_NONBLOCK)
    rings = Rings(event_fd)
    kinds = [DropReason.EVENT_RING_FULL, DropReason.HANDSHAKE_RING_FULL, DropReason.CONTROL_RING_FULL]
    events = [Resumed(number, 0.0) for number in range(30)]
    for number, event in enumerate(events):
        assert rings.push(kinds[number % 3], event)
    assert os.eventfd_read(event_fd) == 30
    assert rings.take() == events
    assert rings.take() == []
    os.close(event_fd)


def test_the_counter_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centipede.engine.python, "COUNTER_LIMIT", 3)
    packet = udp(LOCAL_ADDRESS, PEER_ADDRESS, b"")
    with rig("python") as one:
        one.apply()
        for _ in range(5):
            one.tun.ends[0].socket.send(packet)
        assert len(one.remotes[0].take_many(3)) == 3
        one.expect_drops({DropReason.COUNTER_LIMIT: 2})


def test_each_worker_needs_a_shard() -> None:
    with rig("python", workers=3) as three:
        for run in (Run(), Run(2, 1)):
            three.run = run
            with pytest.raises(ValueError):
                three.apply()
        three.run = Run(4, 2)
        three.apply()


def test_a_plan_needs_its_session() -> None:
    with rig("python") as one, pytest.raises(ValueError):
        one.apply(sessions=())


def test_one_socket_per_worker_and_address() -> None:
    with rig("python", workers=2) as two, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError):
            two.engine.add_local(Endpoint("127.0.0.1", 9), [sock.fileno()])
        with pytest.raises(ValueError):
            two.engine.add_local(two.locals[0], [sock.fileno(), sock.fileno()])


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "::192.0.2.1", "fe80::1%lo", "fe80::1%1"])
def test_socket_addresses_are_spelled_as_the_kernel_does(host: str) -> None:
    address = socket_address(Endpoint.of(host, 7))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND, 15 in linux/in.h
        if not host.startswith("fe80"):
            sock.bind(address)
            assert sock.getsockname() == address
    expected = Endpoint.of("fe80::1%lo" if "%" in host else host, 7)
    assert endpoint_of(address) == expected


def test_unknown_errors_have_a_reason_too() -> None:
    assert send_drop_reason(OSError("no errno")) is DropReason.SEND_UNREACHABLE
    assert send_drop_reason(PermissionError(1, "firewall")) is DropReason.SEND_REFUSED
    assert tun_drop_reason(BlockingIOError(11, "full")) is DropReason.TUN_FULL
    assert tun_drop_reason(OSError(5, "down")) is DropReason.TUN_REFUSED
