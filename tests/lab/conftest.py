"""What all tests of the lab share."""

from __future__ import annotations

import functools

import pytest

from lab.namespace import can_make

_refusal = functools.cache(can_make)


@pytest.fixture(autouse=True)
def _namespaces(request: pytest.FixtureRequest) -> None:
    """Skip what builds networks where none may be built."""
    if request.node.get_closest_marker("netns") is None:
        return
    reason = _refusal()
    if reason is not None:
        pytest.skip(
            f"network namespaces are refused here: {reason}; `python -m lab enter` enters a user namespace first"
        )
