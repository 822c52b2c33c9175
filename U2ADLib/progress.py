"""Progress: one callback `(stage, done, total)` through every long computation.

The callback may raise `errors.Cancelled`, which is how a run is stopped between two steps. `ProgressBar` prints a line
for a person, `JsonProgress` one JSON object per line for a program.
"""

import json
import sys
import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


class StageClock:
    """Seconds left in a stage, extrapolated from the steps done since the stage was first reported."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._stage = None
        self._start = (0.0, 0)

    def seconds_left(self, stage: str, done: int, total: int) -> float | None:
        """Seconds until `done` reaches `total`; None while nothing can be said yet."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._start = stage, (now, done)
        started, first = self._start
        if done <= first or total <= 0:
            return None
        return (now - started) / (done - first) * (total - done)


def format_seconds(seconds: float) -> str:
    """`75` → `1:15`, `3700` → `1:01:40`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class ProgressBar:
    """One line that is redrawn on a terminal; one line per finished stage elsewhere."""

    WIDTH = 28

    def __init__(self, stream=None):
        self._stream = stream or sys.stderr
        self._clock = StageClock()
        self._terminal = self._stream.isatty()

    def __call__(self, stage: str, done: int, total: int) -> None:
        left = self._clock.seconds_left(stage, done, total)
        finished = done >= total
        if not self._terminal:
            if finished:
                print(f"{stage}: done", file=self._stream, flush=True)
            return
        filled = int(self.WIDTH * done / max(total, 1))
        bar = "#" * filled + "." * (self.WIDTH - filled)
        tail = "" if finished or left is None else f"  {format_seconds(left)} left"
        end = "\n" if finished else ""
        print(
            f"\r\x1b[K{stage:<24} [{bar}] {100 * done / max(total, 1):3.0f} %{tail}",
            end=end,
            file=self._stream,
            flush=True,
        )


class JsonProgress:
    """JSON lines: `{"stage", "done", "total", "seconds_left"}`; messages as `{"message", "level"}`."""

    def __init__(self, stream=None):
        self._stream = stream or sys.stdout
        self._clock = StageClock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        left = self._clock.seconds_left(stage, done, total)
        line = {"stage": stage, "done": done, "total": total}
        line["seconds_left"] = None if left is None else round(left, 2)
        print(json.dumps(line), file=self._stream, flush=True)
