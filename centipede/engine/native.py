"""The native engine: drives the C engine (csrc/engine.h) behind the contract of every engine.

Owns the translation between the node's values and the C structures, nothing else: tables are packed into flat arrays
and copied there, events are unpacked from one buffer. The workers are threads of the C engine and never hold the GIL.
This module can be imported where the extension was not built; :func:`available` says why it cannot be used then.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

from centipede.engine.contract import Engine
from centipede.engine.sockets import endpoint_of, socket_address
from centipede.errors import HostError
from centipede.protocol.counters import EngineCounters, PathCounters
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import (
    Datagram,
    Event,
    FirstData,
    Foreign,
    ForwardingTable,
    NewRemote,
    Resumed,
    Route,
    Run,
    TablePath,
)

SPIN_S = 50e-6
"""How long an idle worker looks again, yielding, before it sleeps: about what it costs to wake a sleeping core."""

# The structures of engine.h, field by field.
_ENDPOINT = struct.Struct("=16sIHBx")
_RUN = struct.Struct("=HBx")
_ROUTE = struct.Struct("=16sQBB6x")
_PATH = struct.Struct("=Q24s24sQQ")
_PEER = struct.Struct("=Q" + 6 * "I")
_PLAN = struct.Struct("=Q" + 7 * "I" + "4s6s2x32s")
_SESSION = struct.Struct("=QQIIQ4s6sB5x32s")
_EVENT = struct.Struct("=IIII" + "QQQ" + "24s24s")

_ELEMENTS = {
    "routes": "struct engine_route",
    "peers": "struct engine_peer",
    "plans": "struct engine_plan",
    "sessions": "struct engine_session",
    "paths": "struct engine_path",
    "sources": "struct engine_run",
    "shares": "uint8_t",
}
"""The element type of each array in struct engine_table."""


class _Kind(IntEnum):
    """enum engine_event_kind."""

    HANDSHAKE = 0
    CONTROL = 1
    FIRST_DATA = 2
    NEW_REMOTE = 3
    RESUMED = 4
    FOREIGN = 5


_NO_INTERFACE = 0xFFFFFFFF
"""No interface has this index, so nothing can be sent there."""
_NS = 1e-9
_EVENT_BUFFER_BYTES = 1 << 18
"""More than any one event takes."""
_REASON_FILE = Path(__file__).with_name("_native.reason")

Aead = Literal["best", "ipsec-mb", "libcrypto"]


def _load() -> ModuleType | str:
    """The extension, or why it cannot be had."""
    try:
        module = import_module("centipede.engine._native")
    except ModuleNotFoundError:
        if _REASON_FILE.exists():
            return f"it was not built, because {_REASON_FILE.read_text().strip()}"
        return "it was not built"
    except ImportError as error:
        return f"it cannot be loaded: {error}"
    if module.lib.engine_drop_reasons() != len(DropReason):
        return "it was built from another version: build it again (pip install)"
    return module


_loaded = _load()


def available() -> str | None:
    """None if the native engine can be used, else the reason in words."""
    return _loaded if isinstance(_loaded, str) else None


def ipsec_mb_missing() -> str | None:
    """Why the AEAD of ipsec-mb cannot be used, or None if it can."""
    ffi, lib = _extension()
    reason = lib.engine_ipsec_mb_missing()
    return None if reason == ffi.NULL else ffi.string(reason).decode()


def _extension() -> tuple[Any, Any]:
    if isinstance(_loaded, str):
        raise HostError(f"the native engine cannot be used: {_loaded}")
    return _loaded.ffi, _loaded.lib


class NativeEngine(Engine):
    """The C engine. Its clock is CLOCK_MONOTONIC, which is ``time.monotonic``."""

    name: ClassVar[str] = "native"

    def __init__(
        self,
        tun_fds: Sequence[int],
        *,
        vnet_hdr: bool,
        offloads: frozenset[str] = frozenset(),
        spin_s: float = SPIN_S,
        aead: Aead = "best",
    ) -> None:
        """Take over non-blocking TUN descriptors, one per worker, with virtio headers if ``vnet_hdr``.

        ``offloads`` are those of system/tun.py's names that the device has. ``spin_s`` of 0 never spins. Raises
        HostError if the extension, or the AEAD asked for, cannot be used; the descriptors are the caller's then.
        """
        self._ffi, self._lib = _extension()
        self._closed = False
        self._workers = len(tun_fds)
        self._offloads = offloads if vnet_hdr else frozenset()
        self._routes: tuple[tuple[Route, ...], bytearray] = ((), bytearray())
        self._locals: set[Endpoint] = set()
        self._buffer = self._ffi.new("uint8_t[]", _EVENT_BUFFER_BYTES)
        options = self._ffi.new(
            "struct engine_options *",
            {
                "spin_us": round(spin_s * 1e6),
                "vnet_hdr": vnet_hdr,
                "write_tso": {"tso4", "tso6"} <= offloads,
                "write_uso": {"uso4", "uso6"} <= offloads,
                "aead": {
                    "best": self._lib.ENGINE_AEAD_BEST,
                    "ipsec-mb": self._lib.ENGINE_AEAD_IPSEC_MB,
                    "libcrypto": self._lib.ENGINE_AEAD_LIBCRYPTO,
                }[aead],
            },
        )
        error = self._ffi.new("int *")
        self._engine = self._lib.engine_new(list(tun_fds), self._workers, options, error)
        if self._engine == self._ffi.NULL:
            raise HostError(f"the native engine cannot be used: {self._explain(error[0])}")

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def details(self) -> Mapping[str, str]:
        """AEAD and offloads; ``fallbacks`` counts the offloads that the kernel refused at run time."""
        aead = self._ffi.string(self._lib.engine_aead_name(self._engine)).decode() if not self._closed else "none"
        details = {"aead": aead, "offloads": " ".join(sorted(self._offloads)) or "none"}
        if not self._closed:
            counts = self._ffi.new("struct engine_fallbacks *")
            self._lib.engine_fallbacks(self._engine, counts)
            names = ("udp_segment", "udp_gro", "tun_tso", "tun_uso", "reuseport_steering")
            fallbacks = [f"{name} {getattr(counts, name)}" for name in names if getattr(counts, name)]
            if fallbacks:
                details["fallbacks"] = ", ".join(fallbacks)
        return details

    @property
    def event_fd(self) -> int:
        fd: int = self._lib.engine_event_fd(self._engine)
        return fd

    def start(self) -> None:
        self._check(self._lib.engine_start(self._engine))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._lib.engine_free(self._engine)
            self._engine = self._ffi.NULL

    def add_local(self, local: Endpoint, fds: Sequence[int]) -> None:
        if local in self._locals or len(fds) != self._workers:
            raise ValueError(f"{local}: one new address, one socket per worker")
        self._check(self._lib.engine_add_local(self._engine, self._endpoint(local), list(fds)))
        self._locals.add(local)

    def remove_local(self, local: Endpoint) -> None:
        self._locals.remove(local)
        self._lib.engine_remove_local(self._engine, self._endpoint(local))

    def apply(self, table: ForwardingTable) -> None:
        packed = _pack_table(table, self._pack_routes(table.routes))
        try:
            view = self._ffi.new(
                "struct engine_table *",
                {
                    "generation": table.generation,
                    "route_count": len(table.routes),
                    "peer_count": len(table.peers),
                    "plan_count": len(packed["plans"]) // _PLAN.size,
                    "session_count": len(table.sessions),
                    "path_count": len(packed["paths"]) // _PATH.size,
                    "source_count": len(packed["sources"]) // _RUN.size,
                    "share_count": len(packed["shares"]),
                    "narrow_bytes": table.narrow_bytes,
                    "forwards": table.forwards,
                    # from_buffer keeps the arrays alive as long as its result, and `packed` does until the end.
                    **{field: self._pointer(field, array) for field, array in packed.items()},
                },
            )
            self._check(self._lib.engine_apply(self._engine, view))
        finally:
            for name in ("plans", "sessions"):  # these hold keys
                packed[name][:] = bytes(len(packed[name]))

    def send(
        self, local: Endpoint, remote: Endpoint, datagram: bytes, *, dont_fragment: bool = False
    ) -> DropReason | None:
        reason = self._lib.engine_send(
            self._engine, self._endpoint(local), self._endpoint(remote), datagram, len(datagram), dont_fragment
        )
        return None if reason == -1 else DropReason(reason)

    def inject(self, datagram: bytes) -> DropReason | None:
        reason = self._lib.engine_inject(self._engine, datagram, len(datagram))
        return None if reason == -1 else DropReason(reason)

    def events(self) -> list[Event]:
        events: list[Event] = []
        while not self._closed:
            used = self._lib.engine_events(self._engine, self._buffer, _EVENT_BUFFER_BYTES)
            if not used:
                break
            events.extend(_unpack_events(memoryview(self._ffi.buffer(self._buffer, used))))
        return events

    def counters(self) -> EngineCounters:
        if self._closed:
            return EngineCounters()
        lib = self._lib
        drops = self._filled("uint64_t[]", lib.engine_drops)
        paths = self._filled("struct engine_path_counters[]", lib.engine_path_counters)
        peers = self._filled("struct engine_peer_counters[]", lib.engine_peer_counters)
        return EngineCounters(
            paths={
                path.path: PathCounters(
                    rx_packets=path.rx_packets,
                    rx_bytes=path.rx_bytes,
                    rx_copies=path.rx_copies,
                    tx_packets=path.tx_packets,
                    tx_bytes=path.tx_bytes,
                    largest=path.largest,
                    last_rx=path.last_rx_ns * _NS,
                )
                for path in paths
            },
            peers_tx={peer.peer: peer.last_tx_ns * _NS for peer in peers},
            drops={reason: drops[reason] for reason in DropReason if drops[reason]},
        )

    def _filled(self, array: str, fill: Callable[..., int]) -> Any:
        """An array of the engine's, of the length it says."""
        count = fill(self._engine, self._ffi.NULL, 0)
        elements = self._ffi.new(array, count)
        fill(self._engine, elements, count)
        return elements

    def _pack_routes(self, routes: tuple[Route, ...]) -> bytearray:
        """The routes as the C engine takes them; there may be many, and they seldom change."""
        known, packed = self._routes
        if known is not routes and known != routes:
            packed = bytearray().join(
                _ROUTE.pack(
                    route.network.network_address.packed, route.peer, route.network.version, route.network.prefixlen
                )
                for route in routes
            )
            self._routes = routes, packed
        return packed

    def _pointer(self, field: str, array: bytearray) -> Any:
        return self._ffi.from_buffer(f"{_ELEMENTS[field]}[]", array)

    def _endpoint(self, endpoint: Endpoint) -> Any:
        return self._ffi.from_buffer("struct engine_endpoint[]", _pack_endpoint(endpoint))

    def _check(self, error: int) -> None:
        if error == self._lib.ENGINE_NO_MEMORY:
            raise MemoryError
        if error == self._lib.ENGINE_NO_THREAD:
            raise HostError(f"the native engine cannot be started: {self._explain(error)}")
        if error:
            raise ValueError(self._explain(error))

    def _explain(self, error: int) -> str:
        lib = self._lib
        return {
            lib.ENGINE_NO_MEMORY: "there is not enough memory",
            lib.ENGINE_BAD_TABLE: "the table contradicts itself, or gives workers no shard each",
            lib.ENGINE_SECOND_LIFE: "a session would live twice, or have other shards than before",
            lib.ENGINE_NO_AEAD: "the AEAD is not available, or failed its known answers",
            lib.ENGINE_TOO_MANY: "too many workers, or too many local addresses",
            lib.ENGINE_IN_USE: "the local address is served already",
            lib.ENGINE_NO_THREAD: "the system gives it no thread",
        }[error]


def _pack_table(table: ForwardingTable, routes: bytearray) -> dict[str, bytearray]:
    """The arrays of a table, by their names in struct engine_table."""
    peers, plans, sessions = bytearray(), bytearray(), bytearray()
    paths, sources, shares = bytearray(), bytearray(), bytearray()
    for session in table.sessions:
        sessions += _SESSION.pack(
            session.session,
            session.peer,
            len(sources) // _RUN.size,
            len(session.sources),
            round(session.reorder_s / _NS),
            _pack_run(session.own),
            session.base,
            session.pending,
            session.key,
        )
        for run in session.sources:
            sources += _pack_run(run)
    for peer in table.peers:
        peers += _PEER.pack(
            peer.peer,
            len(paths) // _PATH.size,
            len(peer.paths),
            len(plans) // _PLAN.size,
            len(peer.plans),
            len(shares),
            len(peer.shares),
        )
        paths += _pack_paths(peer.paths)
        shares += bytes(peer.shares)
        for plan in peer.plans:
            path_first = len(paths) // _PATH.size
            urgent_first = path_first + len(plan.paths)
            plans += _PLAN.pack(
                plan.session,
                path_first,
                len(plan.paths),
                min(plan.copies, len(plan.paths)),
                urgent_first,
                len(plan.urgent),
                urgent_first + len(plan.urgent),
                len(plan.lanes),
                _pack_run(plan.run),
                plan.base,
                plan.key,
            )
            paths += _pack_paths(plan.paths) + _pack_paths(plan.urgent)
            for lane in plan.lanes:
                paths += _pack_path(lane.path, lane.rate_bytes_per_s, round(lane.delay_s / _NS))
    return {
        "routes": routes,
        "peers": peers,
        "plans": plans,
        "sessions": sessions,
        "paths": paths,
        "sources": sources,
        "shares": shares,
    }


def _pack_run(run: Run) -> bytes:
    return _RUN.pack(run.first, run.k)


def _pack_paths(paths: Sequence[TablePath]) -> bytes:
    return b"".join(_pack_path(path, 0, 0) for path in paths)


def _pack_path(path: TablePath, rate_bytes_per_s: int, delay_ns: int) -> bytes:
    local, remote = _pack_endpoint(path.local), _pack_endpoint(path.remote)
    return _PATH.pack(path.path, local, remote, rate_bytes_per_s, delay_ns)


def _pack_endpoint(endpoint: Endpoint) -> bytes:
    if "%" in endpoint.host:
        return _pack_scoped(endpoint)
    return _pack_global(endpoint)


@lru_cache(maxsize=4096)
def _pack_global(endpoint: Endpoint) -> bytes:
    return _ENDPOINT.pack(endpoint.packed, 0, endpoint.port, endpoint.version)


def _pack_scoped(endpoint: Endpoint) -> bytes:
    """Not cached: an interface's index may change under the same name."""
    try:
        address = socket_address(endpoint)
        scope = address[3] if len(address) == 4 else 0
    except OSError:
        scope = _NO_INTERFACE
    packed = ip_address(endpoint.host.partition("%")[0]).packed
    return _ENDPOINT.pack(packed, scope, endpoint.port, endpoint.version)


def _unpack_endpoint(data: bytes) -> Endpoint:
    return _unpack_scoped(data) if data[16:20] != bytes(4) else _unpack_global(data)


@lru_cache(maxsize=4096)
def _unpack_global(data: bytes) -> Endpoint:
    return _unpack_scoped(data)


def _unpack_scoped(data: bytes) -> Endpoint:
    address, scope, port, version = _ENDPOINT.unpack(data)
    if version == 4:
        return endpoint_of((socket.inet_ntop(socket.AF_INET, address[:4]), port))
    return endpoint_of((socket.inet_ntop(socket.AF_INET6, address), port, 0, scope))


def _unpack_events(buffer: memoryview) -> Iterator[Event]:
    """The events of a buffer that engine_events() filled."""
    at = 0
    while at < len(buffer):
        record_bytes, size, kind, _, number, received, arrived_ns, local, remote = _EVENT.unpack_from(buffer, at)
        arrived = arrived_ns * _NS
        match kind:
            case _Kind.HANDSHAKE | _Kind.CONTROL:
                start = at + _EVENT.size
                data = bytes(buffer[start : start + size])
                yield Datagram(_unpack_endpoint(local), _unpack_endpoint(remote), data, arrived, received)
            case _Kind.FIRST_DATA:
                yield FirstData(number, _unpack_endpoint(local), _unpack_endpoint(remote), arrived)
            case _Kind.NEW_REMOTE:
                yield NewRemote(number, _unpack_endpoint(local), _unpack_endpoint(remote), size, arrived)
            case _Kind.FOREIGN:
                start = at + _EVENT.size
                yield Foreign(bytes(buffer[start : start + size]))
            case _Kind.RESUMED:
                yield Resumed(number, arrived)
        at += record_bytes
