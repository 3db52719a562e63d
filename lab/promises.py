"""Promises: what nothing that leaves a machine may break, whatever happens; checked from outside, on the wire alone.

No two datagrams are sealed with one key and nonce. A new Acknowledge answers only an Initiate that is newer than every
one that was confirmed at this machine (docs/protocol.md "Timestamps"): that one was confirmed is seen by the first
session packet under it, since a responder does not speak before.
"""

from __future__ import annotations

from collections.abc import Sequence

from centipede.protocol.handshake import acknowledge_sid, open_initiate
from centipede.protocol.identity import Identity
from centipede.protocol.session import BASE_BYTES, is_handshake

_INITIATE = 0x81
_MAC2 = 192
"""An Initiate from here on may differ from one sending of it to the next."""
_NONCE = 8 + BASE_BYTES
"""Bytes of a session packet that name its nonce and, by the base its receiver chose, its key."""


class InvariantError(AssertionError):
    """The protocol broke a promise. The text says which."""


def again(kind: str, seed: int) -> str:
    """The command that repeats one storm."""
    return f"python -m lab.simulate --kind {kind} --seed {seed} --log"


def located(error: InvariantError, kind: str, seed: int, log: Sequence[str]) -> InvariantError:
    """The error with the command that shows it again, and the end of what was logged until then."""
    tail = "\n".join(log[-40:])
    return InvariantError(f"{error}\n{again(kind, seed)}\n{tail}")


class Promises:
    """Sees every datagram that leaves a machine, in order. Raises InvariantError."""

    def __init__(self) -> None:
        self._sealed: dict[bytes, bytes] = {}
        self._initiates: set[bytes] = set()
        self._timestamps: dict[bytes, int] = {}
        """Of each Initiate, by the session base its initiator chose."""
        self._answers: set[tuple[tuple[str, int], bytes]] = set()
        self._floors: dict[str, int] = {}

    def see(self, life: tuple[str, int], data: bytes, remote: Identity) -> None:
        """A datagram leaves a machine, named by itself and the life of its process, for ``remote``."""
        if not is_handshake(data):
            self._check_nonce(life[0], data)
        elif (sid := acknowledge_sid(data)) is not None:
            self._check_answer(life, sid[:BASE_BYTES], data)
        elif data[0] == _INITIATE and data[:_MAC2] not in self._initiates:
            self._initiates.add(data[:_MAC2])
            initiate = open_initiate(remote, data)
            self._timestamps[initiate.base] = initiate.timestamp

    def forget_floor(self, name: str) -> None:
        """A machine lost its record, so it cannot know what was confirmed before."""
        self._floors.pop(name, None)

    def _check_nonce(self, name: str, data: bytes) -> None:
        if self._sealed.setdefault(data[:_NONCE], data) != data:
            raise InvariantError(f"{name} sealed a second datagram with one key and nonce")
        timestamp = self._timestamps.get(data[8:_NONCE])
        if timestamp is not None:
            self._floors[name] = max(timestamp, self._floors.get(name, timestamp))

    def _check_answer(self, life: tuple[str, int], base: bytes, data: bytes) -> None:
        # The Acknowledge of a pending handshake may go out again, the same to a byte.
        name, _ = life
        if (life, data) not in self._answers and self._timestamps[base] <= self._floors.get(name, -1):
            raise InvariantError(f"{name} answered an Initiate that is not newer than what was confirmed")
        self._answers.add((life, data))
