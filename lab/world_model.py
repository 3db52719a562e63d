"""World: two machines with nodes, models of their engines, NATs and weather between them, and a clock that jumps.

For simulated storms (simulate.py) and tests: no sockets, no threads, no waiting; a seed repeats everything exactly.
The world checks what must hold whatever happens, and raises InvariantError: no packet is delivered twice, time
advances, and nothing leaves a machine that breaks a promise of promises.py.
"""

from __future__ import annotations

import copyreg
import heapq
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.node import Node, PeerRecord, PeerSpec
from centipede.protocol.table import Foreign, Run
from centipede.protocol.timing import Timing
from lab.engine_model import EngineModel
from lab.promises import InvariantError, Promises

_ROUNDS = 3
_AT_ONCE = 100_000
"""Actions that may be due at one moment."""
_PACKET_BYTES = 100
_EPOCH_NS = 1_700_000_000 * 10**9
PORT = 51820


# How memory is copied that does not say so itself: a cipher never changes, a counter goes on from where it is.
copyreg.pickle(ChaCha20Poly1305, lambda _: "the same")
copyreg.pickle(count, lambda counter: (count, (int(repr(counter)[6:-1]),)))


class Clock:
    """Virtual time: actions at moments, done in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._actions: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._actions, (max(moment, self.now), next(self._order), action))

    def run_until(self, moment: float) -> None:
        """Raises InvariantError if there is no end to what is due at one moment."""
        at_once = 0
        while self._actions and self._actions[0][0] <= moment:
            before = self.now
            self.now, _, action = heapq.heappop(self._actions)
            at_once = at_once + 1 if self.now == before else 0
            if at_once > _AT_ONCE:
                raise InvariantError(f"time does not advance beyond {self.now}")
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
    largest_bytes: int = 1472
    """Larger UDP payloads vanish, and nobody is told."""


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a machine's memory and disk at one moment, and its clocks."""

    node: Node
    engine: EngineModel
    record: PeerRecord | None
    now: float
    wall_ns: int


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
        self.mtu = 1420
        """Of its tunnel's interface."""
        self.delivered = 0
        """Packets taken from the engine so far."""
        self.news: set[PublicKey] = set()
        """Peers of which other members are to be told."""
        self.strayed: list[bytes] = []
        """Data that is other members'."""
        self.run = Run(0, workers.bit_length() - 1)
        """Its shards of sessions that it makes."""
        self._spare: range | None = None
        self._begin: Callable[[], None] = lambda: None
        self._world = world
        self._boot_s = boot_s
        self._timer = float("inf")
        self._life = 0
        self._rounds = 0
        self._gone = False
        self.start()

    @property
    def now(self) -> float:
        return self._world.clock.now + self._boot_s

    @property
    def life(self) -> tuple[str, int]:
        """The name of the process: the machine's, and which of its lives it is."""
        return self.name, self._life

    def configure(self, spec: PeerSpec, endpoints: Sequence[Endpoint]) -> None:
        self.spec = spec
        self.endpoints = tuple(endpoints)

    def join(self, run: Run, spare: range, begin: Callable[[], None]) -> None:
        """Be one of several machines from the next start on, which have each other shards; ``begin`` with each life."""
        self.run, self._spare, self._begin = run, spare, begin

    def start(self) -> None:
        """Begin a new life of the process, with the record of the one before if there is one."""
        self._life += 1
        self._timer = float("inf")
        self.mtu = 1420
        self.delivered = 0
        self.engine = EngineModel(lambda: self.now, self._transmit)
        timing, random = self._world.timing, self._world.dice.randbytes
        self.node = Node(self.identity, run=self.run, spare=self._spare, timing=timing, random=random)
        self.strayed.clear()
        self._begin()
        if self.spec is not None:
            self.node.add_peer(self.spec, self.record, self.now)
            self.node.set_endpoints(self.spec.public_key, self.endpoints, self.now)
            self._set_locals()
            self._carry_out()

    def restart(self, *, keep_record: bool, bye: bool) -> None:
        """End the process and begin anew at once."""
        if bye:
            self.node.close(self.now)
            self._carry_out()
        if not keep_record:
            self.record = None
            self._world.promises.forget_floor(self.name)
        self.start()

    def snapshot(self) -> Snapshot:
        """Copy memory, disk and clocks, as a hypervisor does."""
        node, engine = self._copied(self.node, self.engine)
        return Snapshot(node, engine, self.record, self.now, self._wall_ns())

    def _copied(self, node: Node, engine: EngineModel) -> tuple[Node, EngineModel]:
        kept = {id(each): each for each in (self, self._world, self._world.dice, self.identity)}
        return deepcopy((node, engine), kept)

    def restore(self, snapshot: Snapshot, *, fenced: bool = True) -> None:
        """Go on from there, and so do the clocks. ``fenced`` if the process notices."""
        self._life += 1
        self._timer = float("inf")
        self._boot_s = snapshot.now - self._world.clock.now
        self.wall_s += (snapshot.wall_ns - self._wall_ns()) / 1e9
        self.node, self.engine = self._copied(snapshot.node, snapshot.engine)
        self.record = snapshot.record
        self.strayed.clear()
        self._begin()
        self._world.promises.forget_floor(self.name)
        if fenced and self.spec is not None:
            self.node.fence(self.now)
            self.node.set_endpoints(self.spec.public_key, self.endpoints, self.now)
        self._set_locals()
        self._carry_out()

    def stop(self) -> None:
        """End the process with a bye; nothing is heard of the machine after it."""
        self.node.close(self.now)
        self._carry_out()
        self.kill()

    def kill(self) -> None:
        """End the machine for good, without a word."""
        self._life += 1
        self.uplinks = []
        self._gone = True

    def reconfigure(self, spec: PeerSpec) -> None:
        """Change the peer's settings while all goes on."""
        self.spec = spec
        self.node.replace_peer(spec, self.now)
        self._carry_out()

    def move(self, uplinks: Sequence[Uplink]) -> None:
        """Have other addresses from now on."""
        self.uplinks = list(uplinks)
        self._set_locals()
        self._carry_out()

    def point(self, endpoints: Sequence[Endpoint]) -> None:
        """The owner says where the peer can be found, and wants it now."""
        assert self.spec is not None
        self.endpoints = tuple(endpoints)
        self.node.set_endpoints(self.spec.public_key, self.endpoints, self.now)
        self.node.seek(self.spec.public_key, self.now)
        self._carry_out()

    def drain(self, draining: bool) -> None:
        """Ask the other end to send elsewhere, or not any more."""
        self.node.set_draining(draining, self.now)
        self._carry_out()

    def settle(self) -> None:
        """Carry out what the node wants done after it was asked directly."""
        self._carry_out()

    def hurry(self) -> None:
        """Routes of the machine changed."""
        self.node.hurry(self.now)
        self._carry_out()

    def send(self, packet: bytes) -> None:
        if not self._gone:
            self.engine.send_packet(packet)
            self._step()

    def receive(self, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        self.engine.receive(local, remote, data)
        self._step()

    def inject(self, data: bytes) -> None:
        """Take data that came to another member."""
        self.engine.inject(data)
        self._step()

    def _set_locals(self) -> None:
        locals_ = [uplink.local for uplink in self.uplinks]
        self.node.set_locals(locals_, self.now, locals_)  # as if each were named in the configuration

    def uplink_of(self, local: Endpoint) -> Uplink | None:
        return next((uplink for uplink in self.uplinks if uplink.local == local), None)

    def _wall_ns(self) -> int:
        return _EPOCH_NS + int((self._world.clock.now + self.wall_s) * 1e9)

    def _step(self) -> None:
        events = self.engine.take_events()
        if not events:  # packets alone do not wake the control thread
            self._collect()
            return
        self.node.observe(self.engine.counters())
        for event in events:
            if isinstance(event, Foreign):
                self.strayed.append(event.data)
            else:
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
        if effects.table is not None:
            self.engine.apply(effects.table)
        for record in effects.records:
            self.record = record
        self.news.update(effects.news)
        self.mtu = effects.mtu or self.mtu
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
        self.promises = Promises()
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

    def send_packets(self, machine: Machine, interval_s: float, until: float, *, whole: bool = False) -> None:
        """Have a machine send numbered packets from now on, small ones or as large as its interface's MTU."""

        def send() -> None:
            if self.clock.now < until:
                number = next(self._numbers)
                self.sent[self.other(machine).name, number] = self.clock.now
                machine.send(number.to_bytes(machine.mtu if whole else _PACKET_BYTES, "big"))
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
        self.promises.see(machine.life, data, self.other(machine).identity)
        if self.watch is not None:
            self.watch(machine, uplink.local, remote, data)
        source = uplink.nat.outbound(uplink.local, remote) if uplink.nat else uplink.local
        self.captured.append((source, remote, data))
        self.inject(source, remote, data, uplink.up)

    def inject(self, source: Endpoint, remote: Endpoint, data: bytes, weather: Weather) -> None:
        """A datagram is on its way, wherever it came from."""
        if len(data) > weather.largest_bytes:
            return
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
                    if (
                        local == uplink.local
                        and len(data) <= uplink.down.largest_bytes
                        and self.dice.random() >= uplink.down.loss
                    ):
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
