"""Seeded storms over machines that share one identity, and mutants they must find."""

from __future__ import annotations

import pytest

from centipede.cluster.grants import Grants, slot
from centipede.protocol.grant import Grant
from centipede.protocol.node import Node
from lab.member_storm import MemberStorm
from lab.promises import InvariantError

SEEDS = 24


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("cluster", [False, True], ids=["members", "cluster"])
def test_members_break_no_promise(seed: int, cluster: bool) -> None:
    MemberStorm(seed, cluster=cluster).run()  # raises, saying how to see it again


def test_sessions_move_in_these_storms() -> None:
    """Not in each: those who are asked may have none."""
    storms = [MemberStorm(seed) for seed in range(8)]
    for storm in storms:
        storm.run()
    assert sum(storm.moved for storm in storms) > len(storms)
    assert any("can be imported once" in reason for storm in storms for reason in storm.refused)
    assert sum(storm.restored for storm in storms) > 5
    assert {storm.died is None for storm in storms} == {True, False}


def test_shards_granted_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Grant.cut

    def cut(grant: Grant, k: int, *, rest: bool) -> tuple[Grant, Grant]:
        return grant, kept(grant, k, rest=rest)[1]

    monkeypatch.setattr(Grant, "cut", cut)
    with pytest.raises(InvariantError, match="with one key and nonce"):
        run_storms()


def test_a_life_of_a_member_that_gets_the_shards_of_the_one_before_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grants, "run", lambda grants, _base, member, _life, k: slot(member, grants._of, 0, k))
    with pytest.raises(InvariantError, match="with one key and nonce"):
        run_storms(cluster=True)


def test_machines_that_do_not_notice_that_they_were_put_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "fence", lambda *_: None)
    with pytest.raises(InvariantError, match=r"with one key and nonce|was given packet .* twice"):
        run_storms()


def run_storms(*, cluster: bool = False) -> None:
    """Run the storms of CI until one breaks a promise."""
    for seed in range(SEEDS):
        MemberStorm(seed, cluster=cluster).run()
