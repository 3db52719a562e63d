"""The paced TCP flow: its account of stalls, and both ends over the loopback interface."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest

from lab.probes.flow import Account, FlowSpec, Received, Sent, receive, send
from lab.probes.stalls import combine

MS = 1_000_000
BEGAN_NS = 1_000 * MS
HEAD = struct.pack("<Q", BEGAN_NS)
SPEC = FlowSpec(host="127.0.0.1", port=9, rate_bps=80_000, duration_s=1.0)


def account(*arrivals: tuple[int, bytes]) -> Received:
    """Feed what arrived, each after so many milliseconds."""
    made = Account(SPEC.interval_s, SPEC.duration_s)
    for at_ms, data in arrivals:
        made.add(memoryview(data), BEGAN_NS + at_ms * MS)
    return made.result()


def sent(seconds: float = 1.0) -> Sent:
    return Sent(written_bytes=10_000, began_ns=BEGAN_NS, ended_ns=BEGAN_NS + int(seconds * 1e9), late_s=0.0)


@pytest.mark.parametrize(
    ("arrivals_ms", "stall_ms", "at_ms"),
    [
        ((10, 20, 420, 430, 990), 560, 430),
        ((10, 20, 420, 430, 700, 990), 400, 20),
        ((700, 710, 990), 700, 0),
        ((10, 20), 980, 20),
    ],
    ids=["in the end", "between two", "before the first", "after the last"],
)
def test_the_longest_stall_is_found_wherever_it_is(arrivals_ms: tuple[int, ...], stall_ms: int, at_ms: int) -> None:
    first, *others = arrivals_ms
    found = combine(SPEC, sent(), account((first, HEAD), *((at, b"x") for at in others)))
    assert found.longest_stall_s == pytest.approx(stall_ms / 1e3)
    assert found.longest_stall_at_s == pytest.approx(at_ms / 1e3)


def test_a_flow_of_which_nothing_came_is_one_stall() -> None:
    found = combine(SPEC, sent(0.8), account())
    assert (found.longest_stall_s, found.longest_stall_at_s, found.bits_per_second) == (0.8, 0.0, 0.0)
    assert [each.bits_per_second for each in found.series] == [0.0] * 8


def test_the_series_counts_from_the_senders_beginning_and_goes_on_through_silence() -> None:
    found = combine(SPEC, sent(0.5), account((5, HEAD[:3]), (6, HEAD[3:]), (150, b"x" * 100)))
    assert [each.bits_per_second for each in found.series] == [400.0, 8000.0, 0.0, 0.0, 0.0]
    assert [each.start_s for each in found.series] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert found.payload_bytes == 108


def test_what_comes_late_is_counted_in_the_last_interval() -> None:
    assert account((5, HEAD), (5_000, b"x" * 100)).series[-1].start_s == pytest.approx(1.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_both_ends_agree_over_the_loopback_interface(host: str, tmp_path: Path) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        port = free.getsockname()[1]
    ready = tmp_path / "ready"
    spec = FlowSpec(host=host, port=port, rate_bps=8_000_000, duration_s=0.3, ready=str(ready))
    stop = threading.Event()
    accounts: list[Received] = []
    receiver = threading.Thread(target=lambda: accounts.append(receive(spec, stop)))
    receiver.start()
    try:
        attempts = threading.Event()
        while not ready.exists() and receiver.is_alive():
            attempts.wait(0.005)
        wrote = send(spec, threading.Event())
        receiver.join(10.0)
    finally:
        stop.set()
        receiver.join(10.0)
    found = combine(spec, wrote, accounts[0])
    assert found.error is None
    assert found.payload_bytes == found.written_bytes > 0
    # The result leaves out what came after the last whole interval, however much that is on a busy machine.
    series = accounts[0].series
    assert sum(each.bits_per_second for each in series) * spec.interval_s / 8 == pytest.approx(found.payload_bytes)
    assert [each for each in found.series if each.bits_per_second] == [
        each for each in series[: len(found.series)] if each.bits_per_second
    ]


def test_nobody_who_listens_is_an_error_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    wrote = send(FlowSpec(host="127.0.0.1", port=port, rate_bps=1000, duration_s=1.0), threading.Event())
    assert wrote.written_bytes == 0
    assert wrote.error is not None
    assert "refused" in wrote.error
