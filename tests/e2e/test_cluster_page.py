"""docs/cluster.md, followed to the letter on three hosts of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.topology import Topology
from tests.e2e.follower import Follower, follow, joined_by_ssh
from tests.e2e.world import ROOT, two_networks

PAGE = ROOT / "docs" / "cluster.md"
OUTSIDE = {"laptop": "192.0.2.30/24", "one": "192.0.2.10/24", "two": "192.0.2.20/24"}
INSIDE = {"one": "10.8.0.1/24", "two": "10.8.0.2/24"}


@pytest.fixture
def followers(namespaces: None, tmp_path: Path) -> Iterator[dict[str, Follower]]:
    with Topology.build(two_networks(OUTSIDE, INSIDE)) as topology:
        followers = {name: Follower(topology.host(name)) for name in {**OUTSIDE, **INSIDE}}
        with joined_by_ssh(followers, tmp_path / "ssh"):
            yield followers


def test_page(followers: dict[str, Follower]) -> None:
    shown: dict[str, list[str]] = {name: [] for name in followers}
    for name, commands, out in follow(PAGE, followers):
        if "ping" in commands:
            assert " 0% packet loss" in out
        if "centipede show" in commands:
            shown[name].append(out)
    (laptop,), (one,) = shown["laptop"], shown["one"]
    assert "192.0.2.20:51820" in laptop
    assert "1 of 2, shard" in one
    assert "2 at 10.8.0.2:51821 up" in one
