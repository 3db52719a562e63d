"""Timing: every duration of the protocol, as one value.

The defaults are the protocol's (docs/protocol.md "Constants"); tests and labs shorten them through the
``[timing]`` section of the configuration. Two ends need not agree: what the other must know travels in heartbeats and
handshake parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in seconds. Raises ValueError, naming the field, for a set that cannot work."""

    rekey_s: float = 120.0
    """Age of a session at which its initiator asks for the next one."""
    rekey_jitter_s: float = 5.0
    """The initiator adds up to this much, so that many peers do not rekey at once."""
    rekey_fallback_s: float = 150.0
    """Age at which either side asks."""
    reject_s: float = 180.0
    """Age at which a session is erased; also the silence after which a peer without traffic is let go."""

    pending_s: float = 10.0
    """Life of a handshake that was answered and not confirmed."""
    acknowledge_gap_s: float = 0.2
    """Least time between two Acknowledges to one (local, remote) pair."""
    attempt_s: float = 5.0
    """An attempt without an answer gives way to a new one after this long."""
    resend_s: tuple[float, ...] = (0.0, 0.25, 0.75, 1.75, 3.75)
    """When, within an attempt, its Initiate goes out on every pair."""
    back_off_s: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0)
    """Pauses between one attempt and the next; the last one repeats."""
    tie_s: float = 3.0
    """Sessions established this close together are ordered by timestamp and key, not by arrival.

    At most ``dead_s`` counts: a handshake that began because the peer was silent is to replace what was there.
    """
    dead_s: float = 3.0
    """Silence after an unanswered question, while sending, that starts a handshake."""

    heard_s: float = 1.0
    """From this age, a session heard on one usable path may send; before, it must be heard on all of them."""
    overlap_s: float = 2.0
    """For this long after a session was established, heartbeats also go under the one before it."""

    up_s: float = 1.0
    """Between heartbeats on usable paths that carry no data, and on all after the traffic stopped.

    On those that carry data it is the peer's ``heartbeat``.
    """
    idle_s: float = 10.0
    """Between heartbeats to a peer without traffic."""
    busy_within_s: float = 2.0
    """A peer has traffic if a packet went or came within this time."""
    idle_after_s: float = 10.0
    """A peer without a packet for this long is idle."""
    gap_s: float = 10.0
    """Longest pause between heartbeats that this side tolerates; told to the peer in the handshake."""

    suspect_factor: float = 1.5
    """A path is suspect after this many times the announced interval without a sign of life."""
    gone_factor: float = 3.0
    """And gone after this many times."""
    gone_least_s: float = 1.0
    """But not sooner than this."""
    probe_s: float = 1.0
    """Between heartbeats to a pair that is not usable, while the peer has traffic; ``idle_s`` otherwise."""
    remembered_s: float = 600.0
    """An address that was valid is probed for this long."""
    tries_s: tuple[float, ...] = (0.0, 0.3, 1.0)
    """When, after an unknown address was first seen, it is challenged."""
    mtu_check_s: float = 1.0
    """Between probes of the size of datagrams in use, on a path that carries data."""
    mtu_retry_s: float = 600.0
    """Longest pause before a larger size is tried again."""
    mtu_hold_s: float = 10.0
    """The interface's MTU is raised when all paths have carried more for so long; it is lowered at once."""
    leave_s: float = 3.0
    """A peer that another machine took over is left when there was no data for this long."""
    linger_s: float = 1.0
    """And what was under way to it when it was left is delivered for this long."""
    taken_over_s: float = 35.0
    """One that still sends data here after this long was not taken over: an offer's life, and until it is left."""
    new_s: float = 3.0
    """Life of a path to an unknown address that answers no challenge."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, tuple):
                if not value or min(value) < 0:
                    raise ValueError(f"{item.name} is a list of seconds, none of them negative")
            elif not value > 0 and item.name != "rekey_jitter_s":
                raise ValueError(f"{item.name} is more than 0 seconds")
        if self.rekey_jitter_s < 0:
            raise ValueError("rekey_jitter_s is not negative")
        if not self.rekey_s <= self.rekey_fallback_s < self.reject_s:
            raise ValueError("rekey_s, rekey_fallback_s and reject_s ascend in this order")
        for name in ("resend_s", "tries_s"):
            times = getattr(self, name)
            if list(times) != sorted(times):
                raise ValueError(f"{name} ascends")
        if self.resend_s[-1] >= self.attempt_s:
            raise ValueError("resend_s ends before attempt_s")
        if not 1 <= self.suspect_factor < self.gone_factor:
            raise ValueError("suspect_factor is at least 1 and less than gone_factor")
        if self.gap_s > 655:
            raise ValueError("gap_s is at most 655 seconds")
