"""The state file: what outlives the daemon, one JSON file per tunnel.

Per peer: the greatest timestamp used, the floor, addresses that were good (docs/protocol.md "Timestamps"), and whether
another machine took it over. Losing it breaks nothing, so a file that cannot be read is moved aside and the daemon goes
on. It holds no secret.

Writing replaces the file by rename, so a reader, or a crash, meets either the old or the new content. It is not waited
for the disk: after a power cut the clock is what keeps timestamps ascending. But that a peer moved nothing else tells,
so that is on the disk before anybody hears of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import PublicKey
from centipede.protocol.spec import PeerRecord

log = logging.getLogger(__name__)


class _Peer(msgspec.Struct, frozen=True):
    last_used: int = 0
    floor: int = 0
    addresses: list[str] = []
    moved: bool = False


class _State(msgspec.Struct, frozen=True):
    version: int
    identity: str
    peers: dict[str, _Peer]


class StateFile:
    """The records of one tunnel's peers, in memory and on disk."""

    def __init__(self, path: Path, identity: PublicKey) -> None:
        """``identity`` is the own key: what another key has left behind is of no use and is ignored."""
        self._path = path
        self._identity = identity
        self._records: dict[PublicKey, PeerRecord] = {}
        self._failing = False
        self._undone = False
        """A failure left it to the next time to write that a peer moved."""

    def load(self) -> None:
        """Read the file, if there is one. Never raises: what is wrong with it is logged."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("state file %s cannot be read (%s); going on without it", self._path, error.strerror)
            return
        try:
            state = msgspec.json.decode(content, type=_State)
            if state.version != 1:
                raise ValueError(f"version {state.version}")
            records = [_record(key, peer) for key, peer in state.peers.items()]
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            aside = self._path.with_suffix(".corrupt")
            log.warning("state file %s is damaged (%s); moved to %s, going on without it", self._path, error, aside)
            try:
                self._path.replace(aside)
            except OSError as refusal:
                log.warning("state file %s could not be moved aside (%s)", self._path, refusal.strerror)
            return
        if state.identity == self._identity.text:
            self._records = {record.public_key: record for record in records}

    def record(self, public_key: PublicKey) -> PeerRecord | None:
        """What is remembered of a peer, also of one that was removed: its floor still holds."""
        return self._records.get(public_key)

    def save(self, records: Iterable[PeerRecord]) -> str | None:
        """Replace these peers' records and write the file. Never raises: a failure is logged once until it is over.

        Gives why it could not be written.
        """
        records = list(records)
        moved = any(record.moved and not self._is_moved(record.public_key) for record in records)
        self._records.update((record.public_key, record) for record in records)
        state = _State(
            1,
            self._identity.text,
            {
                key.text: _Peer(record.last_used, record.floor, [*map(str, record.addresses)], record.moved)
                for key, record in self._records.items()
            },
        )
        try:
            self._write(msgspec.json.format(msgspec.json.encode(state)), durable=moved or self._undone)
        except OSError as error:
            if not self._failing:
                log.warning("state file %s cannot be written: %s", self._path, error.strerror)
            self._failing, self._undone = True, self._undone or moved
            return f"{self._path}: {error.strerror}"
        self._failing = self._undone = False
        return None

    def _is_moved(self, public_key: PublicKey) -> bool:
        known = self._records.get(public_key)
        return known is not None and known.moved

    def _write(self, content: bytes, *, durable: bool) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(fd)
        new.replace(self._path)
        if durable:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def _record(key: str, peer: _Peer) -> PeerRecord:
    if not (0 <= peer.last_used < 1 << 64 and 0 <= peer.floor < 1 << 64):
        raise ValueError("a timestamp has 64 bits")
    return PeerRecord(
        PublicKey.from_text(key),
        peer.last_used,
        peer.floor,
        tuple(Endpoint.parse(text) for text in peer.addresses),
        peer.moved,
    )
