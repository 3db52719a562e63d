"""Account: what ``show`` says of a peer's paths: why each is or is not used, and how much of the traffic it carries."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from centipede.protocol.path import Path, PathState
from centipede.protocol.status import PathStatus

_WINDOW_S = 1.0
_STALE_S = 5.0
"""Shares of traffic so long ago are not shown."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a peer's paths are used for: their numbers."""

    carrying: Collection[int]
    """Those that carry data."""
    urgent: Collection[int]
    """Those of them that carry only copies of urgent packets."""
    metered: Collection[int]
    """Those whose links are to be spared."""
    used: Collection[int]
    """Those that lead to a machine of the peer's to which data goes."""


class Account:
    """The books of one peer's paths."""

    def __init__(self) -> None:
        self._begun = float("-inf")
        self._bytes: dict[int, int] = {}
        """Bytes sent by path when the window began."""
        self._shares: dict[int, float] = {}

    def settle(self, paths: Iterable[Path], now: float) -> None:
        """Close the window if it is over, and say what share of the bytes went on each path in it."""
        if now < self._begun + _WINDOW_S:
            return
        before, self._bytes = self._bytes, {path.number: path.counters.tx_bytes for path in paths}
        sent = {number: count - before.get(number, 0) for number, count in self._bytes.items()}
        total = sum(sent.values())
        self._shares = {number: count / total for number, count in sent.items()} if total else {}
        self._begun = now

    def status(self, path: Path, use: Use, now: float) -> PathStatus:
        """A picture of one path."""
        fresh = now < self._begun + _STALE_S
        return PathStatus(
            path=path.number,
            local=path.local,
            remote=path.remote,
            shard=path.run.first if path.run else 0,
            state=path.state.value,
            carries=path.number in use.carrying,
            reason=_explain(path, use),
            rtt_ms=None if path.rtt_s is None else path.rtt_s * 1e3,
            jitter_ms=None if path.rtt_s is None else path.jitter_s * 1e3,
            loss=path.loss if path.beats else None,
            mtu=path.mtu.size,
            rx_bytes=path.counters.rx_bytes,
            tx_bytes=path.counters.tx_bytes,
            rx_packets=path.counters.rx_packets,
            tx_packets=path.counters.tx_packets,
            tx_share=self._shares.get(path.number) if fresh else None,
            last_heard_s=None if path.last_heard is None else max(0.0, now - path.last_heard),
            observed=path.observed,
        )


def _explain(path: Path, use: Use) -> str:
    """Why the path is in its state, and why data goes over it or not."""
    match path.state:
        case PathState.NEW if path.learned:
            return "the peer sent from here, our challenge is not answered yet"
        case PathState.NEW if path.told:
            return "the peer named this address, no answer so far"
        case PathState.NEW:
            return "no answer so far" if path.last_beat > float("-inf") else "not tried under a session yet"
        case PathState.GONE if path.parted:
            return "the peer said bye"
        case PathState.GONE:
            return "the peer heard nothing from here" if path.unheard else "nothing was heard for too long"
    if path.number in use.carrying:
        why = "carries second copies of urgent packets" if path.number in use.urgent else "carries data"
    elif path.shunned:
        why = "the peer asks to be sent to elsewhere"
    elif not use.carrying:
        why = "no session to send under"
    elif path.number not in use.used:
        why = "leads to another machine of the peer"
    elif path.number in use.metered:
        why = "spare, its link is metered"
    else:
        why = "spare, the scheduler prefers others"
    if path.state is PathState.SUSPECT:
        return f"{'the peer does not hear us' if path.unheard else 'a heartbeat is missing'}; {why}"
    return why
