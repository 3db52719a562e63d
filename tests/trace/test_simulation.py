"""Simulated storms with the trace: what was sealed is what left the machines, and mutants are found by it alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from centipede.cluster.grants import Grants, slot
from centipede.protocol.grant import Grant
from centipede.protocol.identity import Identity
from lab.member_storm import MemberStorm
from lab.promises import InvariantError, Promises
from lab.simulate import KINDS, Storm
from tests.trace.entry import Account, load

STORMS: dict[str, Callable[[], Storm | MemberStorm]] = {
    **{kind.name: partial(Storm, kind, 1) for kind in KINDS if kind.name in {"blocks", "restarts"}},
    **{f"members-{seed}": partial(MemberStorm, seed) for seed in range(2)},
    **{f"cluster-{seed}": partial(MemberStorm, seed, cluster=True) for seed in range(2)},
}


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The datagrams that left the machines."""
    datagrams: list[bytes] = []

    def see(_promises: Promises, _life: tuple[str, int], data: bytes, _remote: Identity) -> None:
        datagrams.append(data)

    monkeypatch.setattr(Promises, "see", see)
    return datagrams


@pytest.mark.parametrize("name", STORMS)
def test_the_trace_is_what_left_the_machines(name: str, python_trace: Path, left: list[bytes]) -> None:
    STORMS[name]().run()
    found = Account.of(load(python_trace), left)
    assert found.sealed > 500
    assert (found.reused, found.unseen, found.unsealed) == (0, 0, 0)


def test_a_shard_granted_twice_is_found(python_trace: Path, left: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Grant.cut
    monkeypatch.setattr(Grant, "cut", lambda grant, k, *, rest: (grant, kept(grant, k, rest=rest)[1]))
    assert repeats(python_trace, cluster=False)


def test_lives_of_a_member_with_one_slot_are_found(
    python_trace: Path, left: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grants, "run", lambda grants, _base, member, _life, k: slot(member, grants._of, 0, k))
    assert repeats(python_trace, cluster=True)


def repeats(trace: Path, *, cluster: bool) -> bool:
    """Whether some storm makes a machine seal a second time under a key and nonce."""
    for seed in range(20):
        with suppress(InvariantError):  # what else comes of it is not asked here
            MemberStorm(seed, cluster=cluster).run()
        if Account.of(load(trace), ()).reused:
            return True
    return False
