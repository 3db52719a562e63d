"""docs/cluster.md, followed to the letter on hosts of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.store import unavailable
from lab.topology import Topology
from tests.e2e.follower import Follower, follow, joined_by_ssh
from tests.e2e.world import ROOT, two_networks

PAGE = ROOT / "docs" / "cluster.md"
STORE_SECTION = "## 3. Members that find each other"
OUTSIDE = {"laptop": "192.0.2.30/24", "one": "192.0.2.10/24", "two": "192.0.2.20/24", "three": "192.0.2.40/24"}
INSIDE = {"one": "10.8.0.1/24", "two": "10.8.0.2/24", "three": "10.8.0.3/24", "store": "10.8.0.9/24"}


@pytest.fixture
def topology(namespaces: None) -> Iterator[Topology]:
    with Topology.build(two_networks(OUTSIDE, INSIDE)) as built:
        yield built


@pytest.fixture
def followers(topology: Topology, tmp_path: Path) -> Iterator[dict[str, Follower]]:
    followers = {name: Follower(topology.host(name)) for name in {**OUTSIDE, **INSIDE}}
    followers["store"].provide_etcd_service()
    with joined_by_ssh(followers, tmp_path / "ssh"):
        yield followers


@pytest.mark.timeout(180)
def test_page(topology: Topology, followers: dict[str, Follower]) -> None:
    lack = unavailable() or no_service(topology)
    shown: dict[str, list[str]] = {name: [] for name in followers}
    for name, commands, out in follow(PAGE, followers, until=STORE_SECTION if lack else ""):
        if "ping" in commands:
            assert " 0% packet loss" in out
        if "centipede show" in commands:
            shown[name].append(out)
    assert "192.0.2.20:51820" in shown["laptop"][0]
    assert "1 of 8, shard" in shown["one"][0]
    assert "2 at 10.8.0.2:51821 up" in shown["one"][0]
    if lack:
        pytest.skip(f"this machine can run no store, and the page was followed without: {lack}")
    assert "192.0.2.40:51820" in shown["laptop"][1]
    assert "3 at 10.8.0.3:51821 up" in shown["one"][1]
    assert "store" not in shown["one"][1], "which is said of a store that is missed"


def no_service(topology: Topology) -> str | None:
    """Why etcd cannot run there as the user that its package makes."""
    tried = topology.host("store").run(["setpriv", "--reuid", "etcd", "true"], check=False)
    return tried.stderr.strip() or None
