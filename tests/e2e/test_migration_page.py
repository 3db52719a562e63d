"""docs/migration.md, followed to the letter on four hosts of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from lab.topology import RoutePlan, Topology
from tests.e2e.follower import Follower, follow, joined_by_ssh
from tests.e2e.world import ROOT, two_networks

PAGE = ROOT / "docs" / "migration.md"
OUTSIDE = {"laptop": "192.0.2.30/24", "old": "192.0.2.10/24", "new": "192.0.2.20/24"}
INSIDE = {"old": "10.8.0.1/24", "new": "10.8.0.2/24", "site": "10.8.0.9/24"}


@pytest.fixture
def followers(namespaces: None, tmp_path: Path) -> Iterator[dict[str, Follower]]:
    plan = two_networks(
        OUTSIDE, INSIDE, routes=[RoutePlan("site", ip_network("10.7.0.0/24"), ip_interface(INSIDE["old"]).ip)]
    )
    with Topology.build(plan) as topology:
        followers = {name: Follower(topology.host(name)) for name in {**OUTSIDE, **INSIDE}}
        with joined_by_ssh(followers, tmp_path / "ssh"):
            yield followers


def test_page(followers: dict[str, Follower]) -> None:
    moved = 0
    for name, commands, out in follow(PAGE, followers):
        if "session vpn0 import" in commands:
            assert "the sessions with laptop are served here" in out
            moved += 1
        if "ping" in commands:
            assert " 0% packet loss" in out
        if "centipede show" in commands:
            assert "192.0.2.20:51820" in out
            assert name == "laptop"
    assert moved == 2


def test_wrong_turns_are_said_in_a_sentence(followers: dict[str, Follower]) -> None:
    pages = follow(PAGE, followers)
    for _, commands, _ in pages:
        if commands.startswith("centipede up") and "ping" in commands:
            break
    old, new = followers["old"], followers["new"]
    offer = new.type("centipede session vpn0 offer")
    wrong = [
        (new, "centipede session vpn0 export laptop --to -", offer, "this offer was made here"),
        (old, "centipede session vpn0 export phone --to -", offer, "there is no peer 'phone'"),
        (old, "centipede session vpn0 export laptop --to -", "", "does not hold an offer"),
        (old, "centipede session vpn0 export laptop --to -", offer.replace("\n", "\nA"), "this offer was damaged"),
        (new, "centipede session vpn0 import", offer, "this is no export: its first line would be"),
    ]
    for follower, command, given, sentence in wrong:
        out, errors, status = follower.answer(command, given)
        assert (out, status) == ("", 1)
        assert sentence in errors
        assert errors.count("\n") == 1
    export, _, status = old.answer("centipede session vpn0 export laptop --to -", offer)
    assert status == 0
    _, errors, status = old.answer("centipede session vpn0 import", export)
    assert (status, "is not for this machine" in errors) == (1, True)
    assert new.answer("centipede session vpn0 import", export)[2] == 0
    _, errors, status = new.answer("centipede session vpn0 import", export)
    assert (status, "was imported already" in errors) == (1, True)
    _, errors, status = old.answer(
        "centipede session vpn0 export laptop --to -", new.type("centipede session vpn0 offer")
    )
    assert status == 1
    assert "can be exported" in errors
