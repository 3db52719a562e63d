"""Measurements that need no network: what a tunnel says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from lab.errors import LabError
from lab.expectation import Expectation, Outcome
from lab.host import Host
from lab.measurement import Ground, Look, flatten


def ground(state: Callable[[str], Any]) -> Ground:
    nobody = cast("Host", None)
    return Ground(nobody, nobody, "10.7.0.2", Path(), number=0, state=state)


def test_what_an_end_says_at_that_moment_is_what_is_judged() -> None:
    said = {"a": {"cluster": {"store": {"gone_s": 7.5}}}}
    running = Look(name="misses", end="a").begin(ground(said.get))
    said["a"] = {}
    values = {"misses": flatten(running.finish())}
    running.stop()
    judgement = Expectation(figure="misses.shown.cluster.store.gone_s", at_least=5).judge("centipede", values)
    assert (judgement.outcome, judgement.found) == (Outcome.MET, 7.5)


def test_an_end_that_says_nothing_is_told() -> None:
    with pytest.raises(LabError, match="the tunnel says nothing of itself at b"):
        Look(name="misses", end="b").begin(ground(lambda name: None))
