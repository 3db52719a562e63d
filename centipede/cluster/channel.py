"""Channel: the UDP socket over which a member talks with the others, and what ties the cluster to the daemon's node.

Datagrams are sealed (message.py), so it may cross any network; it is small talk of at most a kilobyte and a half, and
data that came to the wrong member. What the host refuses to send is lost; small talk is said again a second later.
Nothing waits for it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from centipede.cluster.cluster import Cluster
from centipede.cluster.directory import Directory, StorePlan
from centipede.cluster.grants import SPARE, Grants, lives, slot
from centipede.cluster.message import LIFE_BYTES
from centipede.errors import HostError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import Handover
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.node import Node
from centipede.protocol.table import Run

_PURPOSE = b"Centipede v1 cluster"
_LARGEST_BYTES = 65535
_AT_ONCE = 256
"""Datagrams read before the daemon looks at anything else."""
_LOOK_S = 0.2
"""How soon it is seen what the thread found in the store: clients are to use a member within 2 s of its coming."""


class Channel:
    """A member's socket. Context manager."""

    def __init__(self, listen: Endpoint) -> None:
        """Raises HostError if the address cannot be had."""
        self.run = Run()
        """This member's, under sessions it makes."""
        self._cluster: Cluster | None = None
        self._sessions: _Sessions | None = None
        self.directory: Directory | None = None
        """Who tells of the other members, if they are not configured."""
        self._look_at = float("-inf")
        family = socket.AF_INET if listen.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind((listen.host, listen.port))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"cannot listen on {listen} for the other members: {error.strerror}; name an address of this machine"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        if self.directory is not None:
            self.directory.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the socket."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def fileno(self) -> int:
        return self._socket.fileno()

    def shards(self, member: int, of: int, k: int) -> tuple[Run, range]:
        """The run of a member under the sessions it makes, and what it may grant to machines it moves them to."""
        self.run = slot(member, of, 0, k) or self.run
        return self.run, SPARE

    def join(
        self,
        node: Node,
        identity: Identity,
        member: int,
        of: int,
        k: int,
        others: Sequence[Endpoint],
        random: Callable[[int], bytes],
        inject: Callable[[bytes], object],
        store: StorePlan | None = None,
    ) -> None:
        """Begin to share the sessions of ``node``, whose run has 2^k shards; a ``store`` tells of further members.

        ``inject`` takes data that came to another member. Done again, it begins a new life: nothing of the one before
        is left.
        """
        if self.directory is not None:
            self.directory.close()
        self._sessions = _Sessions(node, inject)
        node.set_forwarding()
        secret = identity.derive(_PURPOSE)
        life = random(LIFE_BYTES)
        self._look_at = float("-inf")
        most_lives = None if store is None else lives(of) // 2
        self._cluster = Cluster(secret, member, of, k, others, life, self._sessions, most_lives)
        if store is not None:
            self.directory = Directory(store, secret, member, of, k, Endpoint.of(*self.address), life)

    def tell(self, peers: Iterable[PublicKey]) -> None:
        """These have a new session or timestamp, which all members are to know."""
        peers = list(peers)
        self.cluster.tell(peers)
        if self.directory is not None:
            self.directory.tell(peers)

    def forward(self, datagram: bytes, now: float) -> None:
        """Bring data to the member whose shard it names, if that can be."""
        if self._sessions is not None:
            reason = self.cluster.forward(datagram, now)
            if reason is not None:
                self._sessions.node.drops[reason] += 1
            self._flush()

    @property
    def cluster(self) -> Cluster:
        """What is known of the others. Only after :meth:`join`."""
        assert self._cluster is not None
        return self._cluster

    @property
    def next_timer(self) -> float:
        if self._cluster is None:
            return float("inf")
        return self._cluster.next_timer if self.directory is None else min(self._cluster.next_timer, self._look_at)

    def receive(self, now: float) -> None:
        """Take what came."""
        if self._cluster is None or self._sessions is None:
            return
        self._sessions.now = now
        for _ in range(_AT_ONCE):
            try:
                data, address = self._socket.recvfrom(_LARGEST_BYTES)
            except OSError:  # nothing left, or what the network says of a member that is not there
                break
            self._cluster.receive(Endpoint(address[0], address[1]), data, now)
        self._flush()

    def handle_timer(self, peers: Iterable[PublicKey], now: float) -> None:
        """Do what is due; ``peers`` are all that the node serves, and looked at a few times a second at most."""
        if self._cluster is None or self._sessions is None:
            return
        self._sessions.now = now
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            served = set(peers)
            self._cluster.set_outer(self._sessions.node.announced)
            self._cluster.set_peers(served)
            if self.directory is not None:
                self.directory.handle_timer(self._cluster, served, self._sessions.made_here, now)
        self._cluster.handle_timer(now)
        self._flush()

    def _flush(self) -> None:
        for address, data in self.cluster.take():
            try:
                self._socket.sendto(data, (address.host, address.port))
            except OSError:  # said again in a second
                continue


class _Sessions:
    """The node, as the cluster sees it."""

    def __init__(self, node: Node, inject: Callable[[bytes], object]) -> None:
        self.node = node
        self._inject = inject
        self.now = float("-inf")

    def share(
        self, public_key: PublicKey, grants: Grants, member: int, life: bytes, k: int, addresses: Sequence[Endpoint]
    ) -> Handover | None:
        def grant(base: bytes) -> Run | None:
            return grants.run(base, member, life, k)

        return self.node.share(public_key, grant, addresses, self.now)

    def made_here(self, public_key: PublicKey) -> Handover | None:
        """For a store: what a member that comes later is to know. The runs in it grant nothing."""
        return self.node.share(public_key, lambda _: Run(), (), self.now)

    def absorb(self, handover: Handover) -> None:
        self.node.absorb(handover, self.now)

    def inject(self, datagram: bytes) -> None:
        self._inject(datagram)

    def bases(self) -> set[bytes]:
        return self.node.bases
