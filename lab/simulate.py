"""Simulated storms between two nodes.

Nothing here is real but the protocol, so a minute of storms and rekeys takes a second (world_model.py). A storm shakes
two machines for a while: loss, duplicates, reordering, one-way blocks, NATs that rebind, restarts, clocks wrong by
years, an attacker who replays what was captured. Then the weather is calm, and the two must find each other.

Checked all the time: no packet is delivered twice, no two datagrams are sealed with one key and nonce, no old Initiate
is answered, timers advance. Checked at the end: traffic flowed again both ways within ``RECONNECT_S``, nothing was lost
from then on, and both ends send under the same session.

    python -m lab.simulate --seeds 10000
    python -m lab.simulate --kind replays --seed 17 --log
"""

from __future__ import annotations

import argparse
import hmac
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from multiprocessing import active_children

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import mac1_key
from centipede.protocol.node import PeerSpec
from centipede.protocol.timing import Timing
from lab.member_storm import MemberStorm
from lab.promises import InvariantError, again, located
from lab.world_model import PORT, Machine, Nat, Uplink, Weather, World

RECONNECT_S = 6.0
"""Time in which two machines find each other once the weather is calm."""
STORM_TIMING = Timing(rekey_s=12.0, rekey_jitter_s=1.0, rekey_fallback_s=15.0, reject_s=20.0)
"""Sessions live a tenth as long, so that a storm sees many of them."""

_FLOOD_PER_S = 1000
_FLOOD_S = 2
_CLOCK_STEPS_S = (1.0, 60.0, 86_400.0, 365 * 86_400.0)
_LARGEST_STEP = 50
_ENDING = (signal.SIGTERM, signal.SIGINT)
_LONGEST_RUN_S = 600
"""Real time after which a storm is said to have no end."""
_TELL_S = 30.0
"""Between words on how far a run has come."""
_CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Kind:
    """What a storm may consist of."""

    name: str
    clocks: bool = False
    """Wall clocks are wrong by up to 100 s, either way."""
    steps: bool = False
    """Wall clocks are set to what is wrong by up to 50 years, either way."""
    loss: bool = False
    """Up to total loss, jitter, duplicates."""
    blocks: bool = False
    """One direction of a pair of addresses goes dead for a while."""
    one_way: bool = False
    """It stays so when the weather is calm, but for one pair."""
    nat: bool = False
    """The first machine's addresses are behind NATs, which rebind."""
    restarts: bool = False
    """Processes restart, with and without their record, with and without a bye."""
    replays: bool = False
    """Captured datagrams arrive again, from their own or from other addresses."""
    floods: bool = False
    """Initiates that nobody can open come faster than they could be opened, from everywhere."""
    roaming: bool = False
    """The first machine changes an address."""


KINDS = (
    Kind("clocks", clocks=True),
    Kind("years", clocks=True, steps=True, restarts=True, loss=True),
    Kind("loss", clocks=True, loss=True),
    Kind("blocks", blocks=True),
    Kind("one-way", blocks=True, one_way=True, restarts=True),
    Kind("nat", clocks=True, nat=True, loss=True),
    Kind("restarts", clocks=True, restarts=True),
    Kind("replays", clocks=True, restarts=True, replays=True, loss=True),
    Kind("floods", clocks=True, restarts=True, floods=True),
    Kind("roaming", roaming=True, nat=True),
    Kind(
        "everything",
        clocks=True,
        steps=True,
        loss=True,
        blocks=True,
        nat=True,
        restarts=True,
        replays=True,
        roaming=True,
    ),
)

SEVERAL = (Kind("members"), Kind("cluster"))
"""Several machines with one identity, which know of each other or not: member_storm.py."""


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
        """Raises InvariantError, saying how to see it again, if a promise was broken."""
        try:
            return self._run()
        except InvariantError as error:
            raise located(error, self.kind.name, self.world.seed, self.world.log) from None

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
        scheduler = dice.choice(("redundant", "adaptive", "fastest", "aggregate"))
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
        if self.kind.replays and self._dice.random() < 0.3:
            self._replay_all()
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
        if kind.steps:
            strikes.append(self._step_clock)
        if kind.restarts and dice.random() < 0.2:
            strikes.append(self._restart)
        if kind.replays:
            strikes += [self._replay] * 3
        if kind.floods and dice.random() < 0.3:
            strikes.append(self._flood)
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

    def _step_clock(self) -> None:
        dice = self._dice
        dice.choice(self.world.machines).wall_s = dice.choice(_CLOCK_STEPS_S) * dice.uniform(-1, 1) * _LARGEST_STEP

    def _block_all_but_one(self) -> None:
        """Leave one pair of addresses as it is, and let most others lose one direction."""
        hosts = [[uplink.public_host for uplink in machine.uplinks] for machine in self.world.machines]
        pairs = [(first, second) for first in hosts[0] for second in hosts[1]]
        pairs.remove(self._dice.choice(pairs))
        self.world.blocked.update(self._dice.choice((pair, pair, pair[::-1], pair[::-1])) for pair in pairs)

    def _rebind(self) -> None:
        nat = self._uplink().nat
        if nat is not None:
            nat.rebind()

    def _restart(self) -> None:
        machine = self._dice.choice(self.world.machines)
        keep_record, bye = self._dice.random() < 0.6, self._dice.random() < 0.5
        # Without its record and its clock it is refused until the other end calls, which cannot find it behind a NAT.
        lockable = self.kind.steps and machine.uplinks[0].nat is not None
        machine.restart(keep_record=keep_record or lockable, bye=bye)

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

    def _flood(self) -> None:
        """Keep one machine under load for a while; who floods knows its public key, and shows no address to be real."""
        world, dice = self.world, self._dice
        machine = dice.choice(world.machines)
        remote = dice.choice(machine.uplinks).local
        key = mac1_key(machine.identity.public)
        for number in range(_FLOOD_PER_S * _FLOOD_S):
            covered = b"\x81\x01" + bytes(6) + dice.randbytes(168)
            data = covered + hmac.digest(key, covered, "sha256")[:16] + bytes(16)
            source = Endpoint(f"203.0.{dice.randint(0, 255)}.{dice.randint(1, 254)}", 9)
            world.clock.at(
                world.clock.now + number / _FLOOD_PER_S, partial(world.inject, source, remote, data, Weather())
            )

    def _roam(self) -> None:
        machine = self.world.machines[0]
        uplinks = list(machine.uplinks)
        old = uplinks.pop(self._dice.randrange(len(uplinks)))
        link = self._dice.randint(4, 250)
        uplinks.append(Uplink(Endpoint(f"10.1.{link}.1", PORT), self._nat(1, link), old.up, old.down))
        machine.move(uplinks)

    def _replay_all(self) -> None:
        """Send all that was ever captured again, in any order."""
        world, dice = self.world, self._dice
        for source, remote, data in dice.sample(world.captured, len(world.captured)):
            moment = world.clock.now + dice.random()
            world.clock.at(moment, partial(world.inject, source, remote, data, Weather()))

    def _calm(self) -> None:
        self.world.blocked.clear()
        if self.kind.one_way:
            self._block_all_but_one()
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one storm: a report, or why there is none."""

    report: Report | None
    failure: str = ""


def _run_members(kind: Kind, seed: int) -> Report:
    storm = MemberStorm(seed, cluster=kind.name == "cluster")
    reconnected_s = storm.run()
    world = storm.world
    return Report(kind.name, seed, reconnected_s, len(world.received), storm.moved, tuple(world.log))


def run_storm(kind: Kind, seed: int) -> Outcome:
    """Run a storm to its end, whatever that is: a broken promise, an error of the code, or none within 600 s."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"no end after {_LONGEST_RUN_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_LONGEST_RUN_S)
    try:
        return Outcome(_run_members(kind, seed) if kind in SEVERAL else Storm(kind, seed).run())
    except InvariantError as error:
        return Outcome(None, f"{kind.name} {seed}: {error}")
    except Exception:  # noqa: BLE001 - whatever it is, it is this seed's result, and the other seeds run
        return Outcome(None, f"{kind.name} {seed}: {traceback.format_exc()}{again(kind.name, seed)}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Tally:
    """What a run of storms came to so far. It is told as it grows, so that a run that is ended has said what it did."""

    def __init__(self, due: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        """``due`` says how many storms of each kind there will be."""
        self.failed = 0
        self._due = dict(due)
        self._done: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._slowest_s: dict[str, float] = {}
        self._clock = clock
        self._began = self._told = clock()

    @property
    def complete(self) -> bool:
        return self._done.total() == sum(self._due.values())

    def add(self, kind: str, outcome: Outcome) -> None:
        self._done[kind] += 1
        if outcome.report is None:
            self.failed += 1
            print(outcome.failure, file=sys.stderr, flush=True)
        else:
            self._kept[kind] += 1
            self._slowest_s[kind] = max(outcome.report.reconnected_s, self._slowest_s.get(kind, 0.0))
        if self._done[kind] == self._due[kind]:
            kept = f"{self._kept[kind]:4} of {self._due[kind]} seeds kept every promise"
            print(f"{kind:12} {kept}, slowest reconnect {self._slowest_s.get(kind, 0.0):.2f} s", flush=True)
        if self._clock() >= self._told + _TELL_S and not self.complete:
            self._tell()

    def conclude(self) -> int:
        """Say the verdict; returns the exit status."""
        self._tell()
        return 1 if self.failed or not self.complete else 0

    def _tell(self) -> None:
        self._told = self._clock()
        counts = f"{self._done.total()} of {sum(self._due.values())} storms ended, {self.failed} of them badly"
        print(f"{counts}, {self._told - self._began:.0f} s", flush=True)


def plan(kinds: Sequence[Kind], first: int, seeds: int) -> list[tuple[Kind, int]]:
    """So many storms: of the kinds in turn, with ascending seeds."""
    return list(islice(((kind, seed) for seed in count(first) for kind in kinds), seeds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run storms; returns 1 if one broke a promise, or not all came to an end."""
    parser = argparse.ArgumentParser(prog="python -m lab.simulate", description="Simulated storms between nodes.")
    parser.add_argument(
        "--seeds", type=int, default=1040, metavar="N", help="how many storms, of all kinds in turn (1040)"
    )
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed of each kind")
    parser.add_argument("--seed", type=int, metavar="SEED", help="this seed of each kind, and no other")
    parser.add_argument("--kind", choices=[kind.name for kind in (*KINDS, *SEVERAL)], help="this kind only")
    parser.add_argument(
        "--jobs", type=int, default=_CORES, metavar="N", help="processes at a time; all cores if left out"
    )
    parser.add_argument("--log", action="store_true", help="print what the nodes logged")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in (*KINDS, *SEVERAL) if options.kind in (None, kind.name)]
    if options.seed is not None:
        storms = plan(kinds, options.seed, len(kinds))
    else:
        storms = plan(kinds, options.first, options.seeds)
    tally = Tally(Counter(kind.name for kind, _ in storms))

    def end(number: int, _frame: object) -> None:
        raise SystemExit(f"ended by {signal.Signals(number).name}")

    before = {number: signal.getsignal(number) for number in _ENDING}
    signal.signal(signal.SIGTERM, end)
    pool = ProcessPoolExecutor(options.jobs, initializer=_end_on_signals)
    try:
        outcomes = pool.map(run_storm, [kind for kind, _ in storms], [seed for _, seed in storms])
        for (kind, _), outcome in zip(storms, outcomes, strict=True):
            tally.add(kind.name, outcome)
            if options.log and outcome.report is not None:
                print("\n".join(outcome.report.log))
    except BrokenProcessPool:
        print("a process of the simulation was killed", file=sys.stderr)
    finally:
        # A signal to the whole group may come as its consequence first: a worker that is gone.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        for worker in active_children():
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        for number, handler in before.items():
            signal.signal(number, handler)
        status = tally.conclude()
    return status


def _end_on_signals() -> None:
    """Let a worker, which inherits how its parent takes signals, end on them."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
