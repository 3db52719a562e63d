"""Simulated storms over machines that share one identity: sessions handed over, cut off, killed, replayed.

Three machines of one identity serve a client that knows one peer (docs/protocol.md "Several machines"). Exports pass
between them over a channel that a partition cuts, so that some are lost; some come twice; processes die and begin anew.
As a cluster, they tell each other of their sessions as well, and send on what is another's.
In half of the storms the session's home, which may grant shards, dies for good. In half of them machines, the client
too, are put back to what they were a while ago: all of a machine, which it notices, or what it keeps on disk.

Checked all the time, over all machines together: no two datagrams are sealed with one key and nonce, no packet is
delivered twice. Checked at the end: the client reaches the identity again within ``RECONNECT_S``, as its one peer; and
if machines that are left have handed it over, and are patient with its Initiates, within as much more. Then nothing is
lost, unless all of them have.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from centipede.errors import HandoverError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.leave import patience_s
from centipede.protocol.node import PeerSpec
from centipede.protocol.timing import Timing
from lab.cluster_model import Joined
from lab.promises import InvariantError, located
from lab.world_model import PORT, Machine, Snapshot, Uplink, Weather, World

RECONNECT_S = 6.0
"""Time in which the client finds a machine that answers it."""
STORM_S = 40.0
CALM_S = 5.0
"""And so long nothing is lost from then on."""
_TIMING = Timing(rekey_s=12.0, rekey_jitter_s=1.0, rekey_fallback_s=15.0, reject_s=20.0)
_SERVERS = 3
_STEP_S = 0.05
_CHANNEL_LOSS = 0.05
_NEVER = float("inf")


class Members(World):
    """A client, and the machines of its peer; what any of them is given counts as given to the peer."""

    def note_delivered(self, name: str, packet: bytes) -> None:
        super().note_delivered("client" if name == "client" else "member 1", packet)


class MemberStorm:
    """One seeded run. ``moved`` counts the exports that were imported, ``refused`` what was not, by its reason.

    ``restored`` counts how often a machine went on from a snapshot.
    """

    def __init__(self, seed: int, *, cluster: bool = False) -> None:
        self.seed = seed
        self.kind = "cluster" if cluster else "members"
        self.world = Members(seed, _TIMING)
        self.moved = 0
        self.refused: Counter[str] = Counter()
        self.died: Machine | None = None
        self._dice = random.Random(f"{self.kind} {seed}")
        self._cut: set[frozenset[str]] = set()
        self._exports: list[tuple[Machine, bytes]] = []
        self._snapshots: list[tuple[Machine, Snapshot]] = []
        self.restored = 0
        self.client = self._machine("client", 1, 1)
        self.servers = [self._machine(f"member {number}", 2, number + 1) for number in range(1, _SERVERS + 1)]
        known = PeerSpec(self.servers[0].identity.public, "peer")
        self.client.configure(known, [server.uplinks[0].local for server in self.servers])
        for server in self.servers:
            server.configure(PeerSpec(self.client.identity.public, "client"), [])
        self._joined: list[Joined] = []
        if cluster:
            random_bytes = self.world.dice.randbytes
            for number, server in enumerate(self.servers, 1):
                self._joined.append(Joined(server, number, _SERVERS, random_bytes, self._across))
            self._step_cluster()
        for machine in self.world.machines:
            machine.start()

    def run(self) -> float:
        """Seconds until the client reached its peer in calm weather. Raises InvariantError, naming the seed."""
        try:
            return self._run()
        except InvariantError as error:
            raise located(error, self.kind, self.seed, self.world.log) from None

    def _machine(self, name: str, key: int, network: int) -> Machine:
        uplinks = [Uplink(Endpoint(f"10.{network}.1.1", PORT))]
        workers = self._dice.choice((1, 1, 2))
        machine = Machine(name, bytes([key]) * 32, self.world, uplinks, workers=workers)
        self.world.machines.append(machine)
        return machine

    def _run(self) -> float:
        world, dice = self.world, self._dice
        for machine in world.machines:
            world.send_packets(machine, 0.1, _NEVER)
        strikes: list[Callable[[], None]] = [self._hand_over] * (1 if self._joined else 4)
        strikes += [self._partition, self._import_again, self._change_weather, self._replay, self._restart]
        if dice.random() < 0.5:
            strikes += [self._take_snapshot, self._take_snapshot, self._restore, self._restore_disk]
        death = dice.choice((dice.uniform(0, STORM_S), _NEVER))
        moment = 1.0
        while moment < STORM_S:
            world.clock.run_until(moment)
            dice.choice(strikes)()
            moment += dice.expovariate(1.0)
            if self.died is None and moment > death:
                self._die()
        world.clock.run_until(STORM_S)
        for machine in self._alive():
            machine.uplinks[0].up, machine.uplinks[0].down = Weather(), Weather()
            machine.wall_s = 0.0
        bound_s = self._bound_s()
        world.clock.run_until(STORM_S + bound_s + CALM_S)
        reconnected_s = self._reconnected() - STORM_S
        if reconnected_s > bound_s:
            raise InvariantError(f"the client reached its peer again after {reconnected_s:.1f} s, not {bound_s:.1f}")
        if not all(self._moved()):  # else the session that one of them serves to its end is the last one for a while
            self._check_losses(STORM_S + bound_s)
        if len(self.client.node.status(self.client.now).peers) != 1:
            raise InvariantError("the client has more than its one peer")
        return reconnected_s

    def _bound_s(self) -> float:
        """Time in which the client is to reach its peer, as things are now."""
        if not any(self._moved()):
            return RECONNECT_S
        sends = (*_TIMING.resend_s, _TIMING.attempt_s)
        return RECONNECT_S + patience_s(_TIMING) + max(after - at for at, after in pairwise(sends))

    def _moved(self) -> list[bool]:
        """Which machines have handed the client over, and will be patient with its Initiates."""
        return [server.record is not None and server.record.moved for server in self.servers]

    def _reconnected(self) -> float:
        """When a packet that the client sent in calm weather had arrived."""
        sent, received = self.world.sent, self.world.received
        return min((at for key, at in received.items() if key[0] != "client" and sent[key] >= STORM_S), default=_NEVER)

    def _check_losses(self, since: float) -> None:
        until = self.world.clock.now - 1.0  # the others are still under way
        sent = [(at, key) for key, at in self.world.sent.items() if key[0] != "client" and since <= at < until]
        lost = [at for at, key in sent if key not in self.world.received]
        if lost:
            raise InvariantError(f"{len(lost)} packets of calm weather were lost, the first sent at {lost[0]:.2f}")

    def _step_cluster(self) -> None:
        for joined in self._joined:
            if joined.machine is not self.died:
                joined.step()
        self.world.clock.at(self.world.clock.now + _STEP_S, self._step_cluster)

    def _across(self, joined: Joined, address: Endpoint) -> Joined | None:
        """The member at an address of the channel, if these two hear each other just now."""
        other = next(each for each in self._joined if each.address == address)
        cut = frozenset((joined.machine.name, other.machine.name)) in self._cut
        return None if cut or other.machine is self.died or self._dice.random() < _CHANNEL_LOSS else other

    def _alive(self) -> list[Machine]:
        return [self.client, *self.servers]

    def _die(self) -> None:
        """A home of the client's session, if there is one, is gone without a word."""
        homes = [server for server in self.servers if server.engine.own is not None and server.engine.own.first == 0]
        self.died = self._dice.choice(homes or self.servers)
        self.died.kill()
        self.servers.remove(self.died)

    def _hand_over(self) -> None:
        """One member exports to another; the export is lost if they cannot speak."""
        source, target = self._dice.sample(self.servers, 2)
        if frozenset((source.name, target.name)) in self._cut and self._dice.random() < 0.5:
            return  # not even the offer came through
        offer = target.node.offer(target.now)
        target.settle()
        try:
            data = source.node.export(self.client.identity.public, offer, source.now, move=self._dice.random() < 0.5)
        except HandoverError as error:
            self.refused[str(error)] += 1  # it has no session to give
            return
        source.settle()
        if frozenset((source.name, target.name)) not in self._cut:
            self._exports.append((target, data))
            delay_s = self._dice.uniform(0, 2)
            self.world.clock.at(self.world.clock.now + delay_s, partial(self._import, target, data))

    def _import(self, target: Machine, data: bytes) -> None:
        if target is self.died:
            return
        try:
            target.node.import_(data, target.now)
        except HandoverError as error:
            self.refused[str(error)] += 1
            return
        target.settle()
        self.moved += 1

    def _import_again(self) -> None:
        """An export that was on its way before comes to some machine once more."""
        if self._exports:
            self._import(self._dice.choice(self.servers), self._dice.choice(self._exports)[1])

    def _partition(self) -> None:
        pair = frozenset(server.name for server in self._dice.sample(self.servers, 2))
        self._cut ^= {pair}

    def _restart(self) -> None:
        self._dice.choice(self.servers).restart(keep_record=True, bye=False)

    def _take_snapshot(self) -> None:
        machine = self._dice.choice(self._alive())
        self._snapshots.append((machine, machine.snapshot()))

    def _restore(self) -> None:
        """A machine goes on from a snapshot, of which there may be several uses."""
        usable = [(machine, snapshot) for machine, snapshot in self._snapshots if machine is not self.died]
        if usable:
            machine, snapshot = self._dice.choice(usable)
            machine.restore(snapshot)
            self.restored += 1

    def _restore_disk(self) -> None:
        """A process begins anew with the record of a while ago."""
        usable = [(machine, snapshot) for machine, snapshot in self._snapshots if machine is not self.died]
        if usable:
            machine, snapshot = self._dice.choice(usable)
            machine.record = snapshot.record
            self.world.promises.forget_floor(machine.name)
            machine.restart(keep_record=True, bye=False)

    def _change_weather(self) -> None:
        dice = self._dice
        uplink = dice.choice(self._alive()).uplinks[0]
        uplink.down = Weather(jitter_s=dice.uniform(0, 0.2), loss=dice.choice((0.0, 0.2, 1.0)), duplicate=0.2)

    def _replay(self) -> None:
        """What was captured at one machine comes to another."""
        world, dice = self.world, self._dice
        for source, _, data in dice.choices(world.captured, k=20):
            world.inject(source, dice.choice(self._alive()).uplinks[0].local, data, Weather())
