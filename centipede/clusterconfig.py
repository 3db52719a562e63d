"""The section [cluster] of a configuration: this machine among those that share its private key, and their store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from centipede.errors import HostError
from centipede.fields import parse_target
from centipede.keyfile import check_private
from centipede.place import Place
from centipede.protocol.endpoint import Endpoint

MEMBERS_RANGE = range(2, 65)
WEIGHT_RANGE = range(1, 256)
LONGEST_SESSION_S = 180.0
"""What members and their store remember of sessions, they remember for longer."""


class ClusterTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cluster]`` as written: this machine among those that share the private key."""

    member: int
    """Its number, from 1; each machine has its own."""
    of: int
    """How many machines there may be, the same on all."""
    listen: str
    """Address and port at which it talks with the other members. Sealed, but best within."""
    members: list[str] | None = None
    """Those of the others. Left out if a store tells them."""
    weight: int = 255
    """The part of their flows that peers are asked for, 1 to 255."""
    store: Literal["etcd"] | None = None
    """Where members find each other and what they know of the peers."""
    endpoints: list[str] | None = None
    """The store's addresses, as URLs."""
    ca_file: str | None = None
    """Certificates of who may vouch for the store, for endpoints that begin with https."""
    cert_file: str | None = None
    """Certificate that the store knows this machine by."""
    key_file: str | None = None
    """Its key; mode 0600."""
    prefix: str | None = None
    """Before all keys in the store; ``/centipede`` if left out."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The store that members find each other in, checked."""

    endpoints: tuple[str, ...]
    """URLs with host and port and nothing else."""
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    prefix: str


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """This machine among those that share the identity, checked."""

    member: int
    of: int
    listen: Endpoint
    members: tuple[Endpoint, ...]
    weight: int
    store: StoreConfig | None = None
    """None: the other members are all in ``members``."""


def check_cluster(table: ClusterTable, place: Place, directory: Path) -> ClusterConfig:
    """Files are relative to ``directory``. Raises ConfigError."""
    of = place.within("of", table.of, MEMBERS_RANGE)
    member = place.within("member", table.member, range(1, of + 1))
    listen = place.parse("listen", table.listen, _channel)
    store = _store(table, place, directory)
    if store is not None and "%" in listen.host:
        place.fail(
            "listen", f"{listen} is good on one link only, and a store has no place for that; name another address"
        )
    if table.members is None and store is None:
        place.fail("members", f"is missing; add {place.example('members')}")
    if table.members is not None and store is not None:
        place.fail("members", "the store tells them; remove this key or store")
    members = place.parse_each("members", table.members or (), _channel)
    if listen in members:
        place.fail("members", f"{listen} is this machine's own; name only the others")
    if len(members) >= of:
        place.fail("members", f"{len(members)} others, but there are {of} in all; correct one of the two")
    weight = place.within("weight", table.weight, WEIGHT_RANGE)
    return ClusterConfig(member, of, listen, members, weight, store)


def _store(table: ClusterTable, place: Place, directory: Path) -> StoreConfig | None:
    files = {key: getattr(table, key) for key in ("ca_file", "cert_file", "key_file")}
    if table.store is None:
        for key, value in {"endpoints": table.endpoints, "prefix": table.prefix, **files}.items():
            if value is not None:
                place.fail(key, 'is for a store; add store = "etcd" or remove the key')
        return None
    if not table.endpoints:
        place.fail("endpoints", f"the store has none; write {_ENDPOINTS}")
    endpoints = place.parse_each("endpoints", table.endpoints, _store_endpoint)
    secure = [each.startswith("https:") for each in endpoints]
    if any(secure) != all(secure):
        place.fail("endpoints", "some begin with http and some with https; write all of them alike")
    if secure[0] and table.ca_file is None:
        place.fail(
            "ca_file", f"is missing, and without it nobody vouches for the store; add {place.example('ca_file')}"
        )
    for key, value in files.items():
        if value is not None and not secure[0]:
            place.fail(key, "the endpoints begin with http; write https, or remove the key")
    if (table.cert_file is None) != (table.key_file is None):
        absent = "cert_file" if table.cert_file is None else "key_file"
        place.fail(absent, f"is missing; add {place.example(absent)}, or remove the other of the two")
    paths = {
        key: None if value is None else place.parse(key, value, lambda text: _pem_file(directory / text))
        for key, value in files.items()
    }
    if (key_file := paths["key_file"]) is not None:
        place.parse("key_file", "", lambda _: check_private(key_file, key_file.stat().st_mode))
    _check_tls(paths, place)
    prefix = "/centipede" if table.prefix is None else table.prefix
    if not re.fullmatch(r"[!-~]{1,200}", prefix):
        place.fail(
            "prefix", f"{prefix!r} has other than 1 to 200 visible ASCII characters; write {place.example('prefix')}"
        )
    return StoreConfig(endpoints, paths["ca_file"], paths["cert_file"], paths["key_file"], prefix)


def _check_tls(files: Mapping[str, Path | None], place: Place) -> None:
    """Members must not be told at the start only that their certificates are of no use."""
    if files["ca_file"] is None:
        return
    from centipede.tls import tls_context  # nothing of it is loaded without a store

    try:
        tls_context(files["ca_file"], files["cert_file"], files["key_file"])
    except HostError as error:
        place.fail("store", str(error))


_ENDPOINTS = Place("", "[cluster]").example("endpoints")


def _store_endpoint(text: str) -> str:
    scheme, separator, rest = text.rstrip("/").partition("://")
    if not separator or scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is no URL of a store; write {_ENDPOINTS}")
    rest, slash, _ = rest.partition("/")
    if slash:
        raise ValueError(f"{text!r} goes on after the port; end it there, and name the place in the store by prefix")
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r} has no port; write {_ENDPOINTS}")
    target = parse_target(rest, f"write {_ENDPOINTS}")
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{scheme}://{host}:{target.port}"


def _pem_file(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name a PEM file that this user may read") from None
    return path


def _channel(text: str) -> Endpoint:
    advice = "write it like 10.8.0.1:51821 or [fd00::1]:51821"
    endpoint = parse_target(text, advice).endpoint
    if endpoint is None:
        raise ValueError(f"{text!r} is no address; {advice}")
    return endpoint
