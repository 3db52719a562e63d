"""Small results of scenario runs for the tests of what is made from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lab.expectation import Judgement, Outcome
from lab.machine import Load, Machine
from lab.measurement import flatten
from lab.probes import flow as flows
from lab.probes import iperf3, ping, stream
from lab.probes.datagrams import StreamResult
from lab.probes.iperf3 import Transfer
from lab.probes.ping import RoundTrips
from lab.probes.stalls import FlowResult
from lab.results import EventRecord, LinkFacts, ProbeRecord, ProcessRecord, RunResult, TunnelFacts, Verdict
from lab.tracks import PathTrack, Sample, Span

LABELS = {
    "centipede": "Centipede",
    "centipede-python": "Centipede, Python engine",
    "wireguard-go": "wireguard-go",
    "wireguard-kernel": "Kernel WireGuard",
    "plain": "No VPN",
}
MACHINE = Machine(
    host="desk",
    system="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0",
    architecture="x86_64",
    processor="Some <Processor>",
    cores=2,
    memory_bytes=24 << 30,
    virtualization="kvm",
    tools={"iperf3": "3.12"},
    git={"commit": "0123456789abcdef0123", "state": "clean"},
)
SECONDS = 6


def tcp(rates_mbps: Sequence[float]) -> Transfer:
    """Return a transfer with the rate of each second."""
    return Transfer(
        bits_per_second=sum(rates_mbps) / len(rates_mbps) * 1e6,
        payload_bytes=int(sum(rates_mbps) * 1e6 / 8),
        seconds=float(len(rates_mbps)),
        retransmits=0,
        datagrams=None,
        lost=None,
        began_ns=1,
        series=[
            iperf3.Interval(start_s=float(second), bits_per_second=rate * 1e6) for second, rate in enumerate(rates_mbps)
        ],
        client="{}",
        server="{}",
    )


def flow(rates_mbps: Sequence[float]) -> FlowResult:
    """Return a flow with the rate of each second, which stalled from its third second on for 1.5 s."""
    return FlowResult(
        bits_per_second=sum(rates_mbps) / len(rates_mbps) * 1e6,
        payload_bytes=int(sum(rates_mbps) * 1e6 / 8),
        written_bytes=int(sum(rates_mbps) * 1e6 / 8),
        seconds=float(len(rates_mbps)),
        longest_stall_s=1.5,
        longest_stall_at_s=2.0,
        sender_late_s=0.0,
        error=None,
        began_ns=1,
        series=[
            flows.Interval(start_s=float(second), bits_per_second=rate * 1e6) for second, rate in enumerate(rates_mbps)
        ],
    )


def datagrams(lost: Sequence[int], duplicated: Sequence[int] = ()) -> StreamResult:
    """Return a stream of 10 datagrams a second with those lost and those that came twice in each second."""
    twice = [*duplicated, *[0] * (len(lost) - len(duplicated))]
    return StreamResult(
        planned=10 * len(lost),
        sent=10 * len(lost),
        refused=0,
        received=10 * len(lost) - sum(lost),
        lost=sum(lost),
        duplicated=sum(twice),
        reordered=0,
        foreign=0,
        longest_lost_run=max(lost),
        longest_gap_s=0.1,
        seconds=float(len(lost)),
        errors={},
        delay_us={"median": 300.0, "max": 900.0} if sum(lost) < 10 * len(lost) else {},
        began_ns=1,
        interval_s=1.0,
        series=[
            stream.Interval(
                start_s=float(second), planned=10, received=10 - missing, duplicated=double, delay_max_us=900.0
            )
            for second, (missing, double) in enumerate(zip(lost, twice, strict=True))
        ],
    )


def pings(medians_ms: Sequence[float | None]) -> RoundTrips:
    """Return ten pings a second with their median in each second, None for one in which nothing was answered."""
    answered = [each * 1e3 for each in medians_ms if each is not None]
    return RoundTrips(
        sent=10 * len(medians_ms),
        received=10 * len(answered),
        duplicated=0,
        interval_s=0.1,
        min_us=min(answered),
        p10_us=min(answered),
        median_us=sorted(answered)[len(answered) // 2],
        p90_us=max(answered),
        p99_us=max(answered),
        max_us=max(answered) * 2,
        began_ns=1,
        series=[
            ping.Interval(
                start_s=float(second),
                sent=10,
                answered=0 if median is None else 10,
                median_us=None if median is None else median * 1e3,
                max_us=None if median is None else median * 2e3,
            )
            for second, median in enumerate(medians_ms)
        ],
    )


def probe(
    result: Transfer | FlowResult | StreamResult | RoundTrips | None,
    kind: str,
    *,
    sender: str = "left",
    began_s: float = 0.0,
) -> ProbeRecord:
    """Return the record of a probe that was to take ``SECONDS``."""
    settings: dict[str, Any] = {"kind": kind, "at": 0.0, "duration_s": float(SECONDS), "version": 4}
    return ProbeRecord(
        kind=kind,
        sender=sender,
        began_s=0.0,
        traffic_began_s=began_s,
        settings=settings | ({"rate": 10} if kind == "datagrams" else {}),
        result=None if result is None else flatten(result),
        error="it broke" if result is None else None,
    )


def track(
    end: str, local: str, remote: str, states: Sequence[tuple[float, float, str]], *, link: str | None = "one"
) -> PathTrack:
    """Return a path that was in these states, and sent 1 Mbit/s all the time that it was usable."""
    begin = states[0][0]
    samples, sent = [], 0
    for second in range(math.ceil(begin), SECONDS + 1):
        samples.append(Sample(float(second), 1.0, 0.0, sent, 0))
        usable = any(from_s <= second < to_s and state == "usable" for from_s, to_s, state in states)
        sent += 125_000 if usable else 0
    return PathTrack(
        end=end,
        local=local,
        remote=remote,
        link=link,
        spans=[Span(from_s, to_s, state, state == "usable") for from_s, to_s, state in states],
        samples=samples,
    )


def event(at_s: float, title: str) -> EventRecord:
    """Return an event that came a hundredth of a second late."""
    return EventRecord(title=title, planned_s=at_s, began_s=at_s + 0.01, ended_s=at_s + 0.02)


def judgement(
    figure: str = "stream.lost", found: float | None = 0.0, *, bound: str = "= 0", met: bool = True
) -> Judgement:
    """Return what became of an expectation of Centipede."""
    return Judgement(figure=figure, bound=bound, found=found, met=met, outcome=Outcome.MET if met else Outcome.MISSED)


def run(
    tunnel: str = "centipede",
    *,
    scenario: str = "cut",
    repetition: int = 1,
    verdict: Verdict = Verdict.PASSED,
    reason: str | None = None,
    probes: dict[str, ProbeRecord] | None = None,
    paths: Sequence[PathTrack] = (),
    timeline: Sequence[EventRecord] = (),
    judgements: Sequence[Judgement] = (),
) -> RunResult:
    """Return the result of a run."""
    return RunResult(
        scenario=scenario,
        scenario_sha256="ab" * 32,
        title="A link is cut & <nothing> is lost",
        tunnel=TunnelFacts(name=tunnel, label=LABELS[tunnel], versions={tunnel: "1.2"}, options={"mtu": 1420}),
        repetition=repetition,
        seed=7,
        began_at="2026-01-02T03:04:05+00:00",
        seconds=12.5,
        machine=MACHINE,
        load=Load(load_1m=0.5, busy_cores=0.1),
        links=[LinkFacts(name="one", backend="veth", ends=[])],
        timeline=list(timeline),
        probes=probes or {},
        paths=list(paths),
        processes=[ProcessRecord(name="python", host="left", cpu_s=1.5)],
        states={"left": {"name": "cpd0"}, "right": None},
        judgements=list(judgements),
        verdict=verdict,
        reason=reason,
    )


def cut(tunnel: str, *, repetition: int = 1) -> RunResult:
    """Return a run in which a link was cut from 2 s to 4 s: Centipede lost nothing, the others two seconds."""
    spared = tunnel.startswith("centipede")
    lost = [0, 0, 0, 0, 0, 0] if spared else [0, 0, 10, 10, 0, 0]
    paths = [
        track(
            "left", "10.1.0.1:51820", "10.1.0.2:51820", [(-1, 2.1, "usable"), (2.1, 2.6, "suspect"), (2.6, 6, "lost")]
        ),
        track("left", "10.2.0.1:51820", "10.2.0.2:51820", [(-1, 6, "usable")], link="two"),
        track("right", "10.2.0.2:51820", "10.2.0.1:51820", [(-1, 6, "usable")], link="two"),
        track("right", "10.1.0.2:51820", "10.1.0.1:51820", [(-1, 2.2, "usable"), (2.2, 6, "lost")]),
    ]
    return run(
        tunnel,
        repetition=repetition,
        verdict=Verdict.PASSED if spared else Verdict.MEASURED,
        probes={
            "tcp": probe(tcp([20.0] * 6 if spared else [20, 20, 0, 0, 200, 20]), "tcp", began_s=0.1),
            "ping": probe(pings([0.5] * 6 if spared else [0.5, 0.5, None, None, 40.0, 0.5]), "ping"),
            "stream": probe(datagrams(lost), "datagrams"),
            "stream-back": probe(datagrams(lost, [0, 1]), "datagrams", sender="right", began_s=-0.2),
        },
        paths=paths if spared else (),
        timeline=[event(2, "link-down one"), event(4, "link-up one")],
        judgements=[judgement(found=float(sum(lost)), met=spared)],
    )
