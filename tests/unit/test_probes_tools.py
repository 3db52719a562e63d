"""What iperf3, ping and /proc say, and what is made of it."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest

from lab.errors import LabError
from lab.probes import iperf3
from lab.probes.cpu import CpuProbe, machine_cpu_seconds
from lab.probes.iperf3 import TransferSpec, client_command, read_transfer
from lab.probes.ping import PingSpec, read_round_trips

TCP = TransferSpec(host="10.7.0.2", duration_s=1, warm_up_s=0.5)
UDP = TransferSpec(host="10.7.0.2", duration_s=1, warm_up_s=0.5, udp_bytes=1000)


def server(rates: list[int], *, rest: int = 0) -> dict[str, Any]:
    """Return a server's report of 0.25 s intervals with so many bytes each, and the sums that 3.12 gives for UDP."""
    edges = [(0.25 * i, 0.25 * (i + 1), count) for i, count in enumerate(rates)]
    edges.append((0.25 * len(rates), 0.25 * len(rates) + 1e-5, rest))
    intervals = [
        {"streams": [], "sum": {"start": a, "end": b, "seconds": b - a, "bytes": n, "bits_per_second": n * 8 / (b - a)}}
        for a, b, n in edges
    ]
    return {"start": {}, "intervals": intervals, "end": {"sum": {"start": 0, "end": 1, "seconds": 1, "bytes": 0}}}


def client(**sums: int) -> dict[str, Any]:
    whole = {"start": 0, "end": 1, "seconds": 1.0, "bytes": 1}
    return {"intervals": [], "end": {"sum_sent": {**whole, **sums}}}


def read(spec: TransferSpec, client_report: object, server_report: object) -> iperf3.Transfer:
    return read_transfer(spec, json.dumps(client_report).encode(), json.dumps(server_report).encode())


def test_the_rate_is_what_arrived_without_the_warm_up() -> None:
    found = read(TCP, client(retransmits=3), server([1_000, 1_000_000, 2_000_000, 4_000_000]))
    assert found.bits_per_second == pytest.approx(6_000_000 * 8 / 0.5, rel=1e-4)
    assert found.payload_bytes == 7_001_000
    assert found.retransmits == 3
    assert (found.datagrams, found.lost) == (None, None)
    assert [each.start_s for each in found.series] == [0.0, 0.25, 0.5, 0.75]


def test_udp_losses_are_worked_out_from_what_arrived() -> None:
    # the server's own sum says 0 bytes, as iperf3 3.12 does
    found = read(UDP, client(packets=8_000), server([1_000_000, 1_000_000, 2_000_000, 2_000_000], rest=5_000))
    assert (found.datagrams, found.lost) == (8_000, 8_000 - 6_005)
    assert found.retransmits is None


@pytest.mark.parametrize(
    ("client_output", "server_output", "complaint"),
    [
        (b"", b"{}", "client cannot be used.*it is empty"),
        (b'{"error": "unable to connect"}', b"{}", "client failed: unable to connect"),
        (json.dumps(client()).encode(), json.dumps(server([5, 5])).encode(), "stopped after 0.5 s of 1 s"),
        (json.dumps(client()).encode(), b'{"intervals": [{"sum": {"bytes": nan}}]}', "server cannot be used"),
        (json.dumps(client()).encode(), b'{"intervals": [{"sum": {"bytes": "x"}}]}', "server cannot be used"),
    ],
)
def test_output_that_says_nothing_is_refused(client_output: bytes, server_output: bytes, complaint: str) -> None:
    with pytest.raises(LabError, match=complaint):
        read_transfer(TCP, client_output, server_output)


def test_tcp_is_always_cubic_and_udp_never_limited_unless_asked() -> None:
    tcp = " ".join(client_command(TransferSpec(host="10.7.0.2", streams=4, rate_bps=20_000_000)))
    assert "--congestion cubic" in tcp
    assert "--parallel 4" in tcp
    assert "--bitrate 5000000" in tcp
    assert "--bitrate" not in " ".join(client_command(TCP))
    udp = " ".join(client_command(UDP))
    assert "--udp --length 1000 --bitrate 0" in udp
    assert "--congestion" not in udp


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listening_port_is_seen(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        port = sock.getsockname()[1]
        assert not iperf3.listens(os.getpid(), port)
        sock.listen()
        assert iperf3.listens(os.getpid(), port)
    assert not iperf3.listens(2**30, port)


PING = b"""PING 10.7.0.2 (10.7.0.2) 56(84) bytes of data.
64 bytes from 10.7.0.2: icmp_seq=1 ttl=64 time=0.100 ms
64 bytes from 10.7.0.2: icmp_seq=2 ttl=64 time=0.200 ms
64 bytes from 10.7.0.2: icmp_seq=2 ttl=64 time=0.250 ms (DUP!)
64 bytes from 10.7.0.2: icmp_seq=4 ttl=64 time=3.50 ms

--- 10.7.0.2 ping statistics ---
4 packets transmitted, 3 received, +1 duplicates, 25% packet loss, time 12ms
rtt min/avg/max/mdev = 0.100/1.013/3.500/1.437 ms
"""


def test_round_trips_are_read_one_by_one() -> None:
    found = read_round_trips(PingSpec(host="10.7.0.2", count=4), PING)
    assert (found.sent, found.received, found.duplicated) == (4, 3, 1)
    assert (found.min_us, found.max_us) == (100.0, 3500.0)
    assert found.median_us == pytest.approx(225.0)
    assert found.interval_s == 0.004


def stamped(answers: list[tuple[float, int, float]], *, sent: int) -> bytes:
    """Return the output of ``ping -D``: when each answer came, its number and its round trip in milliseconds."""
    lines = [f"[{at:.6f}] 64 bytes from 10.7.0.2: icmp_seq={seq} ttl=64 time={ms} ms" for at, seq, ms in answers]
    return "\n".join([*lines, "", f"{sent} packets transmitted, {len(answers)} received, 0% packet loss"]).encode()


def test_pings_are_put_into_the_interval_they_were_sent_in() -> None:
    spec = PingSpec(host="10.7.0.2", count=7, interval_s=0.1, series_s=0.2)
    # the first one and the fourth were never answered; the third's answer came late
    output = stamped([(1000.101, 2, 1.0), (1000.360, 3, 150.0), (1000.413, 5, 3.0), (1000.515, 6, 5.0)], sent=7)
    found = read_round_trips(spec, output, clocks_differ_by_ns=990_000_000_000)
    assert found.began_ns == pytest.approx(10_000_000_000, abs=1_000_000)
    assert [(each.start_s, each.sent, each.answered) for each in found.series] == [
        (0.0, 2, 1),
        (0.2, 2, 1),
        (0.4, 2, 2),
        (0.6, 1, 0),
    ]
    assert [each.median_us for each in found.series] == [1_000.0, 150_000.0, 4_000.0, None]
    assert [each.max_us for each in found.series] == [1_000.0, 150_000.0, 5_000.0, None]


def test_pings_that_had_no_time_to_be_answered_are_not_lost_ones() -> None:
    spec = PingSpec(host="10.7.0.2", count=3, interval_s=0.1, series_s=0.2)
    answers = [(1000.1, 1, 60.0), (1000.3, 3, 60.0), (1000.4, 4, 60.0)]
    found = read_round_trips(spec, stamped(answers, sent=6))
    assert (found.sent, found.received) == (4, 3), "two were under way when ping had its three answers; one was lost"
    assert sum(each.sent - each.answered for each in found.series) == 1


def test_numbers_of_pings_go_on_where_the_protocols_begin_again() -> None:
    spec = PingSpec(host="10.7.0.2", count=65_540, interval_s=0.001, series_s=10.0)
    ends = [(1000.0, 1, 0.0), (1065.534, 65_535, 0.0), (1065.535, 0, 0.0), (1065.536, 1, 0.0), (1065.537, 2, 0.0)]
    found = read_round_trips(spec, stamped(ends, sent=65_540))
    assert sum(each.sent for each in found.series) == 65_540
    assert [each.answered for each in found.series] == [1, 0, 0, 0, 0, 0, 4]


def test_no_answer_is_no_result() -> None:
    with pytest.raises(LabError, match=r"no answer from 10\.7\.0\.2 to 4 pings"):
        read_round_trips(PingSpec(host="10.7.0.2", count=4), b"4 packets transmitted, 0 received, 100% packet loss")


def test_the_machines_cpu_time_contains_ours() -> None:
    probe = CpuProbe({"nobody": ()})
    before = machine_cpu_seconds()
    while machine_cpu_seconds() == before:
        sum(range(10_000))  # work until a tick of the kernel's clock has booked some of it
    use = probe.finish()
    assert use.machine > 0.0
    assert use.processes == 0.0
    assert use.seconds > 0.0
