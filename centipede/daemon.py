"""The daemon of one tunnel: it wires node, engine, host and control socket together.

One control thread waits for whatever comes first: events of the engine, a change of the host's addresses, a resolved
name, a request on the control socket, a signal, the node's timer. It gives them to the node and carries the node's
effects out in their order. Packets never pass through here.

Invariants: the node is only touched from this thread. Whatever comes from the network, and whatever the host refuses
while running, is logged or counted; it never ends the daemon. Whatever the daemon made on the host is gone when
:meth:`Daemon.run` has returned, and the TUN interface goes with the process in any case.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from centipede import engine as engines
from centipede import show
from centipede.changes import check_endpoints, compare, find_peer, tried
from centipede.clusterconfig import ClusterConfig
from centipede.config import Config, PeerConfig, check_peers, covering, load_config, parse_peer
from centipede.control import messages
from centipede.control.client import socket_path
from centipede.control.server import ControlServer
from centipede.engine.contract import Engine
from centipede.errors import CentipedeError, ControlError, HandoverError, HostError
from centipede.fields import Network
from centipede.listening import Listening
from centipede.names import Names
from centipede.protocol.armour import armour, unarmour
from centipede.protocol.migration import OFFER_LIFE_S
from centipede.protocol.node import Node
from centipede.protocol.session import HEADER_BYTES
from centipede.protocol.table import Event, Foreign, Run
from centipede.system.clone import CloneWatch
from centipede.system.detour import MARK
from centipede.system.links import Change, LinkAddress, Links, LinkWatch
from centipede.system.memory import forbid_core_dumps, lock_memory
from centipede.system.notify import notify
from centipede.system.resolve import Resolver
from centipede.system.signals import Signals
from centipede.system.state import StateFile
from centipede.system.tun import open_tun
from centipede.system.wall import wall_clock
from centipede.tunnel import Tunnel

if TYPE_CHECKING:
    from centipede.cluster.channel import Channel
    from centipede.cluster.directory import StorePlan

log = logging.getLogger(__name__)

_LEVELS = logging.getLevelNamesMapping()
_ANSWERING = ("usable", "suspect")
_HURRY_GAP_S = 1.0
"""Routes may change all the time, as on a router that speaks BGP."""


@dataclass(frozen=True, slots=True)
class Directories:
    """Where a daemon keeps its files."""

    runtime: Path
    """The control socket."""
    state: Path
    """What outlives the daemon."""


class Daemon:
    """One tunnel, from its interface's coming up to its going down."""

    _selector: selectors.BaseSelector
    _clones: CloneWatch
    _engine: Engine
    _kind: engines.EngineKind
    _node: Node
    _links: Links
    _tunnel: Tunnel
    _listening: Listening
    _resolver: Resolver
    _names: Names
    _state: StateFile

    def __init__(self, config: Config, directories: Directories, engine: str | None = None) -> None:
        """``engine`` replaces the configured one. Nothing happens yet."""
        self._config = config
        self._directories = directories
        self._engine_name = cast("Literal['auto', 'python', 'native']", engine or config.engine)
        self._next_timer = math.inf
        self._hurry_at = math.inf
        """When to try again what did not work, because routes changed."""
        self._hurried = -math.inf
        self._running = True
        self._wall_ns = wall_clock()
        self._started = 0.0
        self._channel: Channel | None = None
        """To the other members, if the machine is one of several."""
        self._store: StorePlan | None = None
        """Who tells of the other members, if they are not configured."""
        self._draining = False
        self._told: set[str] = set()
        """Warnings that are given once."""

    def run(self, ready: Callable[[], None]) -> None:
        """Bring the tunnel up, call ``ready``, serve until told to stop, take everything down. Main thread only.

        Raises HostError, with nothing left behind, if the tunnel cannot come up, and if its interface is taken away.
        """
        forbid_core_dumps()
        if not lock_memory():
            log.debug("memory is not locked: the host does not allow it")
        with ExitStack() as stack:
            self._build(stack)
            log.info("up, %s engine (%s), %d workers", self._kind.name, self._kind.reason, self._engine.workers)
            ready()
            notify("READY=1")
            try:
                self._loop()
            except HostError as error:
                log.error("%s", error)
                self._node.close(time.monotonic())
                self._carry_out()
                raise
            except BaseException:  # in the background nobody sees a traceback on standard error
                log.exception("defect: the control thread failed")
                raise
            notify("STOPPING=1")
            self._node.close(time.monotonic())
            self._carry_out()
        log.info("down")

    # Coming up.

    def _build(self, stack: ExitStack) -> None:
        """Make everything; ``stack`` unmakes it. The control socket goes last: its end tells that all else is gone."""
        config = self._config
        self._selector = stack.enter_context(selectors.DefaultSelector())
        stack.enter_context(
            ControlServer(socket_path(self._directories.runtime, config.name), self._selector, self._answer)
        )
        signals = stack.enter_context(Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))
        self._watch_for(signals, lambda: self._take_signals(signals))
        with _located(config.file):
            self._kind = engines.choose(self._engine_name, self._config.busy_poll_s)
            self._engine = self._open_engine(stack)
            self._links = stack.enter_context(Links())
            self._tunnel = Tunnel(self._links, config, self._warn_once)
        self._clones = stack.enter_context(CloneWatch())
        self._watch_for(self._clones, lambda: None)  # it is asked first of all
        watch = stack.enter_context(LinkWatch())  # before the addresses are read, or a change in between is missed
        self._watch_for(watch, lambda: self._take_links(watch))
        self._listening = Listening(self._engine, config.listen, config.name, config.mark or MARK)
        if config.cluster is not None:
            from centipede.cluster.channel import Channel  # nothing of it is loaded without [cluster]

            with _located(config.file, "[cluster]: listen"):
                self._channel = stack.enter_context(Channel(config.cluster.listen))
            self._store = self._plan_store(config.cluster)
        with _located(config.file, "[interface]: listen"):
            self._listening.open(self._links.addresses(), time.monotonic(), strict=True)
        self._resolver = stack.enter_context(Resolver())
        self._watch_for(self._resolver, self._take_names)
        self._names = Names(self._resolver.ask)
        self._state = StateFile(self._directories.state / f"{config.name}.json", config.identity.public)
        self._state.load()
        self._start()

    def _plan_store(self, cluster: ClusterConfig) -> StorePlan | None:
        store = cluster.store
        if store is None:
            return None
        from centipede.cluster.directory import StorePlan
        from centipede.tls import tls_context

        with _located(self._config.file, "[cluster]"):
            context = tls_context(store.ca_file, store.cert_file, store.key_file)
        return StorePlan(store.endpoints, store.prefix, context, self._config.timing.reject_s, self._wall_ns)

    def _watch_for(self, source: Any, take: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, take)

    def _open_engine(self, stack: ExitStack) -> Engine:
        workers = self._config.workers or self._kind.default_workers
        tun = open_tun(self._config.name, workers, vnet_hdr=self._kind.needs_vnet_hdr)
        with ExitStack() as undo:
            for fd in tun.fds:
                undo.callback(os.close, fd)
            engine = self._kind.create(tun)
            undo.pop_all()
        stack.callback(engine.close)
        self._watch_for(engine.event_fd, lambda: None)  # every step takes the events
        return engine

    def _start(self) -> None:
        now = time.monotonic()
        self._started = now
        run, spare = Run(first=0, k=(self._engine.workers - 1).bit_length()), None
        cluster = self._config.cluster
        if cluster is not None and self._channel is not None:
            run, spare = self._channel.shards(cluster.member, cluster.of, run.k)
        self._node = Node(
            self._config.identity,
            run=run,
            spare=spare,
            timing=self._config.timing,
            random=secrets.token_bytes,
            largest_bytes=self._tunnel.payload_bytes + HEADER_BYTES,
        )
        if cluster is not None and self._channel is not None:
            self._node.set_weight(cluster.weight, now)
            self._join(self._channel, cluster)
            channel = self._channel
            self._watch_for(channel, lambda: channel.receive(time.monotonic()))
        self._node.set_tunnelled(self._tunnelled, now)
        self._tunnel.check_reverse_paths()
        self._node.set_locals(self._listening.locals, now, self._listening.chosen)
        for peer in self._config.peers:
            self._node.add_peer(peer.spec, self._state.record(peer.spec.public_key), now)
        self._point(self._config.peers, now)
        self._engine.start()
        self._carry_out()

    def _join(self, channel: Channel, cluster: ClusterConfig) -> None:
        k = (self._engine.workers - 1).bit_length()
        identity, random, inject = self._config.identity, secrets.token_bytes, self._engine.inject
        channel.join(self._node, identity, cluster.member, cluster.of, k, cluster.members, random, inject, self._store)

    # Serving.

    def _loop(self) -> None:
        while self._running:
            due = min(self._next_timer, self._names.next_timer, self._listening.retry_at, self._hurry_at)
            if self._channel is not None:
                due = min(due, self._channel.next_timer)
            timeout = None if due == math.inf else max(0.0, due - time.monotonic())
            ready = self._selector.select(timeout)
            if (sign := self._clones.take()) is not None:  # before anything else is said
                self._fence(sign)
            for key, _ in ready:
                key.data()
            self._step()

    def _fence(self, sign: str) -> None:
        """Begin anew with all peers and members: a copy of this machine may use the nonces that come next."""
        now = time.monotonic()
        self._node.fence(now)
        self._carry_out()
        log.warning("%s: all sessions begin anew", sign)
        self._point(self._config.peers, now)
        if self._channel is not None and self._config.cluster is not None:
            self._join(self._channel, self._config.cluster)

    def _step(self) -> None:
        self._node.observe(self._engine.counters())
        for event in self._engine.events():
            self._receive(event)
        now = time.monotonic()
        if self._hurry_at <= now:
            self._hurry_at, self._hurried = math.inf, now
            self._node.hurry(now)
            self._names.hurry(now)
        if self._next_timer <= now:
            self._node.handle_timer(now, self._wall_ns())
        if self._channel is not None and self._channel.next_timer <= now:
            self._channel.handle_timer((peer.spec.public_key for peer in self._config.peers), now)
        self._carry_out()
        if self._names.next_timer <= now:
            self._names.handle_timer(now, self._silent_names(now))
        if self._listening.retry_at <= now:
            self._relocate()

    def _receive(self, event: Event) -> None:
        if isinstance(event, Foreign) and self._channel is not None:
            return self._channel.forward(event.data, time.monotonic())
        try:
            self._node.receive(event, time.monotonic(), self._wall_ns())
        except Exception:  # the node promises not to raise; if it does, a datagram must not end the tunnel
            log.exception("defect: the node failed at an event")

    def _carry_out(self) -> str | None:
        """Carry the node's effects out, in the order of their fields. Gives why records could not be saved."""
        failure = None
        effects = self._node.take_effects()
        if effects.table is not None:
            self._engine.apply(effects.table)
            self._tunnel.detour(effects.table)  # before anything is sent there
            if not self._names.empty:  # a path that answers no more has changed the table
                now = time.monotonic()
                self._names.note_silent(self._silent_names(now), now)
        if effects.records:
            failure = self._state.save(effects.records)
        if effects.mtu is not None:
            self._tunnel.fit(effects.mtu)
        for datagram in effects.datagrams:
            self._engine.send(datagram.local, datagram.remote, datagram.data, dont_fragment=datagram.dont_fragment)
        for line in effects.log:
            log.log(_LEVELS[line.level.upper()], "%s", line.text)
        if self._channel is not None and effects.news:
            self._channel.tell(effects.news)
        self._next_timer = effects.next_timer
        return failure

    def _take_signals(self, signals: Signals) -> None:
        taken = signals.take()
        if taken & {signal.SIGTERM, signal.SIGINT}:
            self._running = False
        elif signal.SIGHUP in taken:
            try:
                self._sync(None)
            except CentipedeError as error:
                log.error("not reloaded: %s", error)

    def _take_links(self, watch: LinkWatch) -> None:
        change = watch.drain()
        if Change.ADDRESSES in change:
            self._relocate()
        if Change.ROUTES in change:  # what could not be sent before may leave now
            self._hurry_at = min(self._hurry_at, max(time.monotonic(), self._hurried + _HURRY_GAP_S))

    def _relocate(self) -> None:
        """Follow the host's addresses: first new sockets, then a table without the old ones, then close those.

        Raises HostError if the tunnel's own interface is gone: nothing would pass any more.
        """
        now = time.monotonic()
        try:
            addresses = self._links.addresses()
        except HostError as error:
            log.warning("%s; trying again", error)
            self._listening.retry_at = now + 1.0
            return
        if not self._tunnel.exists:
            raise HostError(f"interface {self._config.name} was removed from outside; start the tunnel again")
        self._listen_on(addresses, now)

    def _warn_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    def _listen_on(self, addresses: Sequence[LinkAddress], now: float, *, strict: bool = False) -> None:
        self._node.set_links({str(each.address): each.link for each in addresses}, now)
        before = self._listening.locals
        self._listening.open(addresses, now, strict=strict)
        if self._listening.locals != before:
            self._node.set_locals(self._listening.locals, now, self._listening.chosen)
            self._carry_out()
            self._names.hurry(now)
        self._listening.close_stale()

    # Endpoints.

    def _take_names(self) -> None:
        now = time.monotonic()
        changed = [answer for answer in self._resolver.answers() if self._names.take(answer, now)]
        if changed:
            self._point([peer for peer in self._config.peers if any(not each.endpoint for each in peer.endpoints)], now)

    def _point(self, peers: Sequence[PeerConfig], now: float) -> None:
        """Tell the node where these peers can be tried, as far as that is known."""
        self._names.want(target for peer in self._config.peers for target in peer.endpoints)
        for peer in peers:
            endpoints = []
            for endpoint in self._names.endpoints(peer.endpoints):
                if covering(endpoint.host, self._tunnelled) is None:
                    endpoints.append(endpoint)
                else:
                    self._warn_once(f"endpoint {endpoint} of peer {peer.spec.name} lies inside the tunnel: not used")
            self._node.set_endpoints(peer.spec.public_key, endpoints, now)

    @property
    def _tunnelled(self) -> list[Network]:
        """The tunnel's own networks."""
        return [address.network for address in self._config.addresses]

    def _silent_names(self, now: float) -> set[tuple[str, int]]:
        """Host names of the peers of whom no path answers."""
        heard = {
            peer.public_key
            for peer in self._node.status(now).peers
            if any(path.state in _ANSWERING for path in peer.paths)
        }
        silent = (peer for peer in self._config.peers if peer.spec.public_key not in heard)
        return {(target.host, target.port) for peer in silent for target in peer.endpoints}

    # Requests.

    def _answer(self, request: messages.Request) -> Any:
        try:
            return self._serve(request)
        except CentipedeError:
            raise
        except Exception as error:
            log.exception("defect: a request failed")
            raise ControlError("the daemon failed at this request; its log has the details") from error

    def _serve(self, request: messages.Request) -> Any:
        match request:
            case messages.Show():
                return self._show()
            case messages.Stop():
                self._running = False
                return {"pid": os.getpid()}
            case messages.Sync(file=file):
                return self._sync(file)
            case messages.PeerAdd(table=table):
                new = self._parse_peer(table)
                check_endpoints(new, self._tunnelled)
                return self._change_peers([*self._config.peers, new])
            case messages.PeerRemove(peer=wanted):
                gone = find_peer(self._config.peers, wanted)
                return self._change_peers([peer for peer in self._config.peers if peer is not gone])
            case messages.PeerSet(peer=wanted, table=table, reset_floor=reset_floor):
                old = find_peer(self._config.peers, wanted)
                new = self._parse_peer({**old.table, **table})
                if "endpoints" in table:
                    check_endpoints(new, self._tunnelled)
                words = self._change_peers([new if peer is old else peer for peer in self._config.peers])
                if "endpoints" in table:  # also those given before: the other end may be ready only now
                    self._node.seek(new.spec.public_key, time.monotonic())
                    words = [*words, *tried(new, self._listening.locals)]
                if reset_floor:
                    self._reset_floor(new)
                    words = [*words, f"floor of peer {new.spec.name} reset"]
                return words
            case messages.MemberDrain(draining=draining):
                self._draining = draining
                self._node.set_draining(draining, time.monotonic())
                return ["draining: peers send elsewhere if they can" if draining else "no longer draining"]
            case messages.SessionOffer():
                if self._draining:
                    raise HandoverError(
                        f"{self._config.name} is draining, so peers would not come here; run "
                        f"'centipede member {self._config.name} undrain' first"
                    )
                offer = self._node.offer(time.monotonic())
                return messages.Offered(offer=armour("offer", offer), seconds=OFFER_LIFE_S)
            case messages.SessionExport(peer=wanted, offer=text, join=join):
                key = find_peer(self._config.peers, wanted).spec.public_key
                if not join:
                    _check_saved(self._state.save([]))  # before shards are cut
                export = self._node.export(key, unarmour("offer", text), time.monotonic(), move=not join)
                failure = self._carry_out()  # that the session moved is on disk before anybody has the text
                if failure is not None and not join:
                    self._node.seek(key, time.monotonic())  # it stays
                    _check_saved(failure)
                return messages.Exported(export=armour("export", export))
            case messages.SessionImport(export=text):
                key = self._node.import_(unarmour("export", text), time.monotonic())
                return messages.Imported(peer=find_peer(self._config.peers, key.text).spec.name)

    def _parse_peer(self, table: dict[str, Any]) -> PeerConfig:
        return parse_peer(table, self._config.name, self._config.file.parent)

    def _change_peers(self, peers: Sequence[PeerConfig]) -> Sequence[str]:
        check_peers(peers, self._config.identity.public, self._config.addresses, self._config.name)
        return self._change(replace(self._config, peers=tuple(peers)))

    def _sync(self, file: str | None) -> Sequence[str]:
        new = load_config(self._config.file if file is None else Path(file))
        words = self._change(replace(new, name=self._config.name))
        for word in words:
            log.info("sync: %s", word)
        return words

    def _change(self, new: Config) -> Sequence[str]:
        """Go over to another configuration, touching only what differs. Raises CentipedeError with all as before."""
        changes = compare(self._config, new)
        now = time.monotonic()
        with ExitStack() as undo:
            undo.callback(self._tunnel.change(new))
            if self._config.listen != new.listen:
                undo.callback(self._listen_back, self._config.listen)
                self._listening.listen = new.listen
                self._listen_on(self._links.addresses(), now, strict=True)
            undo.pop_all()
        if self._config.addresses != new.addresses:
            self._node.set_tunnelled([address.network for address in new.addresses], now)
        self._config = new
        for peer in changes.removed:
            self._node.remove_peer(peer.spec.public_key, now)
        for peer in changes.changed:
            self._node.replace_peer(peer.spec, now)
        for peer in changes.added:
            self._node.add_peer(peer.spec, self._state.record(peer.spec.public_key), now)
        self._point((*changes.added, *changes.changed), now)
        return changes.words

    def _listen_back(self, listen: Sequence[Any]) -> None:
        self._listening.listen = listen
        self._relocate()

    def _reset_floor(self, peer: PeerConfig) -> None:
        """Begin anew with a peer that lost its state and its clock: its sessions are lost to it anyway."""
        now = time.monotonic()
        key = peer.spec.public_key
        record = self._state.record(key)
        self._node.remove_peer(key, now)
        self._carry_out()
        if record is not None:
            record = replace(record, floor=0)
            self._state.save([record])
        self._node.add_peer(peer.spec, record, now)
        self._point([peer], now)

    def _show(self) -> show.Interface:
        now = time.monotonic()
        self._node.observe(self._engine.counters())
        status = self._node.status(now)
        config = {peer.spec.public_key: peer for peer in self._config.peers}
        peers = [
            show.picture(
                peer,
                copies=config[peer.public_key].spec.copies,
                endpoints=[str(target) for target in config[peer.public_key].endpoints],
                unresolved=self._names.unresolved(config[peer.public_key].endpoints),
            )
            for peer in status.peers
        ]
        return show.Interface(
            name=self._config.name,
            public_key=status.public_key.text,
            engine=self._kind.name,
            engine_reason=self._kind.reason,
            engine_details=dict(self._engine.details),
            workers=self._engine.workers,
            mtu=self._tunnel.mtu,
            addresses=[str(address) for address in self._config.addresses],
            listen=[str(local) for local in self._listening.locals],
            pid=os.getpid(),
            uptime_s=now - self._started,
            observed=show.observed(peers),
            cluster=show.members(self._channel, self._draining, now),
            peers=peers,
            drops={reason.label: count for reason, count in sorted(status.drops.items()) if count},
        )


def _check_saved(failure: str | None) -> None:
    if failure is not None:
        raise HandoverError(f"that the session moved could not be remembered: {failure}; see that it can be written")


@contextmanager
def _located(file: Path, key: str = "") -> Iterator[None]:
    """Begin the sentence of a HostError with the file, and the key, that asked for what the host refused."""
    try:
        yield
    except HostError as error:
        raise HostError(": ".join(part for part in (str(file), key, str(error)) if part)) from error
