"""What a link does to frames, one direction at a time, as a value.

Owns the meaning of the scenario's link settings, their validation, how a change at run time is merged, and how they are
said to the kernel where the kernel can do it (tc's netem and tbf, an nft ruleset). Must not know processes or
interfaces: lab/frame_queue.py computes with these values, lab/emulator.py and lab/link.py carry them out.

A number that is 0 stands for "there is no such thing", so that TOML can also take an impairment away again.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

FRAME_BYTES = 1514
"""A full frame of an MTU of 1500: Ethernet header and packet, as every rate here counts."""
ETHERNET_HEADER_BYTES = 14
_QUEUE_S = 0.1
_QUEUE_PACKETS_MIN = 32
_NETEM_IN_FLIGHT_PACKETS = 100_000
_TBF_BURST_FRAMES = 3
_TBF_BURST_S = 0.001
_MTU_BYTES_MIN = 68


class Impairment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One direction of a link. The default value is a link that does nothing to a frame.

    A frame passes, in this order: blackhole, largest size, loss, duplication, then the queue with the rate, then the
    delay. Raises ValueError, naming the field, for a combination that means nothing.
    """

    rate_bps: int = 0
    """Bits per second on the wire, Ethernet header included. 0: as fast as the machine."""
    delay_ms: float = 0.0
    """How long each frame is under way."""
    jitter_ms: float = 0.0
    """The delay varies evenly within this much either way; at most ``delay_ms``.

    Without a rate frames overtake each other; a link with a rate is one queue and keeps their order (so does netem).
    """
    loss: float = 0.0
    """Fraction of frames that vanish, in the long run, bursts or not."""
    burst_frames: float = 0.0
    """Loss comes in bursts: mean number of consecutive frames that meet the bad state. 0: each frame by itself."""
    burst_loss: float = 1.0
    """Fraction of frames lost in the bad state; none is lost in the good one (the model of Gilbert and Elliott)."""
    duplicate: float = 0.0
    """Fraction of frames that arrive twice. The copy takes a place of its own in the queue and is never lost."""
    reorder: float = 0.0
    """Fraction of frames that are spared the delay and so overtake those under way."""
    limit_packets: int = 0
    """With a rate: how many frames may wait for it, the one being sent included, those merely under way not.

    A frame that finds the queue full is dropped. 0: as many full frames as the rate sends in 100 ms, at least 32.
    """
    blackhole: bool = False
    """Every frame vanishes, and neither end is told."""
    mtu_bytes: int = 0
    """Larger packets (frames less Ethernet header) vanish without an ICMP message. 0: none does."""

    def __post_init__(self) -> None:
        for name in ("rate_bps", "delay_ms", "jitter_ms", "burst_frames", "limit_packets", "mtu_bytes"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        for name in ("loss", "burst_loss", "duplicate", "reorder"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a fraction from 0 to 1, not {value} (5 % is 0.05)")
        if self.jitter_ms > self.delay_ms:
            raise ValueError(f"jitter_ms ({self.jitter_ms:g}) must not exceed delay_ms ({self.delay_ms:g})")
        if self.reorder and not self.delay_ms:
            raise ValueError("reorder needs a delay_ms: a frame overtakes only those that are under way")
        if 0 < self.mtu_bytes < _MTU_BYTES_MIN:
            raise ValueError(f"mtu_bytes must be at least {_MTU_BYTES_MIN}, not {self.mtu_bytes}")
        self._check_burst()

    def _check_burst(self) -> None:
        if not self.burst_frames:
            if self.burst_loss != 1:
                raise ValueError("burst_loss needs burst_frames")
            return
        if self.burst_frames < 1:
            raise ValueError(f"burst_frames must be at least 1, not {self.burst_frames:g}")
        if not self.loss:
            return
        # The good state lasts at least one frame, so bursts of n can cover n of n + 1 frames.
        possible = self.burst_loss * self.burst_frames / (self.burst_frames + 1)
        if self.loss > possible:
            raise ValueError(
                f"loss {self.loss:g} cannot come from bursts of {self.burst_frames:g} frames that lose "
                f"{self.burst_loss:g} each: at most {possible:.3g}"
            )

    @property
    def impaired(self) -> bool:
        """Whether the link does anything to a frame."""
        return self != Impairment()

    @property
    def only_rate(self) -> bool:
        """Whether a token bucket filter can do all of it."""
        return bool(self.rate_bps) and self == Impairment(rate_bps=self.rate_bps, limit_packets=self.limit_packets)

    @property
    def queue_packets(self) -> int:
        """How many frames may wait for the rate; meaningless without one."""
        return self.limit_packets or max(_QUEUE_PACKETS_MIN, round(self.rate_bps * _QUEUE_S / 8 / FRAME_BYTES))

    @property
    def burst_transitions(self) -> tuple[float, float]:
        """Probabilities, per frame, of going from the good state to the bad and back. Needs ``burst_frames``."""
        back = 1 / self.burst_frames
        bad = self.loss / self.burst_loss
        return back * bad / (1 - bad), back

    def merge(self, change: Change) -> Impairment:
        """Return this with what ``change`` says put in its place. Raises ValueError if the result means nothing."""
        given = {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}
        return msgspec.structs.replace(self, **given)


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A change of an impairment at run time: what is not given stays, 0 takes away. Fields as in ``Impairment``."""

    rate_bps: int | UnsetType = UNSET
    delay_ms: float | UnsetType = UNSET
    jitter_ms: float | UnsetType = UNSET
    loss: float | UnsetType = UNSET
    burst_frames: float | UnsetType = UNSET
    burst_loss: float | UnsetType = UNSET
    duplicate: float | UnsetType = UNSET
    reorder: float | UnsetType = UNSET
    limit_packets: int | UnsetType = UNSET
    blackhole: bool | UnsetType = UNSET
    mtu_bytes: int | UnsetType = UNSET


class Backend(enum.Enum):
    """What carries a link."""

    VETH = "veth"
    """A bare pair of veth interfaces."""
    TBF = "tbf"
    """The same with a token bucket filter on each sender."""
    NETEM = "netem"
    """The same with netem on each sender."""
    EMULATOR = "emulator"
    """Two TAP interfaces and a process of ours between them."""


def choose_backend(impairments: Iterable[Impairment], *, changing: bool, netem: bool) -> Backend:
    """Return the cheapest backend that does what both directions ask for.

    ``changing`` says that an impairment will change at run time (an interface that goes down is none), ``netem`` that
    the kernel has it. netem cannot drop by size, so ``mtu_bytes`` asks for the emulator; with ``changing`` the caller
    includes the values to come.
    """
    values = tuple(impairments)
    if not changing and not any(value.impaired for value in values):
        return Backend.VETH
    if not changing and all(value.only_rate or not value.impaired for value in values):
        return Backend.TBF
    return Backend.NETEM if netem and not any(value.mtu_bytes for value in values) else Backend.EMULATOR


def can_become(backend: Backend, impairment: Impairment) -> bool:
    """Return whether a link that was laid with a backend can be made to do this while it is in use."""
    if backend is Backend.EMULATOR:
        return True
    if backend is Backend.NETEM:
        return not impairment.mtu_bytes
    return backend is choose_backend([impairment], changing=False, netem=False)


def tbf_arguments(impairment: Impairment) -> tuple[str, ...]:
    """Return what follows ``tc qdisc add dev IF root tbf`` for the rate and its queue.

    The bucket holds 1 ms of the rate, at least three full frames: less than a frame would let nothing pass. Needs a
    sender without segmentation offload, else a frame is up to 64 kB.
    """
    burst = max(_TBF_BURST_FRAMES * FRAME_BYTES, math.ceil(impairment.rate_bps * _TBF_BURST_S / 8))
    limit = impairment.queue_packets * FRAME_BYTES
    return ("rate", f"{impairment.rate_bps}bit", "burst", f"{burst}b", "limit", f"{limit}b")


def netem_arguments(impairment: Impairment) -> tuple[str, ...]:
    """Return what follows ``tc qdisc add dev IF root netem`` (or ``change``) for an impairment.

    netem's ``limit`` counts frames under way together with those that wait, so it is what the rate keeps under way in
    full frames plus the queue; a stream of small frames at the full rate is cut a little early. A frame chosen for
    reordering skips the rate as well, and a duplicate can be lost in turn: small differences to the emulator. Raises
    ValueError for ``mtu_bytes``, which netem cannot do. Needs a sender without segmentation offload.
    """
    if impairment.mtu_bytes:
        raise ValueError("netem cannot drop frames by their size")
    words = ["limit", str(_netem_limit(impairment))]
    if impairment.delay_ms:
        words += ["delay", f"{round(impairment.delay_ms * 1000)}us"]
        if impairment.jitter_ms:
            words += [f"{round(impairment.jitter_ms * 1000)}us"]
    if impairment.blackhole:
        words += ["loss", "100%"]
    elif impairment.loss and impairment.burst_frames:
        bad, back = impairment.burst_transitions
        words += ["loss", "gemodel", _percent(bad), _percent(back), _percent(impairment.burst_loss), "0%"]
    elif impairment.loss:
        words += ["loss", _percent(impairment.loss)]
    if impairment.duplicate:
        words += ["duplicate", _percent(impairment.duplicate)]
    if impairment.reorder:
        words += ["reorder", _percent(impairment.reorder)]
    if impairment.rate_bps:
        words += ["rate", f"{impairment.rate_bps}bit"]
    return tuple(words)


def _netem_limit(impairment: Impairment) -> int:
    if not impairment.rate_bps:
        return _NETEM_IN_FLIGHT_PACKETS
    under_way_s = (impairment.delay_ms + impairment.jitter_ms) / 1000
    return math.ceil(impairment.rate_bps * under_way_s / 8 / FRAME_BYTES) + impairment.queue_packets


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.6f}".rstrip("0").rstrip(".") + "%"
