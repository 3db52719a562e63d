"""How a guest's instructions are carried out: by the processor (KVM) where that works, else by translation (TCG).

Owns the choice, which is made by trying and remembered until this machine is started anew. Must not know how a guest is
started. That /dev/kvm is there proves little: some hypervisors offer it to a guest kernel of their own alone.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from lab.debian import replace_file
from lab.errors import LabError

DEVICE = Path("/dev/kvm")
_RECORD = "guest-accelerator.json"


class Accelerator(enum.Enum):
    """How the guest's instructions are carried out."""

    KVM = "kvm"
    """By the processor."""
    TCG = "tcg"
    """By translation: many times slower, the kernel's work and that of programs alike."""

    @property
    def label(self) -> str:
        """As in a chart."""
        return "emulated (TCG)" if self is Accelerator.TCG else "virtual machine (KVM)"

    @property
    def slowness(self) -> float:
        """How many times slower than a common machine the guest is taken to be, for deadlines and loads."""
        return 10.0 if self is Accelerator.TCG else 1.0

    @property
    def options(self) -> tuple[str, ...]:
        """QEMU's options."""
        if self is Accelerator.KVM:
            return ("-accel", "kvm", "-cpu", "host")
        # The newest processor, "max", is several times slower to translate than this old one.
        return ("-accel", "tcg,thread=multi", "-cpu", "Nehalem")


class Choice(msgspec.Struct, frozen=True):
    """What was chosen, and why not KVM. Kept as JSON in the cache."""

    key: str
    """What it was tried with."""
    accelerator: Accelerator
    refusal: str = ""
    """Why KVM does not work here; empty if it does."""


def choose(kernel: str, cache: Path, trial: Callable[[], None], *, device: Path = DEVICE) -> Choice:
    """Return the accelerator for a kernel, named by anything that changes with it.

    ``trial`` starts a guest by KVM and raises LabError if it does not come to its end; it is called at most once for
    each start of this machine and kernel.
    """
    key = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {kernel}"
    if not os.access(device, os.R_OK | os.W_OK):
        return Choice(key, Accelerator.TCG, f"{device} is not there, or not for this user")
    record = cache / _RECORD
    with contextlib.suppress(OSError, msgspec.DecodeError):
        known = msgspec.json.decode(record.read_bytes(), type=Choice)
        if known.key == key:
            return known
    try:
        trial()
        choice = Choice(key, Accelerator.KVM)
    except LabError as error:
        choice = Choice(key, Accelerator.TCG, str(error).splitlines()[0])
    with contextlib.suppress(OSError):  # a cache that cannot be written is tried in vain again next time
        replace_file(record, msgspec.json.encode(choice))
    return choice
