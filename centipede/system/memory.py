"""Keeping keys out of core dumps and out of swap, as far as the host allows."""

from __future__ import annotations

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4


def forbid_core_dumps() -> None:
    """No core file of this process, not even through a core_pattern pipe, which ignores the resource limit."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock_memory() -> bool:
    """Keep this process out of swap. True if the kernel agreed.

    Pages are locked as they are touched (MCL_ONFAULT), so thread stacks cost nothing until used. It is not tried under
    a limit: a lock that succeeds within RLIMIT_MEMLOCK makes every later mapping beyond it fail.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):  # needs CAP_SYS_RESOURCE
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)
