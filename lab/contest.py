"""Who takes part in a benchmark, and what each has to do.

Owns the contenders, the measurements and the sizes of a benchmark run; must not know how a run goes or what becomes of
its figures. Every measurement is a function from a :class:`Ground` to an :class:`Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from lab.comparison import GUEST, LIMITED, NO_TRAINS, USUAL
from lab.host import Host
from lab.machine import LOAD_PAUSE_S
from lab.probes.iperf3 import TransferProbe, TransferSpec
from lab.probes.ping import PingSpec, ping
from lab.probes.rate import RateSpec, highest_rate
from lab.tunnels import make_tunnel
from lab.tunnels.base import Tunnel, TunnelOptions

UDP_BYTES = 1372
"""Payload that fills the tunnel's MTU with either IP version inside."""
QUEUE_PACKETS = 5000
"""Queue length of every contender's interface: the kernel's 500 for TUN overflow within one scheduler tick."""
_SEARCH_TRIALS = 7
_SEARCH_TRIAL_OVERHEAD_S = 0.45
_TRANSFER_OVERHEAD_S = 0.25
_START_S = 1.2


@dataclass(frozen=True, slots=True)
class Entrant:
    """One who takes part: a tunnel and how it is asked to work."""

    key: str
    label: str
    tunnel: str
    """Name of the tunnel."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the options all share."""

    def make(self) -> Tunnel:
        """Return a new tunnel."""
        return make_tunnel(self.tunnel)

    def tunnel_options(self) -> TunnelOptions:
        """Return the options, those all share included."""
        return TunnelOptions(txqueuelen=QUEUE_PACKETS, **self.options)


_TWICE = {"scheduler": "redundant", "copies": 2}
ENTRANTS: Mapping[str, Entrant] = {
    entrant.key: entrant
    for entrant in (
        Entrant("plain", "No VPN", "plain"),
        Entrant("centipede", "Centipede", "centipede-native"),
        Entrant("centipede-2x", "Centipede, 2× redundant", "centipede-native", _TWICE),
        Entrant("centipede-1w", "Centipede, one worker", "centipede-native", {"workers": 1}),
        Entrant("centipede-python", "Centipede, Python engine", "centipede-python"),
        Entrant("centipede-python-2x", "Python engine, 2× redundant", "centipede-python", _TWICE),
        Entrant("wireguard-go", "wireguard-go", "wireguard-go"),
        Entrant("wireguard-kernel", "Kernel WireGuard", "wireguard-kernel"),
    )
}
"""Everybody there is, in the order of charts and tables."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a measurement is made: a tunnel that is up between two hosts."""

    near: Host
    far: Host
    target: str
    """Address of the far host through the tunnel."""
    directory: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a measurement gave."""

    value: float
    """In the measure's base unit."""
    detail: msgspec.Struct
    """The probe's whole result."""
    payload_bytes: int = 0
    at_least: bool = False
    """Whether the probe, and not the contender, set the limit."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measure to be taken in a setting."""

    measure: str
    setting: str
    seconds: float
    """How long it takes, about."""
    take: Callable[[Ground], Outcome]


@dataclass(frozen=True, slots=True)
class Profile:
    """The size of a run."""

    name: Literal["quick", "usual", "full", "guest"]
    repetitions: int
    entrants: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    costs: bool = False
    """Whether the C engine's steps are also measured on their own."""
    start_s: float = _START_S
    """How long a contender takes to come up and go down, about."""

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings measured in, in order."""
        return tuple(dict.fromkeys(each.setting for each in self.measurements))

    def turn_s(self) -> float:
        """Return about how long one contender takes in one repetition."""
        return LOAD_PAUSE_S + self.start_s + sum(each.seconds for each in self.measurements)


def transfer(
    measure: str, setting: str, *, streams: int = 1, udp_bytes: int | None = None, duration_s: int, warm_up_s: float
) -> Measurement:
    """Return the measurement of an iperf3 transfer."""

    def take(ground: Ground) -> Outcome:
        spec = TransferSpec(
            host=ground.target,
            streams=streams,
            udp_bytes=udp_bytes,
            duration_s=duration_s,
            warm_up_s=warm_up_s,
            interval_s=warm_up_s,
        )
        result = TransferProbe(ground.near, ground.far, spec, ground.directory).run()
        return Outcome(result.bits_per_second, result, result.payload_bytes)

    return Measurement(measure, setting, duration_s + _TRANSFER_OVERHEAD_S, take)


def round_trips(measure: str, *, count: int, interval_s: float | None) -> Measurement:
    """Return the measurement of round-trip times."""

    def take(ground: Ground) -> Outcome:
        result = ping(ground.near, PingSpec(host=ground.target, count=count, interval_s=interval_s))
        return Outcome(result.median_us, result)

    return Measurement(measure, USUAL, count * (interval_s or 1e-4) + 0.05, take)


def rate_search(measure: str, *, duration_s: float) -> Measurement:
    """Return the measurement of the highest rate of 64-byte datagrams."""

    def take(ground: Ground) -> Outcome:
        spec = RateSpec(host=ground.target, duration_s=duration_s)
        result = highest_rate(ground.near, ground.far, spec, ground.directory)
        return Outcome(result.datagrams_per_s, result, at_least=result.limited_by_sender)

    return Measurement(measure, USUAL, _SEARCH_TRIALS * (duration_s + _SEARCH_TRIAL_OVERHEAD_S), take)


_tcp_1 = partial(transfer, "tcp-1")
_tcp_4 = partial(transfer, "tcp-4", streams=4)
_udp = partial(transfer, "udp", USUAL, udp_bytes=UDP_BYTES)

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="quick",
            repetitions=3,
            entrants=("plain", "centipede", "centipede-2x", "centipede-python", "wireguard-go", "wireguard-kernel"),
            measurements=(
                round_trips("ping-idle", count=100, interval_s=0.004),
                round_trips("ping-busy", count=500, interval_s=None),
                _tcp_1(USUAL, duration_s=1, warm_up_s=0.25),
            ),
        ),
        Profile(
            name="usual",
            repetitions=3,
            entrants=("plain", "centipede", "centipede-2x", "centipede-python", "wireguard-go", "wireguard-kernel"),
            measurements=(
                round_trips("ping-idle", count=300, interval_s=0.004),
                round_trips("ping-busy", count=2000, interval_s=None),
                _tcp_1(USUAL, duration_s=2, warm_up_s=0.5),
                _tcp_4(USUAL, duration_s=2, warm_up_s=0.5),
                _udp(duration_s=1, warm_up_s=0.25),
                rate_search("udp-64", duration_s=0.4),
                _tcp_1(NO_TRAINS, duration_s=2, warm_up_s=0.5),
                _tcp_4(NO_TRAINS, duration_s=2, warm_up_s=0.5),
            ),
        ),
        Profile(
            name="full",
            repetitions=7,
            costs=True,
            entrants=tuple(ENTRANTS),
            measurements=(
                round_trips("ping-idle", count=1000, interval_s=0.004),
                round_trips("ping-busy", count=5000, interval_s=None),
                _tcp_1(USUAL, duration_s=5, warm_up_s=1.0),
                _tcp_4(USUAL, duration_s=5, warm_up_s=1.0),
                _udp(duration_s=3, warm_up_s=1.0),
                rate_search("udp-64", duration_s=1.0),
                _tcp_1(NO_TRAINS, duration_s=5, warm_up_s=1.0),
                _tcp_4(NO_TRAINS, duration_s=5, warm_up_s=1.0),
            ),
        ),
        Profile(
            name=GUEST,
            repetitions=5,
            start_s=16.0,
            entrants=(
                "plain",
                "centipede",
                "centipede-2x",
                "centipede-python",
                "centipede-python-2x",
                "wireguard-go",
                "wireguard-kernel",
            ),
            measurements=(
                round_trips("ping-idle", count=100, interval_s=0.02),
                _tcp_1(USUAL, duration_s=4, warm_up_s=1.0),
                _tcp_1(LIMITED, duration_s=10, warm_up_s=2.0),
            ),
        ),
    )
}
