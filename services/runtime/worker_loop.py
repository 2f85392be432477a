"""The loop of every worker process: one step after another until SIGTERM, through outages."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from services.errors import DegradedError, RingsideError, UnavailableError

log = logging.getLogger(__name__)

REPORT_S = 60.0
LIVENESS_S = 1.0  # longest sleep between two checks of the stop event, each of which is a sign of life
EXPECTED = (RingsideError, OSError)  # logged in one line; other errors with their traceback


def _nothing() -> None:
    pass


@dataclass(slots=True)
class WorkerLoop:
    """Calls `step` until the stop event is set, and calls it again after an error of a kind in `retried`.

    task: what a step does, for log lines; e.g. "counting".
    every_s: time between the beginnings of two steps; 0 calls the next step at once.
    retry_s: pause after a failed step.
    retried: errors that the loop survives; any other error ends the process.
    metered: context of each step, `Meters.step`, which counts how steps end.
    observe: called after every step, failed or not, to update gauges.
    report: called once a minute, to log a line for the operator.
    complain: receives the reason that `ringside health` reports, and "" when it no longer holds. Reasons are
        all errors but UnavailableError, because a dependency that is down has a health check of its own.
    """

    task: str
    step: Callable[[], object]
    every_s: float = 0.0
    retry_s: float = 1.0
    retried: tuple[type[Exception], ...] = (UnavailableError,)
    metered: Callable[[], AbstractContextManager[None]] = nullcontext
    observe: Callable[[], None] = _nothing
    report: Callable[[], None] = _nothing
    complain: Callable[[str], None] = lambda _: None
    _logged: str = field(default="", init=False)
    _complaint: str = field(default="?", init=False)  # unknown: a previous process may have left one

    def run(self, stop: threading.Event) -> None:
        """Loop until `stop` is set."""
        report_at = time.monotonic() + REPORT_S
        while not stop.is_set():
            began = time.monotonic()
            next_at = began + self.every_s if self._run_step() else time.monotonic() + self.retry_s
            self.observe()
            if time.monotonic() >= report_at:
                report_at = time.monotonic() + REPORT_S
                self.report()
            _sleep_until(next_at, stop)

    def _run_step(self) -> bool:
        """Call `step` once; return whether it succeeded."""
        try:
            with self.metered():
                self.step()
        except self.retried as error:
            self._log(error)
            if not isinstance(error, UnavailableError):
                self._complain(str(error) if isinstance(error, EXPECTED) else _error_text(error))
            return False
        self._logged = ""
        self._complain("")
        return True

    def _log(self, error: Exception) -> None:
        """Write one line when the error changes; none for DegradedError, which the step has logged."""
        described = "" if isinstance(error, DegradedError) else _error_text(error)
        changed, self._logged = described != self._logged, described
        if not described or not changed:
            return
        if isinstance(error, EXPECTED):
            log.warning("%s: %s; trying again", self.task, str(error) or type(error).__name__)
        else:
            log.error("%s: %s; trying again", self.task, described, exc_info=error)

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            self.complain(reason)


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _sleep_until(at: float, stop: threading.Event) -> None:
    while (left := at - time.monotonic()) > 0 and not stop.wait(min(left, LIVENESS_S)):
        pass
