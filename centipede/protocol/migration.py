"""Migration: the offers a node made, and what answers them. docs/protocol.md "Handing over".

An offer's private key is in this object and nowhere else, is used once, and is erased then or when its time is over. An
export therefore opens once, here. What becomes of the sessions in it is the peers' affair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from centipede.errors import HandoverError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.export import Export, import_id
from centipede.protocol.handover import Handover
from centipede.protocol.identity import KEY_BYTES, Identity
from centipede.protocol.offer import IMPORT_ID_BYTES, Offer
from centipede.protocol.wire import MOST_ADDRESSES

OFFER_LIFE_S = 30.0
"""An offer that was not used by then is none any more."""
MOST_OFFERS = 8
"""Offers open at a time; the oldest gives way."""
_REMEMBERED = 64
"""Offers that are over and still known by name, so that an error can say what became of them."""


@dataclass(slots=True)
class _Open:
    """An offer nobody has answered yet."""

    offer: bytes
    made: float
    one_time: bytearray = field(repr=False)

    def erase(self) -> None:
        self.one_time[:] = bytes(KEY_BYTES)

    @property
    def until(self) -> float:
        return self.made + OFFER_LIFE_S


class Migration:
    """What one node offers and exports."""

    def __init__(self, identity: Identity, random: Callable[[int], bytes]) -> None:
        self._identity = identity
        self._random = random
        self._open: dict[bytes, _Open] = {}
        self._used: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._expired: deque[bytes] = deque(maxlen=_REMEMBERED)

    def offer(self, k: int, addresses: Sequence[Endpoint], now: float) -> bytes:
        """A new offer of a machine whose run has 2^k shards and which a peer may find at these addresses."""
        self.expire(now)
        if len(self._open) >= MOST_OFFERS:
            self._drop(next(iter(self._open)))
        name = self._random(IMPORT_ID_BYTES)
        one_time = bytearray(self._random(KEY_BYTES))
        public = X25519PrivateKey.from_private_bytes(one_time).public_key().public_bytes_raw()
        offer = Offer(k, name, public, self._identity.public, tuple(addresses[:MOST_ADDRESSES])).encode(self._identity)
        self._open[name] = _Open(offer, now, one_time)
        return offer

    def read(self, data: bytes) -> Offer:
        """Another machine's offer, if it may import. Raises HandoverError."""
        offer = Offer.decode(data)
        if offer.importer != self._identity.public:
            raise HandoverError(
                f"this offer is of the identity {offer.importer.short} and not of {self._identity.public.short}; "
                "both machines need the same private key"
            )
        if offer.import_id in (*self._open, *self._used, *self._expired):
            raise HandoverError("this offer was made here; it is for the machine that has the session now")
        return offer

    def seal(self, handover: Handover, offer: bytes, *, move: bool) -> bytes:
        """The export that answers an offer of another machine."""
        return Export(handover, move).seal(offer, self._identity, self._random(KEY_BYTES))

    def open(self, data: bytes, now: float, check: Callable[[Handover], None]) -> tuple[Export, float]:
        """What was exported to an offer made here, and when it was made; it is used up. Raises HandoverError alone.

        If ``check`` raises it because this machine cannot take such a handover, the offer stays as it was.
        The sessions in it are older by the time since the offer: in no case younger than the peer holds them to be.
        """
        self.expire(now)
        name = import_id(data)
        if name in self._used:
            raise HandoverError("this export was imported already; an export can be imported once")
        if name in self._expired:
            raise HandoverError(
                f"this export comes too late: an offer is good for {OFFER_LIFE_S:g} s; make a new one and export to it"
            )
        if name not in self._open:
            raise HandoverError(
                "this export is not for this machine, or its daemon was restarted since the offer; "
                "make an offer here and export to it"
            )
        waiting = self._open[name]
        export = Export.open(data, waiting.offer, bytes(waiting.one_time), self._identity.public)
        check(export.handover)
        waiting.erase()
        del self._open[name]
        self._used.append(name)
        older_s = now - waiting.made
        sessions = tuple(replace(each, age_s=each.age_s + older_s) for each in export.handover.sessions)
        return replace(export, handover=replace(export.handover, sessions=sessions)), waiting.made

    def expire(self, now: float) -> None:
        """Erase what is too old."""
        for name in [name for name, waiting in self._open.items() if now >= waiting.until]:
            self._drop(name)

    def clear(self) -> None:
        """Erase all of them."""
        for name in tuple(self._open):
            self._drop(name)

    def expires_at(self) -> float:
        """When :meth:`expire` has something to do."""
        return min((waiting.until for waiting in self._open.values()), default=float("inf"))

    def _drop(self, name: bytes) -> None:
        self._open.pop(name).erase()
        self._expired.append(name)
