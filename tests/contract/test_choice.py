"""Which engine is taken, and what is said about it."""

from __future__ import annotations

import os
import sys

import pytest

import centipede.engine
from centipede.engine import choose, native
from centipede.errors import HostError
from tests.contract.harness import FakeTun


class Queues:
    """A stand-in for system.tun.Tun."""

    def __init__(self, tun: FakeTun) -> None:
        self.fds = tuple(tun.fds)
        self.vnet_hdr = False
        self.offloads: frozenset[str] = frozenset()


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centipede.engine, "native_unavailable", lambda: "it was not built")


@pytest.fixture
def with_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centipede.engine, "native_unavailable", lambda: None)


@pytest.mark.usefixtures("with_native")
def test_auto_takes_the_native_engine_where_it_can() -> None:
    kind = choose("auto")
    assert (kind.name, kind.needs_vnet_hdr) == ("native", True)
    assert kind.default_workers == min(16, len(os.sched_getaffinity(0)))


@pytest.mark.usefixtures("without_native")
def test_auto_takes_the_reference_engine_else_and_says_why() -> None:
    kind = choose("auto")
    assert (kind.name, kind.needs_vnet_hdr) == ("python", False)
    assert kind.reason == "the native engine cannot be used: it was not built"


@pytest.mark.usefixtures("without_native")
def test_the_native_engine_asked_for_in_vain() -> None:
    with pytest.raises(HostError, match=r"the native engine cannot be used \(it was not built\): install"):
        choose("native")


@pytest.mark.usefixtures("with_native")
def test_the_reference_engine_asked_for() -> None:
    kind = choose("python")
    assert (kind.name, kind.reason) == ("python", "configured")


@pytest.mark.parametrize(("gil", "workers"), [(True, 1), (False, min(16, len(os.sched_getaffinity(0))))])
def test_one_worker_where_threads_take_turns(monkeypatch: pytest.MonkeyPatch, gil: bool, workers: int) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    assert choose("python").default_workers == workers


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize(("configured", "spin_s"), [(None, native.SPIN_S), (0.0, 0.0), (0.002, 0.002)])
def test_how_long_workers_look_again(monkeypatch: pytest.MonkeyPatch, configured: float | None, spin_s: float) -> None:
    asked = []
    monkeypatch.setattr(native, "NativeEngine", lambda *_, **options: asked.append(options["spin_s"]))
    tun = FakeTun(1)
    choose("native", configured).create(Queues(tun))
    tun.close()
    assert asked == [spin_s]


def test_it_is_created_with_a_worker_per_queue() -> None:
    tun = FakeTun(3)
    engine = choose("python").create(Queues(tun))
    assert (engine.name, engine.workers) == ("python", 3)
    engine.close()
    tun.close()
