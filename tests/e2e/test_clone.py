"""What a daemon does when the kernel says that the machine was restored from a snapshot."""

from __future__ import annotations

import sys

import pytest

from tests.e2e.world import World, eventually

pytestmark = pytest.mark.netns

SAY = """
import socket
events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
events.sendto(b"change@/devices/played\\0ACTION=change\\0NEW_VMGENID=1\\0", (0, 1))
"""
"""What the driver vmgenid sends, to all who listen to the kernel's events in this namespace."""


@pytest.mark.parametrize("engine", ["python", "native"])
def test_a_restored_machine_begins_all_sessions_anew(world: World, engine: str) -> None:
    world.up(engine=f'"{engine}"')
    established = world.a.log.read_text().count("session established")
    world.a.host.run([sys.executable, "-c", SAY])
    eventually(lambda: "cloned: all sessions begin anew" in world.a.log.read_text(), "the daemon's notice")
    world.settle()
    assert world.a.log.read_text().count("session established") > established
    pinged = world.a.ping()
    assert (pinged.received, pinged.duplicates) == (5, 0), pinged.text
