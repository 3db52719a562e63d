"""docs/two-hosts.md, followed to the letter: its shell blocks run on two hosts of the lab, in the order of the page.

A block's info string names the hosts it is for. What a person does between two blocks is done here as well: the line a
host printed is pasted where the page says so. ``/etc`` and ``/var/lib`` are overlaid inside the hosts, so that the
page's paths can stand as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from lab.host import Host
from lab.link import EndPlan, LinkPlan
from lab.namespace import can_make
from lab.topology import HostPlan, Plan, Topology
from tests.e2e.world import ROOT

PAGE = ROOT / "docs" / "two-hosts.md"
BLOCK = re.compile(r"^```sh ([a-z ]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PASTED = re.compile(r"<the line (alpha|beta) printed>")
KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


class Follower:
    """Somebody who types the page's commands on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._program = host.directory / "bin" / "centipede"
        self._program.parent.mkdir()
        self._program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m centipede "$@"\n')
        self._program.chmod(0o755)

    def type(self, commands: str) -> str:
        """Run a block in a shell that stops at the first error, and return what it printed."""
        overlays = "".join(map(self._overlay, ("/etc", "/var/lib")))
        script = f"set -e; {overlays}PATH={self._program.parent}:$PATH; cd /\n{commands}"
        return self._host.run(["unshare", "--mount", "sh", "-c", script], timeout_s=60).stdout

    def _overlay(self, top: str) -> str:
        """The commands that let this host write to a directory of the machine; what it writes lasts over the calls."""
        layer = self._host.state_directory / top.strip("/").replace("/", "-")
        upper, work = layer / "upper", layer / "work"
        options = f"lowerdir={top},upperdir={upper},workdir={work}"
        return f"mkdir -p {upper} {work}; mount -t overlay overlay -o {options} {top}; "


@pytest.fixture
def followers() -> Iterator[dict[str, Follower]]:
    if (reason := can_make()) is not None:
        pytest.skip(f"this machine gives no network namespaces: {reason}")
    alpha = EndPlan("alpha", (ip_interface("192.0.2.10/24"),))
    beta = EndPlan("beta", (ip_interface("192.0.2.20/24"),))
    plan = Plan(hosts=(HostPlan("alpha"), HostPlan("beta")), links=(LinkPlan("eth0", (alpha, beta)),))
    with Topology.build(plan) as topology:
        yield {name: Follower(topology.host(name)) for name in ("alpha", "beta")}


def test_page(followers: dict[str, Follower]) -> None:
    printed: dict[str, str] = {}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 7
    for hosts, commands in blocks:
        for name in hosts.split():
            typed = PASTED.sub(lambda match: printed[match[1]], commands)
            out = followers[name].type(typed)
            if (key := KEY.search(out)) and "pubkey" in commands:
                printed[name] = key[0]
            if "centipede show" in commands:
                assert "usable" in out
                assert "beta" in out
    assert set(printed) == {"alpha", "beta"}
