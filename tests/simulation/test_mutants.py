"""Mutants: nodes without one of the protocol's defences. The storms must find each, or they show nothing.

Each mutant changes one method of the real objects. The seeds are those of CI in ascending order, over the kinds of
storm in turn; the first that breaks a promise ends the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from centipede.protocol.association import Session
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import Initiate
from centipede.protocol.peer import Peer
from centipede.protocol.responder import Responder
from centipede.protocol.table import Run
from centipede.protocol.window import Verdict, Window
from lab.promises import InvariantError
from lab.simulate import KINDS, Storm

MOST_SEEDS = 300


def without_floor(patch: pytest.MonkeyPatch) -> None:
    """Answers Initiates however old they are."""
    kept = Responder._peer_of

    def peer_of(responder: Responder, initiate: Initiate, remote: Endpoint, now: float) -> Peer:
        peer = responder._peers.get(initiate.remote)
        if peer is None:
            return kept(responder, initiate, remote, now)
        record, peer.record = peer.record, replace(peer.record, floor=-1)
        try:
            return kept(responder, initiate, remote, now)
        finally:
            peer.record = record

    patch.setattr(Responder, "_peer_of", peer_of)


def without_window(patch: pytest.MonkeyPatch) -> None:
    """Takes every counter for new."""
    patch.setattr(Window, "test", lambda _window, _counter: Verdict.NEW)


def with_one_shard(patch: pytest.MonkeyPatch) -> None:
    """All workers of a machine send from one shard, each with a counter of its own."""
    patch.setattr(Run, "shard_of", lambda run, _worker: run.first)


def installing_on_receipt(patch: pytest.MonkeyPatch) -> None:
    """Takes a session for established when its Initiate comes, before anything confirmed it."""
    kept = Peer.add_pending

    def add_pending(peer: Peer, session: Session) -> None:
        kept(peer, session)
        message = session.message
        peer._confirm(session, session.born)
        session.message = message

    patch.setattr(Peer, "add_pending", add_pending)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    without_floor: "answered an Initiate that is not newer",
    without_window: "was given packet .* twice",
    with_one_shard: "with one key and nonce",
    installing_on_receipt: "were lost|same session|flowed again only|with one key and nonce",
}


@pytest.mark.parametrize("mutate", MUTANTS, ids=[mutate.__name__ for mutate in MUTANTS])
def test_a_mutant_is_found(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises(InvariantError, match=MUTANTS[mutate]):
        run_storms(MOST_SEEDS)


def run_storms(most: int) -> None:
    """Run storms of all kinds in turn, until one breaks a promise."""
    for seed, kind in product(range(most // len(KINDS)), KINDS):
        Storm(kind, seed).run()
