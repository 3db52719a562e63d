"""Small comparisons for the tests of what is made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.comparison import USUAL, Comparison, Conditions, Contender, Sample
from lab.contest import ENTRANTS
from lab.machine import Load
from lab.probes.cpu import CpuUse
from tests.unit.runs import MACHINE

Figures = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Contender -> measure -> base-unit value of each repetition, None for one that failed."""

FIGURES: Figures = {
    "plain": {"tcp-1": [40e9, 44e9, 42e9], "ping-idle": [5.0, 4.0, 6.0]},
    "centipede": {"tcp-1": [6e9, 8e9, 10e9], "ping-idle": [65.0, 74.0, 66.0]},
    "wireguard-go": {"tcp-1": [2e9, 4e9, 2.5e9], "ping-idle": [105.0, 154.0, 126.0]},
}
KERNEL = Contender(key="wireguard-kernel", label="Kernel WireGuard", unavailable="this kernel has no WireGuard")


def sample(contender: str, measure: str, repetition: int, value: float | None, setting: str = USUAL) -> Sample:
    """Return one measurement of 4 GB, for which the VPN used 2 s of CPU at each end and the machine 6 s."""
    vpn_s = 0.0 if contender == "plain" else 2.0
    return Sample(
        repetition=repetition,
        contender=contender,
        setting=setting,
        measure=measure,
        value=value,
        failure="" if value is not None else "no answer",
        load=Load(load_1m=0.5, busy_cores=0.1),
        cpu=CpuUse(seconds=3.0, ends={"a": vpn_s, "b": vpn_s}, machine=6.0),
        payload_bytes=4_000_000_000 if value is not None else 0,
    )


def make_comparison(figures: Figures = FIGURES, *others: Contender) -> Comparison:
    """Return a comparison with these figures, and with contenders that have none."""
    return Comparison(
        profile="quick",
        began_at="2026-01-02T03:04:05+00:00",
        seconds=12.5,
        repetitions=3,
        machine=MACHINE,
        conditions=Conditions(
            mtu=1420,
            txqueuelen=5000,
            link_mtu=1500,
            links=2,
            inner_version=4,
            outer_version=4,
            tcp_congestion_control="cubic",
            features={USUAL: {"tx-udp-segmentation": True}},
            sysctls={"net.core.rmem_max": "212992"},
        ),
        contenders=[
            *(Contender(key=key, label=ENTRANTS[key].label, version={key: "1.2"}) for key in figures),
            *others,
        ],
        samples=[
            sample(contender, measure, repetition, value)
            for contender, measures in figures.items()
            for measure, values in measures.items()
            for repetition, value in enumerate(values)
        ],
    )
