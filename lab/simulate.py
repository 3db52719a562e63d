"""Simulated networks: two nodes, models of their engines, weather between them, and a clock that jumps.

Nothing here is real but the protocol: no sockets, no threads, no waiting, so minutes of rekeys and storms take a second
and every run is repeated exactly by its seed. A storm shakes two machines for a while: loss, duplicates, reordering,
one-way blocks, NATs that rebind, restarts, wrong clocks, an attacker who replays what was captured. Then the weather is
calm, and the two must find each other.

Checked all the time: no packet is delivered twice, no two datagrams are sealed with one key and nonce, timers advance.
Checked at the end: traffic flowed again both ways within ``RECONNECT_S``, nothing was lost from then on, and both ends
send under the same session.

    python -m lab.simulate --seeds 400
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.protocol.node import Node, PeerRecord, PeerSpec
from centipede.protocol.session import BASE_BYTES, is_handshake
from centipede.protocol.table import Run
from centipede.protocol.timing import Timing
from lab.engine_model import EngineModel, InvariantError

RECONNECT_S = 6.0
"""Time in which two machines find each other once the weather is calm."""
STORM_TIMING = Timing(rekey_s=12.0, rekey_jitter_s=1.0, rekey_fallback_s=15.0, reject_s=20.0)
"""Sessions live a tenth as long, so that a storm sees many of them."""

_ROUNDS = 3
_PACKET_BYTES = 100
_CAPTURED = 500
_EPOCH_NS = 1_700_000_000 * 10**9
PORT = 51820


class Clock:
    """Virtual time: actions at moments, done in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._actions, (max(moment, self.now), next(self._order), action))

    def run_until(self, moment: float) -> None:
        while self._actions and self._actions[0][0] <= moment:
            self.now, _, action = heapq.heappop(self._actions)
            action()
        self.now = moment


@dataclass(slots=True)
class Weather:
    """What one direction of an uplink does to datagrams."""

    delay_s: float = 0.01
    jitter_s: float = 0.0
    """Up to this much more, drawn for each datagram, so they overtake each other."""
    loss: float = 0.0
    duplicate: float = 0.0


class Nat:
    """A port-restricted or symmetric NAT before one address: who was not written to may not write."""

    def __init__(self, host: str, *, symmetric: bool) -> None:
        self.host = host
        self._symmetric = symmetric
        self._ports = count(20000)
        self._public: dict[tuple[Endpoint, Endpoint | None], Endpoint] = {}
        self._inner: dict[Endpoint, Endpoint] = {}
        self._contacted: set[tuple[Endpoint, Endpoint]] = set()

    def outbound(self, inner: Endpoint, remote: Endpoint) -> Endpoint:
        key = (inner, remote if self._symmetric else None)
        public = self._public.get(key)
        if public is None:
            public = self._public[key] = Endpoint(self.host, next(self._ports))
            self._inner[public] = inner
        self._contacted.add((public, remote))
        return public

    def inbound(self, public: Endpoint, source: Endpoint) -> Endpoint | None:
        return self._inner.get(public) if (public, source) in self._contacted else None

    def rebind(self) -> None:
        """Forget all bindings; what follows gets new ports."""
        self._public.clear()
        self._inner.clear()
        self._contacted.clear()


@dataclass(slots=True)
class Uplink:
    """An address of a machine, and the weather both ways."""

    local: Endpoint
    nat: Nat | None = None
    up: Weather = field(default_factory=Weather)
    down: Weather = field(default_factory=Weather)

    @property
    def public_host(self) -> str:
        return self.nat.host if self.nat else self.local.host


class Machine:
    """A host with a node and an engine; may be restarted."""

    def __init__(
        self,
        name: str,
        seed: bytes,
        world: World,
        uplinks: Sequence[Uplink],
        *,
        wall_s: float = 0.0,
        boot_s: float = 0.0,
        workers: int = 1,
    ) -> None:
        """``wall_s`` is how wrong its wall clock is, ``boot_s`` how long it had been up; ``workers`` a power of two."""
        self.name = name
        self.identity = Identity.from_seed(seed)
        self.uplinks = list(uplinks)
        self.wall_s = wall_s
        self.spec: PeerSpec | None = None
        self.endpoints: tuple[Endpoint, ...] = ()
        self.record: PeerRecord | None = None
        self.delivered = 0
        """Packets taken from the engine so far."""
        self._world = world
        self._boot_s = boot_s
        self._run = Run(0, workers.bit_length() - 1)
        self._timer = float("inf")
        self._life = 0
        self._rounds = 0
        self.start()

    @property
    def now(self) -> float:
        return self._world.clock.now + self._boot_s

    def configure(self, spec: PeerSpec, endpoints: Sequence[Endpoint]) -> None:
        self.spec = spec
        self.endpoints = tuple(endpoints)

    def start(self) -> None:
        """Begin a new life of the process, with the record of the one before if there is one."""
        self._life += 1
        self._timer = float("inf")
        self.delivered = 0
        self.engine = EngineModel(lambda: self.now, self._transmit)
        self.node = Node(self.identity, run=self._run, timing=self._world.timing, random=self._world.dice.randbytes)
        if self.spec is not None:
            self.node.add_peer(self.spec, self.record, self.now)
            self.node.set_endpoints(self.spec.public_key, self.endpoints, self.now)
            self.node.set_locals([uplink.local for uplink in self.uplinks], self.now)
            self._carry_out()

    def restart(self, *, keep_record: bool, bye: bool) -> None:
        """End the process and begin anew at once."""
        if bye:
            self.node.close(self.now)
            self._carry_out()
        if not keep_record:
            self.record = None
        self.start()

    def stop(self) -> None:
        """End the process with a bye; nothing is heard of the machine after it."""
        self.node.close(self.now)
        self._carry_out()
        self._life += 1
        self.uplinks = []

    def reconfigure(self, spec: PeerSpec) -> None:
        """Change the peer's settings while all goes on."""
        self.spec = spec
        self.node.replace_peer(spec, self.now)
        self._carry_out()

    def move(self, uplinks: Sequence[Uplink]) -> None:
        """Have other addresses from now on."""
        self.uplinks = list(uplinks)
        self.node.set_locals([uplink.local for uplink in self.uplinks], self.now)
        self._carry_out()

    def send(self, packet: bytes) -> None:
        self.engine.send_packet(packet)
        self._step()

    def receive(self, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        self.engine.receive(local, remote, data)
        self._step()

    def uplink_of(self, local: Endpoint) -> Uplink | None:
        return next((uplink for uplink in self.uplinks if uplink.local == local), None)

    def _wall_ns(self) -> int:
        return _EPOCH_NS + int((self._world.clock.now + self.wall_s) * 1e9)

    def _step(self) -> None:
        self.node.observe(self.engine.counters())
        for event in self.engine.take_events():
            self.node.receive(event, self.now, self._wall_ns())
        self._carry_out()

    def _handle_timer(self, life: int, due: float) -> None:
        if life != self._life or due != self._timer:
            return
        self._timer = float("inf")
        now = max(self.now, due)  # the sum of clock and offset may be a rounding error short
        self.node.observe(self.engine.counters())
        self.node.handle_timer(now, self._wall_ns())
        self._carry_out()
        # What one call did may make something else due at once, but that must come to an end.
        self._rounds = self._rounds + 1 if self._timer <= now else 0
        if self._rounds > _ROUNDS:
            raise InvariantError(f"{self.name}: the timer does not advance beyond {now}")

    def _carry_out(self) -> None:
        effects = self.node.take_effects()
        for record in effects.records:
            self.record = record
        if effects.table is not None:
            self.engine.apply(effects.table)
        for datagram in effects.datagrams:
            self._transmit(datagram.local, datagram.remote, datagram.data)
        for line in effects.log:
            self._world.log.append(f"{self._world.clock.now:9.3f} {self.name} {line.text}")
        self._collect()
        if effects.next_timer != self._timer:
            self._timer = effects.next_timer
            if self._timer < float("inf"):
                life, due = self._life, self._timer
                self._world.clock.at(due - self._boot_s, lambda: self._handle_timer(life, due))

    def _transmit(self, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        uplink = self.uplink_of(local)
        if uplink is not None:
            self._world.transmit(self, uplink, remote, data)

    def _collect(self) -> None:
        for packet in self.engine.delivered:
            self.delivered += 1
            self._world.note_delivered(self.name, packet)
        self.engine.delivered.clear()


class World:
    """Two machines, the network between them, and the promises that hold whatever happens."""

    def __init__(self, seed: int, timing: Timing) -> None:
        self.seed = seed
        self.timing = timing
        self.dice = random.Random(seed)
        self.clock = Clock()
        self.log: list[str] = []
        self.machines: list[Machine] = []
        self.sent: dict[tuple[str, int], float] = {}
        """When each packet was sent, by its receiver and number."""
        self.received: dict[tuple[str, int], float] = {}
        self.captured: list[tuple[Endpoint, Endpoint, bytes]] = []
        self.blocked: set[tuple[str, str]] = set()
        """Pairs (host, host) of which nothing from the first arrives at the second."""
        self.watch: Callable[[Machine, Endpoint, Endpoint, bytes], None] | None = None
        """Sees each datagram that leaves a machine, with its local and remote address."""
        self._sealed: dict[bytes, bytes] = {}
        self._numbers = count(1)

    @classmethod
    def quiet(
        cls,
        *,
        links: tuple[int, int] = (1, 1),
        timing: Timing | None = None,
        nat: bool = False,
        seed: int = 0,
        **spec: Any,
    ) -> World:
        """Machines a and b in calm weather, not started: link i of a is 10.1.i.1, of b 10.2.i.1; a knows b's addresses.

        With ``nat``, a's links are behind port-restricted NATs 192.0.1.i. ``spec`` goes into both :class:`PeerSpec`.
        """
        world = cls(seed, timing or Timing())
        for side, name in ((1, "a"), (2, "b")):
            uplinks = [
                Uplink(
                    Endpoint(f"10.{side}.{link}.1", PORT),
                    Nat(f"192.0.1.{link}", symmetric=False) if nat and side == 1 else None,
                )
                for link in range(1, links[side - 1] + 1)
            ]
            world.machines.append(Machine(name, bytes([side]) * 32, world, uplinks))
        a, b = world.machines
        a.configure(PeerSpec(b.identity.public, "b", **spec), [uplink.local for uplink in b.uplinks])
        b.configure(PeerSpec(a.identity.public, "a", **spec), [])
        return world

    def other(self, machine: Machine) -> Machine:
        return next(one for one in self.machines if one is not machine)

    def send_packets(self, machine: Machine, interval_s: float, until: float) -> None:
        """Have a machine send numbered packets from now on."""

        def send() -> None:
            if self.clock.now < until:
                number = next(self._numbers)
                self.sent[self.other(machine).name, number] = self.clock.now
                machine.send(number.to_bytes(_PACKET_BYTES, "big"))
                self.clock.at(self.clock.now + interval_s, send)

        self.clock.at(self.clock.now, send)

    def note_delivered(self, name: str, packet: bytes) -> None:
        key = (name, int.from_bytes(packet, "big"))
        if key not in self.sent:
            raise InvariantError(f"{name} was given a packet that nobody sent to it")
        if key in self.received:
            raise InvariantError(f"{name} was given packet {key[1]} twice")
        self.received[key] = self.clock.now

    def transmit(self, machine: Machine, uplink: Uplink, remote: Endpoint, data: bytes) -> None:
        """A datagram leaves a machine."""
        if not is_handshake(data):
            # seq and session base: the base names receiver and key, the bits of seq class, source shard and counter.
            nonce = data[: 8 + BASE_BYTES]
            if self._sealed.setdefault(nonce, data) != data:
                raise InvariantError(f"{machine.name} sealed two datagrams with one key and nonce")
        if self.watch is not None:
            self.watch(machine, uplink.local, remote, data)
        source = uplink.nat.outbound(uplink.local, remote) if uplink.nat else uplink.local
        if len(self.captured) < _CAPTURED:
            self.captured.append((source, remote, data))
        elif self.dice.random() < 0.05:
            self.captured[self.dice.randrange(_CAPTURED)] = (source, remote, data)
        self.inject(source, remote, data, uplink.up)

    def inject(self, source: Endpoint, remote: Endpoint, data: bytes, weather: Weather) -> None:
        """A datagram is on its way, wherever it came from."""
        for _ in range(2 if self.dice.random() < weather.duplicate else 1):
            if self.dice.random() >= weather.loss:
                delay_s = weather.delay_s + weather.jitter_s * self.dice.random()
                self.clock.at(self.clock.now + delay_s, lambda: self._arrive(source, remote, data))

    def _arrive(self, source: Endpoint, remote: Endpoint, data: bytes) -> None:
        if (source.host, remote.host) in self.blocked:
            return
        for machine in self.machines:
            for uplink in machine.uplinks:
                if uplink.public_host == remote.host:
                    local = uplink.nat.inbound(remote, source) if uplink.nat else remote
                    if local == uplink.local and self.dice.random() >= uplink.down.loss:
                        delay_s = uplink.down.delay_s + uplink.down.jitter_s * self.dice.random()
                        self.clock.at(self.clock.now + delay_s, self._hand_over(machine, local, source, data))
                    return

    def _hand_over(self, machine: Machine, local: Endpoint, source: Endpoint, data: bytes) -> Callable[[], None]:
        def hand_over() -> None:
            if machine.uplink_of(local) is not None:
                machine.receive(local, source, data)

        return hand_over

    def agree(self) -> bool:
        """Whether both machines send under one session."""
        first, second = (machine.engine.session_keys for machine in self.machines)
        return first is not None and second is not None and first == second[::-1]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a storm may consist of."""

    name: str
    clocks: bool = False
    """Wall clocks are wrong by up to 100 s, either way."""
    loss: bool = False
    """Up to total loss, jitter, duplicates."""
    blocks: bool = False
    """One direction of a pair of addresses goes dead for a while."""
    nat: bool = False
    """The first machine's addresses are behind NATs, which rebind."""
    restarts: bool = False
    """Processes restart, with and without their record, with and without a bye."""
    replays: bool = False
    """Captured datagrams arrive again, from their own or from other addresses."""
    roaming: bool = False
    """The first machine changes an address."""


KINDS = (
    Kind("clocks", clocks=True),
    Kind("loss", clocks=True, loss=True),
    Kind("blocks", blocks=True),
    Kind("nat", clocks=True, nat=True, loss=True),
    Kind("restarts", clocks=True, restarts=True),
    Kind("replays", clocks=True, restarts=True, replays=True, loss=True),
    Kind("roaming", roaming=True, nat=True),
    Kind("everything", clocks=True, loss=True, blocks=True, nat=True, restarts=True, replays=True, roaming=True),
)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one storm."""

    kind: str
    seed: int
    reconnected_s: float
    """After the weather became calm, until a packet sent since had arrived both ways."""
    packets: int
    sessions: int
    log: tuple[str, ...]


class Storm:
    """One seeded run: a storm of a kind, then calm weather, then the verdict."""

    STORM_S = 40.0
    CALM_S = 20.0

    def __init__(self, kind: Kind, seed: int, timing: Timing = STORM_TIMING) -> None:
        self.kind = kind
        self.world = World(seed, timing)
        self._dice = random.Random(f"{kind.name} {seed}")
        self._build()

    def run(self) -> Report:
        """Raises InvariantError, naming kind and seed, if a promise was broken."""
        try:
            return self._run()
        except InvariantError as error:
            tail = "\n".join(self.world.log[-40:])
            raise InvariantError(f"storm {self.kind.name!r}, seed {self.world.seed}: {error}\n{tail}") from None

    def _build(self) -> None:
        world, dice, kind = self.world, self._dice, self.kind
        uplinks: list[list[Uplink]] = []
        for side in (1, 2):
            links = range(1, dice.randint(1, 3) + 1)
            uplinks.append([Uplink(Endpoint(f"10.{side}.{link}.1", PORT), self._nat(side, link)) for link in links])
        for index, name in enumerate(("a", "b")):
            wall_s = dice.uniform(-100, 100) if kind.clocks else 0.0
            seed = bytes([index + 1]) * 32
            workers = dice.choice((1, 1, 2, 4))
            boot_s = dice.uniform(0, 1e6)
            world.machines.append(
                Machine(name, seed, world, uplinks[index], wall_s=wall_s, boot_s=boot_s, workers=workers)
            )
        a, b = world.machines
        scheduler = dice.choice(("redundant", "redundant", "fastest"))
        copies = dice.choice((1, 2, 2, None))
        to_b = PeerSpec(b.identity.public, "b", scheduler=scheduler, copies=copies)
        to_a = PeerSpec(a.identity.public, "a", scheduler=scheduler, copies=copies)
        a.configure(to_b, [uplink.local for uplink in b.uplinks])
        knows_a = not kind.nat and dice.random() < 0.8
        b.configure(to_a, [uplink.local for uplink in a.uplinks] if knows_a else [])
        for machine in (a, b):
            world.clock.at(dice.choice((0.0, dice.uniform(0, 3))), machine.start)

    def _nat(self, side: int, link: int) -> Nat | None:
        if not self.kind.nat or side == 2:
            return None
        return Nat(f"192.0.{side}.{link}", symmetric=self._dice.random() < 0.3)

    def _run(self) -> Report:
        world = self.world
        end = self.STORM_S + self.CALM_S
        for machine in world.machines:
            world.send_packets(machine, 0.1, end - 1)
        moment = 0.0
        while moment < self.STORM_S:
            world.clock.run_until(moment)
            self._strike()
            moment += self._dice.expovariate(1.0)
        world.clock.run_until(self.STORM_S)
        self._calm()
        world.clock.run_until(end)
        reconnected_s = self._reconnected() - self.STORM_S
        if reconnected_s > RECONNECT_S:
            raise InvariantError(f"traffic flowed again only {reconnected_s:.1f} s after the storm")
        self._check_losses(self.STORM_S + RECONNECT_S)
        # A handshake may be under way just now; it settles within the time that overlapping sessions have.
        while not world.agree() and world.clock.now < end + 3:
            world.clock.run_until(world.clock.now + 0.1)
        if not world.agree():
            raise InvariantError("the two do not send under the same session")
        sessions = sum("session" in line for line in world.log)
        return Report(self.kind.name, world.seed, reconnected_s, len(world.received), sessions, tuple(world.log))

    def _strike(self) -> None:
        """Let one thing happen."""
        kind, dice, world = self.kind, self._dice, self.world
        strikes: list[Callable[[], None]] = []
        if kind.loss:
            strikes += [self._change_weather] * 2
        if kind.blocks:
            strikes.append(self._block)
        if kind.nat:
            strikes.append(self._rebind)
        if kind.restarts and dice.random() < 0.2:
            strikes.append(self._restart)
        if kind.replays:
            strikes += [self._replay] * 3
        if kind.roaming and dice.random() < 0.3:
            strikes.append(self._roam)
        if strikes:
            dice.choice(strikes)()
        elif kind.clocks and dice.random() < 0.1:
            dice.choice(world.machines).wall_s += dice.uniform(-5, 5)

    def _uplink(self) -> Uplink:
        return self._dice.choice([uplink for machine in self.world.machines for uplink in machine.uplinks])

    def _change_weather(self) -> None:
        dice, uplink = self._dice, self._uplink()
        weather = Weather(
            delay_s=dice.uniform(0.001, 0.15),
            jitter_s=dice.choice((0.0, dice.uniform(0, 0.3))),
            loss=dice.choice((0.0, dice.random() ** 2, 1.0)),
            duplicate=dice.choice((0.0, 0.2)),
        )
        if dice.random() < 0.5:
            uplink.up = weather
        else:
            uplink.down = weather

    def _block(self) -> None:
        a, b = self.world.machines
        pair = (self._dice.choice(a.uplinks).public_host, self._dice.choice(b.uplinks).public_host)
        self.world.blocked.add(pair if self._dice.random() < 0.5 else pair[::-1])
        while len(self.world.blocked) > 3:
            self.world.blocked.remove(self._dice.choice(sorted(self.world.blocked)))

    def _rebind(self) -> None:
        nat = self._uplink().nat
        if nat is not None:
            nat.rebind()

    def _restart(self) -> None:
        machine = self._dice.choice(self.world.machines)
        machine.restart(keep_record=self._dice.random() < 0.6, bye=self._dice.random() < 0.5)

    def _replay(self) -> None:
        """Send something captured again, to its destination or to the other end, from its source or another address."""
        world, dice = self.world, self._dice
        if not world.captured:
            return
        for _ in range(dice.randint(1, 20)):
            source, remote, data = dice.choice(world.captured)
            if dice.random() < 0.3:
                source = Endpoint(f"203.0.113.{dice.randint(1, 9)}", dice.randint(1, 9))
            if dice.random() < 0.2:
                remote = dice.choice([uplink.local for machine in world.machines for uplink in machine.uplinks])
            world.inject(source, remote, data, Weather())

    def _roam(self) -> None:
        machine = self.world.machines[0]
        uplinks = list(machine.uplinks)
        old = uplinks.pop(self._dice.randrange(len(uplinks)))
        link = self._dice.randint(4, 250)
        uplinks.append(Uplink(Endpoint(f"10.1.{link}.1", PORT), self._nat(1, link), old.up, old.down))
        machine.move(uplinks)

    def _calm(self) -> None:
        self.world.blocked.clear()
        for machine in self.world.machines:
            for uplink in machine.uplinks:
                uplink.up, uplink.down = Weather(), Weather()

    def _reconnected(self) -> float:
        """When a packet sent in calm weather had arrived at either machine."""
        moments = []
        for machine in self.world.machines:
            arrivals = [
                at
                for (name, number), at in self.world.received.items()
                if name == machine.name and self.world.sent[name, number] >= self.STORM_S
            ]
            moments.append(min(arrivals, default=float("inf")))
        return max(moments)

    def _check_losses(self, since: float) -> None:
        lost = [key for key, at in self.world.sent.items() if at >= since and key not in self.world.received]
        if lost:
            moments = sorted(self.world.sent[key] for key in lost)
            raise InvariantError(f"{len(lost)} packets of calm weather were lost, the first sent at {moments[0]:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run storms; returns 1 if one broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m lab.simulate", description="Simulated storms between two nodes.")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="seeds for each kind of storm")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    parser.add_argument("--kind", choices=[kind.name for kind in KINDS], help="this kind only")
    parser.add_argument("--log", action="store_true", help="print what the nodes logged")
    options = parser.parse_args(arguments)
    failed = 0
    for kind in KINDS:
        if options.kind not in (None, kind.name):
            continue
        reports = []
        for seed in range(options.first, options.first + options.seeds):
            try:
                report = Storm(kind, seed).run()
            except InvariantError as error:
                failed += 1
                print(error, file=sys.stderr)
                continue
            reports.append(report)
            if options.log:
                print("\n".join(report.log))
        slowest = max((report.reconnected_s for report in reports), default=0.0)
        kept = f"{len(reports):4} of {options.seeds} seeds kept every promise"
        print(f"{kind.name:12} {kept}, slowest reconnect {slowest:.2f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
