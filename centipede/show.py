"""Show: the status of running interfaces, as JSON of a fixed schema and as text for people.

Owns the schema (version 1: keys may be added, never renamed). The daemon fills it, the command line prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

from centipede.protocol.status import HandshakeStatus, PeerStatus

if TYPE_CHECKING:
    from centipede.cluster.channel import Channel

VERSION = 1


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """A path to a peer."""

    local: str
    remote: str
    shard: int
    state: str
    """probing, usable, suspect or lost."""
    carries: bool = False
    """Whether data goes over it now."""
    reason: str = ""
    """Why it is in its state, and why data goes over it or not."""
    rtt_ms: float | None = None
    jitter_ms: float | None = None
    loss: float | None = None
    """Share of what was sent on it that did not arrive, 0 to 1."""
    mtu: int
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    tx_share: float | None = None
    """Share of the bytes sent to the peer that went on it lately, 0 to 1."""
    last_heard_s: float | None = None
    observed: str | None = None
    """The address at which the peer sees this end."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The session with a peer."""

    state: Literal["none", "initiating", "established"]
    age_s: float | None = None
    rekeys: int = 0
    moved: bool = False
    """Whether another machine took the peer over, or is about to."""
    shards: int = 0
    """The peer's that were heard under its sessions so far; each has a replay window."""


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """A handshake under way."""

    step: str
    reason: str | None = None
    """The drop reason of the last refusal."""
    attempts: int = 0
    age_s: float = 0.0


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One of the machines that share a peer's identity, as this end sees it."""

    shard: int
    """The first of its shards."""
    remotes: list[str] = []
    """Its addresses, as far as usable."""
    weight: int
    """What it asks for, 0..255."""
    share: float
    """Of the flows to the peer, 0..1."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A peer."""

    name: str
    public_key: str
    session: Session
    handshake: Handshake | None = None
    endpoints: list[str] = []
    """As configured."""
    unresolved: dict[str, str] = {}
    """Host names among them without an address so far, each with the reason."""
    allowed_ips: list[str] = []
    scheduler: str
    copies: int | Literal["all"] | None = None
    """For the redundant scheduler."""
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    duplicates: int = 0
    members: list[Member] = []
    """Those of the peer's that data goes to."""
    paths: list[Path] = []


class ClusterMember(msgspec.Struct, frozen=True, kw_only=True):
    """Another machine that shares the private key."""

    address: str
    """Of the channel to it."""
    member: int | None
    """Its number; None while it was never heard."""
    state: Literal["up", "silent"]
    last_heard_s: float | None
    behind: int
    """Peers of which it has not acknowledged what it was told."""
    mistake: str = ""
    """Why nothing that it says counts, in words."""


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """Where members find each other."""

    state: Literal["up", "gone"]
    gone_s: float | None = None
    """Since it was first missed."""
    reason: str = ""
    """Why it is gone."""
    holder: str | None = None
    """Who has this machine's number, if another has."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """This machine among those that share the private key; member 0 of 0 if it is not told of any."""

    member: int = 0
    of: int = 0
    first_shard: int = 0
    shards: int = 0
    draining: bool = False
    refused: int = 0
    """Datagrams of the channel that did not count."""
    forwarded: int = 0
    """Data that came here and was another member's."""
    received: int = 0
    """Data that came to another member and was this one's."""
    store: Store | None = None
    """None if the members are configured."""
    members: list[ClusterMember] = []


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A running tunnel."""

    name: str
    public_key: str
    engine: str
    engine_reason: str = ""
    engine_details: dict[str, str] = {}
    workers: int
    mtu: int
    addresses: list[str] = []
    listen: list[str]
    observed: dict[str, list[str]] = {}
    """For each local address, the addresses at which peers see it, where that differs: what translators make of it."""
    cluster: Cluster | None = None
    pid: int = 0
    uptime_s: float = 0.0
    peers: list[Peer]
    drops: dict[str, int]


class Show(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    version: int = VERSION
    interfaces: list[Interface]


def picture(status: PeerStatus, *, copies: int | None, endpoints: list[str], unresolved: dict[str, str]) -> Peer:
    """A peer of the node, with what the configuration and the resolver add to it."""
    return Peer(
        name=status.name,
        public_key=status.public_key.text,
        session=Session(
            state=status.session.state,
            age_s=status.session.age_s,
            rekeys=status.session.rekeys,
            moved=status.session.moved,
            shards=status.session.shards,
        ),
        handshake=_picture_handshake(status.handshake),
        endpoints=endpoints,
        unresolved=unresolved,
        allowed_ips=[str(network) for network in status.allowed_ips],
        scheduler=status.scheduler,
        copies=("all" if copies is None else copies) if status.scheduler == "redundant" else None,
        rx_bytes=status.rx_bytes,
        tx_bytes=status.tx_bytes,
        rx_packets=status.rx_packets,
        tx_packets=status.tx_packets,
        duplicates=status.duplicates,
        members=[
            Member(
                shard=member.run.first,
                remotes=[str(remote) for remote in member.remotes],
                weight=member.weight,
                share=member.share,
            )
            for member in status.members
        ],
        paths=[
            Path(
                local=str(path.local),
                remote=str(path.remote),
                shard=path.shard,
                state=path.state,
                carries=path.carries,
                reason=path.reason,
                rtt_ms=path.rtt_ms,
                jitter_ms=path.jitter_ms,
                loss=path.loss,
                mtu=path.mtu,
                rx_bytes=path.rx_bytes,
                tx_bytes=path.tx_bytes,
                rx_packets=path.rx_packets,
                tx_packets=path.tx_packets,
                tx_share=path.tx_share,
                observed=str(path.observed) if path.observed else None,
                last_heard_s=path.last_heard_s,
            )
            for path in status.paths
        ],
    )


def observed(peers: Iterable[Peer]) -> dict[str, list[str]]:
    """Where the own addresses are seen by these peers, as :attr:`Interface.observed` has it."""
    return {local: list(addresses) for local, addresses in _observers(peers).items()}


def _observers(peers: Iterable[Peer]) -> dict[str, dict[str, list[str]]]:
    """For each local address that is seen otherwise: the addresses, and the peers that see it there now."""
    seen: dict[str, dict[str, list[str]]] = {}
    for peer in peers:
        for path in peer.paths:
            if path.observed and path.observed != path.local and path.state in ("usable", "suspect"):
                names = seen.setdefault(path.local, {}).setdefault(path.observed, [])
                names += [peer.name] if peer.name not in names else []
    return seen


def _picture_handshake(status: HandshakeStatus | None) -> Handshake | None:
    if status is None:
        return None
    return Handshake(
        step=status.step,
        reason=status.reason.label if status.reason is not None else None,
        attempts=status.attempts,
        age_s=status.age_s,
    )


def render(interfaces: Iterable[Interface], bold: Callable[[str], str]) -> str:
    """Text for people; ``bold`` marks labels where that can be shown. Peers heard last come first."""
    return "\n\n".join(_interface(interface, bold) for interface in interfaces)


def _interface(shown: Interface, bold: Callable[[str], str]) -> str:
    details = "".join(f", {key} {value}" for key, value in shown.engine_details.items())
    lines = [f"{bold('interface')}: {bold(shown.name)}"]
    rows = [
        ("public key", shown.public_key),
        ("addresses", _list(shown.addresses)),
        ("listening", _list(shown.listen)),
        ("seen as", "; ".join(_seen(local, found) for local, found in _observers(shown.peers).items())),
        ("member", _cluster(shown.cluster) if shown.cluster else ""),
        ("mtu", str(shown.mtu)),
        ("engine", f"{shown.engine}, {_count(shown.workers, 'worker')}{details}"),
        ("engine reason", shown.engine_reason),
        ("dropped", _drops(shown.drops)),
    ]
    lines += [f"  {bold(label)}: {text}" for label, text in rows if text]
    for peer in sorted(shown.peers, key=_silence):
        lines += ["", *_peer(peer, bold)]
    return "\n".join(lines)


def members(channel: Channel | None, draining: bool, now: float) -> Cluster | None:
    """This machine among the others; ``channel`` is None if it is told of none."""
    if channel is None:
        return Cluster(draining=True) if draining else None
    cluster, directory = channel.cluster, channel.directory
    return Cluster(
        member=cluster.member,
        of=cluster.of,
        first_shard=channel.run.first,
        shards=channel.run.size,
        draining=draining,
        refused=cluster.refused,
        forwarded=cluster.forwarded,
        received=cluster.received,
        store=None
        if directory is None
        else Store(
            state="up" if directory.gone_since is None else "gone",
            gone_s=None if directory.gone_since is None else now - directory.gone_since,
            reason="" if directory.gone_since is None else directory.reason,
            holder=None if directory.holder is None else str(directory.holder),
        ),
        members=[
            ClusterMember(
                address=str(each.address),
                member=each.number,
                state="up" if cluster.is_heard(each, now) else "silent",
                last_heard_s=None if each.number is None else now - each.heard_at,
                behind=len(each.untold),
                mistake="" if cluster.is_heard(each, now) else each.mistake,  # an old message may be sent again
            )
            for each in cluster.members
        ],
    )


def _cluster(cluster: Cluster) -> str:
    words = ["draining"] if cluster.draining else []
    if cluster.of:
        last = cluster.first_shard + cluster.shards - 1
        run = f"shard {last}" if cluster.shards == 1 else f"shards {cluster.first_shard} to {last}"
        words.insert(0, f"{cluster.member} of {cluster.of}, {run}")
    store = [] if cluster.store is None else _store(cluster.store, cluster.member)
    strayed = []
    if cluster.forwarded or cluster.received:
        strayed = [f"{cluster.forwarded} packets of others forwarded, {cluster.received} own got from them"]
    return "; ".join([*words, *(_other(each) for each in cluster.members), *strayed, *store])


def _store(store: Store, member: int) -> list[str]:
    words = []
    if store.gone_s is not None:
        words.append(f"store gone since {duration(store.gone_s)} ({store.reason})")
    if store.holder is not None:
        words.append(f"number {member} is {store.holder}'s: give each machine its own")
    return words


def _other(member: ClusterMember) -> str:
    name = member.address if member.member is None else f"{member.member} at {member.address}"
    if member.mistake:
        return f"{name} does not count, for {member.mistake}"
    if member.last_heard_s is None:
        return f"{name} never heard"
    if member.state == "silent":
        return f"{name} silent for {duration(member.last_heard_s)}"
    return f"{name} up" + (f", {member.behind} peers behind" if member.behind else "")


def _seen(local: str, found: dict[str, list[str]]) -> str:
    words = ", ".join(f"{address} (by {', '.join(names)})" for address, names in found.items())
    return f"{local}: {words}" + (", another for each peer: a symmetric NAT" if len(found) > 1 else "")


def _peer(peer: Peer, bold: Callable[[str], str]) -> list[str]:
    copies = "" if peer.copies is None else ", all paths" if peer.copies == "all" else f", {peer.copies} copies"
    rows = [
        ("public key", peer.public_key),
        ("endpoints", ", ".join(peer.endpoints)),
        ("unresolved", ", ".join(f"{host} ({reason or 'asking'})" for host, reason in peer.unresolved.items())),
        ("allowed ips", _list(peer.allowed_ips)),
        ("session", _session(peer.session)),
        ("handshake", _handshake(peer.handshake)),
        ("transfer", _transfer(peer)),
        ("scheduler", f"{peer.scheduler}{copies}"),
        ("members", _members(peer.members)),
    ]
    lines = [f"{bold('peer')}: {bold(peer.name)}"]
    lines += [f"  {bold(label)}: {text}" for label, text in rows if text]
    for path in peer.paths:
        lines.append(f"  {bold('path')}: {path.local} - {path.remote}: {_path(path)}")
    return lines


def _members(members: list[Member]) -> str:
    """How the flows are shared, where there is more than one machine."""
    if len(members) < 2:
        return ""
    return ", ".join(
        f"{' and '.join(member.remotes)} (shard {member.shard}) {member.share:.0%} of the flows" for member in members
    )


def _silence(peer: Peer) -> tuple[float, str]:
    heard = [path.last_heard_s for path in peer.paths if path.last_heard_s is not None]
    return min(heard, default=float("inf")), peer.name


def _session(session: Session) -> str:
    if session.state != "established" or session.age_s is None:
        return f"{session.state}, another machine serves the peer" if session.moved else session.state
    rekeys = f", {_count(session.rekeys, 'rekey')}" if session.rekeys else ""
    moved = ", handed over to another machine" if session.moved else ""
    return f"established {ago(session.age_s)}{rekeys}{moved}"


def _handshake(handshake: Handshake | None) -> str:
    if handshake is None:
        return ""
    reason = f", last refusal: {handshake.reason}" if handshake.reason else ""
    return f"{handshake.step} ({_count(handshake.attempts, 'attempt')} in {duration(handshake.age_s)}{reason})"


def _transfer(peer: Peer) -> str:
    if not peer.rx_packets and not peer.tx_packets:
        return ""
    text = f"{size(peer.rx_bytes)} received, {size(peer.tx_bytes)} sent"
    return text + (f", {_count(peer.duplicates, 'duplicate')} received" if peer.duplicates else "")


def _path(path: Path) -> str:
    parts = [path.state + (f" ({path.reason})" if path.reason else "")]
    if path.rtt_ms is not None:
        parts.append(f"rtt {path.rtt_ms:.1f} ms")
    if path.jitter_ms is not None:
        parts.append(f"jitter {path.jitter_ms:.1f} ms")
    if path.loss is not None:
        parts.append(f"loss {100 * path.loss:.1f} %")
    parts.append(f"mtu {path.mtu}")
    if path.rx_bytes or path.tx_bytes:
        parts.append(f"{size(path.rx_bytes)} received, {size(path.tx_bytes)} sent")
    if path.tx_share is not None:
        parts.append(f"{100 * path.tx_share:.0f} % of what is sent")
    parts.append("never heard" if path.last_heard_s is None else f"heard {ago(path.last_heard_s)}")
    return ", ".join(parts)


def _drops(drops: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items(), key=lambda item: -item[1]))


def _list(texts: list[str]) -> str:
    return ", ".join(texts) or "(none)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """``1 day, 2 hours, 3 minutes``: the two largest units that are not zero."""
    rest = int(seconds)
    parts = []
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        number, rest = divmod(rest, length)
        if number:
            parts.append(_count(number, unit))
    return ", ".join(parts[:2]) or "less than 1 second"


def ago(seconds: float) -> str:
    """How long since, in words."""
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def size(count: int) -> str:
    """Bytes in IEC units: ``512 B``, ``1.24 MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.2f} {unit}"
