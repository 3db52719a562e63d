"""What happens to a scenario's network while it is in use: the events, by their names in a scenario file.

Owns what each event means. Must not know when it is due in real time (lab/runner.py waits) nor where it was read.
Invariant: an event changes the topology or ends or stops programs, and nothing else; what it changed is taken down with
the topology.
"""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import msgspec

from lab.errors import LabError
from lab.impairment import Change
from lab.link import End, Interface
from lab.process import Process
from lab.topology import Topology

_YEAR_S = 365.25 * 86400


@dataclass(frozen=True, slots=True)
class Stage:
    """What events act on: a topology, and the tunnel's programs at each end."""

    topology: Topology
    processes: Callable[[str], Sequence[Process]]
    """The programs that carry the tunnel at its ``left`` or ``right`` end, or on a member's host; or a store's."""
    restart: Callable[[str], None]
    """Start them again, or for the first time. Raises LabError for a tunnel that has none."""
    move: Callable[[str, str], None]
    """Move the live session with the other end from one member to another. Raises LabError if that cannot be done."""
    wait: Callable[[float], None]
    """Wait so many seconds. Raises LabError if the attempt's time is up before."""
    set_clock: Callable[[str, float], None]
    """Set the wall clock of the tunnel's programs at an end. Raises LabError for one that has only the machine's."""

    def ends(self, link: str, host: str | None) -> tuple[End, ...]:
        """Return one end of a link, or both when no host is named."""
        found = self.topology.link(link)
        return found.ends if host is None else (found.end(host),)


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="do"):
    """Something that happens ``at`` so many seconds after traffic may begin."""

    at: float
    repeat: Annotated[int, msgspec.Meta(ge=1)] = 1
    """So many times in all."""
    every_s: float = 0.0
    """From one of them to the next."""

    def each(self) -> Iterator[Self]:
        """Yield the events that are meant: one for each time."""
        for number in range(self.repeat):
            at = round(self.at + number * self.every_s, 6)
            yield msgspec.structs.replace(self, at=at, repeat=1, every_s=0.0)

    def apply(self, stage: Stage) -> None:
        """Let it happen. Raises LabError if the network at hand does not allow it."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """One line for results and charts."""
        fields = msgspec.to_builtins(self)
        rest = (_words(value) for key, value in fields.items() if key not in ("do", "at"))
        return " ".join((fields["do"], *rest))


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_words(each)}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


class LinkDown(Event, frozen=True, tag="link-down"):
    """An interface goes down, at one host or at both ends; a host whose neighbour's goes down loses its carrier."""

    link: str
    host: str | None = None

    def apply(self, stage: Stage) -> None:
        for end in stage.ends(self.link, self.host):
            stage.topology.link(self.link).set_up(end, False)


class LinkUp(Event, frozen=True, tag="link-up"):
    """An interface comes up again, with its addresses and routes."""

    link: str
    host: str | None = None

    def apply(self, stage: Stage) -> None:
        for end in stage.ends(self.link, self.host):
            stage.topology.link(self.link).set_up(end, True)


class Blackhole(Event, frozen=True, tag="blackhole"):
    """Everything on a link vanishes and nobody is told, in both directions or only what goes ``towards`` a host."""

    link: str
    towards: str | None = None

    def apply(self, stage: Stage) -> None:
        for end in stage.ends(self.link, self.towards):
            end.set_dark(True)


class BlackholeEnd(Event, frozen=True, tag="blackhole-end"):
    """The link carries again."""

    link: str
    towards: str | None = None

    def apply(self, stage: Stage) -> None:
        for end in stage.ends(self.link, self.towards):
            end.set_dark(False)


class LinkChange(Event, frozen=True, tag="link-change"):
    """What a link does to frames changes: what is not named stays, 0 takes away."""

    link: str
    change: Change
    sender: str | None = None
    """The host whose frames are meant; None for both directions."""

    def apply(self, stage: Stage) -> None:
        link = stage.topology.link(self.link)
        for end in stage.ends(self.link, self.sender):
            try:
                link.change(end, self.change)
            except ValueError as error:
                raise LabError(f"link {self.link} cannot change so: {error}") from None


class AddressAdd(Event, frozen=True, tag="address-add"):
    """A host gets one more address on a link."""

    link: str
    host: str
    address: str

    def __post_init__(self) -> None:
        ipaddress.ip_interface(self.address)

    def apply(self, stage: Stage) -> None:
        stage.topology.link(self.link).end(self.host).add_address(ipaddress.ip_interface(self.address))


class AddressRemove(Event, frozen=True, tag="address-remove"):
    """A host loses an address."""

    link: str
    host: str
    address: str

    def __post_init__(self) -> None:
        ipaddress.ip_interface(self.address)

    def apply(self, stage: Stage) -> None:
        stage.topology.link(self.link).end(self.host).remove_address(ipaddress.ip_interface(self.address))


class AddressChange(Event, frozen=True, tag="address-change"):
    """A host loses the addresses it has on a link, of one IP version, and gets another.

    ``first`` says what comes first: ``remove`` breaks before it makes, ``add`` makes before it breaks.
    """

    link: str
    host: str
    address: str
    first: Literal["remove", "add"] = "remove"

    def __post_init__(self) -> None:
        ipaddress.ip_interface(self.address)

    def apply(self, stage: Stage) -> None:
        end = stage.topology.link(self.link).end(self.host)
        new: Interface = ipaddress.ip_interface(self.address)
        old = [address for address in end.addresses if address.version == new.version]
        if self.first == "add":
            end.add_address(new)
        for address in old:
            end.remove_address(address)
        if self.first == "remove":
            end.add_address(new)


class RouteChange(Event, frozen=True, tag="route-change"):
    """A host reaches a network through another neighbour from now on."""

    host: str
    to: str
    via: str
    """The neighbour's name."""

    def __post_init__(self) -> None:
        ipaddress.ip_network(self.to)

    def apply(self, stage: Stage) -> None:
        stage.topology.reroute(self.host, ipaddress.ip_network(self.to), self.via)


class SessionMove(Event, frozen=True, tag="session-move"):
    """The live session with the other end moves from one member to another, and back if that is said ``times``.

    As an operator's script would, it then lets a ``host`` behind the members reach ``to`` through the new one.
    """

    source: str
    target: str
    host: str
    to: str
    times: int = 1
    pause_s: float = 1.0
    """Between one time and the next."""

    def __post_init__(self) -> None:
        ipaddress.ip_network(self.to)

    def apply(self, stage: Stage) -> None:
        source, target = self.source, self.target
        for number in range(self.times):
            if number:
                stage.wait(self.pause_s)
            stage.move(source, target)
            stage.topology.reroute(self.host, ipaddress.ip_network(self.to), target)
            source, target = target, source


class NatRebind(Event, frozen=True, tag="nat-rebind"):
    """A NAT forgets all its mappings, as one that was restarted."""

    router: str

    def apply(self, stage: Stage) -> None:
        stage.topology.nat(self.router).rebind()


class ClockStep(Event, frozen=True, tag="clock-step"):
    """The wall clock of the tunnel's programs at one end jumps."""

    end: str
    """``left``, ``right``, or the host of a member."""
    ahead_s: float
    """How far it is ahead of the true time from then on; behind, if negative."""

    def apply(self, stage: Stage) -> None:
        stage.set_clock(self.end, self.ahead_s)

    @property
    def title(self) -> str:
        years = self.ahead_s / _YEAR_S
        return f"clock-step {self.end} " + (f"{years:+.1f} years" if abs(years) >= 1 else f"{self.ahead_s:+g} s")


class ProcessEvent(Event, frozen=True):
    """Something that happens to programs at one end, or to a store."""

    end: str
    """``left``, ``right``, or the host of a member or of a store."""


class ProcessKill(ProcessEvent, frozen=True, tag="process-kill"):
    """The programs die without a word (SIGKILL)."""

    def apply(self, stage: Stage) -> None:
        for process in stage.processes(self.end):
            process.kill()


class ProcessRestart(ProcessEvent, frozen=True, tag="process-restart"):
    """The programs are started again, as they were and with the state they kept; or at last, if they were not yet."""

    def apply(self, stage: Stage) -> None:
        stage.restart(self.end)


class ProcessFreeze(ProcessEvent, frozen=True, tag="process-freeze"):
    """The programs stand still (SIGSTOP), as on a machine that sleeps."""

    def apply(self, stage: Stage) -> None:
        for process in stage.processes(self.end):
            process.signal(signal.SIGSTOP)


class ProcessThaw(ProcessEvent, frozen=True, tag="process-thaw"):
    """They go on."""

    def apply(self, stage: Stage) -> None:
        for process in stage.processes(self.end):
            process.signal(signal.SIGCONT)


AnyEvent = (
    LinkDown
    | LinkUp
    | Blackhole
    | BlackholeEnd
    | LinkChange
    | AddressAdd
    | AddressRemove
    | AddressChange
    | RouteChange
    | SessionMove
    | NatRebind
    | ClockStep
    | ProcessKill
    | ProcessRestart
    | ProcessFreeze
    | ProcessThaw
)
