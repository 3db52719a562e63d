"""What the threads of a run decode: any of them may be the first, or two at once."""

from __future__ import annotations

import subprocess
import sys

TYPES = [
    "centipede.control.messages.Response",
    "centipede.show.Interface",
    "lab.emulator.Reply",
    "lab.probes.flow.Received",
    "lab.probes.flow.Sent",
    "lab.probes.iperf3._Report",
    "lab.probes.stream.Received",
    "lab.probes.stream.Sent",
    "lab.probes.wire.WireResult",
]
PROGRAM = """
import contextlib, importlib, os, sys
import lab.runner
import msgspec


def preparing(frame, event, argument):
    if event == "call" and os.path.dirname(msgspec.__file__) == os.path.dirname(frame.f_code.co_filename):
        unprepared.add(name)


unprepared = set()
for name in sys.argv[1:]:
    module, _, attribute = name.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    sys.setprofile(preparing)
    with contextlib.suppress(msgspec.ValidationError):
        msgspec.json.decode(b"{}", type=kind)
    sys.setprofile(None)
print(*sorted(unprepared))
"""


def test_every_type_is_prepared_before_there_are_threads() -> None:
    """msgspec does that, in Python, when a type is first decoded, and crashes when two threads do it at once."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *TYPES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
