"""Routing: which peer an inner address belongs to, by the longest prefix of its allowed_ips.

One dictionary per prefix length, tried from the longest. Tables hold few distinct lengths, so a look-up is a handful of
dictionary reads; a bounded memory of recent addresses makes the usual one a single read. Any thread may look up: the
memory is only ever filled with what a look-up would find again.
"""

from __future__ import annotations

from collections.abc import Iterable

from centipede.protocol.table import Route

_REMEMBERED = 1024
"""Addresses whose answer is kept; then the memory starts over, so a scan of addresses costs no space."""
_UNKNOWN = -1
"""No peer has this number."""


class Routing:
    """Answers for one forwarding table; built anew with the next."""

    __slots__ = ("_levels", "_recent")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Of routes with the same network the first counts; the configuration does not let two peers have one."""
        by_shift: dict[int, dict[int, dict[int, int]]] = {4: {}, 16: {}}
        for route in routes:
            network = route.network
            shift = network.max_prefixlen - network.prefixlen
            level = by_shift[network.max_prefixlen // 8].setdefault(shift, {})
            level.setdefault(int(network.network_address) >> shift, route.peer)
        self._levels = {size: sorted(levels.items()) for size, levels in by_shift.items()}
        self._recent: dict[bytes, int | None] = {}

    def lookup(self, address: bytes) -> int | None:
        """The peer of an address of 4 or 16 bytes in network order; None if no route holds it."""
        recent = self._recent
        peer = recent.get(address, _UNKNOWN)
        if peer == _UNKNOWN:
            peer = self._search(address)
            if len(recent) >= _REMEMBERED:
                recent.clear()
            recent[address] = peer
        return peer

    def _search(self, address: bytes) -> int | None:
        number = int.from_bytes(address, "big")
        for shift, level in self._levels.get(len(address), ()):
            peer = level.get(number >> shift)
            if peer is not None:
                return peer
        return None
