"""Progress of long work: bars on a terminal, a line every few seconds in a log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from models.recommender import ProgressCallback

log = logging.getLogger(__name__)
LINE_EVERY_S = 5.0


@contextmanager
def show_progress(title: str) -> Iterator[ProgressCallback]:
    """Yield a callback that shows progress on stderr or in the log; each stage gets its own bar."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLog(title, time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        yield _ProgressBars(bars, title)


class _ProgressBars:
    def __init__(self, bars: Progress, title: str):
        self._bars, self._title = bars, title
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, done: int, total: int, stage: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(f"{self._title}: {stage}", total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


class ProgressLog:
    """Logs the end of every stage, and the progress of a stage every LINE_EVERY_S seconds."""

    def __init__(self, title: str, clock_s: Callable[[], float]):
        self._title, self._clock_s = title, clock_s
        self._last_s = clock_s()

    def __call__(self, done: int, total: int, stage: str) -> None:
        """Report that `done` of `total` steps of a stage are done."""
        now_s = self._clock_s()
        if done >= total or now_s - self._last_s >= LINE_EVERY_S:
            self._last_s = now_s
            log.info("%s: %s %d/%d", self._title, stage, done, total)
