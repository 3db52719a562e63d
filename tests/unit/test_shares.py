"""How flows are shared among a peer's machines: by weight, and moving as few as possible."""

from __future__ import annotations

import pytest

from centipede.protocol.shares import allot
from centipede.protocol.table import BUCKETS

ONE, TWO, THREE = "192.0.2.1:51820", "192.0.2.2:51820", "[2001:db8::1]:51820"


def counts(shares: tuple[int, ...]) -> list[int]:
    return [shares.count(index) for index in range(max(shares) + 1)]


def test_one_machine_has_all() -> None:
    assert allot([]) == allot([(ONE, 255)]) == ()


def test_equal_weights_get_about_the_same() -> None:
    shares = allot([(ONE, 255), (TWO, 255), (THREE, 255)])
    assert len(shares) == BUCKETS
    assert all(0.2 * BUCKETS < count < 0.45 * BUCKETS for count in counts(shares)), counts(shares)
    assert shares == allot([(ONE, 8), (TWO, 8), (THREE, 8)]), "only their proportion matters"


def test_weights_are_followed() -> None:
    few, many = counts(allot([(ONE, 25), (TWO, 225)]))
    assert 0.04 * BUCKETS < few < 0.17 * BUCKETS, (few, many)


@pytest.mark.parametrize("gone", [ONE, TWO, THREE])
def test_only_the_flows_of_one_that_goes_move(gone: str) -> None:
    machines = [(ONE, 200), (TWO, 100), (THREE, 150)]
    before = [machines[index] for index in allot(machines)]
    left = [machine for machine in machines if machine[0] != gone]
    after = [left[index] for index in allot(left)]
    assert all(now == then for then, now in zip(before, after, strict=True) if then[0] != gone)


def test_one_that_gains_weight_only_takes() -> None:
    before = allot([(ONE, 100), (TWO, 100)])
    after = allot([(ONE, 100), (TWO, 150)])
    assert all(now == then or now == 1 for then, now in zip(before, after, strict=True))
    assert after.count(1) > before.count(1)


def test_one_without_weight_has_none_unless_nobody_has() -> None:
    assert set(allot([(ONE, 0), (TWO, 1)])) == {1}
    assert allot([(ONE, 0), (TWO, 0)]) == allot([(ONE, 1), (TWO, 1)])
