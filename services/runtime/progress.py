"""Progress for a person: bars on a terminal, a line every few seconds in a log."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

import models.recommender

log = logging.getLogger(__name__)
LINE_EVERY_S = 5.0


@contextmanager
def shown(title: str) -> Iterator[models.recommender.Progress]:
    """A progress callback; each distinct `what` gets a bar of its own."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(title, time.monotonic)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars, title)


class _Bars:
    def __init__(self, bars: Progress, title: str):
        self._bars, self._title = bars, title
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, done: int, total: int, what: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(f"{self._title}: {what}", total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)


class Lines:
    """Logs a stage when it ends, and every LINE_EVERY_S seconds while it lasts."""

    def __init__(self, title: str, clock_s: Callable[[], float]):
        self._title, self._clock_s = title, clock_s
        self._last_s = clock_s()

    def __call__(self, done: int, total: int, what: str) -> None:
        """One step."""
        now_s = self._clock_s()
        if done >= total or now_s - self._last_s >= LINE_EVERY_S:
            self._last_s = now_s
            log.info("%s: %s %d/%d", self._title, what, done, total)
