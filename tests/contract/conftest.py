from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.contract.harness import ENGINES, Rig, rig


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine."""
    name: str = request.param
    return name


@pytest.fixture
def make_rig(engine: str) -> Iterator[Callable[..., Rig]]:
    """Builds rigs around the engine; they are closed at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> Rig:
            return stack.enter_context(rig(engine, **options))

        yield make


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Let threads interleave between any two lines: being traced, each line calls a function, and may be left there."""

    def trace(*_: object) -> Any:
        return trace

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threading.settrace(trace)
    yield
    threading.settrace(None)
    sys.setswitchinterval(interval)
