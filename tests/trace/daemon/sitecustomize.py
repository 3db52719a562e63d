"""Puts the trace into a daemon: Python imports this before the program, where it is first in PYTHONPATH (site)."""

import os
import sys
from itertools import pairwise

if ("-m", "centipede") in pairwise(sys.orig_argv):
    from cryptography.hazmat.primitives.ciphers import aead

    from tests.trace.cipher import Cipher

    aead.ChaCha20Poly1305 = Cipher  # type: ignore[assignment]  # before the package takes its own names for it

    import centipede.engine

    if "CENTIPEDE_TEST_NATIVE" in os.environ:
        centipede.engine.__path__.insert(0, os.environ["CENTIPEDE_TEST_NATIVE"])
