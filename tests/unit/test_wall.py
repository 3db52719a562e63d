"""The wall clock and the file that sets it wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from centipede.system.wall import VARIABLE, wall_clock

YEAR_NS = 365 * 86400 * 10**9


def test_it_is_the_host_s_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert wall_clock() is time.time_ns


def test_the_file_steps_it_at_any_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "offset"
    monkeypatch.setenv(VARIABLE, str(file))
    clock = wall_clock()
    assert abs(clock() - time.time_ns()) < YEAR_NS  # there is no such file yet
    for years in (30, -20, 0.5):
        file.write_text(f"{years * YEAR_NS / 1e9}\n")
        assert abs(clock() - time.time_ns() - years * YEAR_NS) < YEAR_NS / 10
    file.write_text("-1e30")
    assert clock() == 0
    for rubbish in ("", "x", "nan", "inf", "\xff"):
        file.write_text(rubbish)
        assert abs(clock() - time.time_ns()) < YEAR_NS / 10
