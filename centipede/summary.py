"""Summary: what a configuration was understood to mean, for ``centipede check``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from centipede.clusterconfig import ClusterConfig
from centipede.config import Config, PeerConfig
from centipede.protocol.handshake import NO_PSK
from centipede.protocol.timing import Timing

VERSION = 1


def summarize(config: Config) -> dict[str, Any]:
    """As plain values, without secrets; keys may be added, never renamed."""
    defaults = asdict(Timing())
    return {
        "version": VERSION,
        "file": str(config.file),
        "name": config.name,
        "public_key": config.identity.public.text,
        "addresses": [str(address) for address in config.addresses],
        "listen": [str(entry) for entry in config.listen],
        "mtu": config.mtu or "auto",
        "fwmark": config.mark or "auto",
        "table": (config.table or "auto") if config.routed else "off",
        "engine": config.engine,
        "workers": config.workers or "auto",
        "busy_poll_s": "auto" if config.busy_poll_s is None else config.busy_poll_s,
        "peers": [_peer(peer) for peer in config.peers],
        "cluster": None if config.cluster is None else _cluster(config.cluster),
        "timing": {key: value for key, value in asdict(config.timing).items() if value != defaults[key]},
    }


def _cluster(cluster: ClusterConfig) -> dict[str, Any]:
    store = cluster.store
    files = {} if store is None else {key: getattr(store, key) for key in ("ca_file", "cert_file", "key_file")}
    return {
        "member": cluster.member,
        "of": cluster.of,
        "listen": str(cluster.listen),
        "members": [str(member) for member in cluster.members],
        "weight": cluster.weight,
        "store": None if store is None else "etcd",
        "endpoints": [] if store is None else list(store.endpoints),
        **{key: None if file is None else str(file) for key, file in files.items()},
        "prefix": None if store is None else store.prefix,
    }


def _peer(peer: PeerConfig) -> dict[str, Any]:
    spec = peer.spec
    return {
        "name": spec.name,
        "public_key": spec.public_key.text,
        "preshared_key": spec.preshared_key != NO_PSK,
        "endpoints": [str(target) for target in peer.endpoints],
        "allowed_ips": [str(network) for network in spec.allowed_ips],
        "scheduler": spec.scheduler,
        "metered": list(spec.metered),
        "copies": ("all" if spec.copies is None else spec.copies) if spec.scheduler == "redundant" else None,
        "heartbeat_s": spec.heartbeat_s,
        "allow_remote": [str(network) for network in spec.allow_remote],
        "keepalive": spec.keepalive,
    }


def render(summary: dict[str, Any], bold: Callable[[str], str]) -> str:
    """As text for people."""
    lines = [f"{bold('interface')}: {bold(summary['name'])}"]
    lines += _rows({key: summary[key] for key in summary if key not in ("version", "name", "peers", "cluster")}, bold)
    if (cluster := summary["cluster"]) is not None:
        lines += ["", f"{bold('cluster')}: {bold('member {member} of {of}'.format(**cluster))}"]
        lines += _rows({key: value for key, value in cluster.items() if key not in ("member", "of")}, bold)
    for peer in summary["peers"]:
        lines += ["", f"{bold('peer')}: {bold(peer['name'])}"]
        lines += _rows({key: value for key, value in peer.items() if key != "name"}, bold)
    return "\n".join(lines)


def _rows(values: dict[str, Any], bold: Callable[[str], str]) -> list[str]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict):
            value = [f"{name} = {list(each) if isinstance(each, tuple) else each}" for name, each in value.items()]
        if value in ([], None, False):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)
        rows.append(f"  {bold(key.replace('_', ' '))}: {text}")
    return rows
