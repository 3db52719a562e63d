"""What this machine can do for the lab, found out by trying, each thing in a throw-away host.

Owns the list of capabilities and the exact reason for each that is absent. Must not know scenarios.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from centipede.engine import native_unavailable
from lab import setup
from lab.errors import LabError
from lab.host import Host
from lab.namespace import can_make, user_namespace_refusal
from lab.probes.iperf3 import version as iperf3_version
from lab.store import unavailable as store_unavailable
from lab.store import version as etcd_version
from lab.topology import HostPlan, Plan, Topology

_UDP_SEGMENT = 103
_UDP_GRO = 104
_PROBE_HOST = "probe"


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """Something the machine can or cannot do."""

    name: str
    there: bool
    detail: str
    """Why it is absent, or which version there is."""


def probe() -> list[Capability]:
    """Try everything and return what was found."""
    found = [_answer("user namespaces", user_namespace_refusal), _answer("network namespaces", can_make)]
    if not found[-1].there:
        return found
    with Topology.build(Plan(hosts=(HostPlan(_PROBE_HOST),))) as topology:
        host = topology.host(_PROBE_HOST)
        trials: dict[str, Callable[[Host], str | None]] = {
            "kernel WireGuard": lambda host: _link(host, "wireguard"),
            "netem": _netem,
            "tbf": _tbf,
            "nft": _nft,
            "tun": _tun,
            "UDP_SEGMENT": lambda host: _udp_option(host, _UDP_SEGMENT, 1200),
            "UDP_GRO": lambda host: _udp_option(host, _UDP_GRO, 1),
        }
        found += [_answer(name, lambda trial=trial: trial(host)) for name, trial in trials.items()]  # type: ignore[misc]
    found.append(_answer("SCHED_FIFO", real_time_refusal))
    version = iperf3_version()
    found.append(
        _capability("iperf3", None if version else "it is not installed: apt-get install iperf3", version or "")
    )
    program = setup.wireguard_go()
    found.append(
        _capability(
            "wireguard-go",
            None if program else "there is none, and none has been fetched: python -m lab.setup",
            f"{program.version} ({program.suite})" if program else "",
        )
    )
    found.append(_capability("etcd", store_unavailable(), etcd_version() or ""))
    found.append(_answer("C engine", native_unavailable))
    return found


def _answer(name: str, trial: Callable[[], str | None]) -> Capability:
    return _capability(name, trial())


def _capability(name: str, refusal: str | None, version: str = "") -> Capability:
    return Capability(name=name, there=refusal is None, detail=version if refusal is None else refusal)


def _link(host: Host, kind: str) -> str | None:
    def trial(netlink: IPRoute) -> None:
        netlink.link("add", ifname="trial", kind=kind)
        netlink.link("del", index=netlink.link_lookup(ifname="trial")[0])

    try:
        host.netlink(trial)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            return f"the kernel has no interfaces of kind {kind}"
        return f"an interface of kind {kind} is refused: {os.strerror(error.code)}"
    return None


def _discipline(host: Host, *words: str) -> str | None:
    try:
        tried = host.run(["tc", "qdisc", "add", "dev", "lo", "root", *words], check=False)
    except LabError as error:
        return str(error)
    if tried.returncode == 0:
        host.run(["tc", "qdisc", "del", "dev", "lo", "root"])
        return None
    return f"the kernel refuses the queueing discipline {words[0]}: {_last_line(tried.stderr)}"


def _netem(host: Host) -> str | None:
    return _discipline(host, "netem", "delay", "1ms")


def _tbf(host: Host) -> str | None:
    return _discipline(host, "tbf", "rate", "1mbit", "burst", "10kb", "latency", "50ms")


def _nft(host: Host) -> str | None:
    hook = 'type filter hook ingress device "lo" priority 0; policy accept;'
    rules = f"table netdev trial {{\nchain arrivals {{\n{hook}\n}}\n}}\n"
    try:
        tried = host.run(["nft", "-f", "-"], input=rules, check=False)
    except LabError as error:
        return str(error)
    return None if tried.returncode == 0 else f"nft is refused: {_last_line(tried.stderr)}"


def _tun(host: Host) -> str | None:
    def trial() -> str | None:
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR)
        except OSError as error:
            return f"/dev/net/tun: {error.strerror}"
        os.close(fd)
        return None

    return host.call(trial)


def _udp_option(host: Host, option: int, value: int) -> str | None:
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.setsockopt(socket.IPPROTO_UDP, option, value)
        except OSError as error:
            return f"the kernel refuses the socket option: {error.strerror}"
    return None


def real_time_refusal() -> str | None:
    """Return why no process may run ahead of all ordinary ones, or None. Finds out by trying."""
    # In a process of its own, since it is the whole process that would be changed.
    try:
        tried = subprocess.run(["chrt", "--fifo", "10", "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "the program chrt is missing: install util-linux"
    return None if tried.returncode == 0 else re.sub(r"^chrt: ", "", _last_line(tried.stderr))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
