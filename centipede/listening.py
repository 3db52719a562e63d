"""Listening: which local addresses the engine serves, following the host's addresses as they come and go.

An entry of ``listen`` that names an interface, or all of them, means their addresses of the moment. Their sockets are
tied to the interface, so that each path leaves by its own link whatever the routing table prefers; the socket of an
entry that names an address is not, as its owner may route as he likes.

New sockets are opened before old ones are closed, so that a path can move without a moment in which there is none.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from centipede.config import MOST_LISTEN
from centipede.engine.contract import Engine
from centipede.errors import HostError
from centipede.fields import Listen
from centipede.protocol.endpoint import Endpoint
from centipede.system.links import LinkAddress
from centipede.system.udp import open_sockets

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""After an address could not be listened on while running, such as one another program holds just then."""


@dataclass(frozen=True, slots=True)
class Place:
    """One address to listen on: of an interface (then tied to it), or by itself."""

    host: str
    port: int
    """0 for any free one."""
    link: str | None = None
    index: int = 0

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port)) + (f" on {self.link}" if self.link else "")


def places(listen: Iterable[Listen], addresses: Iterable[LinkAddress], tunnel: str) -> tuple[Place, ...]:
    """The addresses that these entries mean now, in their order, none twice, never the tunnel's own."""
    addresses = [each for each in addresses if each.link != tunnel]
    found: dict[tuple[str, int], Place] = {}
    for entry in listen:
        if entry.endpoint:
            meant = [Place(*entry.endpoint)]
        else:
            meant = [
                Place(str(each.address), entry.port, each.link, each.index)
                for each in addresses
                if (each.link == entry.link if entry.link else not each.loopback and not each.tunnel)
            ]
        for place in meant:
            found.setdefault((place.host, place.port), place)
    return tuple(found.values())


def fairly(wanted: Iterable[Place]) -> list[Place]:
    """The same places, in their order, but each interface's first address of an IP version before any second one."""
    seen: Counter[tuple[str | None, bool]] = Counter()
    ranked = []
    for place in wanted:
        kind = place.link, ":" in place.host
        ranked.append((seen[kind], place))
        if place.link is not None:  # the user's own choice is never the second of its kind
            seen[kind] += 1
    return [place for _, place in sorted(ranked, key=itemgetter(0))]


class Listening:
    """Opens and closes the engine's sockets."""

    def __init__(
        self,
        engine: Engine,
        listen: Sequence[Listen],
        tunnel: str,
        mark: int | None,
        open_sockets: Callable[..., tuple[int, ...]] = open_sockets,
    ) -> None:
        self.listen = listen
        self._engine = engine
        self._tunnel = tunnel
        self._mark = mark
        self._open_sockets = open_sockets
        self._served: dict[Place, Endpoint] = {}
        self._stale: list[Endpoint] = []
        self._refused: dict[Place, str] = {}
        self._too_many = 0
        """Addresses there were when the user was told that not all are used."""
        self.retry_at = math.inf
        """When to call :meth:`open` again although nothing changed."""

    @property
    def locals(self) -> tuple[Endpoint, ...]:
        """The endpoints that are served and to stay."""
        return tuple(self._served.values())

    @property
    def chosen(self) -> tuple[Endpoint, ...]:
        """Those of them that the configuration names by address."""
        return tuple(local for place, local in self._served.items() if place.link is None)

    def open(self, addresses: Iterable[LinkAddress], now: float, *, strict: bool = False) -> None:
        """Serve what is missing, and mark as stale what is no longer meant.

        What the host refuses is logged and tried again; with ``strict`` it raises HostError.
        """
        wanted = places(self.listen, addresses, self._tunnel)
        if len(wanted) > MOST_LISTEN:
            if len(wanted) != self._too_many:
                log.warning("only %d of %d local addresses are used", MOST_LISTEN, len(wanted))
            self._too_many = len(wanted)
            wanted = tuple(fairly(wanted)[:MOST_LISTEN])
        kept = {place: endpoint for place, endpoint in self._served.items() if place in wanted}
        self._stale += [endpoint for place, endpoint in self._served.items() if place not in wanted]
        self._served = kept
        self._refused = {place: reason for place, reason in self._refused.items() if place in wanted}
        for place in wanted:
            if place not in self._served:
                try:
                    self._served[place] = self._serve(place)
                    self._refused.pop(place, None)
                    log.info("listening on %s", place if place.port else f"{self._served[place]}")
                except HostError as error:
                    if strict:
                        raise
                    if self._refused.get(place) != str(error):
                        log.warning("%s; trying again", error)
                    self._refused[place] = str(error)
        self.retry_at = now + RETRY_S if self._refused else math.inf

    def close_stale(self) -> None:
        """Close what is no longer meant. To be called when no table uses it any more."""
        stale, self._stale = self._stale, []
        for endpoint in stale:
            self._engine.remove_local(endpoint)
            log.info("no longer listening on %s", endpoint)

    def _serve(self, place: Place) -> Endpoint:
        local = Endpoint(place.host, place.port)
        if local in self._stale:  # the address moved to another interface: the engine cannot hold it twice
            self._stale.remove(local)
            self._engine.remove_local(local)
        fds = self._open_sockets(local, self._engine.workers, device=place.link, mark=self._mark)
        if not place.port:
            with socket.socket(fileno=os.dup(fds[0])) as bound:
                local = Endpoint(place.host, bound.getsockname()[1])
        self._engine.add_local(local, fds)
        return local
