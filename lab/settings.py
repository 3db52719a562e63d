"""Settings of a benchmark's links: how they are while a measurement is taken, and how they become what they were.

Owns what each setting means. Must not know contenders or measurements. Invariant: after the context the links are as
they were before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from lab.comparison import LIMITED, NO_TRAINS
from lab.impairment import Backend, Impairment
from lab.link import End
from lab.offloads import OFFLOADS, features, set_features

CARD: Mapping[str, bool] = {"tx-udp-segmentation": False, "rx-gro": True}
"""Features that differ in the setting ``no-trains``: those of a common network card, as compared with veth."""
LIMITED_LINK = Impairment(rate_bps=5_000_000, delay_ms=10, loss=0.02)
"""What happens to frames on each link, in each direction, in the setting ``limited``."""


@contextmanager
def setting(ends: Sequence[End], name: str) -> Iterator[None]:
    """Put the links with these ends into a setting. Raises LabError where the kernel lacks what it takes."""
    with ExitStack() as stack:
        if name == NO_TRAINS:
            for end in ends:
                stack.enter_context(_features(end, CARD))
        elif name == LIMITED:
            for end in ends:
                # netem takes a train of frames as one
                stack.enter_context(_features(end, dict.fromkeys(OFFLOADS, False)))
                stack.enter_context(_shape(end))
        yield


@contextmanager
def _features(end: End, wanted: Mapping[str, bool]) -> Iterator[None]:
    known = features(end.host, end.name)
    before = {name: known[name] for name in wanted if name in known}
    set_features(end.host, end.name, {name: wanted[name] for name in before})
    try:
        yield
    finally:
        set_features(end.host, end.name, before)


@contextmanager
def _shape(end: End) -> Iterator[None]:
    end.shape(Backend.NETEM, LIMITED_LINK)
    try:
        yield
    finally:
        end.host.run(["tc", "qdisc", "del", "dev", end.name, "root"])
