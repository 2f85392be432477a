"""Follows the decision log and the heartbeats in the background, so that no page waits for Kafka or Redis."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from services.console.queries import Sources
from services.console.series import TimeAxis
from services.control.decide import decide
from services.errors import RingsideError, UnavailableError
from services.ports.state import DecisionLog, Heartbeat, StateCache

log = logging.getLogger(__name__)

COMMAND_WAIT_S = 5.0


@dataclass(slots=True)
class FollowedExperiment:
    """State of an experiment, its history, and its points on the time axis; both lists only grow."""

    state: Experiment
    history: list[Decision] = field(default_factory=list)
    axis: TimeAxis = field(default_factory=TimeAxis)

    def realised(self) -> Mapping[str, float]:
        """Share of recently counted units, by arm; empty if there are none."""
        return next((p["realised"] for p in reversed(self.axis.points) if p["realised"]), {})


@dataclass(frozen=True, slots=True)
class View:
    """Data of the pages; every refresh replaces it as a whole."""

    experiments: Mapping[str, FollowedExperiment] = field(default_factory=dict)
    heartbeats: tuple[Heartbeat, ...] = ()
    sources: Sources = field(default_factory=Sources)


class LogFollower:
    """Refreshes a `View`. The ports are synchronous; a thread uses them only while it holds the lock."""

    def __init__(
        self,
        connect: Callable[[], tuple[DecisionLog, StateCache]],
        now_ms: Callable[[], int],
        kill_switch: Path,
    ) -> None:
        self.view = View()
        self._connect, self._now_ms, self._kill_switch = connect, now_ms, kill_switch
        self._ports: tuple[DecisionLog, StateCache] | None = None
        self._followed: dict[str, FollowedExperiment] = {}
        self._lock = threading.Lock()

    def follow(self, stop: threading.Event, every_s: float) -> None:
        """Refresh until `stop` is set. The page shows an unexpected error; the next refresh tries again."""
        while not stop.is_set():
            self.refresh()
            stop.wait(every_s)

    def refresh(self) -> None:
        """Read new data. A source that can't be read keeps its last values, and its error is in `Sources`."""
        sources = replace(self.view.sources, champion_only=self._kill_switch.exists())
        beats = self.view.heartbeats
        with self._lock:
            try:
                self._read_log()
                sources = replace(sources, read_at_ms=self._now_ms(), log_error=None)
            except Exception as error:  # noqa: BLE001 (no record may end the thread)
                sources = replace(sources, log_error=_reason(error))
            try:
                beats = tuple(self._open()[1].heartbeats())
                sources = replace(sources, cache_error=None)
            except Exception as error:  # noqa: BLE001 (no cached value may either)
                beats, sources = (), replace(sources, cache_error=_reason(error))
        self.view = View(dict(self._followed), beats, sources)

    def command(self, experiment: str, build: Callable[[Experiment], Decision]) -> Experiment:
        """Append the decision that `build` returns for the newest state. Raises UnavailableError, and what
        `build` raises."""
        if not self._lock.acquire(timeout=COMMAND_WAIT_S):
            raise UnavailableError(
                "the decision log", "it is still being read; nothing was changed, try again"
            )
        try:
            decisions, _ = self._open()
            return decide(decisions, experiment, build)
        finally:
            self._lock.release()

    def _open(self) -> tuple[DecisionLog, StateCache]:
        if self._ports is None:
            self._ports = self._connect()
        return self._ports

    def _read_log(self) -> None:
        decisions, _ = self._open()
        for name, state in decisions.catch_up().items():
            followed = self._followed.get(name)
            if followed is None or _is_another_log(followed, state):
                followed = self._followed[name] = FollowedExperiment(state)
            seen = followed.history[-1].revision if followed.history else 0
            if state.revision > seen:
                for decision in decisions.history(name, after_revision=seen):
                    # The axis comes first, so that after a failure the decision is read again.
                    followed.axis.extend([decision])
                    followed.history.append(decision)
            followed.state = state


def _is_another_log(followed: FollowedExperiment, state: Experiment) -> bool:
    """True if a broker that lost its data started a new log, so that the known history is void."""
    return state.revision < followed.state.revision or state.started_ms != followed.state.started_ms


def _reason(error: Exception) -> str:
    """Text for the page; an unexpected error is also logged with its traceback."""
    if isinstance(error, RingsideError | OSError):
        return f"{error}" or type(error).__name__
    log.error("reading the decision log or the cache failed; trying again", exc_info=error)
    return f"{type(error).__name__}: {error}"
