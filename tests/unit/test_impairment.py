"""Impairments as values: what is refused, how changes merge, what the kernel is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lab.impairment import (
    FRAME_BYTES,
    Backend,
    Change,
    Impairment,
    can_become,
    choose_backend,
    netem_arguments,
    tbf_arguments,
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss": 5}, "loss is a fraction from 0 to 1, not 5 (5 % is 0.05)"),
        ({"loss": -0.1}, "loss is a fraction"),
        ({"duplicate": 1.1}, "duplicate is a fraction"),
        ({"reorder": 2, "delay_ms": 1}, "reorder is a fraction"),
        ({"rate_bps": -1}, "rate_bps must be 0 or more"),
        ({"delay_ms": float("nan")}, "delay_ms must be 0 or more"),
        ({"delay_ms": float("inf")}, "delay_ms must be 0 or more"),
        ({"jitter_ms": 5, "delay_ms": 4}, "jitter_ms (5) must not exceed delay_ms (4)"),
        ({"reorder": 0.1}, "reorder needs a delay_ms"),
        ({"mtu_bytes": 10}, "mtu_bytes must be at least 68"),
        ({"burst_loss": 0.5, "loss": 0.1}, "burst_loss needs burst_frames"),
        ({"burst_frames": 0.5, "loss": 0.1}, "burst_frames must be at least 1"),
        ({"burst_frames": 4, "loss": 0.9}, "cannot come from bursts of 4 frames that lose 1 each: at most 0.8"),
        ({"burst_frames": 4, "burst_loss": 0.5, "loss": 0.5}, "at most 0.4"),
    ],
)
def test_a_value_that_means_nothing_is_refused_in_words(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        Impairment(**fields)
    assert said in str(refused.value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Impairment)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="delay"):
        msgspec.convert({"delay": 3}, Impairment)


def test_a_change_leaves_alone_what_it_does_not_name() -> None:
    link = Impairment(rate_bps=10_000_000, delay_ms=20, loss=0.1, burst_frames=5)
    changed = link.merge(Change(loss=0.3))
    assert changed == Impairment(rate_bps=10_000_000, delay_ms=20, loss=0.3, burst_frames=5)
    assert link.merge(Change()) == link


def test_zero_takes_an_impairment_away() -> None:
    link = Impairment(rate_bps=1000, delay_ms=1, loss=0.1, mtu_bytes=1280, blackhole=True, limit_packets=3)
    change = msgspec.convert(
        {"rate_bps": 0, "delay_ms": 0, "loss": 0, "mtu_bytes": 0, "blackhole": False, "limit_packets": 0}, Change
    )
    assert not link.merge(change).impaired


def test_a_merge_is_validated_as_a_whole() -> None:
    with pytest.raises(ValueError, match="jitter_ms"):
        Impairment(delay_ms=20, jitter_ms=10).merge(Change(delay_ms=5))


def test_change_names_every_field_of_an_impairment() -> None:
    assert Change.__struct_fields__ == Impairment.__struct_fields__


@pytest.mark.parametrize(
    ("rate_bps", "limit_packets", "queue_packets"),
    [(30_000_000, 0, 248), (1_000_000, 0, 32), (1_000_000, 7, 7), (1_000_000_000, 0, 8256)],
)
def test_the_queue_holds_100_ms_unless_told_otherwise(rate_bps: int, limit_packets: int, queue_packets: int) -> None:
    assert Impairment(rate_bps=rate_bps, limit_packets=limit_packets).queue_packets == queue_packets


@pytest.mark.parametrize(
    ("values", "changing", "netem", "backend"),
    [
        ([{}, {}], False, True, Backend.VETH),
        ([{"rate_bps": 1000}, {}], False, True, Backend.TBF),
        ([{"rate_bps": 1000, "limit_packets": 9}, {"rate_bps": 5}], False, False, Backend.TBF),
        ([{"rate_bps": 1000}, {"delay_ms": 1}], False, True, Backend.NETEM),
        ([{"rate_bps": 1000}, {"delay_ms": 1}], False, False, Backend.EMULATOR),
        ([{"mtu_bytes": 1280}, {}], False, True, Backend.EMULATOR),
        ([{}, {}], True, True, Backend.NETEM),
        ([{}, {}], True, False, Backend.EMULATOR),
    ],
)
def test_the_cheapest_backend_that_does_it(
    values: list[dict[str, Any]], changing: bool, netem: bool, backend: Backend
) -> None:
    impairments = [Impairment(**fields) for fields in values]
    assert choose_backend(impairments, changing=changing, netem=netem) is backend


@pytest.mark.parametrize(
    ("backend", "fields", "possible"),
    [
        (Backend.NETEM, {"loss": 0.5}, True),
        (Backend.NETEM, {"rate_bps": 1_000_000}, True),  # what a token bucket would do if it began so
        (Backend.NETEM, {}, True),
        (Backend.NETEM, {"mtu_bytes": 1280}, False),
        (Backend.EMULATOR, {"mtu_bytes": 1280}, True),
        (Backend.TBF, {"rate_bps": 1_000_000}, True),
        (Backend.TBF, {"loss": 0.5}, False),
        (Backend.VETH, {}, True),
        (Backend.VETH, {"loss": 0.5}, False),
    ],
)
def test_what_a_link_can_become_follows_from_how_it_was_laid(
    backend: Backend, fields: dict[str, Any], possible: bool
) -> None:
    assert can_become(backend, Impairment(**fields)) is possible


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "limit 100000"),
        ({"delay_ms": 20}, "limit 100000 delay 20000us"),
        ({"delay_ms": 20, "jitter_ms": 0.5}, "limit 100000 delay 20000us 500us"),
        ({"loss": 0.05}, "limit 100000 loss 5%"),
        ({"loss": 0.000001}, "limit 100000 loss 0.0001%"),
        ({"loss": 0.05, "blackhole": True}, "limit 100000 loss 100%"),
        ({"loss": 0.2, "burst_frames": 4}, "limit 100000 loss gemodel 6.25% 25% 100% 0%"),
        ({"loss": 0.1, "burst_frames": 4, "burst_loss": 0.5}, "limit 100000 loss gemodel 6.25% 25% 50% 0%"),
        ({"duplicate": 0.01, "reorder": 0.02, "delay_ms": 1}, "limit 100000 delay 1000us duplicate 1% reorder 2%"),
        ({"rate_bps": 12_112_000, "limit_packets": 40, "delay_ms": 10}, "limit 50 delay 10000us rate 12112000bit"),
    ],
)
def test_netem_is_told_the_same(fields: dict[str, Any], words: str) -> None:
    assert " ".join(netem_arguments(Impairment(**fields))) == words


def test_netem_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="size"):
        netem_arguments(Impairment(mtu_bytes=1280))


def test_tbf_holds_a_millisecond_and_at_least_three_frames() -> None:
    assert tbf_arguments(Impairment(rate_bps=1_000_000, limit_packets=10)) == (
        *("rate", "1000000bit"),
        *("burst", f"{3 * FRAME_BYTES}b"),
        *("limit", f"{10 * FRAME_BYTES}b"),
    )
    assert "burst 62500b" in " ".join(tbf_arguments(Impairment(rate_bps=500_000_000)))
