"""The numbered stream: its account, and both ends over the loopback interface."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lab.probes.datagrams import combine
from lab.probes.stream import HEADER, Account, Received, Sent, StreamSpec, receive, send

MS = 1_000_000


def spec(count: int = 10, rate: int = 1000, **others: float) -> StreamSpec:
    return StreamSpec(host="127.0.0.1", port=9, rate=rate, count=count, stream=7, **others)  # type: ignore[arg-type]


def headers(numbers: list[int], stream: int = 7) -> NDArray[np.void]:
    made = np.zeros(len(numbers), dtype=HEADER)
    made["stream"] = stream
    made["number"] = numbers
    made["sent_ns"] = [1 + number % 1000 * MS for number in numbers]
    return made


def account(numbers: list[int], *, chunk: int = 100, count: int = 10) -> Received:
    """Feed numbers that arrive one every millisecond."""
    made = Account(spec(count))
    arrived = np.arange(1, len(numbers) + 1, dtype=np.int64) * MS + 500
    for begin in range(0, len(numbers), chunk):
        made.add(headers(numbers[begin : begin + chunk]), arrived[begin : begin + chunk])
    return made.result()


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("numbers", "received", "duplicated", "reordered", "longest_lost_run"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10, 0, 0, 0),
        ([0, 1, 2, 6, 7, 8, 9], 7, 0, 0, 3),
        ([0, 0, 1, 2, 1, 2], 3, 3, 0, 0),
        ([1, 0, 3, 2], 4, 0, 2, 0),
        ([5, 1, 1, 0], 3, 1, 2, 3),
        ([9], 1, 0, 0, 9),
    ],
)
def test_every_number_is_accounted_for_once(
    numbers: list[int], received: int, duplicated: int, reordered: int, longest_lost_run: int, chunk: int
) -> None:
    result = account(numbers, chunk=chunk)
    assert (result.received, result.duplicated, result.reordered, result.longest_lost_run) == (
        received,
        duplicated,
        reordered,
        longest_lost_run,
    )


@given(st.lists(st.integers(0, 19), max_size=60), st.integers(1, 60))
def test_the_account_agrees_with_a_naive_one(numbers: list[int], chunk: int) -> None:
    result = account(numbers, chunk=chunk, count=20)
    seen: set[int] = set()
    highest = -1
    reordered = 0
    for number in numbers:
        if number not in seen:
            reordered += number < highest
            highest = max(highest, number)
        seen.add(number)
    assert result.received == len(seen)
    assert result.duplicated == len(numbers) - len(seen)
    assert result.reordered == reordered
    assert result.highest == highest
    assert sum(each.received for each in result.series) == len(seen)


def test_datagrams_of_others_change_nothing_but_their_count() -> None:
    made = Account(spec())
    made.add(headers([0, 1, 2], stream=8), np.array([1, 2, 3], dtype=np.int64))
    made.add(headers([10, 2**63]), np.array([4, 5], dtype=np.int64))
    result = made.result()
    assert result.foreign == 5
    assert (result.received, result.duplicated, result.last_ns) == (0, 0, 0)


def test_delays_and_gaps_are_those_of_the_stamps() -> None:
    made = Account(spec(4))
    made.add(headers([0, 1, 2]), np.array([1 * MS, 2 * MS, 12 * MS], dtype=np.int64))
    result = made.result()
    assert result.longest_gap_s == pytest.approx(0.010)
    assert result.delay_us["max"] == pytest.approx(10_000, rel=0.001)
    assert result.delay_us["min"] == pytest.approx(1_000, rel=0.001)
    assert result.delay_us["median"] == pytest.approx(1_000, rel=0.03)


def test_the_series_is_over_the_planned_sending_time() -> None:
    made = Account(spec(count=250, rate=1000, interval_s=0.1))
    made.add(headers([0, 99, 100, 249]), np.arange(1, 5, dtype=np.int64) * MS)
    series = made.result().series
    assert [each.planned for each in series] == [84, 83, 83]
    assert sum(each.planned for each in series) == 250
    assert [each.received for each in series] == [1, 2, 1]


def test_an_end_that_never_came_is_a_gap_and_a_run_of_losses() -> None:
    received = account([0, 1, 2])
    sent = Sent(offered=10, refused=1, errors={"ENETUNREACH": 1}, began_ns=MS, ended_ns=500 * MS)
    result = combine(spec(), sent, received)
    assert (result.sent, result.received, result.lost, result.refused) == (10, 3, 7, 1)
    assert result.longest_lost_run == 7
    assert result.longest_gap_s == pytest.approx(0.497, abs=0.001)
    assert result.complete


def test_a_stream_of_which_nothing_came_is_one_gap() -> None:
    sent = Sent(offered=9, refused=0, errors={}, began_ns=0, ended_ns=2_000 * MS)
    result = combine(spec(), sent, Account(spec()).result())
    assert (result.lost, result.longest_lost_run, result.longest_gap_s) == (9, 9, 2.0)
    assert not result.complete
    assert result.delay_us == {}


def test_each_flow_has_its_own_order_losses_and_gaps() -> None:
    stream = spec(count=8, flows=2)
    made = Account(stream)
    numbers = [0, 2, 1, 4, 3, 7, 5]  # the even ones in order but for the last, the odd ones swapped
    made.add(headers(numbers), np.array([1, 2, 3, 4, 50, 51, 52], dtype=np.int64) * MS)
    sent = Sent(offered=8, refused=0, errors={}, began_ns=0, ended_ns=60 * MS)
    result = combine(stream, sent, made.result())
    assert (result.reordered, result.lost, result.flows_with_loss) == (1, 1, 1)
    assert result.longest_gap_s == pytest.approx(0.046)
    assert result.longest_flow_gap_s == pytest.approx(0.056), "from 4 to the end, where 6 should have come"


def test_outages_are_long_runs_of_losses() -> None:
    stream = spec(count=100, rate=1000)
    numbers = [0, 2, 13, 33, 70]  # lost between them: 1, 10, 19 and 36; what was lost after the last is none of them
    received = account(numbers, count=100)
    assert received.median_outage == 19
    sent = Sent(offered=100, refused=0, errors={}, began_ns=0, ended_ns=100 * MS)
    result = combine(stream, sent, received)
    assert result.median_outage_s == pytest.approx(0.019)
    assert result.longest_outage_s == pytest.approx(0.036)
    assert account([0, 2, 3]).median_outage == 0
    assert Account(stream).result().median_outage == 0


@pytest.mark.parametrize(
    "wrong", [{"flows": 0}, {"flows": 5000}, {"count": 0}, {"count": 10**9}, {"size": 23}, {"rate": -1}]
)
def test_a_stream_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StreamSpec(**{"host": "::1", "port": 9, "rate": 10, "count": 10, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("rate", "flows"), [(2000, 1), (2000, 7), (0, 1), (0, 7)])
def test_both_ends_agree_over_the_loopback_interface(host: str, rate: int, flows: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    ready = tmp_path / "ready"
    base = StreamSpec(host=host, port=port, rate=rate, count=400, size=64, stream=3, ready=str(ready), quiet_s=0.1)
    stream = msgspec.structs.replace(base, flows=flows)
    stop = threading.Event()
    accounts: list[Received] = []
    receiver = threading.Thread(target=lambda: accounts.append(receive(stream, stop)))
    receiver.start()
    try:
        attempts = threading.Event()
        while not ready.exists() and receiver.is_alive():
            attempts.wait(0.005)
        sent = send(stream, threading.Event())
    finally:
        stop.set()
        receiver.join(10.0)
    result = combine(stream, sent, accounts[0])
    assert (result.planned, result.sent, result.received, result.lost) == (400, 400, 400, 0)
    assert (result.duplicated, result.reordered, result.foreign, result.errors) == (0, 0, 0, {})
    assert [flow.received for flow in accounts[0].flows] == [len(range(n, 400, flows)) for n in range(flows)]
    assert result.delay_us["max"] >= result.delay_us["min"] > 0.0
