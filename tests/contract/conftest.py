from __future__ import annotations

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
