"""wireguard-go, the user-space WireGuard: one process at each end.

Configured through its own socket by the cross-platform interface of WireGuard (``set=1``), so that no other tool is
needed. Every host has a private ``/run``, where the socket lies. The program is the newest that lab/setup.py has got.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lab import setup
from lab.process import Process
from lab.tunnels.base import TunnelEnd, TunnelError, TunnelOptions, set_up_interface, tun_refusal
from lab.tunnels.wireguard import INTERFACE, Wireguard
from lab.tunnels.wireguard_keys import WireguardKeys

_DIALOGUE_TIMEOUT_S = 5.0


class WireguardGo(Wireguard):
    """The newest wireguard-go."""

    name = "wireguard-go"
    label = "wireguard-go"

    def __init__(self) -> None:
        self._ends: list[tuple[TunnelEnd, Process]] = []
        self._program = setup.wireguard_go()
        self._configurations: dict[str, list[str]] = {}
        self._options = TunnelOptions()

    def unavailable(self) -> str | None:
        if self._program is None:
            return "no wireguard-go here, and none fetched: run python -m lab.setup"
        return tun_refusal()

    def version(self) -> dict[str, str]:
        if self._program is None:
            return {}
        facts = {
            "wireguard-go": self._program.version,
            "suite": self._program.suite,
            "sha256": self._program.sha256,
            "note": self._program.note,
        }
        return {name: fact for name, fact in facts.items() if fact}

    def up_end(self, end: TunnelEnd, far: TunnelEnd, own: WireguardKeys, peer: bytes, options: TunnelOptions) -> None:
        self._options = options
        self._configurations[end.host.name] = configuration(own.private, peer, end, far, options)
        self._start(end)
        self._configure(end)

    def down(self) -> None:
        for end, process in self._ends:
            process.stop()
            with contextlib.suppress(FileNotFoundError):
                socket_path(end).unlink()
        self._ends.clear()

    def processes(self, end: TunnelEnd) -> list[Process]:
        return [process for owner, process in self._ends if owner is end]

    def state(self, end: TunnelEnd) -> Any:
        """Return ``get=1`` as a mapping, without the private key; keys that come more than once as their last value."""
        secret = {"private_key", "preshared_key"}
        return {key: value for key, value in dialogue(socket_path(end), ["get=1"]) if key not in secret}

    def restart(self, end: TunnelEnd) -> None:
        for owner, process in self._ends:
            if owner is end:
                process.stop()
        socket_path(end).unlink(missing_ok=True)
        self._start(end)
        self._configure(end)

    def _configure(self, end: TunnelEnd) -> None:
        dialogue(socket_path(end), self._configurations[end.host.name])
        set_up_interface(end, INTERFACE, self._options)

    def _start(self, end: TunnelEnd) -> None:
        assert self._program is not None
        process = end.host.start(
            [self._program.path, "--foreground", INTERFACE],
            env={"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"},
            ready=partial(_accepts, socket_path(end)),
        )
        self._ends.append((end, process))


def configuration(private: bytes, peer: bytes, end: TunnelEnd, far: TunnelEnd, options: TunnelOptions) -> list[str]:
    """Return the lines of one ``set`` that gives ``end`` its key, its port and the other end as its only peer."""
    head = ["set=1", f"private_key={private.hex()}", f"listen_port={end.listen_port}", "replace_peers=true"]
    return head + peer_lines(peer, far, options)


def peer_lines(peer: bytes, far: TunnelEnd, options: TunnelOptions) -> list[str]:
    """Return the lines that make an end a peer."""
    lines = [f"public_key={peer.hex()}"]
    if far.endpoints:
        lines.append(f"endpoint={far.endpoints[0]}")
    if options.keepalive_s is not None:
        lines.append(f"persistent_keepalive_interval={options.keepalive_s}")
    lines.append("replace_allowed_ips=true")
    lines += [f"allowed_ip={interface.ip}/{interface.ip.max_prefixlen}" for interface in far.inner]
    return lines


def dialogue(path: Path, lines: Sequence[str]) -> list[tuple[str, str]]:
    """Ask one question and return the answer's pairs. Raises TunnelError unless it ends with ``errno=0``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_DIALOGUE_TIMEOUT_S)
        try:
            sock.connect(str(path))
            sock.sendall("".join(f"{line}\n" for line in [*lines, ""]).encode("ascii"))
            answer = b""
            while not answer.endswith(b"\n\n"):
                piece = sock.recv(65536)
                if not piece:
                    break
                answer += piece
        except OSError as error:
            raise TunnelError(f"wireguard-go does not answer on {path.name}: {error}") from error
    pairs = list(_pairs(answer.decode("ascii").splitlines()))
    if ("errno", "0") not in pairs:
        raise TunnelError(f"wireguard-go refused {lines[0]}: {dict(pairs).get('errno', 'no answer')}")
    return pairs


def _pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        key, separator, value = line.partition("=")
        if separator:
            yield key, value


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(str(path)) == 0


def socket_path(end: TunnelEnd) -> Path:
    """Where the program of an end is spoken to."""
    return end.host.run_directory / "wireguard" / f"{INTERFACE}.sock"
