"""The configuration file: from TOML to checked values, every mistake told in one sentence.

Two steps. msgspec turns the TOML into the tables below and refuses unknown keys and wrong types; then each text is
parsed (fields.py), key files are read (keyfile.py), and the peers are compared with each other. The result,
:class:`Config`, holds nothing that still has to be checked, except what only the host knows: whether interfaces and
addresses exist and names resolve.

A mistake raises :class:`ConfigError`: ``FILE: SECTION: KEY: what is wrong; what to do, with an example``. Secrets are
never repeated in it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from centipede.clusterconfig import LONGEST_SESSION_S, ClusterConfig, ClusterTable, check_cluster
from centipede.errors import ConfigError
from centipede.fields import (
    ANYWHERE,
    InterfaceAddress,
    Listen,
    Network,
    Target,
    parse_interface_address,
    parse_listen,
    parse_name,
    parse_network,
    parse_peer_name,
    parse_target,
)
from centipede.keyfile import check_private, load_key
from centipede.place import Place
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import NO_PSK
from centipede.protocol.identity import Identity, PublicKey, parse_key
from centipede.protocol.spec import PeerSpec
from centipede.protocol.timing import Timing

AUTO_MTU = 1420
"""Where ``mtu = "auto"`` begins: with 32 bytes of ours, 8 of UDP and 40 of IPv6 it makes an Ethernet frame of 1500."""
MTU_RANGE = range(1280, 65457)
"""Less than 1280 would take IPv6 off the interface; more than 65456 does not fit one UDP datagram."""
MARK_RANGE = range(1, 1 << 32)
TABLE_RANGE = range(1, 1 << 32)
KERNEL_TABLES = (253, 254, 255)
"""default, main and local: not to be filled with the tunnel's routes."""
WORKERS_RANGE = range(1, 17)
BUSY_POLL_RANGE_S = (0.0, 0.01)
HEARTBEAT_RANGE_S = (0.02, 10.0)
MOST_LISTEN = 8
"""Sockets a node may have, docs/protocol.md "Constants"."""


class InterfaceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[interface]`` as written."""

    private_key_file: str | None = None
    """File with the private key, relative to the configuration; mode 0600. Made by ``centipede genkey``."""
    private_key: str | None = None
    """The key itself instead. The configuration file must then be 0600."""
    address: list[str]
    """Addresses of the tunnel's interface, with prefix. What a prefix covers needs no route of its own."""
    listen: str | list[str] | None = None
    """Where datagrams come in and leave, one or a list: ``ADDRESS:PORT``, ``INTERFACE:PORT`` (its addresses, as they
    come and go, and only through it), ``auto`` (every interface that is up and has a global address). Without a port,
    51820. Left out: ``auto`` on a free port, enough for one who only initiates; somebody who is to be found needs a
    port that stays."""
    mtu: int | Literal["auto"] = "auto"
    """MTU of the tunnel's interface, 1280 to 65456; ``auto`` begins with 1420 and follows what all paths carry."""
    fwmark: int | Literal["auto"] = "auto"
    """Mark of the tunnel's own datagrams, by which the host's routing rules know them; ``auto`` is 52894 (0xce9e)."""
    table: int | Literal["auto", "off"] = "auto"
    """Routing table for allowed_ips that hold the address of a peer, such as 0.0.0.0/0: what the tunnel itself sends
    does not go there. ``auto`` is a table of the tunnel's own; ``off`` makes no routes for allowed_ips at all."""
    engine: Literal["auto", "python", "native"] = "auto"
    """``auto`` is the native engine where it was built, else the reference engine."""
    workers: int | Literal["auto"] = "auto"
    """Worker threads, 1 to 16; ``auto`` leaves it to the engine."""
    busy_poll: float | Literal["auto"] = "auto"
    """Seconds for which a worker of the native engine that has nothing to do looks again before it sleeps, 0 to 0.01;
    ``auto`` is about what it costs to wake a core. More makes rare packets quicker and keeps a core busy for longer."""


class PeerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[peer]]`` as written."""

    public_key: str
    """The peer's public key, as ``centipede pubkey`` prints it."""
    name: str | None = None
    """How ``show`` and ``centipede peer`` call it. Left out: the first 8 characters of the key."""
    preshared_key_file: str | None = None
    """File with 32 more secret bytes both ends know; mode 0600. Made by ``centipede genpsk``."""
    preshared_key: str | None = None
    """The key itself instead. The configuration file must then be 0600."""
    endpoints: list[str] = []
    """Where to look for the peer: host names or addresses, all of them tried at once. Without a port, 51820."""
    allowed_ips: list[str] = []
    """Inner networks of the peer: packets to them go to it, and only packets from them are taken from it."""
    scheduler: Literal["redundant", "fastest", "aggregate", "adaptive"] | None = None
    """``adaptive``, which it is if left out: small and urgent packets twice, the others once on the quickest path, and
    more often while packets are lost. ``redundant``: each packet on ``copies`` paths at once. ``fastest``: each once,
    on the best path. ``aggregate``: each once, on the path that would deliver it first, so that rates add up."""
    copies: int | Literal["all"] | None = None
    """For ``redundant``, which is then chosen if nothing else is: on how many paths each packet goes, at most as many
    as there are; 2 if left out."""
    heartbeat: float = 0.2
    """Seconds between heartbeats on a path that carries traffic."""
    allow_remote: list[str] = []
    """Sources the peer's datagrams may come from. Left out: any."""
    keepalive: bool = False
    """Keep the session up without traffic, so that a peer behind NAT stays reachable."""
    metered: list[str] = []
    """For ``adaptive``: links, by the name of their interface or by address, that carry data if there is no other."""


_SECRET = frozenset({"private_key", "preshared_key"})
_SECTIONS: dict[str, Any] = {"interface": None, "peer": [], "timing": {}, "cluster": None}

_Table = TypeVar("_Table", InterfaceTable, PeerTable, ClusterTable)


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One peer, checked."""

    spec: PeerSpec
    endpoints: tuple[Target, ...]
    table: Mapping[str, Any] = field(repr=False)
    """As it was written, to change single keys of it."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration, checked."""

    file: Path
    name: str
    """Of the tunnel and of its interface: the file's name without ``.toml``."""
    identity: Identity
    addresses: tuple[InterfaceAddress, ...]
    listen: tuple[Listen, ...]
    mtu: int | None
    """Inner MTU; None for what the paths carry."""
    engine: str
    workers: int | None
    """None: the engine's default."""
    peers: tuple[PeerConfig, ...]
    timing: Timing
    busy_poll_s: float | None = None
    """None: the engine's default."""
    mark: int | None = None
    """Of the tunnel's own datagrams; None for the usual one."""
    table: int | None = None
    """For routes that these do not take; None for one of the tunnel's own."""
    routed: bool = True
    """Whether allowed_ips are to be routed."""
    cluster: ClusterConfig | None = None
    """None: the machine has the identity for itself."""

    @property
    def allowed_ips(self) -> tuple[Network, ...]:
        """Those of all peers."""
        return tuple(network for peer in self.peers for network in peer.spec.allowed_ips)


def load_config(file: Path) -> Config:
    """Read and check a configuration file. Raises ConfigError."""
    whole = Place(str(file), "")
    name = whole.parse("", file.stem, parse_name)
    interface, peer_tables, timing, cluster = _sections(_read(file), whole)
    place = Place(str(file), "[interface]")
    table = _convert(interface, InterfaceTable, place)
    identity = Identity.from_seed(_private_key(table, place, file))
    if not table.address:
        place.fail("address", f"the interface needs an address; write {place.example('address')}")
    peers = tuple(parse_peer(peer, str(file), file.parent) for peer in peer_tables)
    if any("preshared_key" in peer for peer in peer_tables):
        place.parse("preshared_key", "", lambda _: check_private(file, file.stat().st_mode))
    addresses = place.parse_each("address", table.address, parse_interface_address)
    listen = _listen(table, name, addresses, place)
    check_peers(peers, identity.public, addresses, str(file))
    times = Place(str(file), "[timing]")
    durations = _timing(timing, times)
    if cluster is not None and durations.reject_s > LONGEST_SESSION_S:
        times.fail("reject_s", f"members of a cluster forget sessions after {LONGEST_SESSION_S:g} s; write no more")
    return Config(
        file=file,
        name=name,
        identity=identity,
        addresses=addresses,
        listen=listen,
        mtu=None if table.mtu == "auto" else place.within("mtu", table.mtu, MTU_RANGE),
        engine=table.engine,
        workers=None if table.workers == "auto" else place.within("workers", table.workers, WORKERS_RANGE),
        busy_poll_s=None if isinstance(table.busy_poll, str) else _busy_poll_s(table.busy_poll, place),
        peers=peers,
        timing=durations,
        mark=None if table.fwmark == "auto" else place.within("fwmark", table.fwmark, MARK_RANGE),
        table=None if isinstance(table.table, str) else _table(table.table, place),
        routed=table.table != "off",
        cluster=None if cluster is None else _cluster(cluster, Place(str(file), "[cluster]"), file.parent),
    )


def _cluster(written: Mapping[str, Any], place: Place, directory: Path) -> ClusterConfig:
    return check_cluster(_convert(written, ClusterTable, place), place, directory)


def _busy_poll_s(busy_poll_s: float, place: Place) -> float:
    shortest, longest = BUSY_POLL_RANGE_S
    if not shortest <= busy_poll_s <= longest:
        place.fail(
            "busy_poll",
            f"{busy_poll_s:g} s is not between {shortest:g} and {longest:g}; write {place.example('busy_poll')}",
        )
    return busy_poll_s


def parse_peer(written: Mapping[str, Any], origin: str, directory: Path) -> PeerConfig:
    """Check one peer's table. ``origin`` begins the sentence of an error; key files are relative to ``directory``."""
    place = Place(origin, f"[[peer]] {written.get('name', written.get('public_key', ''))}".rstrip())
    table = _convert(written, PeerTable, place)
    public_key = place.parse("public_key", table.public_key, _public_key)
    scheduler = table.scheduler or ("adaptive" if table.copies is None else "redundant")
    if table.metered and scheduler != "adaptive":
        place.fail("metered", f"scheduler {scheduler!r} spares no links; remove the key or choose adaptive")
    if table.copies is not None and scheduler != "redundant":
        place.fail("copies", f"scheduler {scheduler!r} sends no copies; remove the key or choose redundant")
    copies = 2 if table.copies is None else table.copies
    if copies != "all" and copies < 1:
        place.fail("copies", f"{copies} is less than 1; write {place.example('copies')}")
    shortest, longest = HEARTBEAT_RANGE_S
    if not shortest <= table.heartbeat <= longest:
        place.fail(
            "heartbeat", f"{table.heartbeat:g} s is not between {shortest:g} and {longest:g}; write heartbeat = 0.2"
        )
    spec = PeerSpec(
        public_key=public_key,
        name=public_key.short if table.name is None else place.parse("name", table.name, parse_peer_name),
        preshared_key=_preshared_key(table, place, directory),
        allowed_ips=place.parse_each("allowed_ips", table.allowed_ips, parse_network),
        scheduler=scheduler,
        copies=None if copies == "all" else copies,
        heartbeat_s=table.heartbeat,
        allow_remote=place.parse_each("allow_remote", table.allow_remote, parse_network),
        keepalive=table.keepalive,
        metered=place.parse_each("metered", table.metered, _metered),
    )
    return PeerConfig(spec, place.parse_each("endpoints", table.endpoints, parse_target), dict(written))


def check_peers(
    peers: Sequence[PeerConfig], own: PublicKey, addresses: Sequence[InterfaceAddress], origin: str
) -> None:
    """Check what only shows when peers are compared with each other and with the interface. Raises ConfigError."""
    names: dict[str, Place] = {}
    keys: dict[PublicKey, str] = {}
    networks: dict[Network, str] = {}
    for spec in (peer.spec for peer in peers):
        place = Place(origin, f"[[peer]] {spec.name}")
        if spec.public_key == own:
            place.fail("public_key", "is this interface's own; put in what 'centipede pubkey' prints on the other host")
        if spec.public_key in keys:
            place.fail("public_key", f"peer {keys[spec.public_key]} has the same; make one entry of the two")
        if spec.name in names:
            place.fail("name", "two peers have this name; give each its own")
        names[spec.name], keys[spec.public_key] = place, spec.name
        for index, network in enumerate(spec.allowed_ips):
            if network in networks:
                place.fail(
                    f"allowed_ips[{index}]", f"{network} is peer {networks[network]}'s already; remove one of the two"
                )
            networks[network] = spec.name
    tunnelled = [address.network for address in addresses]
    for peer in peers:
        for index, target in enumerate(peer.endpoints):
            if target.endpoint and (inside := covering(target.endpoint.host, tunnelled)):
                names[peer.spec.name].fail(
                    f"endpoints[{index}]",
                    f"{target} lies inside {inside}, the tunnel's own network; name an endpoint outside, or narrow the "
                    "prefix in address",
                )


def covering(host: str, networks: Iterable[Network]) -> Network | None:
    """The first network that holds the numeric address ``host``."""
    address = parse_network(host.partition("%")[0]).network_address
    return next((network for network in networks if network.version == address.version and address in network), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file; write one, or give the path of another") from None
    except PermissionError:
        raise ConfigError(f"{file}: this user may not read it; run as root or change its owner") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}; see https://toml.io for the notation") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give the path of a TOML file") from None


def _sections(
    written: Mapping[str, Any], whole: Place
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any], dict[str, Any] | None]:
    """The tables of [interface], [[peer]], [timing] and, if it is there, [cluster]."""
    for section in written:
        if section not in _SECTIONS:
            whole.fail(f"[{section}]", _unknown(section, _SECTIONS, "section"))
    interface, peers, timing, cluster = (written.get(section, default) for section, default in _SECTIONS.items())
    if not isinstance(interface, dict):
        whole.fail(
            "[interface]", 'is missing; add the section with private_key_file = "site-a.key" and address = [...]'
        )
    if not isinstance(peers, list) or not all(isinstance(peer, dict) for peer in peers):
        whole.fail("[[peer]]", "is written in two pairs of brackets, once for each peer; write [[peer]]")
    if not isinstance(timing, dict):
        whole.fail("[timing]", "is a section; write [timing] and below it keys such as rekey_s = 120")
    if not isinstance(cluster, dict | None):
        whole.fail("[cluster]", "is a section; write [cluster] and below it member = 1, of = 2, listen and members")
    return interface, peers, timing, cluster


def _convert(written: Mapping[str, Any], shape: type[_Table], place: Place) -> _Table:
    """Give a table its shape. Only names of keys are taken from msgspec's message, the sentence is ours."""
    try:
        return msgspec.convert(written, shape)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$.")
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
            place.fail(unknown[1], _unknown(unknown[1], shape.__struct_fields__))
        if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
            place.fail(missing[1], f"is missing; add {place.example(missing[1])}")
        key = at.rstrip("`")  # such as copies, or listen[0]
        name, *index = key.rstrip("]").split("[")
        value = written[name][int(index[0])] if index else written[name]
        shown = "this" if name in _SECRET or not isinstance(value, str | int | float) else _toml(value)
        place.fail(key, f"{shown} does not belong here; write {place.example(name)}")


def _unknown(key: str, known: Iterable[str], what: str = "key") -> str:
    known = list(known)
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"there is no such {what}; " + (
        f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
    )


def _toml(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _private_key(table: InterfaceTable, place: Place, file: Path) -> bytes:
    if table.private_key_file is not None and table.private_key is not None:
        place.fail("private_key", "private_key_file is given as well; remove one of the two")
    if table.private_key_file is not None:
        return place.parse(
            "private_key_file", table.private_key_file, lambda text: load_key(file.parent / text, "centipede genkey")
        )
    if table.private_key is None:
        place.fail(
            "private_key_file", f"is missing; add {place.example('private_key_file')}, made by 'centipede genkey'"
        )
    place.parse("private_key", table.private_key, lambda _: check_private(file, file.stat().st_mode))
    return place.parse("private_key", table.private_key, _key("centipede genkey"))


def _listen(
    table: InterfaceTable, name: str, addresses: Sequence[InterfaceAddress], place: Place
) -> tuple[Listen, ...]:
    if table.listen is None:
        return (ANYWHERE,)
    texts = [table.listen] if isinstance(table.listen, str) else table.listen
    if not 0 < len(texts) <= MOST_LISTEN:
        place.fail("listen", f"{len(texts)} entries, but 1 to {MOST_LISTEN} are possible; remove some or the key")
    listen = place.parse_each("listen", texts, parse_listen)
    for index, entry in enumerate(listen):
        if entry.endpoint and any(entry.endpoint.host == str(address.ip) for address in addresses):
            place.fail(f"listen[{index}]", f"{entry} is inside the tunnel; name an address of another interface")
        if entry.link == name:
            place.fail(f"listen[{index}]", f"{name} is the tunnel itself; name another interface")
    return listen


def _preshared_key(table: PeerTable, place: Place, directory: Path) -> bytes:
    if table.preshared_key_file is not None and table.preshared_key is not None:
        place.fail("preshared_key", "preshared_key_file is given as well; remove one of the two")
    if table.preshared_key_file is not None:
        return place.parse(
            "preshared_key_file", table.preshared_key_file, lambda text: load_key(directory / text, "centipede genpsk")
        )
    if table.preshared_key is not None:
        return place.parse("preshared_key", table.preshared_key, _key("centipede genpsk"))
    return NO_PSK


def _key(command: str) -> Callable[[str], bytes]:
    def parse(text: str) -> bytes:
        try:
            return parse_key(text)
        except ValueError as error:
            raise ValueError(f"{error}; put in what '{command}' prints") from None

    return parse


def _table(number: int, place: Place) -> int:
    if number in KERNEL_TABLES:
        place.fail("table", f"{number} is one of the kernel's own tables; write {place.example('table')}")
    return place.within("table", number, TABLE_RANGE)


def _metered(text: str) -> str:
    """An address in its one spelling, or the name of an interface."""
    try:
        return Endpoint.of(text, 0).host
    except ValueError:
        return text


def _public_key(text: str) -> PublicKey:
    try:
        return PublicKey.from_text(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; put in what 'centipede pubkey' prints on the other host") from None


def _seconds(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # TOML's integers may have any length
        return math.inf


def _timing(written: Mapping[str, Any], place: Place) -> Timing:
    """Every field of Timing is a key of [timing]; its checks are Timing's own."""
    known = [each.name for each in dataclasses.fields(Timing)]
    values: dict[str, Any] = {}
    for key, value in written.items():
        if key not in known:
            place.fail(key, _unknown(key, known))
        default = getattr(Timing(), key)
        items = value if isinstance(value, list) else [value]
        numbers = [_seconds(item) for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
        if isinstance(default, tuple) != isinstance(value, list) or len(numbers) != len(items):
            example = list(default) if isinstance(default, tuple) else default
            place.fail(key, f"{value!r} does not belong here; write numbers like {key} = {example}")
        if not all(math.isfinite(number) for number in numbers):
            place.fail(key, f"{value!r} is not a time; write numbers like {key} = {default}")
        values[key] = tuple(numbers) if isinstance(value, list) else numbers[0]
    try:
        return Timing(**values)
    except ValueError as error:
        place.fail("", f"{error}; change the value or remove the key")
