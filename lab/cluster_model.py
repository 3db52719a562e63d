"""Cluster in a simulated world: machines that tell each other of sessions (docs/protocol.md "A cluster").

The cluster's part of each machine is the real one; the channel between them is a call. A process that begins anew, by
a restart or because it was put back to a snapshot, begins a new life as a member at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from centipede.cluster.cluster import Cluster
from centipede.cluster.grants import SPARE, Grants, slot
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import Handover
from centipede.protocol.identity import PublicKey
from lab.world_model import Machine

SECRET = bytes(range(32))


class Joined:
    """A machine and its part of the cluster."""

    cluster: Cluster

    def __init__(
        self,
        machine: Machine,
        number: int,
        of: int,
        random: Callable[[int], bytes],
        across: Callable[[Joined, Endpoint], Joined | None],
    ) -> None:
        """Starts the machine anew. ``across`` gives the member at an address of the channel, None if it is cut off."""
        self.machine, self.number, self.of = machine, number, of
        self.address = _address(number)
        self._random = random
        self._across = across
        run = slot(number, of, 0, machine.run.k)
        assert run is not None
        machine.join(run, SPARE, self._begin)
        machine.start()

    def step(self) -> None:
        """Do what is due, and bring messages to the others."""
        machine, cluster, now = self.machine, self.cluster, self.machine.now
        cluster.tell(machine.news)
        machine.news.clear()
        cluster.set_outer([uplink.local for uplink in machine.uplinks])
        if cluster.next_timer <= now:
            cluster.handle_timer(now)
        for data in machine.strayed:
            cluster.forward(data, now)
        machine.strayed.clear()
        for address, data in cluster.take():
            other = self._across(self, address)
            if other is not None:
                other.cluster.receive(self.address, data, other.machine.now)
        machine.settle()

    def _begin(self) -> None:
        others = [_address(number) for number in range(1, self.of + 1) if number != self.number]
        machine = self.machine
        machine.node.set_forwarding()
        self.cluster = Cluster(SECRET, self.number, self.of, machine.run.k, others, self._random(16), self)
        self.cluster.set_peers([machine.spec.public_key] if machine.spec is not None else [])

    # What the cluster wants of the node.

    def share(
        self, public_key: PublicKey, grants: Grants, member: int, life: bytes, k: int, addresses: Sequence[Endpoint]
    ) -> Handover | None:
        return self.machine.node.share(
            public_key, lambda base: grants.run(base, member, life, k), addresses, self.machine.now
        )

    def absorb(self, handover: Handover) -> None:
        self.machine.node.absorb(handover, self.machine.now)

    def inject(self, datagram: bytes) -> None:
        self.machine.inject(datagram)

    def bases(self) -> set[bytes]:
        return self.machine.node.bases


def _address(number: int) -> Endpoint:
    return Endpoint(f"10.8.0.{number}", 1)
