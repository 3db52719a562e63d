"""Shares: which of a peer's machines each flow goes to. docs/protocol.md "Sending to several".

Flows are told apart by a hash of :data:`centipede.protocol.table.BUCKETS` values, and each value has one machine, found
by weighted rendezvous hashing: a machine's chance is its weight's part of all weights, and when one comes, goes or
changes its weight, only flows that it gains or loses move. Depends on the machines' names and weights alone, so the
same machines have the same flows after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log

from centipede.protocol.table import BUCKETS

_HASH_BYTES = 8


@lru_cache(maxsize=1024)
def _draws(name: str) -> tuple[float, ...]:
    """For each bucket, how well the machine of this name does in it: exponential, with mean 1; less is better."""
    draws = []
    for bucket in range(BUCKETS):
        digest = blake2b(bucket.to_bytes(2, "big") + name.encode(), digest_size=_HASH_BYTES).digest()
        draws.append(-log((int.from_bytes(digest, "big") + 1) / 2 ** (8 * _HASH_BYTES)))
    return tuple(draws)


def allot(machines: Sequence[tuple[str, int]]) -> tuple[int, ...]:
    """For each bucket the index of its machine; empty for fewer than two machines.

    ``machines`` are their names, no two alike, and their weights; if all weights are 0, all are equal.
    """
    if len(machines) < 2:
        return ()
    weighted = [(index, _draws(name), weight) for index, (name, weight) in enumerate(machines) if weight > 0]
    if not weighted:
        weighted = [(index, _draws(name), 1) for index, (name, _) in enumerate(machines)]
    return tuple(
        min((draws[bucket] / weight, index) for index, draws, weight in weighted)[1] for bucket in range(BUCKETS)
    )
