"""Grants: which shards a member has under a session, by arithmetic alone. docs/protocol.md "A cluster".

Shards 0 to 8191 are 512 slots of 16, the longest run. Member m of n has slot m - 1 under the sessions it makes itself.
To another member, its maker grants slot m - 1 + n x (lives of that member which have had the session before). Only the
maker grants, and only while it lives, so neither a restart nor a partition gives two lives one shard. With a store the
maker grants to the first half of the lives only, and the store counts out the second (registry.py). Shards from 8192 on
are for moving sessions by hand.
"""

from __future__ import annotations

from centipede.protocol.grant import SHARDS_END
from centipede.protocol.session import LARGEST_K
from centipede.protocol.table import Run

SLOT_SHARDS = 1 << LARGEST_K
SLOTS_END = 8192
SPARE = range(SLOTS_END, SHARDS_END)
"""What no slot holds."""


def lives(of: int) -> int:
    """How many lives of one member can have one session."""
    return SLOTS_END // SLOT_SHARDS // of


def slot(member: int, of: int, life: int, k: int) -> Run | None:
    """The run of 2^k shards of the ``life``-th life, from 0, of this member; None when there are no slots left."""
    first = SLOT_SHARDS * (member - 1 + of * life)
    return Run(first, k) if first < SLOTS_END else None


def owner(shard: int, of: int) -> int | None:
    """Which member of so many a shard is, whoever made the session and whichever life; None if no slot holds it."""
    return shard // SLOT_SHARDS % of + 1 if shard < SLOTS_END else None


class Grants:
    """What one member granted of the sessions it made."""

    def __init__(self, of: int, most_lives: int | None = None) -> None:
        """The slots of lives from ``most_lives`` on are for others to grant."""
        self._of = of
        self._most_lives = lives(of) if most_lives is None else most_lives
        self._lives: dict[bytes, dict[int, list[bytes]]] = {}
        """By session base and member: its lives that have had the session, in order."""
        self._heard: dict[bytes, dict[bytes, int]] = {}
        """By session base and life."""

    def run(self, base: bytes, member: int, life: bytes, k: int) -> Run | None:
        """The run of this life of a member under a session; the same whenever asked. None if no slot is left."""
        had = self._lives.setdefault(base, {}).setdefault(member, [])
        if life not in had:
            if len(had) >= self._most_lives:
                return None
            had.append(life)
        return slot(member, self._of, had.index(life), k)

    def heard(self, base: bytes, life: bytes, counter: int) -> int:
        """What was last heard of a life when it was first told of a session; ``counter`` is what was heard by now."""
        return self._heard.setdefault(base, {}).setdefault(life, counter)

    def __len__(self) -> int:
        """How many sessions are remembered."""
        return len(self._lives)

    def keep(self, bases: set[bytes]) -> None:
        """Forget all other sessions: they are over, and none of them comes back."""
        for known in (self._lives, self._heard):
            for base in known.keys() - bases:
                del known[base]
