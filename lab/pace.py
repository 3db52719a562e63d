"""How slow this machine is, as the lab has been told: 1, or more inside an emulated guest.

Every deadline of the lab is stretched by it, so that none has to be chosen for the slowest machine there is.
"""

from __future__ import annotations

import os

VARIABLE = "LAB_SLOWNESS"
"""Environment variable that says it, set in a guest."""


def slowness() -> float:
    """Return how many times slower than a common machine this one is taken to be; 1 if nothing was said."""
    return float(os.environ.get(VARIABLE, "1"))
