"""docs/two-hosts.md, followed to the letter on two hosts of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from lab.link import EndPlan, LinkPlan
from lab.topology import HostPlan, Plan, Topology
from tests.e2e.follower import Follower, follow
from tests.e2e.world import ROOT

PAGE = ROOT / "docs" / "two-hosts.md"


@pytest.fixture
def followers(namespaces: None) -> Iterator[dict[str, Follower]]:
    alpha = EndPlan("alpha", (ip_interface("192.0.2.10/24"),))
    beta = EndPlan("beta", (ip_interface("192.0.2.20/24"),))
    plan = Plan(hosts=(HostPlan("alpha"), HostPlan("beta")), links=(LinkPlan("eth0", (alpha, beta)),))
    with Topology.build(plan) as topology:
        yield {name: Follower(topology.host(name)) for name in ("alpha", "beta")}


def test_page(followers: dict[str, Follower]) -> None:
    steps = 0
    for _, commands, out in follow(PAGE, followers):
        steps += 1
        if "centipede show" in commands:
            assert "usable" in out
            assert "beta" in out
    assert steps >= 8
