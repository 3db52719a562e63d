"""The machine the lab runs on: what it is, which tools it has, what else it is doing.

Reads only; every fact that cannot be had is an empty text or left out, never an error.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from lab.guest import in_guest
from lab.probes.cpu import machine_cpu_seconds

LOAD_PAUSE_S = 0.2
"""How long the machine is watched for its load."""
_SYSCTLS = (
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.rmem_default",
    "net.core.wmem_default",
    "net.core.netdev_max_backlog",
    "net.core.netdev_budget",
    "net.core.default_qdisc",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.udp_mem",
)
_PROGRAMS = {
    "iperf3": (["iperf3", "--version"], r"iperf (\S+)"),
    "ping": (["ping", "-V"], r"ping from (.+)"),
    "nft": (["nft", "--version"], r"nftables (\S+)"),
    "ip": (["ip", "-V"], r"iproute2-(\S+?),"),
    "ethtool": (["ethtool", "--version"], r"version (\S+)"),
    "etcd": (["etcd", "--version"], r"etcd Version: (\S+)"),
    "openssl": (["openssl", "version"], r"OpenSSL (\S+)"),
}
_LIBRARIES = ("cryptography", "cffi", "pyroute2", "msgspec", "numpy", "matplotlib")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where something was measured."""

    host: str
    system: str
    kernel: str
    architecture: str
    processor: str
    cores: int
    memory_bytes: int
    virtualization: str
    """In which virtual machine this is; ``none`` if in none, empty if that is not known."""
    tools: dict[str, str]
    """Versions of the programs and libraries used."""
    git: dict[str, str]
    """Commit and state of the checkout; empty outside one."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What else the machine was doing just before a measurement."""

    load_1m: float
    """The system's load average over a minute. It includes the measurements before."""
    busy_cores: float
    """Processor time spent per second in a short pause."""


def machine() -> Machine:
    """Return what machine this is."""
    return Machine(
        host=platform.node(),
        system=_system(),
        kernel=platform.release(),
        architecture=platform.machine(),
        processor=_first(r"^model name\s*: (.+)$", Path("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(_first(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo")) or 0) * 1024,
        virtualization=in_guest() or _output(["systemd-detect-virt", "--vm"]).strip(),
        tools=_tools(),
        git=_git(),
    )


def load(pause_s: float = LOAD_PAUSE_S) -> Load:
    """Return what the machine is doing while this process pauses."""
    before = machine_cpu_seconds()
    threading.Event().wait(pause_s)  # the pause is what is measured
    return Load(load_1m=os.getloadavg()[0], busy_cores=round((machine_cpu_seconds() - before) / pause_s, 2))


def sysctls() -> dict[str, str]:
    """Return the kernel's settings that bear on throughput, as this process sees them."""
    found: dict[str, str] = {}
    for name in _SYSCTLS:
        try:
            found[name] = " ".join(Path("/proc/sys", *name.split(".")).read_text().split())
        except OSError:
            continue
    return found


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.system()


def _tools() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name, (argv, pattern) in _PROGRAMS.items():
        match = re.search(pattern, _output(argv))
        if match:
            found[name] = match[1].strip()
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, str]:
    root = Path(__file__).resolve().parent.parent
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"]).strip()
    if not commit:
        return {}
    changes = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]).strip()
    return {"commit": commit, "state": "changed" if changes else "clean"}


def _first(pattern: str, path: Path) -> str:
    try:
        match = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""


def _output(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + (done.stderr if not done.stdout else "")
