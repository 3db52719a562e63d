"""Directory: the control thread's side of a store. It follows what the thread saw, and leaves what is to be put.

Nothing here waits. docs/protocol.md "A store".
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from centipede.cluster.cluster import Cluster
from centipede.cluster.etcd import Etcd
from centipede.cluster.record import blind
from centipede.cluster.registry import Registry
from centipede.cluster.store import Gone, Keeper, Left, Store
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import Handover
from centipede.protocol.identity import PublicKey

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Where the store is and how it is used."""

    endpoints: Sequence[str]
    """Like https://10.8.0.9:2379."""
    prefix: str
    """Before all keys."""
    context: ssl.SSLContext | None
    session_life_s: float
    wall_ns: Callable[[], int]
    """Nanoseconds since 1970."""


class Directory:
    """One member's use of a store."""

    def __init__(
        self, plan: StorePlan, secret: bytes, member: int, of: int, k: int, address: Endpoint, life: bytes
    ) -> None:
        self.gone_since: float | None = None
        """When the store was first missed; None while it answers, or was not asked yet."""
        self.reason = ""
        """Why it is gone, in words."""
        self._wall_ns = plan.wall_ns
        self._session_life_s = plan.session_life_s
        self._registry = Registry(secret, member, of, k, address, life, plan.session_life_s)
        self._untold: set[PublicKey] = set()
        etcd = Etcd(plan.endpoints, plan.context)
        # One store may serve many clusters: each has a place of its own. Slots are counted in members, so those who
        # believe in another number of them are another cluster.
        prefix = f"{plan.prefix.rstrip('/')}/{blind(secret, 'cluster', of.to_bytes(2, 'big'))}/"
        keeper = Keeper(etcd, prefix, self._registry.name, self._registry.registration, self._registry.is_own)
        self._store = Store(keeper, etcd)
        self._store.start()

    @property
    def holder(self) -> Endpoint | None:
        """Who has this member's number, if it is another machine."""
        return self._registry.holder

    def close(self) -> None:
        """Be no longer registered."""
        self._store.close()

    def tell(self, peers: Iterable[PublicKey]) -> None:
        """These have a new session or timestamp."""
        self._untold.update(peers)

    def handle_timer(
        self, cluster: Cluster, peers: set[PublicKey], made_here: Callable[[PublicKey], Handover | None], now: float
    ) -> None:
        """Follow the store; ``made_here`` gives what is to be put for a peer."""
        wall_ns = self._wall_ns()
        registry = self._registry
        was_gone = self.gone_since is not None
        for seen in self._store.seen():
            if seen.reason:
                self._miss(seen.reason, now)
            else:
                self._find(now)
            if isinstance(seen, Gone):
                continue
            before = registry.holder
            for handover in registry.take(seen, now, wall_ns):
                if handover.peer in peers:
                    cluster.absorb(handover, now)
            if registry.holder is not None and registry.holder != before:
                log.error(
                    "member number %d is %s's; give each machine its own in [cluster]", cluster.member, registry.holder
                )
            if registry.others is not None:
                cluster.set_others(registry.others, now)
            if seen.anew:
                self._untold |= peers
        if was_gone and self.gone_since is None:  # what was left may have become too old
            self._untold |= peers
        self._leave(cluster, peers, made_here, now, wall_ns)

    def _leave(
        self,
        cluster: Cluster,
        peers: set[PublicKey],
        made_here: Callable[[PublicKey], Handover | None],
        now: float,
        wall_ns: int,
    ) -> None:
        store = self._registry.store
        if store is None or self.gone_since is not None:  # it may be another when it is back
            return
        left = [Left(name, store) for name in self._registry.claim(peers, cluster.has, now, wall_ns)]
        for handover in filter(None, map(made_here, self._untold)):
            put = self._registry.publish(handover, wall_ns)
            if put is not None:
                left.append(Left(put[0], store, put[1], now + self._session_life_s))
        self._untold.clear()
        self._store.leave(left)

    def _miss(self, reason: str, now: float) -> None:
        self.reason = reason
        if self.gone_since is None:
            self.gone_since = now
            log.warning("store gone: %s; going on without it", reason)

    def _find(self, now: float) -> None:
        if self.gone_since is not None:
            log.info("store back after %.0f s", now - self.gone_since)
            self.gone_since = None
