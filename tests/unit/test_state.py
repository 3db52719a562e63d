"""State file: what is kept over a restart, and that nothing about it can stop the daemon."""

from __future__ import annotations

import logging
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.protocol.spec import PeerRecord
from centipede.system.state import StateFile

OWN = Identity.from_seed(bytes([1]) * 32).public
ALICE = Identity.from_seed(bytes([2]) * 32).public
BOB = Identity.from_seed(bytes([3]) * 32).public
ALICE_RECORD = PeerRecord(ALICE, (1 << 64) - 1, 5, (Endpoint("192.0.2.1", 7), Endpoint("fe80::1%eth0", 8)))
BOB_RECORD = PeerRecord(BOB, 3, 0, ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "site-a.json"


def opened(path: Path) -> StateFile:
    state = StateFile(path, OWN)
    state.load()
    return state


def test_records_survive(path: Path) -> None:
    state = opened(path)
    state.save([ALICE_RECORD])
    state.save([BOB_RECORD])
    again = opened(path)
    assert again.record(ALICE) == ALICE_RECORD
    assert again.record(BOB) == BOB_RECORD
    again.save([PeerRecord(BOB, 4, 4, ())])
    assert opened(path).record(BOB) == PeerRecord(BOB, 4, 4, ())
    assert opened(path).record(ALICE) == ALICE_RECORD
    assert opened(path).record(OWN) is None


def test_that_a_peer_moved_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("centipede.system.state.os.fsync", fsync)
    state, full = opened(path), False
    state.save([ALICE_RECORD, BOB_RECORD])
    assert synced == []
    full = True
    moved = replace(ALICE_RECORD, moved=True)
    assert state.save([moved]) == f"{path}: No space left on device"
    full = False
    assert state.save([replace(BOB_RECORD, floor=99)]) is None
    assert synced == ["site-a.new", "site-a.new", "state"], "what failed before is made up for"
    state.save([replace(moved, floor=99)])
    assert len(synced) == 3
    assert opened(path).record(ALICE) == replace(moved, floor=99)


def test_only_the_owner_may_read_it_and_no_other_file_stays(path: Path) -> None:
    opened(path).save([ALICE_RECORD])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xff",
        b'{"peers":{"' + b"x" * 44 + b'":{"no":' + b"[" * 100000,
        b"[]",
        b'{"version":2,"identity":"","peers":{}}',
        b'{"version":1,"identity":"","peers":{"short":{}}}',
        f'{{"version":1,"identity":"","peers":{{"{ALICE.text}":{{"floor":"x"}}}}}}'.encode(),
        f'{{"version":1,"identity":"","peers":{{"{ALICE.text}":{{"floor":{1 << 64}}}}}}}'.encode(),
        f'{{"version":1,"identity":"","peers":{{"{ALICE.text}":{{"last_used":-1}}}}}}'.encode(),
        f'{{"version":1,"identity":"","peers":{{"{ALICE.text}":{{"addresses":["here"]}}}}}}'.encode(),
    ],
)
def test_a_damaged_file_is_moved_aside(path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    state = opened(path)
    assert state.record(ALICE) is None
    assert path.with_suffix(".corrupt").read_bytes() == damage
    assert not path.exists()
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "is damaged" in line.getMessage()
    state.save([ALICE_RECORD])
    assert opened(path).record(ALICE) == ALICE_RECORD


def test_what_another_identity_left_is_ignored(path: Path) -> None:
    opened(path).save([ALICE_RECORD])
    other = StateFile(path, BOB)
    other.load()
    assert other.record(ALICE) is None


def test_a_file_that_cannot_be_written_is_reported_once_until_it_can(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = opened(path)
    path.parent.touch()  # a file where the directory should be
    state.save([ALICE_RECORD])
    state.save([BOB_RECORD])
    assert [line.levelno for line in caplog.records] == [logging.WARNING]
    assert state.record(BOB) == BOB_RECORD
    path.parent.unlink()
    state.save([])
    assert opened(path).record(ALICE) == ALICE_RECORD
    assert len(caplog.records) == 1


def test_a_file_that_cannot_be_read_is_no_obstacle(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir(parents=True)
    assert opened(path).record(ALICE) is None
    assert "cannot be read" in caplog.text
