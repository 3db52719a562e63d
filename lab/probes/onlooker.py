"""The onlooker: starts the process of lab/probes/wire.py on a host and brings its account back."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from lab.host import Host
from lab.probes.wire import WireResult, WireSpec
from lab.process import Process

_results = msgspec.json.Decoder(WireResult)


class Onlooker:
    """One wire probe."""

    def __init__(self, host: Host, spec: WireSpec, log: Path) -> None:
        self._host = host
        self._spec = spec
        self._log = log
        self._process: Process | None = None

    def start(self) -> None:
        """Begin to look."""
        argv = [sys.executable, "-m", "lab.probes.wire", msgspec.json.encode(self._spec).decode()]
        self._process = self._host.start(argv, ready=Path(self._spec.ready).exists, log=self._log)

    def finish(self) -> WireResult:
        """Wait until the time is up, and return what was seen."""
        assert self._process is not None
        try:
            self._process.wait(self._spec.duration_s + 30.0)
        finally:
            self.stop()
        return _results.decode(Path(self._spec.result).read_bytes())

    def stop(self) -> None:
        """End it. Harmless when it has ended."""
        if self._process is not None:
            self._process.stop()
