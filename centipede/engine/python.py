"""The reference engine: Centipede's data path in plain Python, to be read.

A packet's way out: TUN queue -> route by inner destination -> the peer's plan -> seal once -> the same bytes on each of
the plan's first paths. The way in: socket -> header -> session -> window test -> open -> window insert -> account for
the path -> finish and check the inner packet -> TUN queue. What is not data goes up to the control thread unopened.

Who may touch what. One control thread calls the :class:`Engine` methods; each worker is a thread with its own TUN
queue, its own socket per local address and its own shard. The control thread turns a forwarding table into a view for
each worker (view.py) and waits until all have taken theirs: when ``apply`` returns, no worker uses an older table, so
what the node sends next cannot meet an engine that does not know of it. Nothing else is waited for, and a worker waits
for nobody; traffic and drops are counted by each worker apart and added up when read.

Invariants: a (session, shard, counter) is sealed once; a counter is delivered once; a packet that goes no further is
counted under one drop reason; nothing a packet contains raises.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import ClassVar, NamedTuple

from cryptography.hazmat.backends.openssl import backend as openssl

from centipede.engine.contract import (
    RESUMED_AFTER_S,
    RESUMED_AGAIN_S,
    RING_SIZE,
    UNHEARD_BYTES,
    UNHEARD_PACKETS,
    UNHEARD_S,
    WAITING_PACKETS,
    Engine,
)
from centipede.engine.reorder import Reorder
from centipede.engine.rings import Rings
from centipede.engine.sockets import (
    LATE_ERRORS,
    SocketAddress,
    endpoint_of,
    send_drop_reason,
    socket_address,
    tun_drop_reason,
    unfragmented,
)
from centipede.engine.view import Hop, Inlet, Once, Outlet, Plan, State, View, choose_lane, empty_view
from centipede.protocol.counters import EngineCounters
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.inner import clamp_mss, cut_tcp, finish_inner, is_urgent, read_inner
from centipede.protocol.session import COUNTER_LIMIT, Header, is_handshake, parse_header
from centipede.protocol.table import Datagram, Event, FirstData, Foreign, ForwardingTable, NewRemote, Resumed
from centipede.protocol.window import Verdict

REST_AFTER_FAILURE_S = 0.1
"""A descriptor whose reading failed is left alone for so long: a vanished TUN device stays readable for ever."""
BATCH = 32
"""Packets that one descriptor may have in a row before the others get their turn."""
LARGEST_PACKET = 65535
VIEW_TIMEOUT_S = 10.0
"""A worker that has not taken its view by then is dead, which is a defect."""

_NO_DROPS = (0,) * len(DropReason)


class _Unheard(NamedTuple):
    """A datagram from a source shard without a window, which the next table may have."""

    came: float
    datagram: bytes
    header: Header
    local: Endpoint
    remote: SocketAddress


class _Worker:
    """A thread that serves one TUN queue and one socket per local address."""

    def __init__(
        self, index: int, tun: int, event_fd: int, clock: Callable[[], float], injected: socket.socket | None
    ) -> None:
        """``injected`` gives what the control thread injects; one worker has it."""
        self.tun = tun
        self.drops = list(_NO_DROPS)
        self.rings = Rings(event_fd)
        self.thread = threading.Thread(target=self._run, name=f"centipede-worker-{index}", daemon=True)
        self._index = index
        self._clock = clock
        self._next_view = self._view = empty_view()
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, partial(os.eventfd_read, self._wake_fd))
        self._selector.register(tun, selectors.EVENT_READ, self._outbound)
        if injected is not None:
            self._selector.register(injected, selectors.EVENT_READ, partial(self._take_injected, injected))
        self._waiting: dict[Reorder, Inlet] = {}
        """Where packets wait for those before them."""
        self._unheard: deque[_Unheard] = deque(maxlen=UNHEARD_PACKETS)
        self._resting: list[selectors.SelectorKey] = []
        self._rested_at = 0.0
        self._stopping = False

    # Called by the control thread.

    def show(self, view: View) -> None:
        """Hand over a view; ``view.taken`` is set once the worker uses it."""
        self._next_view = view
        if self.thread.is_alive():
            os.eventfd_write(self._wake_fd, 1)
        else:
            self._take_view()

    def close(self) -> None:
        """Stop the thread and close everything."""
        self._stopping = True
        if self.thread.is_alive():
            os.eventfd_write(self._wake_fd, 1)
            self.thread.join()
        self._selector.close()
        os.close(self._wake_fd)
        os.close(self.tun)
        self._next_view = self._view = empty_view()

    # The worker's own thread from here on.

    def _run(self) -> None:
        while not self._stopping:
            if self._next_view is not self._view:
                self._take_view()
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            if self._waiting:
                self._end_waits(self._clock())
            if self._resting and self._clock() >= self._rested_at:
                for key in self._resting:
                    self._selector.register(key.fileobj, selectors.EVENT_READ, key.data)
                self._resting.clear()

    def _timeout_s(self) -> float | None:
        """How long to wait for something to arrive; None for as long as it takes."""
        times = [REST_AFTER_FAILURE_S] if self._resting else []
        now = self._clock() if self._waiting else 0.0
        for reorder, inlet in self._waiting.items():
            came = reorder.due()
            if came is not None:
                times.append(max(0.0, came + inlet.reorder_s - now))
        return min(times, default=None)

    def _take_view(self) -> None:
        """Serve the new view's sockets in place of the old one's, and send what waited for a plan."""
        old, view = self._view, self._next_view
        inlets = {id(reorder): inlet for inlet in view.inlets.values() for reorder in inlet.reorders.values()}
        for reorder, inlet in list(self._waiting.items()):
            if id(reorder) in inlets:
                self._waiting[reorder] = inlets[id(reorder)]
            else:
                self._deliver_all(reorder.expire(float("inf")), inlet.peer)
                del self._waiting[reorder]
        self._view = view
        served = {key.fileobj for key in self._selector.get_map().values()}
        for local, sock in old.sockets.items():
            if view.sockets.get(local) is not sock:
                self._resting = [key for key in self._resting if key.fileobj is not sock]
                if sock in served:
                    self._selector.unregister(sock)
        for local, sock in view.sockets.items():
            if old.sockets.get(local) is not sock:
                self._selector.register(sock, selectors.EVENT_READ, partial(self._inbound, sock, local))
        for number, outlet in old.outlets.items():
            if number not in view.outlets:
                self.drops[DropReason.NO_SESSION] += len(outlet.waiting)
        for outlet in view.outlets.values():
            while outlet.plans and outlet.waiting:
                packet = outlet.waiting.popleft()
                self._transmit(outlet.plan_for(packet), packet)
        self._take_unheard()
        view.taken.set()

    def _rest(self, fileobj: int | socket.socket) -> None:
        """Count a failed read, and look at that descriptor again in a while."""
        self.drops[DropReason.RECEIVE_FAILED] += 1
        self._resting.append(self._selector.unregister(fileobj))
        self._rested_at = self._clock() + REST_AFTER_FAILURE_S

    def _tell(self, kind: DropReason, event: Event) -> bool:
        told = self.rings.push(kind, event)
        if not told:
            self.drops[kind] += 1
        return told

    # Out: TUN -> route -> plan -> seal -> paths.

    def _outbound(self) -> None:
        """Send a batch of packets from the TUN queue."""
        view, drops, clock, tun = self._view, self.drops, self._clock, self.tun
        lookup, outlets = view.lookup, view.outlets
        for _ in range(BATCH):
            try:
                packet = os.read(tun, LARGEST_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:  # the device is gone: a TUN device never has an empty packet
                self._rest(tun)
                return
            inner = read_inner(packet)
            if inner is None:
                drops[DropReason.INNER_MALFORMED] += 1
                continue
            number = lookup(inner.destination)
            outlet = None if number is None else outlets.get(number)
            if outlet is None:
                drops[DropReason.NO_ROUTE] += 1
                continue
            self._mark_use(outlet, clock())
            if outlet.plans:
                self._transmit(outlet.plan_for(packet), packet)
            else:
                if len(outlet.waiting) == WAITING_PACKETS:
                    drops[DropReason.NO_SESSION] += 1  # of the oldest, which append pushes out
                outlet.waiting.append(packet)

    def _mark_use(self, outlet: Outlet, now: float) -> None:
        """Note that there is traffic for a peer, and tell the node if that is news."""
        peer = outlet.peer
        resumed = now - peer.last_tx >= RESUMED_AFTER_S
        peer.last_tx = now
        if resumed or (not outlet.plans and now - peer.resumed_at >= RESUMED_AGAIN_S):
            peer.resumed_at = now
            self._tell(DropReason.EVENT_RING_FULL, Resumed(outlet.number, now))

    def _transmit(self, plan: Plan, packet: bytes) -> None:
        """Send a packet by the plan, cut if need be."""
        urgent = bool(plan.urgent) and is_urgent(packet)
        narrow_bytes = self._view.narrow_bytes
        for part in cut_tcp(clamp_mss(packet, narrow_bytes), narrow_bytes) if narrow_bytes else (packet,):
            self._seal(plan, part, urgent)

    def _seal(self, plan: Plan, packet: bytes, urgent: bool) -> None:
        """Seal a packet once and send the same bytes on each path it goes to."""
        counter = plan.counter.next
        if counter >= COUNTER_LIMIT:
            self.drops[DropReason.COUNTER_LIMIT] += 1
            return
        plan.counter.next = counter + 1  # before use: a counter may be wasted, never repeated
        datagram = plan.sealer.seal(counter, source=plan.source, base=plan.base, shard=plan.shard, plaintext=packet)
        hops: tuple[Hop, ...] = plan.hops
        if urgent:
            hops = plan.urgent
        elif plan.lanes:
            hops = choose_lane(plan.lanes, len(datagram), self._clock()).hops
        for sock, address, traffic in hops:
            if sock is None:
                self.drops[DropReason.SEND_UNREACHABLE] += 1
                continue
            try:
                sock.sendto(datagram, address)
            except OSError as error:
                self.drops[send_drop_reason(error)] += 1
                continue
            traffic.tx_packets += 1
            traffic.tx_bytes += len(datagram)

    # In: socket -> header -> session -> window -> open -> window -> path -> inner packet -> TUN.

    def _inbound(self, sock: socket.socket, local: Endpoint) -> None:
        """Take in a batch of datagrams from one socket."""
        drops, clock = self.drops, self._clock
        for _ in range(BATCH):
            try:
                datagram, remote = sock.recvfrom(LARGEST_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in LATE_ERRORS:
                    continue
                self._rest(sock)
                return
            now = clock()
            header = parse_header(datagram)
            if header is None:
                if is_handshake(datagram):
                    event = Datagram(local, endpoint_of(remote), datagram, now, 0)
                    self._tell(DropReason.HANDSHAKE_RING_FULL, event)
                else:
                    drops[DropReason.TOO_SHORT] += 1
            elif header.control:
                self._pass_control(datagram, header, local, remote, now)
            else:
                reason = self._receive(datagram, header, local, remote, now)
                if reason is DropReason.UNKNOWN_SHARD and len(datagram) <= UNHEARD_BYTES:
                    if len(self._unheard) == UNHEARD_PACKETS:
                        drops[reason] += 1  # of the oldest, which append pushes out
                    self._unheard.append(_Unheard(now, datagram, header, local, remote))
                elif reason is not None:
                    drops[reason] += 1

    def _take_unheard(self) -> None:
        """Take in again what came from shards that may have a window now."""
        waiting = list(self._unheard)
        self._unheard.clear()
        now = self._clock()
        for unheard in waiting:
            reason: DropReason | None = DropReason.UNKNOWN_SHARD
            if now - unheard.came <= UNHEARD_S and unheard.local in self._view.sockets:
                reason = self._receive(unheard.datagram, unheard.header, unheard.local, unheard.remote, now)
                if reason is DropReason.UNKNOWN_SHARD:
                    self._unheard.append(unheard)
                    continue
            if reason is not None:
                self.drops[reason] += 1

    def _take_injected(self, sock: socket.socket) -> None:
        """Take in a batch of what another machine forwarded."""
        for _ in range(BATCH):
            try:
                datagram = sock.recv(LARGEST_PACKET)
            except BlockingIOError:
                return
            header = parse_header(datagram)
            if header is None:
                reason: DropReason | None = DropReason.TOO_SHORT
            else:
                reason = self._receive(datagram, header, None, ("", 0), self._clock())
            if reason is not None:
                self.drops[reason] += 1

    def _pass_control(
        self, datagram: bytes, header: Header, local: Endpoint, remote: SocketAddress, now: float
    ) -> None:
        """Hand session control to the node, with the number of data packets that came over its path.

        What names no session goes no further: strangers must not fill the ring that heartbeats go up by.
        """
        inlet = self._view.inlets.get(header.base)
        if inlet is None:
            self.drops[DropReason.UNKNOWN_SESSION] += 1
            return
        path = self._view.paths[local].get((inlet.peer, remote))
        received = 0 if path is None else path.received()
        self._tell(DropReason.CONTROL_RING_FULL, Datagram(local, endpoint_of(remote), datagram, now, received))

    def _pass_foreign(self, datagram: bytes, local: Endpoint | None) -> DropReason | None:
        """Hand data for another machine to the control thread; what was forwarded here goes no further."""
        if local is None or not self._view.forwards:
            return DropReason.FOREIGN_SHARD
        self._tell(DropReason.FOREIGN_RING_FULL, Foreign(datagram))
        return None

    def _receive(
        self, datagram: bytes, header: Header, local: Endpoint | None, remote: SocketAddress, now: float
    ) -> DropReason | None:
        """Open a data packet and deliver what is in it; returns why it was not delivered. No local: it was injected."""
        view = self._view
        inlet = view.inlets.get(header.base)
        if inlet is None:
            return DropReason.UNKNOWN_SESSION
        if header.shard not in inlet.shards:
            return self._pass_foreign(datagram, local)
        window = inlet.windows.get(header.source)
        if window is None:
            return DropReason.UNKNOWN_SHARD
        path = None if local is None else view.paths[local].get((inlet.peer, remote))
        traffic = None if path is None else path.traffic[self._index]

        # Copies are recognised before they are opened: that saves the cipher's time, and proves nothing about the path.
        verdict = window.test(header.counter)
        if verdict is Verdict.NEW:
            plaintext = inlet.opener.open(datagram)
            if plaintext is None:
                return DropReason.BAD_TAG
            verdict = window.insert(header.counter)
        if verdict is Verdict.OLD:
            return DropReason.OLD
        if traffic is not None:
            traffic.rx_packets += 1
            traffic.rx_bytes += len(datagram)
        if verdict is Verdict.SEEN:
            if traffic is not None:
                traffic.rx_copies += 1
            return DropReason.DUPLICATE

        # Authentic and new: this alone may change what is known of session and path.
        if local is not None:
            if inlet.first_data is not None:
                self._tell_first_data(inlet, local, remote, now)
            if traffic is None:
                self._tell_new_remote(inlet, local, remote, len(datagram), now)
            else:
                traffic.last_rx = now
                if len(datagram) > traffic.largest:
                    traffic.largest = len(datagram)
        if not plaintext:
            return None
        reorder = inlet.reorders.get(header.source)
        if reorder is None:
            return self._deliver(plaintext, inlet.peer)
        self._deliver_all(reorder.take(header.counter, plaintext, now), inlet.peer)
        self._waiting[reorder] = inlet
        return None

    def _end_waits(self, now: float) -> None:
        """Deliver what has waited for long enough."""
        for reorder, inlet in list(self._waiting.items()):
            self._deliver_all(reorder.expire(now - inlet.reorder_s), inlet.peer)
            if reorder.due() is None:
                del self._waiting[reorder]

    def _deliver_all(self, packets: list[bytes], peer: int) -> None:
        for packet in packets:
            reason = self._deliver(packet, peer)
            if reason is not None:
                self.drops[reason] += 1

    def _tell_first_data(self, inlet: Inlet, local: Endpoint, remote: SocketAddress, now: float) -> None:
        first = inlet.first_data
        assert first is not None
        if first.take() and not self._tell(
            DropReason.EVENT_RING_FULL, FirstData(inlet.number, local, endpoint_of(remote), now)
        ):
            first.put_back()

    def _tell_new_remote(
        self, inlet: Inlet, local: Endpoint, remote: SocketAddress, size_bytes: int, now: float
    ) -> None:
        strangers = self._view.strangers
        key = (inlet.peer, local, remote)
        first = strangers.get(key)
        if first is None:
            if len(strangers) >= RING_SIZE:
                return
            first = strangers.setdefault(key, Once())
        if first.take() and not self._tell(
            DropReason.EVENT_RING_FULL, NewRemote(inlet.number, local, endpoint_of(remote), size_bytes, now)
        ):
            first.put_back()

    def _deliver(self, plaintext: bytes, peer: int) -> DropReason | None:
        """Check an opened packet and write it to the TUN queue."""
        packet = finish_inner(plaintext)
        if isinstance(packet, DropReason):
            return packet
        source = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
        if self._view.lookup(source) != peer:
            return DropReason.SOURCE_NOT_ALLOWED
        try:
            os.write(self.tun, packet)
        except OSError as error:
            return tun_drop_reason(error)
        return None


class PythonEngine(Engine):
    """The reference engine."""

    name: ClassVar[str] = "python"

    def __init__(self, tun_fds: Sequence[int], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take over non-blocking TUN descriptors without virtio headers, one per worker."""
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._inject, self._injected = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._workers = [
            _Worker(index, fd, self._event_fd, clock, None if index else self._injected)
            for index, fd in enumerate(tun_fds)
        ]
        self._state = State(len(tun_fds))
        self._locals: dict[Endpoint, list[socket.socket]] = {}
        self._drops = list(_NO_DROPS)
        self._closed = False

    @property
    def workers(self) -> int:
        return len(self._workers)

    @property
    def details(self) -> Mapping[str, str]:
        return {"aead": openssl.openssl_version_text()}

    @property
    def event_fd(self) -> int:
        return self._event_fd

    def start(self) -> None:
        for worker in self._workers:
            worker.thread.start()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for worker in self._workers:
            worker.close()
        for sockets in self._locals.values():
            _close_all(sockets)
        self._locals.clear()
        _close_all((self._inject, self._injected))
        self._state = State(len(self._workers))
        os.close(self._event_fd)

    def add_local(self, local: Endpoint, fds: Sequence[int]) -> None:
        if local in self._locals or len(fds) != self.workers:
            raise ValueError(f"{local}: one new address, one socket per worker")
        self._locals[local] = [socket.socket(fileno=fd) for fd in fds]
        self._publish()

    def remove_local(self, local: Endpoint) -> None:
        sockets = self._locals.pop(local)
        self._publish()
        _close_all(sockets)

    def apply(self, table: ForwardingTable) -> None:
        self._state.adopt(table)
        self._publish()

    def send(
        self, local: Endpoint, remote: Endpoint, datagram: bytes, *, dont_fragment: bool = False
    ) -> DropReason | None:
        try:
            with unfragmented(self._locals[local][0], local.version) if dont_fragment else nullcontext():
                self._locals[local][0].sendto(datagram, socket_address(remote))
        except KeyError:
            reason = DropReason.SEND_UNREACHABLE
        except OSError as error:
            reason = send_drop_reason(error)
        else:
            return None
        self._drops[reason] += 1
        return reason

    def inject(self, datagram: bytes) -> DropReason | None:
        try:
            self._inject.send(datagram)
        except OSError:
            self._drops[DropReason.FOREIGN_RING_FULL] += 1
            return DropReason.FOREIGN_RING_FULL
        return None

    def events(self) -> list[Event]:
        if self._closed:
            return []
        with suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        return [event for worker in self._workers for event in worker.rings.take()]

    def counters(self) -> EngineCounters:
        drops = [sum(counts) for counts in zip(self._drops, *(w.drops for w in self._workers), strict=True)]
        return EngineCounters(
            paths={number: path.read() for number, path in self._state.paths.items()},
            peers_tx={number: max(peer.last_tx, 0.0) for number, peer in self._state.peers.items()},
            drops={reason: drops[reason] for reason in DropReason if drops[reason]},
        )

    def _publish(self) -> None:
        """Give each worker its view of the table and the local addresses, and wait until all use it."""
        views = self._state.views(self._locals)
        for worker, view in zip(self._workers, views, strict=True):
            worker.show(view)
        for view in views:
            if not view.taken.wait(VIEW_TIMEOUT_S):
                raise RuntimeError("a worker of the engine has died")


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
