"""Token buckets, alone and by source."""

from __future__ import annotations

import pytest

from centipede.protocol.bucket import Bucket, BucketTable


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=20, burst=5)
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(0.04)
    assert bucket.take(0.06)
    assert sum(bucket.take(0.06 + step / 1000) for step in range(10_000)) == pytest.approx(200, abs=2)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(rate=20, burst=5)
    assert bucket.take(0.0)
    assert sum(bucket.take(1e6) for _ in range(100)) == 5


def test_ready_at_is_early_enough_and_late_enough() -> None:
    bucket = Bucket(rate=8, burst=1)
    now = 12345.678
    for _ in range(50):
        assert bucket.take(now)
        assert not bucket.take(now)
        assert now < bucket.ready_at() < now + 0.126
        now = bucket.ready_at()


def test_time_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(rate=1, burst=1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


def test_sources_have_buckets_of_their_own_and_the_table_is_bounded() -> None:
    table: BucketTable[int] = BucketTable(rate=20, burst=5, size=100)
    assert sum(table.take(1, 0.0) for _ in range(10)) == 5
    assert table.take(2, 0.0)
    for source in range(1000, 3000):
        assert table.take(source, 0.0)
        assert len(table) <= 100
    assert table.take(1, 0.0), "the bucket used longest ago gave way"


def test_a_source_in_use_keeps_its_bucket() -> None:
    table: BucketTable[int] = BucketTable(rate=20, burst=5, size=10)
    for source in range(100):
        table.take(-1, 0.0)
        table.take(source, 0.0)
    assert not table.take(-1, 0.0)
