"""Peer: one peer of the node: its sessions, the ways to it, the handshakes with it, and the record that outlives them.

The parts decide their own matters (association.py: sessions and their order; reach.py: paths, heartbeats and the choice
among paths; initiation.py: the rhythm of attempts). Here it is decided when a handshake is wanted, and what a packet
means for several parts at once.

Invariants: a timestamp is in the record before an Initiate carries it; the floor moves on confirmation only;
:meth:`Peer.settle` runs before effects are taken, so plan and timer are always those of the present state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from centipede.protocol.association import Association, Session, run_of
from centipede.protocol.context import Context
from centipede.protocol.cookie import mac1_of
from centipede.protocol.counters import EngineCounters
from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.effects import Level
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import HandedSession, Handover
from centipede.protocol.handshake import Attempt, Finished
from centipede.protocol.initiation import Initiation
from centipede.protocol.members import Members
from centipede.protocol.offer import Offer
from centipede.protocol.path import Path
from centipede.protocol.reach import Reach
from centipede.protocol.session import Header
from centipede.protocol.spec import PeerRecord, PeerSpec
from centipede.protocol.status import PeerStatus, SessionState, SessionStatus
from centipede.protocol.succession import Succession
from centipede.protocol.table import Datagram, ReceiveSession, Run, TablePeer
from centipede.protocol.wire import Addresses, Heartbeat, Observed, Parted, UnknownControl, decode_control

_LARGEST_TIMESTAMP = 2**64 - 1


class Peer:
    """One peer, in the hands of one node."""

    def __init__(self, number: int, spec: PeerSpec, record: PeerRecord | None, context: Context, now: float) -> None:
        """Raises ValueError for a scheduler that does not exist."""
        self.number = number
        self.record = record or PeerRecord(spec.public_key)
        self._members = Members()
        self._context = context
        self._timing = context.timing
        self._association = Association(context.timing, context.forget)
        self._reach = Reach(spec, self._association, context)
        self._initiation = Initiation(context.timing, now)
        self._wanted_at = now
        self._rekeys = 0
        self._succession = Succession(number, context, self._association, self._reach, now, moved=self.record.moved)
        self._reach.remember(self.record.addresses, now)

    @property
    def spec(self) -> PeerSpec:
        return self._reach.spec

    @property
    def largest_bytes(self) -> int | None:
        """The largest UDP payload that every usable path carries; None without one."""
        return self._reach.largest_bytes

    @property
    def table_peer(self) -> TablePeer:
        """What the engine must know of the peer."""
        return TablePeer(self.number, self._members.plans, self._reach.table_paths, self._members.shares)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that data may come under: established, pending, and left to another machine just now."""
        return (*self._association.established, *self._association.pending, *self._succession.lingering)

    @property
    def table_sessions(self) -> tuple[ReceiveSession, ...]:
        """What the engine must know of its sessions."""
        reorder_s = self._reach.reorder_s
        return tuple(session.table_entry(reorder_s) for session in self.sessions)

    # What the owner changes.

    def replace_spec(self, spec: PeerSpec, now: float) -> None:
        """Follow new settings. Raises ValueError for a scheduler that does not exist."""
        self._reach.replace_spec(spec, now)

    def set_locals(self, locals_: Sequence[Endpoint], now: float) -> None:
        if self._reach.set_locals(locals_, now):
            self._seek(now)

    def set_endpoints(self, endpoints: Sequence[Endpoint], now: float) -> None:
        if self._reach.set_endpoints(endpoints, now):
            self._seek(now)

    def hurry(self, now: float) -> None:
        """Routes changed: try at once what was not to be reached."""
        self._reach.hurry(now)
        self._initiation.restart(now)

    def seek(self, now: float) -> None:
        """Somebody wants the peer here: try to reach it at once."""
        self._succession.stay(now)
        self._reach.hurry(now)
        self._seek(now)

    def bar(self, now: float) -> None:
        """The tunnel's own networks changed: end the paths that lie in them."""
        self._reach.bar(now)

    def beat(self, now: float) -> None:
        """Send a heartbeat on every usable path: there is something new to say."""
        if self._association.established:
            self._reach.pulse.beat_usable(now)

    def refusal(self, remote: Endpoint) -> DropReason | None:
        """Why the peer may not have this outer address; None if it may."""
        return self._reach.refusal(remote)

    def hand_over(self, offer: Offer, now: float, *, move: bool) -> Handover:
        """What another machine needs to serve the peer: its sessions, and shards that are no longer ours.

        With ``move`` this machine takes its leave. Raises HandoverError if there is no session to hand over.
        """
        sessions = self._succession.hand_over(offer, now, move=move)
        if move:
            self._drop_attempt()
        return self._handover(sessions)

    def share(self, grant: Callable[[bytes], Run | None], addresses: Sequence[Endpoint], now: float) -> Handover:
        """What another member is to know: the sessions made here, with the run ``grant`` gives it by their base."""
        return self._handover(self._succession.share(grant, addresses, now))

    def absorb(self, handover: Handover, now: float) -> None:
        """Take over timestamps, and sessions if there are any, that another member told of."""
        if handover.sessions:
            self.take_over(handover, now, move=False)
        else:
            self._note_timestamps(handover.floor, handover.last_used)

    def _handover(self, sessions: tuple[HandedSession, ...]) -> Handover:
        return Handover(
            local=self._context.identity.public,
            peer=self.spec.public_key,
            floor=self.record.floor,
            last_used=self.record.last_used,
            addresses=self._reach.present,
            sessions=sessions,
        )

    def _note_timestamps(self, floor: int, last_used: int) -> None:
        """The greater ones hold for all that serve the identity."""
        record = self.record
        self._store(replace(record, floor=max(record.floor, floor), last_used=max(record.last_used, last_used)))

    def take_over(self, handover: Handover, now: float, *, move: bool, until: float = float("inf")) -> None:
        """Serve sessions that another machine handed over, from now on; ``until`` then if the peer is not reached."""
        self._note_timestamps(handover.floor, handover.last_used)
        self._succession.take_over(handover.sessions, self.spec.public_key, now, home=move, until=until)
        self._drop_attempt()
        self._initiation.succeed()
        idle_s = min((handed.idle_s for handed in handover.sessions), default=0.0)
        self._reach.pulse.note_traffic(float("-inf"), now - idle_s)
        self._reach.remember(handover.addresses, now)
        self._reach.note_session(now)
        self._reach.greet(now)

    def close(self, now: float) -> None:
        """Say bye."""
        self._reach.pulse.say_bye(now)

    def clear(self) -> None:
        """Forget all that others could find by name."""
        self._drop_attempt()
        self._association.clear()

    # What the engine reports.

    def observe(self, counters: EngineCounters) -> bool:
        """Take a reading. True if there was traffic since the last."""
        moved = self._reach.observe(counters, counters.peers_tx.get(self.number, 0.0))
        if moved:
            sent = self._reach.traffic.tx_packets
            for session in self._association.established:
                session.tx_since = sent - session.tx_before
        return moved

    def resume(self, at: float, now: float) -> None:
        """An inner packet came after a pause, or there is no way to send it."""
        self._reach.pulse.note_traffic(at, float("-inf"))
        self._initiation.reset(now)  # with a session as well: the peer may have lost it
        if self._association.established:
            self._reach.pulse.resume(now)
        elif not self._reach.pairs:
            self._reach.remember(self.record.addresses, now)

    def receive_acknowledge(self, event: Datagram, now: float) -> None:
        """Finish the attempt with an Acknowledge. Raises Refused."""
        initiation = self._initiation
        try:
            finished = initiation.finish(event.data, now)
            if (reason := self.refusal(event.remote)) is not None:
                raise Refused(reason)
            run = run_of(finished.shard, finished.params.k, DropReason.HANDSHAKE_MALFORMED)
        except Refused as refused:
            initiation.reason = refused.reason
            raise
        assert initiation.attempt is not None
        session = self._session(initiation.attempt, finished, run, now)
        proven = (event.local, event.remote) in initiation.pairs
        self._context.register(session)
        self._establish(session, now)
        path = self._reach.admit(event.local, event.remote, now)
        if isinstance(path, Path):
            path.receive_data(len(event.data), event.arrived)
            if proven:
                self._reach.validate(path, session, now)
        self._reach.greet(now)

    def receive_cookie(self, event: Datagram, now: float) -> None:
        """The peer is under load and asks for proof of an address. Raises Refused."""
        if self._initiation.receive_cookie(event.local, event.remote, event.data, now):
            message = self._initiation.message_on(event.local, event.remote, now)
            self._context.send(event.local, event.remote, message)

    def answers(self, timestamp: int, now: float) -> bool:
        """Whether a new Initiate of the peer is to be answered here; not while another machine serves it."""
        return self._succession.answers(timestamp, now)

    def add_pending(self, session: Session) -> None:
        """Keep a handshake that was answered until a packet under it confirms it."""
        self._context.register(session)
        if self._association.add_pending(session):
            self._context.drops[DropReason.PENDING_EVICTED] += 1

    def note_refusal(self, reason: DropReason) -> None:
        """Remember, for ``show``, why a handshake with this peer went no further."""
        self._initiation.reason = reason

    def receive_data(
        self, session: Session, local: Endpoint, remote: Endpoint, size_bytes: int, arrived: float, now: float
    ) -> None:
        """New data under a pending session, or over a pair that is no path; ``size_bytes`` 0 if counted elsewhere.

        Raises Refused if the pair may not become a path.
        """
        confirms = session.established is None
        if confirms:
            self._confirm(session, now)
        path = self._admit(local, remote, now)
        path.receive_data(size_bytes, arrived)
        self._reach.pulse.note_heard()
        if confirms:
            session.heard.add(path.number)
            self._welcome(session, path, now)
        elif not path.usable:
            self._reach.pulse.challenge(path, now)

    def receive_control(self, session: Session, header: Header, event: Datagram, now: float) -> None:
        """A control datagram under one of the peer's sessions. Raises Refused."""
        plaintext = session.open_control(header, event.data)
        if isinstance(plaintext, DropReason):
            raise Refused(plaintext)
        if (reason := self.refusal(event.remote)) is not None:
            raise Refused(reason)
        message = decode_control(plaintext)
        beat = message if isinstance(message, Heartbeat) else None
        run = session.run
        if beat is not None:
            run = run_of(header.source, beat.k, DropReason.CONTROL_MALFORMED)
            if not session.hear_run(run):
                raise Refused(DropReason.CONTROL_MALFORMED)
        confirms = session.established is None
        if confirms:
            self._confirm(session, now)
        path = self._admit(event.local, event.remote, now)
        self._reach.pulse.note_heard()
        lull_s = (
            max(self._timing.dead_s, self._timing.gone_factor * beat.next_in_s) if beat is not None else float("inf")
        )
        self._association.hear(session, path.number, now, lull_s)
        path.receive_control(len(event.data), event.arrived)
        if beat is not None:
            path.hear_run(session.number, run)
            self._reach.receive_heartbeat(path, session, header, beat, event, now)
        elif isinstance(message, Addresses):
            self._reach.receive_addresses(message.endpoints, now)
        elif isinstance(message, Observed):
            path.observed = message.endpoint
        elif isinstance(message, Parted):
            self._reach.receive_parted(path, message.paths, now)
        if confirms:
            self._welcome(session, path, now)
        elif beat is not None and beat.bye:
            pass
        elif not path.usable:
            self._reach.pulse.challenge(path, now)
        elif beat is not None and beat.answer_now:
            self._reach.pulse.answer(path, now)
        if isinstance(message, UnknownControl):
            raise Refused(DropReason.CONTROL_UNKNOWN_TYPE)

    # Time.

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Do what is due."""
        had_session = bool(self._association.established)
        self._association.expire(now)
        if had_session and not self._association.established:
            self._say("session ended", now)
        self._succession.handle_timer(now)
        self._handshake(now, wall_ns)
        self._reach.handle_timer(now)

    def settle(self, now: float) -> float:
        """Let plan, record and rhythm follow from the state; returns when ``handle_timer`` is due."""
        self._members.settle(self._reach.choose(), self._association, now)
        self._reach.pulse.carrying = self._members.carrying
        # The last ones known stay in the record, however long ago that was: there may be no others to try.
        addresses = self._reach.addresses or self.record.addresses
        self._store(replace(self.record, addresses=addresses, moved=self._succession.moved))
        return min(
            self._association.expires_at(),
            self._association.choice_at(now),
            self._handshake_at(now),
            self._succession.due_at(),
            self._reach.settle(now),
        )

    def status(self, now: float) -> PeerStatus:
        """A picture for ``show``."""
        shown = next(iter(self._association.sending), self._association.current)
        trying = self._initiation.attempt is not None or self._is_wanting(now)
        state: SessionState = "established" if shown else "initiating" if trying else "none"
        traffic = self._reach.traffic
        return PeerStatus(
            public_key=self.spec.public_key,
            name=self.spec.name,
            session=SessionStatus(
                state,
                now - shown.born if shown else None,
                self._rekeys,
                self._succession.moved,
                sum(run.size for session in self._association.established for run in session.sources),
            ),
            handshake=self._initiation.status(now, answering=bool(self._association.pending), pairs=self._reach.pairs)
            if trying or self._association.pending
            else None,
            allowed_ips=self.spec.allowed_ips,
            scheduler=self.spec.scheduler,
            rx_bytes=traffic.rx_bytes,
            tx_bytes=traffic.tx_bytes,
            rx_packets=traffic.rx_packets,
            tx_packets=traffic.tx_packets,
            duplicates=traffic.rx_copies,
            members=self._members.status(),
            paths=self._reach.status(now),
        )

    # Handshakes.

    def _seek(self, now: float) -> None:
        """There are new pairs: try them."""
        self._wanted_at = now
        self._initiation.restart(now)

    def _has_use(self, now: float) -> bool:
        """Whether somebody would miss the session."""
        last = max(self._wanted_at, self._reach.pulse.last_traffic)
        return self.spec.keepalive or now < last + self._timing.reject_s

    def _is_wanting(self, now: float) -> bool:
        """Whether a handshake is wanted now."""
        if self._succession.moved:
            return False
        if not self._association.established:
            return self._has_use(now)
        return self._reach.pulse.is_dead(now) or (now >= self._association.rekey_at() and self._has_use(now))

    def _handshake(self, now: float, wall_ns: int) -> None:
        initiation = self._initiation
        if not self._is_wanting(now):
            if initiation.is_over(now):
                self._drop_attempt()
            return
        pairs = self._reach.pairs
        if not pairs:
            return
        if initiation.may_begin(now):
            self._begin(now, wall_ns)
        if initiation.take_send(now):
            for path in pairs:
                message = initiation.message_on(path.local, path.remote, now)
                self._context.send(path.local, path.remote, message)

    def _handshake_at(self, now: float) -> float:
        """When :meth:`_handshake` has something to do."""
        if self._is_wanting(now):
            return self._initiation.next_at() if self._reach.pairs else float("inf")
        times = []
        if self._initiation.attempt is not None:
            times.append(self._initiation.over_at())
        if self._succession.moved:
            return min(times, default=float("inf"))
        if self._has_use(now):
            times.append(self._association.rekey_at())
        if self._reach.pulse.is_sending(now):
            times.append(self._reach.pulse.dead_at())
        return min(times, default=float("inf"))

    def _begin(self, now: float, wall_ns: int) -> None:
        self._drop_attempt()
        context = self._context
        timestamp = min(max(wall_ns, self.record.last_used + 1), _LARGEST_TIMESTAMP)
        self._store(replace(self.record, last_used=timestamp))
        context.news.add(self.spec.public_key)
        attempt = Attempt.begin(
            context.identity,
            self.spec.public_key,
            self.spec.preshared_key,
            timestamp=timestamp,
            base=context.new_base(),
            shard=context.run.first,
            params=context.params,
            random=context.random(32),
        )
        context.attempts[attempt.sid] = self.number
        context.initiates[mac1_of(attempt.message)] = self.number
        self._initiation.begin(attempt, now)

    def _drop_attempt(self) -> None:
        if self._initiation.attempt is not None:
            self._context.attempts.pop(self._initiation.attempt.sid, None)
            self._context.initiates.pop(mac1_of(self._initiation.attempt.message), None)
            self._initiation.drop()

    # Sessions.

    def _session(self, attempt: Attempt, finished: Finished, run: Run, now: float) -> Session:
        timing = self._timing
        rekey_s = min(timing.rekey_s + timing.rekey_jitter_s * self._context.fraction(), timing.rekey_fallback_s)
        return Session(
            number=self._context.next_session(),
            peer=self.number,
            base=attempt.base,
            peer_base=finished.base,
            run=run,
            own=self._context.run,
            spare=self._context.spare,
            keys=finished.keys,
            timestamp=attempt.timestamp,
            initiator=self._context.identity.public,
            ours=True,
            params=finished.params,
            born=now,
            rekey_at=now + rekey_s,
        )

    def _confirm(self, session: Session, now: float) -> None:
        """A pending session got its first packet: it counts from now on, and so does its timestamp."""
        self._context.confirm(session)
        self._store(replace(self.record, floor=max(self.record.floor, session.timestamp)))
        self._establish(session, now)

    def _establish(self, session: Session, now: float) -> None:
        self._succession.note_established(now)
        before = self._association.current
        session.tx_before = self._reach.traffic.tx_packets
        self._association.establish(session, now)
        self._context.news.add(self.spec.public_key)
        self._drop_attempt()
        self._initiation.succeed()
        self._reach.pulse.note_heard()
        self._reach.note_session(now)
        if before is None:
            self._say("session established", now)
        elif before.initiator != session.initiator and self._association.is_tie(before, now):
            self._say("a second session established, both ends had begun one", now, "debug")
        else:
            self._rekeys += 1
            self._say("session renewed", now)

    def _welcome(self, session: Session, path: Path, now: float) -> None:
        """Answer the packet that confirmed a session; its path is proven if the Acknowledge went out on it."""
        if (path.local, path.remote) in session.acknowledged:
            self._reach.validate(path, session, now)
            self._reach.pulse.beat(path, now, answer_now=True)
        else:
            self._reach.pulse.challenge(path, now)

    def _admit(self, local: Endpoint, remote: Endpoint, now: float) -> Path:
        path = self._reach.admit(local, remote, now)
        if isinstance(path, DropReason):
            raise Refused(path)
        return path

    def _store(self, record: PeerRecord) -> None:
        if record != self.record:
            self.record = record
            self._context.records[record.public_key] = record

    def _say(self, text: str, now: float, level: Level = "info") -> None:
        self._context.say(level, f"peer {self.spec.label}: {text}", now)
