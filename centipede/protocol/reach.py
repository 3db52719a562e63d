"""Reach: the ways to one peer: its paths, what events and time make of them, and which of them carry data.

Brings together the set of paths (path_set.py), their states (path.py), their heartbeats (pulse.py) and the choice among
them (scheduler.py), and sees to it that one's news reaches the others: a path that became suspect is asked at once, a
new address makes all the old ones prove themselves, an address that was valid is remembered. Sessions are the
association's; here they only lend their keys to heartbeats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from centipede.protocol.account import Account, Use
from centipede.protocol.announcement import Announcement
from centipede.protocol.association import Association, Session
from centipede.protocol.context import Context
from centipede.protocol.counters import EngineCounters, PathCounters
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.hold import Hold
from centipede.protocol.path import Path, PathState
from centipede.protocol.path_set import MOST_REMOTES, PathSet, total
from centipede.protocol.pulse import Pulse
from centipede.protocol.scheduler import Candidate, Scheduler, Selection
from centipede.protocol.schedulers import create
from centipede.protocol.session import Header
from centipede.protocol.shares import allot
from centipede.protocol.spec import PeerSpec, covers
from centipede.protocol.status import PathStatus
from centipede.protocol.table import BUCKETS, Datagram, Run, TablePath
from centipede.protocol.wire import MOST_PARTED, Addresses, Heartbeat, Observed, Parted


@dataclass(frozen=True, slots=True)
class Choice:
    """How data goes to one of the peer's machines: its shards, the paths to it, and all usable paths to it."""

    name: str
    """What its share of the flows hangs on: the same as long as one of its paths stays, and not from its shards, which
    it has others of under the next session."""
    remotes: tuple[Endpoint, ...]
    """Its addresses, as far as usable."""
    runs: Mapping[int, Run]
    """By session number."""
    selection: Selection
    usable: frozenset[int]
    weight: int
    """The part of the flows it asks for, 0..255."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One of the peer's machines, known by the paths (their numbers) that lead to it."""

    name: str
    paths: frozenset[int]
    scheduler: Scheduler


class Reach:
    """The ways to one peer."""

    def __init__(self, spec: PeerSpec, association: Association, context: Context) -> None:
        """Raises ValueError for a scheduler that does not exist."""
        self.spec = spec
        self._context = context
        self._timing = context.timing
        scheduler = create(spec.scheduler, spec.copies)
        self._one_machine = scheduler.one_machine
        self._paths = PathSet(context.new_path, context.timing)
        self.pulse = Pulse(context, self._paths, association, busy_s=spec.heartbeat_s, keepalive=spec.keepalive)
        self.pulse.comparing = scheduler.compares
        self._announcement: Announcement[Endpoint] = Announcement()
        self._introduction: Announcement[Endpoint] = Announcement()
        self._introduced: tuple[Endpoint, ...] = ()
        """Addresses of other machines, the newest first."""
        self._parting: Announcement[int] = Announcement()
        self._account = Account()
        self._members: list[_Member] = []
        """Those that data is sent to."""
        self._dormant: list[_Member] = []
        """Machines that get no data now and may come back: with their name, by which they have the same flows again."""
        self.reorder_s = 0.0
        """How long packets of the peer wait for earlier ones; 0 while it does not spread them over several paths."""
        self._hold = Hold()
        self._urgent: frozenset[int] = frozenset()
        """The paths that carry nothing but copies of urgent packets."""

    @property
    def pairs(self) -> list[Path]:
        """The pairs over which the peer may be sought."""
        return self._paths.pairs

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """Remote addresses worth remembering over a restart."""
        return self._paths.addresses

    @property
    def present(self) -> tuple[Endpoint, ...]:
        """Remote addresses another machine should try: those that work now, or if none does, that are remembered.

        Machines would keep alive among them for ever what none of them hears any more.
        """
        usable = dict.fromkeys(path.remote for path in self._paths.usable)
        return tuple(usable)[:MOST_REMOTES] or self.addresses

    @property
    def table_paths(self) -> tuple[TablePath, ...]:
        return tuple(path.table_path for path in self._paths)

    @property
    def is_reached(self) -> bool:
        """Whether there is a usable path."""
        return bool(self._paths.usable)

    @property
    def largest_bytes(self) -> int | None:
        """The largest UDP payload that every usable path carries; None without one."""
        return min((path.mtu.size for path in self._paths.usable), default=None)

    @property
    def traffic(self) -> PathCounters:
        """Data traffic with the peer so far, as read from the engine last."""
        return total((self._paths.retired, *(path.counters for path in self._paths)))

    # What the owner changes.

    def refusal(self, remote: Endpoint) -> DropReason | None:
        """Why the peer may not have this outer address; None if it may."""
        if not remote.port or not self.spec.allows(remote):
            return DropReason.REMOTE_NOT_ALLOWED
        if self._context.tunnelled and covers(self._context.tunnelled, remote):
            return DropReason.REMOTE_TUNNELLED
        return None

    def _allows(self, remote: Endpoint) -> bool:
        return self.refusal(remote) is None

    def replace_spec(self, spec: PeerSpec, now: float) -> None:
        """Follow new settings. Raises ValueError for a scheduler that does not exist."""
        if (spec.scheduler, spec.copies) != (self.spec.scheduler, self.spec.copies):
            scheduler = create(spec.scheduler, spec.copies)
            self._one_machine, self.pulse.comparing = scheduler.one_machine, scheduler.compares
            self._members.clear()
            self._dormant.clear()
        self.spec = spec
        self.pulse.busy_s = spec.heartbeat_s
        self.pulse.keepalive = spec.keepalive
        self._paths.bar(self._allows, now)

    def set_locals(self, locals_: Sequence[Endpoint], now: float) -> bool:
        """True if that made new pairs."""
        before = {path.number for path in self.pairs}
        usable = {path.number for path in self._paths.usable}
        self._paths.set_locals(locals_, now)
        gone = sorted(usable.difference(path.number for path in self._paths))
        if gone:  # the peer would go on sending there until it wonders at the silence
            self._parting.change([number & 0xFFFF for number in gone[:MOST_PARTED]], now)
        self._announcement.change(self._context.announced, now)
        return not before.issuperset(path.number for path in self.pairs)

    def set_endpoints(self, endpoints: Sequence[Endpoint], now: float) -> bool:
        """True if that made new pairs."""
        before = {path.number for path in self.pairs}
        self._paths.set_remotes([remote for remote in endpoints if self._allows(remote)], now)
        return not before.issuperset(path.number for path in self.pairs)

    def hurry(self, now: float) -> None:
        """What could not be reached may be reachable now: try it."""
        self.pulse.hurry(now)

    def bar(self, now: float) -> None:
        """End what is not allowed any more."""
        self._paths.bar(self._allows, now)

    def remember(self, addresses: Sequence[Endpoint], now: float) -> None:
        """Try these as if they had been valid just now."""
        for remote in addresses:
            if self._allows(remote):
                self._paths.remember(remote, now)
        self._paths.refresh(now)

    # What the engine reports.

    def observe(self, counters: EngineCounters, tx_at: float) -> bool:
        """Take a reading; ``tx_at`` is when the newest inner packet came. True if there was traffic since the last."""
        moved = tx_at > self.pulse.last_tx
        rx_at = 0.0
        for path in self._paths:
            reading = counters.paths.get(path.number)
            if reading is None:
                continue
            if reading.last_rx > path.counters.last_rx:
                self.pulse.note_heard()
            moved |= path.observe(reading)
            rx_at = max(rx_at, reading.last_rx)
        self.pulse.note_traffic(tx_at or float("-inf"), rx_at or float("-inf"))
        return moved

    def admit(self, local: Endpoint, remote: Endpoint, now: float) -> Path | DropReason:
        """The path an authentic packet came over, made if need be; or why there may be none."""
        if (reason := self.refusal(remote)) is not None:
            return reason
        path = self._paths.find(local, remote)
        if path is None:
            path = self._paths.learn(local, remote, now)
            if path is None:
                return DropReason.PATH_LIMIT
            # Whoever replays a packet from elsewhere must not thereby delay the discovery that the old path works; and
            # if the peer has moved, that the old path does not.
            for known in self._paths.usable:
                self.pulse.press(known, now)
        return path

    def receive_heartbeat(
        self, path: Path, session: Session, header: Header, beat: Heartbeat, event: Datagram, now: float
    ) -> None:
        """Take what a heartbeat said."""
        before, size, was_usable = path.state, path.mtu.size, path.usable
        answered = path.receive_heartbeat(
            beat,
            session=session.number,
            source=header.source,
            counter=header.counter,
            path_received=event.path_received,
            arrived=event.arrived,
            timing=self._timing,
        )
        if answered:
            path.renew(self._context.challenge())
        self._follow(path, before, now)
        self._note_mtu(path, size, now)
        if path.usable and not was_usable:
            self._succeed(path, now)
        if answered and path.usable and path.may_tell(session.number):
            self.pulse.tell(path, Observed(path.remote), now)

    def receive_parted(self, path: Path, numbers: Sequence[int], now: float) -> None:
        """The peer says over ``path`` that others, by its numbers, are no more."""
        for other in self._paths:
            if other.theirs in numbers and other is not path and other.joins(path):
                before = other.state
                other.part()
                self._follow(other, before, now)

    def receive_addresses(self, addresses: Sequence[Endpoint], now: float) -> None:
        """The peer says where else it may be found."""
        self._paths.tell([remote for remote in addresses if self._allows(remote)], now)

    def introduce(self, addresses: Sequence[Endpoint], now: float) -> None:
        """Tell the peer where else it may find its sessions: another machine's addresses."""
        # Several machines may join at once; those that were told of long ago do no harm.
        self._introduced = tuple(dict.fromkeys((*addresses, *self._introduced)))[:MOST_REMOTES]
        self._introduction.change(self._introduced, now)
        self._introduction.begin(now)

    def part(self, now: float) -> None:
        """The peer is served elsewhere: no path leads to it from here."""
        for path in self._paths:
            path.part()
        self._paths.refresh(now)

    def note_session(self, now: float) -> None:
        """A session was established: whoever is at its other end may not know our addresses."""
        self._announcement.begin(now)

    def validate(self, path: Path, session: Session, now: float) -> None:
        """A whole handshake crossed this path both ways."""
        before = path.state
        path.validate()
        path.hear_run(session.number, path.runs.get(session.number, session.run))
        path.expect(self.pulse.busy_s + path.patience_s, now)
        self._follow(path, before, now)

    def greet(self, now: float) -> None:
        """A session is established by our Initiate: its first packets confirm it, and tell on which pairs it works."""
        for path in self._paths:
            if path.learned:
                self.pulse.challenge(path, now)
            else:
                self.pulse.beat(path, now, answer_now=True)

    # Time.

    def handle_timer(self, now: float) -> None:
        """Let states follow from silence, and send the heartbeats that are due."""
        sizes = {path: path.mtu.size for path in self._paths}
        for path in self._paths:
            before = path.state
            path.expire(now, self._timing)
            self._follow(path, before, now)
        if now >= self._paths.refresh_at(now):
            self._paths.refresh(now)
        self.pulse.handle_timer(now)
        self._announce(now)
        for path, size in sizes.items():
            self._note_mtu(path, size, now)

    def settle(self, now: float) -> float:
        """Bring the rhythm up to date; returns when ``handle_timer`` is due."""
        expiries = (path.expires_at(self._timing) for path in self._paths)
        self._account.settle(self._paths, now)
        self.reorder_s = self._hold.choose(_by_machine(self._paths.usable))
        told_at = min(self._announcement.due_at(), self._introduction.due_at(), self._parting.due_at())
        announce_at = told_at if self._paths.usable and self.pulse.can_speak else float("inf")
        return min(self.pulse.settle(now), self._paths.refresh_at(now), announce_at, *expiries)

    def choose(self) -> list[Choice]:
        """Choose the machines for data and the paths to each; none if there is no usable path.

        A machine to which no sound path leads has lost its flows, unless that is true of all.
        """
        ways = [path for path in self._paths.usable if path.runs]
        groups = _by_machine([path for path in ways if not path.shunned] or ways)
        groups = [paths for paths in groups if any(path.state is PathState.VALID for path in paths)] or groups
        if self._one_machine and len(groups) > 1:
            groups = [self._draw(groups)]
        before, self._members = [*self._members, *self._dormant], []
        choices = [self._choose(paths, before) for paths in groups]
        present = {path.number for path in self._paths}.difference(*(machine.paths for machine in self._members))
        self._dormant = [machine for machine in before if not present.isdisjoint(machine.paths)]
        bulk = {path.path for choice in choices for path in choice.selection.paths[: choice.selection.copies]}
        bulk.update(lane.path.path for choice in choices for lane in choice.selection.lanes)
        self._urgent = frozenset(path.path for choice in choices for path in choice.selection.urgent) - bulk
        self.pulse.aggregating = any(choice.selection.spread for choice in choices)
        return choices

    def _choose(self, paths: Sequence[Path], before: list[_Member]) -> Choice:
        """Choose among the paths to one machine: copies of a packet never go to two."""
        numbers = frozenset(path.number for path in paths)
        known = next((machine for machine in before if machine.paths & numbers), None)
        if known is None:  # perhaps it was lost on one link and comes back by another
            name = _least(paths)
            known = next((machine for machine in before if machine.name == name and machine in self._dormant), None)
        if known is not None:
            before.remove(known)
            machine = replace(known, paths=numbers)
        else:
            name = _name(paths, {machine.name for machine in (*before, *self._members)})
            machine = _Member(name, numbers, create(self.spec.scheduler, self.spec.copies))
        self._members.append(machine)
        selection = machine.scheduler.choose([candidate(path, metered=self._is_metered(path)) for path in paths])
        runs = {session: run for path in paths for session, run in path.runs.items()}
        remotes = tuple(sorted({path.remote for path in paths}))
        return Choice(machine.name, remotes, runs, selection, numbers, _weight(paths))

    def _draw(self, groups: Sequence[list[Path]]) -> list[Path]:
        """The only machine, for a scheduler that works with one: as if this end were one flow, by the weights."""
        shares = allot([(_least(paths), _weight(paths)) for paths in groups])
        return groups[shares[int.from_bytes(self._context.identity.public.raw[:2], "big") % BUCKETS]]

    def status(self, now: float) -> tuple[PathStatus, ...]:
        """A picture of the paths for ``show``."""
        metered = [path.number for path in self._paths if self._is_metered(path)]
        used = [number for machine in self._members for number in machine.paths]
        use = Use(self.pulse.carrying, self._urgent, metered, used)
        return tuple(self._account.status(path, use, now) for path in self._paths)

    def _succeed(self, path: Path, now: float) -> None:
        """The peer's end of a path may have another address than before, by the whim of a translator.

        The path by the old one is doubted, not ended: whoever relays the peer's packets from elsewhere looks the same,
        and then the old one answers.
        """
        for other in self._paths.usable:
            if other is path or other.theirs != path.theirs or other.local != path.local or not other.joins(path):
                continue
            if not other.pressed:
                self.pulse.press(other, now)
            else:
                before = other.state
                other.doubt()
                self._follow(other, before, now)

    def _announce(self, now: float) -> None:
        usable = self._paths.usable
        if usable and self.pulse.can_speak:
            numbers = self._parting.take(now)
            for path in usable if numbers else ():
                self.pulse.tell(path, Parted(numbers), now)
            for addresses in (self._announcement.take(now), self._introduction.take(now)):
                for path in usable if addresses else ():
                    self.pulse.tell(path, Addresses(addresses), now)

    def _note_mtu(self, path: Path, before: int, now: float) -> None:
        if path.mtu.size != before:
            self._context.say("info", f"peer {self.spec.label}: path {path} carries {path.mtu.size} bytes", now)

    def _is_metered(self, path: Path) -> bool:
        """Whether the path's link is to be spared."""
        host = path.local.host
        return not {host, self._context.links.get(host)}.isdisjoint(self.spec.metered)

    def _follow(self, path: Path, before: PathState, now: float) -> None:
        """Do what a change of a path's state asks for."""
        if path.state is before:
            return
        self._context.say("info", f"peer {self.spec.label}: path {path} is {path.state.value}", now)
        if path.state is PathState.SUSPECT:
            path.mtu.rest()
            self.pulse.question(path, now)
            return
        if path.usable and before is not PathState.SUSPECT:
            path.mtu.restart()
        if before is not PathState.NEW or path.usable:
            self._paths.remember(path.remote, now)
        self._paths.refresh(now)


def candidate(path: Path, *, metered: bool) -> Candidate:
    """A path as a scheduler sees it."""
    return Candidate(
        path.table_path,
        suspect=path.state is PathState.SUSPECT,
        rtt_s=path.rtt_s,
        unloaded_rtt_s=path.unloaded_rtt_s,
        jitter_s=path.jitter_s,
        loss=path.loss,
        unloaded_loss=path.rate.loss,
        beats=path.beats,
        delivered=path.delivered,
        metered=metered,
        transit_s=path.rate.transit_s,
        rate_bytes_per_s=path.rate.bytes_per_s,
        delivered_bytes_per_s=path.rate.delivered_bytes_per_s,
        peak_bytes_per_s=path.rate.peak_bytes_per_s,
        queued=path.rate.queued,
        full=path.rate.full,
    )


def _name(paths: Sequence[Path], taken: Collection[str]) -> str:
    """A name for a machine that is not taken: its least address, so that most often it gets the same again."""
    address = _least(paths)
    if address not in taken:
        return address
    return next(name for number in range(2, len(taken) + 3) if (name := f"{address} {number}") not in taken)


def _weight(paths: Sequence[Path]) -> int:
    return max(0 if path.shunned else path.weight for path in paths)


def _least(paths: Sequence[Path]) -> str:
    return str(min(path.remote for path in paths))


def _by_machine(paths: Sequence[Path]) -> list[list[Path]]:
    """Paths put together that lead to one machine."""
    machines: list[list[Path]] = []
    for path in paths:
        machine = next((machine for machine in machines if any(path.joins(other) for other in machine)), None)
        if machine is None:
            machines.append([path])
        else:
            machine.append(path)
    return machines
