"""Features of an interface that decide what a benchmark measures: segmentation offload and checksums.

Reads and sets them by the kernel's own names. Must not know links.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyroute2 import Ethtool
from pyroute2.netlink.exceptions import NetlinkError

from lab.errors import LabError
from lab.host import Host

OFFLOADS = (
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-udp-segmentation",
    "tx-generic-segmentation",
    "rx-gro",
)
"""Features that let frames larger than the MTU cross a link. Rates and losses act on such a frame as on one."""

_RECORDED = (
    *OFFLOADS,
    "tx-checksum-ip-generic",
    "rx-checksum",
    "tx-scatter-gather",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
)


def features(host: Host, interface: str) -> dict[str, bool]:
    """Return the features of an interface that are worth recording: offloads and checksums."""

    def read() -> dict[str, bool]:
        with Ethtool() as ethtool:
            known = ethtool.get_features(interface).features
            return {name: bool(known[name].enable) for name in _RECORDED if name in known}

    return host.call(read)


def set_features(host: Host, interface: str, wanted: Mapping[str, bool]) -> None:
    """Set features of an interface. Raises LabError for one it does not have."""

    def write() -> None:
        with Ethtool() as ethtool:
            state = ethtool.get_features(interface)
            for name, enable in wanted.items():
                if name not in state.features:
                    raise LabError(f"interface {interface} of {host.name} has no feature {name}")
                state.features[name].enable = enable
            ethtool.set_features(interface, state)

    try:
        host.call(write)
    except (NetlinkError, OSError) as error:
        raise LabError(f"cannot set features of {interface} on {host.name}: {error}") from None


def switch_off(host: Host, interface: str) -> None:
    """Let no frame larger than the MTU cross an interface: switch off every offload it has."""
    known = features(host, interface)
    set_features(host, interface, {name: False for name in OFFLOADS if name in known})
