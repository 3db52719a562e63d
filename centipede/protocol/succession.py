"""Succession: a session as one machine hands it over, and as the other keeps it. docs/protocol.md "Handing over"."""

from __future__ import annotations

from centipede.protocol.association import Session
from centipede.protocol.context import Context
from centipede.protocol.grant import Grant
from centipede.protocol.handover import HandedSession
from centipede.protocol.identity import PublicKey


def describe(session: Session, grant: Grant, context: Context, last_traffic: float, now: float) -> HandedSession:
    """What another machine is told of a session, of which it gets these shards."""
    return HandedSession(
        grant=grant,
        ours=session.ours,
        timestamp=session.timestamp,
        base=session.base,
        peer_base=session.peer_base,
        peer_run=session.run,
        age_s=now - session.born,
        idle_s=now - max(last_traffic, session.born),
        params=context.params,
        peer_params=session.params,
        keys=session.keys,
    )


def adopt(
    handed: HandedSession, peer: int, remote: PublicKey, context: Context, tx_before: int, now: float, *, home: bool
) -> Session:
    """The session of a peer (its number and key) out of what another machine told.

    A ``home`` renews it as if it had made it; another machine leaves that to the home, as long as that does it in time.
    """
    timing, born = context.timing, now - handed.age_s
    due_s = timing.rekey_fallback_s
    if home and handed.ours:
        due_s = min(timing.rekey_s + timing.rekey_jitter_s * context.fraction(), due_s)
    return Session(
        number=context.next_session(),
        peer=peer,
        base=handed.base,
        peer_base=handed.peer_base,
        run=handed.peer_run,
        own=handed.grant.run,
        spare=range(handed.grant.first, handed.grant.end),
        keys=handed.keys,
        timestamp=handed.timestamp,
        initiator=context.identity.public if handed.ours else remote,
        ours=handed.ours,
        params=handed.peer_params,
        born=born,
        rekey_at=born + due_s,
        established=born,
        tx_before=tx_before,
    )
