from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.namespace import can_make
from tests.e2e.world import World, two_hosts


@pytest.fixture
def namespaces() -> None:
    """For tests that build a network: skips where the machine gives none."""
    if (reason := can_make()) is not None:
        pytest.skip(f"this machine gives no network namespaces: {reason}")


@pytest.fixture
def world(namespaces: None) -> Iterator[World]:
    """Two hosts, two links, no tunnel yet."""
    with two_hosts() as world:
        yield world
