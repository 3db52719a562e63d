"""A set of durations that cannot work is refused, and the message says which."""

from __future__ import annotations

from typing import Any

import pytest

from centipede.protocol.timing import Timing


def test_the_defaults_are_the_protocol() -> None:
    timing = Timing()
    assert [timing.rekey_s, timing.rekey_fallback_s, timing.reject_s] == [120, 150, 180]
    assert list(timing.resend_s) == [0, 0.25, 0.75, 1.75, 3.75]
    assert list(timing.back_off_s) == [0, 1, 2, 5, 10, 15]
    assert [timing.up_s, timing.idle_s] == [1, 10]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pending_s": 0.0}, "pending_s"),
        ({"tie_s": -1.0}, "tie_s"),
        ({"rekey_jitter_s": -1.0}, "rekey_jitter_s"),
        ({"rekey_s": 160.0}, "rekey_fallback_s"),
        ({"reject_s": 150.0}, "reject_s"),
        ({"resend_s": ()}, "resend_s"),
        ({"resend_s": (0.0, 2.0, 1.0)}, "resend_s"),
        ({"attempt_s": 3.0}, "attempt_s"),
        ({"back_off_s": (-1.0,)}, "back_off_s"),
        ({"suspect_factor": 3.0}, "gone_factor"),
        ({"gap_s": 700.0}, "gap_s"),
        ({"dead_s": float("nan")}, "dead_s"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Timing(**change)


def test_some_things_may_be_zero() -> None:
    assert Timing(rekey_jitter_s=0.0, back_off_s=(0.0,)).rekey_jitter_s == 0
