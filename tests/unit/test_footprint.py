"""What programs hold over a run, and what counts as grown."""

from __future__ import annotations

import os

from lab.footprint import Footprint, FootprintLog, Sample, come_to


def log_of(samples: list[tuple[int, int]]) -> Footprint:
    """Return the footprint of a program that held so much memory and so many descriptors, one after the other."""
    return come_to("left", [Sample(float(second), *sample) for second, sample in enumerate(samples)])


def test_what_a_program_needs_at_first_is_no_growth() -> None:
    found = log_of([(10, 5), (50, 9), *[(60, 9)] * 10])
    assert (found.memory_grown_bytes, found.descriptors_grown) == (0, 0)
    assert (found.memory_bytes, found.descriptors) == (60, 9)


def test_what_goes_on_growing_is_told() -> None:
    found = log_of([(100 + second, 10 + second // 5) for second in range(41)])
    assert found.memory_grown_bytes == 20
    assert found.descriptors_grown == 5


def test_peaks_of_memory_and_sockets_of_links_that_are_down_do_not_count() -> None:
    calm = [(100, 10)] * 20
    found = log_of([*calm[:6], (100, 7), *calm[:12], (900, 10), *calm[:1]])
    assert (found.memory_grown_bytes, found.descriptors_grown) == (0, 0)


def test_a_short_run_says_nothing_of_growth() -> None:
    found = log_of([(100, 10)])
    assert (found.memory_grown_bytes, found.descriptors_grown) == (None, None)


def test_a_program_is_looked_at_now_and_then_and_one_that_is_gone_not_at_all() -> None:
    log = FootprintLog()
    log.add(1.0, [2**22 + 1])
    log.add(1.1, [])
    assert log.footprint("left", 0.0) is None
    log.add(2.0, [os.getpid()])
    log.add(2.1, [os.getpid()])
    found = log.footprint("left", 0.0)
    assert found is not None
    assert [each.at_s for each in found.samples] == [2.0]
    assert found.memory_bytes > 1_000_000
    assert found.descriptors > 2
