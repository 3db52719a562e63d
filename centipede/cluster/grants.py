"""Grants: which shards a member has under a session, by arithmetic alone. docs/protocol.md "A cluster".

Shards 0 to 8191 are 512 slots of 16, the longest run. Member m of n has slot m - 1 under the sessions it makes itself.
To another member, its maker grants slot m - 1 + n x (lives of that member which have had the session before). Only the
maker grants, and only while it lives, so neither a restart nor a partition gives two lives one shard. Shards from 8192
on are for moving sessions by hand.
"""

from __future__ import annotations

from centipede.protocol.grant import SHARDS_END
from centipede.protocol.session import LARGEST_K
from centipede.protocol.table import Run

SLOT_SHARDS = 1 << LARGEST_K
SLOTS_END = 8192
MOST_MEMBERS = 64
SPARE = range(SLOTS_END, SHARDS_END)
"""What no slot holds."""


def slot(member: int, of: int, life: int, k: int) -> Run | None:
    """The run of 2^k shards of the ``life``-th life, from 0, of this member; None when there are no slots left."""
    first = SLOT_SHARDS * (member - 1 + of * life)
    return Run(first, k) if first < SLOTS_END else None


class Grants:
    """What one member granted of the sessions it made."""

    def __init__(self, of: int) -> None:
        self._of = of
        self._lives: dict[bytes, dict[int, list[bytes]]] = {}
        """By session base and member: its lives that have had the session, in order."""

    def run(self, base: bytes, member: int, life: bytes, k: int) -> Run | None:
        """The run of this life of a member under a session; the same whenever asked. None if no slot is left."""
        lives = self._lives.setdefault(base, {}).setdefault(member, [])
        if life not in lives:
            if slot(member, self._of, len(lives), k) is None:
                return None
            lives.append(life)
        return slot(member, self._of, lives.index(life), k)

    def keep(self, bases: set[bytes]) -> None:
        """Forget all other sessions: they are over."""
        for base in self._lives.keys() - bases:
            del self._lives[base]
