"""Etcd: the few requests a member makes, by etcd's JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway).

Blocks, some seconds at most: for a thread of its own (store.py). Whatever goes wrong is a StoreError, and
the next request goes to the next endpoint. Nothing that comes back is believed to be what was put; records are
sealed (record.py).
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_TIMEOUT_S = 1.5
"""Of each step of a request. Some of them, and a round's pause, fit into the lease of a registration (store.py)."""
_LARGEST_BYTES = 1 << 24
"""Of an answer. A record has less than 2 KiB, and no request asks for more than MOST_RECORDS of them."""
MOST_RECORDS = 256
_REFUSALS = ("SSLV3_ALERT_BAD_CERTIFICATE", "TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_UNKNOWN_CA")
"""What a store says, by its age, to a member with a certificate of no use or with none."""
_SENSELESS = "not an answer of etcd; check the port in endpoints"
_ERROR_CHARACTERS = 200
_Json: TypeAlias = dict[str, Any]
_T = TypeVar("_T")


class StoreError(Exception):
    """The store did not do as it was asked; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A key's value and the revision at which it was put."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Found:
    """Ranges as they were at one revision."""

    revision: int
    ranges: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Keys that begin with ``prefix`` and were put at ``since`` or later, oldest first, at most MOST_RECORDS."""

    prefix: str
    since: int = 0


class Etcd:
    """One store, at any of its endpoints."""

    def __init__(self, endpoints: Sequence[str], context: ssl.SSLContext | None) -> None:
        """``endpoints`` are like https://10.8.0.9:2379; ``context`` is for those that begin with https."""
        self._endpoints = list(endpoints)
        self._context = context
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection. Another request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def grant(self, seconds: int) -> int:
        """A new lease that ends in so many seconds."""
        return self._call("/v3/lease/grant", {"TTL": seconds}, lambda answer: _integer(answer, "ID"))

    def keep_alive(self, lease: int) -> bool:
        """Renew a lease. False if there is none such any more."""

        def read(answer: _Json) -> bool:
            result = answer.get("result")
            return isinstance(result, dict) and _integer(result, "TTL") > 0

        return self._call("/v3/lease/keepalive", {"ID": lease}, read)

    def revoke(self, lease: int) -> None:
        """End a lease, and all that was put under it."""
        self._call("/v3/lease/revoke", {"ID": lease}, lambda answer: None)

    def create(self, key: str, value: bytes, lease: int) -> Value | None:
        """Put the value if there is none (0 for no lease); else give the one there is."""

        def read(answer: _Json) -> Value | None:
            return None if _succeeded(answer) else _range(answer, 0)[1][0]

        absent = {"key": _encode(key), "target": "VERSION", "result": "EQUAL", "version": "0"}
        return self._transact([_put(key, value, lease)], read, compare=absent, otherwise=_get(key))

    def replace(self, old: Value, value: bytes, lease: int) -> bool:
        """Put another value in place of ``old``, if that is still there."""
        same = {"key": _encode(old.key), "target": "MOD", "result": "EQUAL", "mod_revision": str(old.revision)}
        put = [_put(old.key, value, lease)]
        return self._transact(put, _succeeded, compare=same)

    def put(self, key: str, value: bytes, lease: int, there: tuple[str, bytes]) -> bool:
        """Put a value whatever there was, if ``there`` is, a key and its value."""
        put = [_put(key, value, lease)]
        return self._transact(put, _succeeded, compare=_same(*there))

    def count(self, key: str, value: bytes, lease: int, there: tuple[str, bytes]) -> int | None:
        """Likewise, and give how many times, from 1, that was done to this key: nobody else gets the same."""

        def read(answer: _Json) -> int | None:
            if not _succeeded(answer):
                return None
            version, _ = _range(answer, 1)
            if version < 1:
                raise ValueError("counted less than one put")
            return version

        return self._transact([_put(key, value, lease), _get(key)], read, compare=_same(*there))

    def look(self, ranges: Sequence[Range]) -> Found:
        """All these at one moment."""

        def read(answer: _Json) -> Found:
            revision = _integer(answer["header"], "revision")
            return Found(revision, tuple(_range(answer, index)[1] for index in range(len(ranges))))

        wanted = [
            {
                "requestRange": {
                    "key": _encode(each.prefix),
                    "range_end": _encode(each.prefix[:-1] + chr(ord(each.prefix[-1]) + 1)),
                    "limit": str(MOST_RECORDS),
                    "min_mod_revision": str(each.since),
                    "sort_order": "ASCEND",
                    "sort_target": "MOD",
                }
            }
            for each in ranges
        ]
        return self._transact(wanted, read)

    def _transact(
        self,
        success: Sequence[_Json],
        read: Callable[[_Json], _T],
        *,
        compare: _Json | None = None,
        otherwise: _Json | None = None,
    ) -> _T:
        """Do ``success`` at one moment if ``compare`` holds, else ``otherwise``; ``read`` is as for :meth:`_call`."""
        compares, failure = ([] if each is None else [each] for each in (compare, otherwise))
        body = {"compare": compares, "success": list(success), "failure": failure}
        return self._call("/v3/kv/txn", body, read)

    def _call(self, path: str, body: _Json, read: Callable[[_Json], _T]) -> _T:
        """Ask, and give what ``read`` makes of the answer."""
        endpoint = self._endpoints[0]
        try:
            connection = self._connection = self._connection or self._open(endpoint)
            if connection.sock is not None:
                connection.sock.settimeout(_TIMEOUT_S)
            _send(connection, path, json.dumps(body))
            response = connection.getresponse()
            data = response.read(_LARGEST_BYTES + 1)
            if len(data) > _LARGEST_BYTES:
                raise ValueError("an answer beyond all measure")
            if response.status != http.HTTPStatus.OK:
                raise ValueError(f"{response.status} {_reason(data)}")
            try:
                return read(_object(data))
            except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError):
                raise ValueError(_SENSELESS) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            self._endpoints = [*self._endpoints[1:], endpoint]
            words = " ".join("".join(each if each.isprintable() else " " for each in _words(error, endpoint)).split())
            raise StoreError(f"{endpoint}: {words[:_ERROR_CHARACTERS]}") from None

    def _open(self, endpoint: str) -> http.client.HTTPConnection:
        parts = urlsplit(endpoint)
        connection = (
            http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S, context=self._context)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
        )
        connection.response_class = _Response
        return connection


class _Until(io.RawIOBase):
    """What comes over a socket until a moment. The timeout of a socket is for each of its operations."""

    def __init__(self, raw: socket.SocketIO, sock: socket.socket, until: float) -> None:
        self._raw, self._sock, self._until = raw, sock, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        rest_s = self._until - time.monotonic()
        if rest_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(rest_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer, all of which comes in time."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        raw: socket.SocketIO = self.fp.detach()  # type: ignore[assignment]  # what makefile of a socket gives
        self.fp = io.BufferedReader(_Until(raw, sock, time.monotonic() + _TIMEOUT_S))


def _send(connection: http.client.HTTPConnection, path: str, body: str) -> None:
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
    except OSError:
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.recv(1)  # raises what the store said before it closed the connection
        raise


def _reason(data: bytes) -> str:
    """Why etcd did not do it, from its answer. Up to 3.5 it says so twice, later under the second name alone."""
    try:
        answer = _object(data)
        return str(answer.get("error") or answer["message"])
    except (LookupError, TypeError, ValueError, RecursionError):
        return _SENSELESS


def _object(data: bytes) -> _Json:
    """Raises TypeError, ValueError or RecursionError if it is no JSON object."""
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise TypeError
    return answer


def _words(error: Exception, endpoint: str) -> str:
    """What went wrong; what to do about it, where that is known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not pass: {error.verify_message}; check ca_file and the address in endpoints"
    if isinstance(error, ssl.SSLError) and error.reason in _REFUSALS:
        return "it wants a certificate that it knows; check cert_file and key_file"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; check the port in endpoints, or write http"
    if isinstance(error, http.client.RemoteDisconnected | http.client.BadStatusLine) and endpoint.startswith("http:"):
        return "it does not answer in HTTP; if it speaks TLS, write https in endpoints"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _put(key: str, value: bytes, lease: int) -> _Json:
    return {"requestPut": {"key": _encode(key), "value": base64.b64encode(value).decode(), "lease": str(lease)}}


def _succeeded(answer: _Json) -> bool:
    """Whether what a transaction compares held."""
    return bool(answer.get("succeeded"))


def _same(key: str, value: bytes) -> _Json:
    return {"key": _encode(key), "target": "VALUE", "result": "EQUAL", "value": base64.b64encode(value).decode()}


def _get(key: str) -> _Json:
    return {"requestRange": {"key": _encode(key)}}


def _encode(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


def _integer(answer: _Json, key: str) -> int:
    """The gateway writes 64 bit integers as text, and leaves out zeros."""
    return int(answer.get(key, 0))


def _range(answer: _Json, index: int) -> tuple[int, tuple[Value, ...]]:
    """The version of the first key, and all values, of one range among the responses of a transaction."""
    kvs = answer["responses"][index]["response_range"].get("kvs", [])
    values = tuple(
        Value(
            base64.b64decode(each["key"], validate=True).decode(),
            base64.b64decode(each.get("value", ""), validate=True),
            _integer(each, "mod_revision"),
        )
        for each in kvs
    )
    return (_integer(kvs[0], "version") if kvs else 0), values
