"""Simulated storms with the trace: what was sealed is what left the machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from centipede.protocol.identity import Identity
from lab.promises import Promises
from lab.simulate import KINDS, Kind, Storm
from tests.trace.entry import Account, load

STORMS = [kind for kind in KINDS if kind.name in {"blocks", "restarts"}]
SEED = 1


@pytest.mark.parametrize("kind", STORMS, ids=[kind.name for kind in STORMS])
def test_the_trace_is_what_left_the_machines(kind: Kind, python_trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bytes] = []
    kept = Promises.see

    def see(promises: Promises, life: tuple[str, int], data: bytes, remote: Identity) -> None:
        left.append(data)
        kept(promises, life, data, remote)

    monkeypatch.setattr(Promises, "see", see)
    Storm(kind, SEED).run()
    found = Account.of(load(python_trace), left)
    assert found.sealed > 1000
    assert (found.reused, found.unseen, found.unsealed) == (0, 0, 0)
