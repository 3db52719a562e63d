"""Settings of a benchmark's links, and the calibration that measures such links: on real interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from lab.calibration import BARE, CASES, measure
from lab.comparison import LIMITED, NO_TRAINS, USUAL
from lab.impairment import Backend
from lab.link import EndPlan, Link, LinkPlan, has_netem
from lab.offloads import features
from lab.settings import CARD, setting
from lab.topology import HostPlan, Plan, Topology

pytestmark = pytest.mark.netns


@pytest.fixture
def topology() -> Iterator[Topology]:
    ends = (EndPlan("a", (ip_interface("10.1.0.1/24"),)), EndPlan("b", (ip_interface("10.1.0.2/24"),)))
    with Topology.build(Plan(hosts=(HostPlan("a"), HostPlan("b")), links=(LinkPlan("one", ends),))) as built:
        yield built


def state(link: Link) -> list[tuple[dict[str, bool], str]]:
    return [
        (features(end.host, end.name), end.host.run(["tc", "qdisc", "show", "dev", end.name]).stdout)
        for end in link.ends
    ]


def test_links_become_what_they_were(topology: Topology) -> None:
    link = topology.link("one")
    before = state(link)
    with setting(link.ends, USUAL):
        assert state(link) == before
    with setting(link.ends, NO_TRAINS):
        for found, _ in state(link):
            assert {name: found[name] for name in CARD} == dict(CARD)
    assert state(link) == before


def test_narrow_links_have_netem_and_no_offloads(topology: Topology) -> None:
    link = topology.link("one")
    if not has_netem(link.ends[0].host):
        pytest.skip("this kernel has no netem")
    before = state(link)
    with setting(link.ends, LIMITED):
        for found, discipline in state(link):
            assert not found["tx-tcp-segmentation"]
            assert "netem" in discipline
            assert "rate 5Mbit" in discipline
    assert [found for found, _ in state(link)] == [found for found, _ in before]
    assert not any("netem" in discipline for _, discipline in state(link))


@pytest.mark.slow
def test_the_calibration_measures_every_case() -> None:
    told: list[str] = []
    found = measure(Backend.EMULATOR, told.append, count=100)
    assert [case.case for case in found.cases] == list(CASES)
    assert len(told) == len(CASES)
    cases = {case.case: case for case in found.cases}
    assert cases[BARE].backend == "veth"
    assert cases[BARE].delay_us["median"] == 0
    assert {case.backend for case in found.cases[1:]} == {"emulator"}
    # Late the emulator may be on a busy machine, early never.
    assert cases["delay 20 ms"].delay_us["min"] > 15_000
