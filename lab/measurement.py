"""What a scenario measures: the probes by their kinds in a scenario file, and how each is started between two ends.

Owns the translation of a file's figures into the probes' own; the probes are in lab/probes/. Must not know tunnels: a
Ground says which hosts and which address inside. Invariant: a measurement that was begun is finished or stopped.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec

from lab.errors import LabError
from lab.host import Host
from lab.pace import slowness
from lab.probes.datagrams import DatagramProbe, StreamResult
from lab.probes.flow import FlowSpec
from lab.probes.iperf3 import Transfer, TransferProbe, TransferSpec
from lab.probes.onlooker import Onlooker
from lab.probes.ping import PingSpec, RoundTrips, ping
from lab.probes.stalls import FlowProbe, FlowResult
from lab.probes.stream import StreamSpec
from lab.probes.wire import WireResult, WireSpec

_DATAGRAM_PORT = 6001
_TRANSFER_PORT = 5201
_FLOW_PORT = 5601
_SERIES_S = 0.1
_TRANSFER_SERIES_S = 0.25
_WARM_UP_S = 0.5
_LONGEST_SERIES = 600
_LATE_S = 0.2
"""A sender that once woke up later than this made a stall of its own."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where one measurement is made."""

    sender: Host
    receiver: Host
    target: str
    """The receiver's address inside the tunnel."""
    directory: Path
    number: int
    """Unlike that of any other measurement of the run; ports are counted off by it."""
    hosts: Mapping[str, Host] = field(default_factory=dict)
    """All there are, by name."""
    state: Callable[[str], Any] = lambda end: None
    """What the tunnel says of itself at an end; None if it says nothing."""
    seen: dict[str, Any] = field(default_factory=dict)
    """What it said before, by the names of the probes that asked."""


class Running(ABC):
    """A measurement under way."""

    @abstractmethod
    def finish(self) -> msgspec.Struct:
        """Wait for the end and return the result. Raises LabError if there is none."""

    @abstractmethod
    def stop(self) -> None:
        """End it without a result. Harmless when it has ended."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A probe of a scenario."""

    name: str
    at: float = 0.0
    """When it begins, in seconds after traffic may."""
    sender: Literal["left", "right"] = "left"
    """The tunnel end that sends."""
    version: Literal[4, 6] = 4
    """IP version inside."""

    result: ClassVar[type[msgspec.Struct]]
    """What it yields; its fields are what expectations name."""

    @property
    def seconds(self) -> float:
        """How long it takes by plan."""
        raise NotImplementedError

    def slowed(self, times: float) -> Self:
        """Return the same with so many times less load."""
        return self

    def begin(self, ground: Ground) -> Running:
        """Start it and return at once. Raises LabError if it cannot be started."""
        raise NotImplementedError

    def void(self, result: msgspec.Struct) -> str | None:
        """Return why a result says nothing about the tunnel, or None if it does."""
        return None


class Datagrams(Measurement, frozen=True, tag="datagrams"):
    """A paced stream of numbered datagrams: lost, duplicated, reordered, longest gap."""

    duration_s: float
    rate: int = 2000
    """Datagrams a second."""
    size: int = 200
    """Bytes of UDP payload."""
    flows: int = 1
    """Ports from which it is sent in turn."""

    result = StreamResult

    @property
    def seconds(self) -> float:
        return self.duration_s

    def slowed(self, times: float) -> Self:
        return msgspec.structs.replace(self, rate=max(1, round(self.rate / times)))

    def begin(self, ground: Ground) -> Running:
        spec = StreamSpec(
            host=ground.target,
            port=_DATAGRAM_PORT + ground.number,
            rate=self.rate,
            count=max(1, math.ceil(self.rate * self.duration_s)),
            size=self.size,
            flows=self.flows,
            interval_s=series_interval_s(self.duration_s),
        )
        return _Stream(DatagramProbe(ground.sender, ground.receiver, spec, ground.directory))

    def void(self, result: msgspec.Struct) -> str | None:
        assert isinstance(result, StreamResult)
        if result.complete:
            return None
        return f"{self.name} sent only {result.sent} of {result.planned} datagrams planned"


class Tcp(Measurement, frozen=True, tag="tcp"):
    """An iperf3 transfer at a rate, which stalls where the tunnel does."""

    duration_s: int
    rate_bps: int = 20_000_000
    """Rate to send at, over all streams; 0 for as fast as it will go."""
    streams: int = 1

    result = Transfer

    @property
    def seconds(self) -> float:
        return float(self.duration_s)

    def slowed(self, times: float) -> Self:
        return msgspec.structs.replace(self, rate_bps=round(self.rate_bps / times))

    def begin(self, ground: Ground) -> Running:
        interval_s = series_interval_s(self.duration_s, _TRANSFER_SERIES_S)
        spec = TransferSpec(
            host=ground.target,
            port=_TRANSFER_PORT + ground.number,
            streams=self.streams,
            duration_s=self.duration_s,
            warm_up_s=max(_WARM_UP_S, interval_s),
            interval_s=interval_s,
            rate_bps=self.rate_bps,
        )
        return _Stream(TransferProbe(ground.sender, ground.receiver, spec, ground.directory))


class Flow(Measurement, frozen=True, tag="flow"):
    """A TCP connection at a rate, of which every arrival is stamped: how long it stalled, which a mean hides."""

    duration_s: float
    rate_bps: int = 4_000_000
    """Payload to write; 0 for as fast as it will go."""

    result = FlowResult

    @property
    def seconds(self) -> float:
        return self.duration_s

    def slowed(self, times: float) -> Self:
        return msgspec.structs.replace(self, rate_bps=round(self.rate_bps / times))

    def begin(self, ground: Ground) -> Running:
        spec = FlowSpec(
            host=ground.target,
            port=_FLOW_PORT + ground.number,
            rate_bps=self.rate_bps,
            duration_s=self.duration_s,
            interval_s=series_interval_s(self.duration_s),
        )
        return _Stream(FlowProbe(ground.sender, ground.receiver, spec, ground.directory))

    def void(self, result: msgspec.Struct) -> str | None:
        assert isinstance(result, FlowResult)
        if result.sender_late_s <= _LATE_S * slowness():
            return None
        return f"the sender of {self.name} slept {result.sender_late_s:.2f} s too long"


class Ping(Measurement, frozen=True, tag="ping"):
    """Round-trip times at an interval."""

    duration_s: float
    interval_s: float = 0.02

    result = RoundTrips

    @property
    def seconds(self) -> float:
        return self.duration_s

    def begin(self, ground: Ground) -> Running:
        spec = PingSpec(
            host=ground.target,
            count=max(1, round(self.duration_s / self.interval_s)),
            interval_s=self.interval_s,
            deadline_s=math.ceil(self.duration_s) + 2,
            series_s=series_interval_s(self.duration_s),
        )
        return _Ping(ground.sender, spec)


class Onlook(Measurement, frozen=True, tag="wire"):
    """What an onlooker sees on the way: nonces used again, and what comes of datagrams that he sends elsewhere."""

    duration_s: float
    host: str
    links: tuple[str, ...]
    """Those of the host's over which it looks."""
    replay_to: tuple[str, ...] = ()
    """Addresses to which each datagram that leaves over these links is sent once more, as it is and from the host's."""
    port: int = 51820

    result = WireResult

    @property
    def seconds(self) -> float:
        return self.duration_s

    def begin(self, ground: Ground) -> Running:
        prefix = ground.directory / f"wire-{ground.number}"
        spec = WireSpec(
            interfaces=self.links,
            port=self.port,
            duration_s=self.duration_s,
            replay_to=self.replay_to,
            result=f"{prefix}-result.json",
            ready=f"{prefix}-ready",
        )
        return _Stream(Onlooker(ground.hosts[self.host], spec, Path(f"{prefix}.log")))

    def void(self, result: msgspec.Struct) -> str | None:
        assert isinstance(result, WireResult)
        return f"{self.name} missed {result.missed} packets" if result.missed else None


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a tunnel said of itself."""

    shown: Any
    paths_changed: int | None = None
    """Pairs of addresses that lead elsewhere than before, or work that did not, or are gone, or were not there.

    Only those that something came by.
    """


class Look(Measurement, frozen=True, tag="show"):
    """What the tunnel says of itself at one end at one moment."""

    end: str
    """``left``, ``right``, or the host of a member."""
    since: str | None = None
    """An earlier one of the same end, with which paths are compared."""

    result = Shown

    @property
    def seconds(self) -> float:
        return 0.0

    def begin(self, ground: Ground) -> Running:
        shown = ground.state(self.end)
        if shown is None:
            raise LabError(f"the tunnel says nothing of itself at {self.end}")
        ground.seen[self.name] = shown
        before = None if self.since is None else ground.seen.get(self.since)
        return _Seen(Shown(shown=shown, paths_changed=None if before is None else len(_ways(before) ^ _ways(shown))))


def _ways(shown: Any) -> set[tuple[str, str, int, bool]]:
    """Pairs of addresses, the shard that each leads to, and whether it works.

    Without those that were only named: an end tries them again now and then.
    """
    return {
        (path["local"], path["remote"], path["shard"], path["state"] in ("usable", "suspect"))
        for peer in shown["peers"]
        for path in peer["paths"]
        if path["last_heard_s"] is not None
    }


AnyMeasurement = Datagrams | Tcp | Flow | Ping | Onlook | Look


class _Stream(Running):
    """A probe of programs of its own."""

    def __init__(self, probe: DatagramProbe | TransferProbe | FlowProbe | Onlooker) -> None:
        self._probe = probe
        try:
            probe.start()
        except BaseException:
            probe.stop()
            raise

    def finish(self) -> msgspec.Struct:
        return self._probe.finish()

    def stop(self) -> None:
        self._probe.stop()


class _Seen(Running):
    """A result that was there at once."""

    def __init__(self, result: msgspec.Struct) -> None:
        self._result = result

    def finish(self) -> msgspec.Struct:
        return self._result

    def stop(self) -> None:
        """There is nothing to end."""


class _Ping(Running):
    """A series of pings, waited for by a thread."""

    def __init__(self, host: Host, spec: PingSpec) -> None:
        self._outcome: list[RoundTrips | Exception] = []
        self._thread = threading.Thread(target=self._run, args=(host, spec), name=f"ping on {host.name}")
        self._spec = spec
        self._thread.start()

    def _run(self, host: Host, spec: PingSpec) -> None:
        try:
            self._outcome.append(ping(host, spec))
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is asked for
            self._outcome.append(error)

    def finish(self) -> msgspec.Struct:
        self.stop()
        (outcome,) = self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stop(self) -> None:
        # ping has a deadline of its own, or ends with its host.
        self._thread.join()


def series_interval_s(duration_s: float, step_s: float = _SERIES_S) -> float:
    """Return the length of an interval of a probe's series: one step, or more so that there are not too many."""
    return round(step_s * max(1, math.ceil(duration_s / step_s / _LONGEST_SERIES)), 6)


def flatten(result: msgspec.Struct) -> dict[str, Any]:
    """Return a result as plain JSON values."""
    values = msgspec.json.decode(msgspec.json.encode(result))
    if not isinstance(values, dict):
        raise LabError(f"a result of type {type(result).__name__} is no object")
    return values
