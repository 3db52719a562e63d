"""A store in memory that speaks as much of etcd's JSON gateway as members use, and can be taken away or made anew."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PAUSE_S = 0.3


@dataclass
class Kept:
    """One key's value."""

    value: str
    version: int
    revision: int
    lease: int


class Memory:
    """The keys and leases."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Kept] = {}
        self.leases: set[int] = set()
        self.revision = 1
        self.gone = False
        self.answer: bytes | None = None
        """What is answered instead, to everything."""
        self.status = 200
        self.full = False
        """Whether it shows what it has, but takes nothing."""
        self.closes = False
        """Whether it closes the connection after each answer."""
        self.part_bytes: int | None = None
        """Of an answer so much is sent at a time, with a pause after it."""
        self.paused = threading.Event()
        """Ends all pauses."""
        self._next_lease = 7587000000000000001

    def expire(self, lease: int | None = None) -> None:
        """End a lease, or all."""
        ended = set(self.leases) if lease is None else {lease}
        self.leases -= ended
        self.keys = {key: kept for key, kept in self.keys.items() if kept.lease not in ended}

    def serve(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request as etcd 3.4 does: integers as text, and zeros left out."""
        header = {"revision": str(self.revision)}
        match path:
            case "/v3/lease/grant":
                self._next_lease += 1
                self.leases.add(self._next_lease)
                return {"header": header, "ID": str(self._next_lease), "TTL": str(body["TTL"])}
            case "/v3/lease/keepalive":
                known = int(body["ID"]) in self.leases
                return {"result": {"header": header, "ID": str(body["ID"])} | ({"TTL": "10"} if known else {})}
            case "/v3/lease/revoke":
                self.expire(int(body["ID"]))
                return {"header": header}
            case "/v3/kv/txn":
                holds = all(self._holds(each) for each in body.get("compare", ()))
                responses = [self._operate(each) for each in body.get("success" if holds else "failure", ())]
                answer: dict[str, Any] = {"header": {"revision": str(self.revision)}, "responses": responses}
                return answer | ({"succeeded": True} if holds else {})
        raise AssertionError(path)

    def _holds(self, compare: dict[str, Any]) -> bool:
        kept = self.keys.get(base64.b64decode(compare["key"]))
        if compare["target"] == "VERSION":
            return (kept.version if kept else 0) == int(compare["version"])
        if compare["target"] == "VALUE":
            return kept is not None and kept.value == compare["value"]
        return (kept.revision if kept else 0) == int(compare["mod_revision"])

    def _operate(self, request: dict[str, Any]) -> dict[str, Any]:
        header = {"revision": str(self.revision)}
        if put := request.get("requestPut"):
            key, lease = base64.b64decode(put["key"]), int(put["lease"])
            assert lease == 0 or lease in self.leases
            self.revision += 1
            before = self.keys.get(key)
            self.keys[key] = Kept(put["value"], before.version + 1 if before else 1, self.revision, lease)
            return {"response_put": {"header": header}}
        asked = request["requestRange"]
        first = base64.b64decode(asked["key"])
        end = base64.b64decode(asked["range_end"]) if "range_end" in asked else first + b"\0"
        found = sorted(
            (
                (kept.revision, key, kept)
                for key, kept in self.keys.items()
                if first <= key < end and kept.revision >= int(asked.get("min_mod_revision", 0))
            ),
            key=lambda each: each[0],
        )
        kvs = [
            {
                "key": base64.b64encode(key).decode(),
                "value": kept.value,
                "version": str(kept.version),
                "mod_revision": str(kept.revision),
            }
            for _, key, kept in found[: int(asked.get("limit", 1024))]
        ]
        return {"response_range": {"header": header} | ({"kvs": kvs, "count": str(len(kvs))} if kvs else {})}


@contextmanager
def gateway(memory: Memory) -> Iterator[str]:
    """Serve it; gives the endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5.0

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if memory.gone:
                self.close_connection = True
                return
            status = memory.status
            if memory.answer is not None:
                data = memory.answer
            elif memory.full and (self.path == "/v3/lease/grant" or "requestPut" in str(body)):
                status, data = 429, b'{"error":"etcdserver: mvcc: database space exceeded"}'
            else:
                data = json.dumps(memory.serve(self.path, body)).encode()
            self.close_connection = memory.closes
            closing = "Connection: close\r\n" if memory.closes else ""
            answer = f"HTTP/1.1 {status} told\r\n{closing}Content-Length: {len(data)}\r\n\r\n".encode() + data
            size = memory.part_bytes or len(answer)
            with suppress(OSError):  # who does not wait for the end
                for start in range(0, len(answer), size):
                    self.wfile.write(answer[start : start + size])
                    memory.paused.wait(_PAUSE_S if memory.part_bytes else 0)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False  # closing the server waits for them, and so for their descriptors
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
