"""Bucket and BucketTable: how often something may happen, per source and without unbounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Source = TypeVar("Source", bound=Hashable)


class Bucket:
    """A token bucket: ``rate`` tokens a second, ``burst`` of them at most; starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Take a token if there is one. ``now`` is monotonic seconds."""
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def ready_at(self) -> float:
        """When there will be a token, in monotonic seconds; in the past if there is one."""
        # A microsecond more than the division says, so that its rounding cannot make the caller come too early.
        return self._at + (1 - self._tokens) / self._rate + 1e-6


class BucketTable(Generic[Source]):
    """A bucket per source, for at most ``size`` of them; the one used longest ago gives way."""

    __slots__ = ("_buckets", "_burst", "_rate", "_size")

    def __init__(self, rate: float, burst: float, size: int) -> None:
        self._rate = rate
        self._burst = burst
        self._size = size
        self._buckets: OrderedDict[Source, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: Source, now: float) -> bool:
        """Take a token of the source's bucket if it holds one."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._size:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = Bucket(self._rate, self._burst)
        else:
            self._buckets.move_to_end(source)
        return bucket.take(now)
