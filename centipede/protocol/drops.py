"""Drop reasons: the named cause for which any datagram or packet is discarded.

Every discard in the node and in either engine is counted under exactly one of these. The numbers are part of the
engine contract: the C engine uses them as array indices, so new reasons are appended and old ones never renumbered.
This module imports nothing of the project.
"""

from enum import IntEnum, unique


@unique
class DropReason(IntEnum):
    """Why a datagram or packet went no further. ``reason.label`` is the name users see."""

    # Inner packets on their way out: TUN -> seal -> UDP.
    INNER_MALFORMED = 0
    """From the TUN device: not IPv4 or IPv6, or shorter than its own header says."""
    NO_ROUTE = 1
    """No peer's allowed_ips hold the inner destination."""
    NO_SESSION = 2
    """The peer has no usable session or path, and the 64 packets that may wait for one were already waiting."""
    COUNTER_LIMIT = 3
    """The sending counter of this (session, shard) is used up; a rekey is due."""
    SEND_TOO_BIG = 4
    """The kernel refused the outer datagram with EMSGSIZE."""
    SEND_NO_BUFFERS = 5
    """The kernel refused the outer datagram with ENOBUFS, ENOMEM or EAGAIN."""
    SEND_UNREACHABLE = 6
    """No route, no source address, no interface: ENETUNREACH, EHOSTUNREACH, ENODEV, EADDRNOTAVAIL, ENETDOWN, EINVAL."""
    SEND_REFUSED = 7
    """Any other error of a send: EPERM or EACCES of a firewall, ECONNREFUSED reported late by ICMP."""

    # Outer datagrams on their way in: UDP -> window -> open -> TUN.
    TOO_SHORT = 8
    """A session packet of fewer than 32 bytes, or an empty datagram."""
    UNKNOWN_SESSION = 9
    """No session has this base: an old session, another machine's, or noise."""
    FOREIGN_SHARD = 10
    """The destination shard is not one of this machine's, and nobody is known whose it is."""
    UNKNOWN_SHARD = 11
    """Data from a source shard that was not heard yet, and still not when its time to wait was over."""
    OLD = 12
    """The counter is behind the replay window."""
    DUPLICATE = 13
    """The counter was already accepted: the copy of a packet that came over another path, or a replay."""
    BAD_TAG = 14
    """Authentication failed: damaged, forged or sealed with another key."""
    OPENED_MALFORMED = 15
    """Authentic, but not a whole IPv4 or IPv6 packet."""
    SOURCE_NOT_ALLOWED = 16
    """The inner source address is not in the sending peer's allowed_ips."""
    BAD_PARTIAL = 17
    """The checksum-partial bit stands on a packet that cannot carry it."""
    TUN_FULL = 18
    """The TUN device took no more packets: EAGAIN, ENOBUFS, ENOMEM."""
    TUN_REFUSED = 19
    """The TUN device refused the packet: it is down or gone, or the packet is not acceptable (EIO, EINVAL)."""
    RECEIVE_FAILED = 20
    """Reading a socket or the TUN device failed in a way that is neither empty nor ours to mend."""

    # The bounded rings between the workers and the control thread.
    HANDSHAKE_RING_FULL = 21
    CONTROL_RING_FULL = 22
    EVENT_RING_FULL = 23

    # Handshake datagrams, in the order of the responder's checks.
    HANDSHAKE_MALFORMED = 24
    """Wrong length, type, version or reserved bytes."""
    BAD_MAC1 = 25
    RATE_LIMITED = 26
    """More Initiates from one source than its token bucket holds."""
    INITIATE_UNDECRYPTABLE = 27
    UNKNOWN_IDENTITY = 28
    STALE_TIMESTAMP = 29
    """Timestamp not above the floor: a replayed or reordered Initiate."""
    BAD_SIGNATURE = 30
    UNKNOWN_ATTEMPT = 31
    """An Acknowledge that answers no outstanding attempt."""
    ACKNOWLEDGE_UNDECRYPTABLE = 32
    """Wrong key, wrong preshared key, or a timestamp that is not the attempt's."""
    ACKNOWLEDGE_LIMITED = 33
    """An Acknowledge that was not sent (again) because the pair got one just now, or the handshake has 16 pairs."""
    REMOTE_NOT_ALLOWED = 34
    """The source address is outside the peer's allow_remote, or its port is 0, to which nobody can send."""

    # Session control (class 1).
    CONTROL_MALFORMED = 35
    CONTROL_UNKNOWN_TYPE = 36
    PATH_LIMIT = 37
    """An authentic packet from a new address while the peer already has as many paths as it may."""
    PENDING_EVICTED = 38
    """A pending handshake gave way to a newer one."""
    COOKIE_REQUIRED = 39
    """An Initiate that was answered by a Cookie, because the node is under load."""
    REMOTE_TUNNELLED = 40
    """The source address is one of the tunnel's own network: a path there would carry its own datagrams."""
    COOKIE_UNDECRYPTABLE = 41
    """A Cookie that answers an outstanding Initiate, but was not made by its responder."""
    PEER_MOVED = 42
    """An Initiate of a peer that another machine took over, which is to answer."""

    # Data for a shard of another member's, on its way there.
    FOREIGN_RING_FULL = 43
    """The bounded ring to the control thread, or from there to a worker, had no room."""
    FORWARD_LIMITED = 44
    """More than is forwarded in a second."""

    @property
    def label(self) -> str:
        """The name in ``show`` and in metrics, such as ``no_route``."""
        return self.name.lower()


class Refused(Exception):  # noqa: N818 - a verdict on bytes from the network, not an error of the program
    """Bytes from the network go no further, for this reason. Never carries what was received."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.label)
        self.reason = reason
