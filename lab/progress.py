"""How far a long run has come and how long it will still take: a moving line on a terminal, plain lines elsewhere.

The remaining time is the planned rest, stretched or shortened as the part done so far was.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text


class Estimate:
    """The arithmetic of remaining time. Seconds; ``now`` is monotonic."""

    def __init__(self, planned_s: float, now: float) -> None:
        self.planned_s = planned_s
        self.done_s = 0.0
        self._began = self._at = now

    def advance(self, planned_s: float, now: float) -> None:
        """Count a part that was planned to take ``planned_s`` as done."""
        self.done_s = min(self.planned_s, self.done_s + planned_s)
        self._at = now

    def remaining_s(self, now: float) -> float:
        """Return how long the rest will take."""
        pace = (self._at - self._began) / self.done_s if self.done_s else 1.0
        return max(0.0, (self.planned_s - self.done_s) * pace - (now - self._at))


class Progress:
    """The progress of one run, told on ``console``. Nothing is told before :meth:`begin`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._estimate: Estimate | None = None
        self._bar: Bar | None = None

    def begin(self, planned_s: float) -> None:
        """Start: the run is planned to take so long."""
        self._estimate = Estimate(planned_s, time.monotonic())
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Remaining(self._estimate))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.add_task("", total=planned_s)
            self._bar.start()

    def say(self, doing: str) -> None:
        """Tell what is being done now."""
        assert self._estimate is not None
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=doing)
        else:
            self.tell(f"{doing} ({render_seconds(self._estimate.remaining_s(time.monotonic()))} left)")

    def tell(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, markup=False, highlight=False)

    def advance(self, planned_s: float) -> None:
        """Count a part of the plan as done."""
        assert self._estimate is not None
        self._estimate.advance(planned_s, time.monotonic())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._estimate.done_s)

    def end(self) -> None:
        """Take the moving line away. Twice is harmless."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Remaining(ProgressColumn):
    def __init__(self, estimate: Estimate) -> None:
        super().__init__()
        self._estimate = estimate

    def render(self, task: Task) -> Text:
        return Text(f"{render_seconds(self._estimate.remaining_s(time.monotonic()))} left")


def render_seconds(seconds: float) -> str:
    """Return a duration as people say it: ``40 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
