"""What all tests share."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let commands that tests start be interrupted: a background job of a shell and its children ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
