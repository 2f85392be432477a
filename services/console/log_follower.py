"""Follows the decision log and the heartbeats in the background, so that a page never waits for Kafka or
Redis."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.lifecycle.fold import Decision, Experiment
from services.console.queries import Sources
from services.console.series import TimeAxis
from services.control.decide import decide
from services.errors import RingsideError, UnavailableError
from services.ports.state import DecisionLog, Heartbeat, StateCache

log = logging.getLogger(__name__)

COMMAND_WAIT_S = 5.0


@dataclass(slots=True)
class Followed:
    """One experiment: its state, its history, and the points of the time axis (both only ever grow)."""

    state: Experiment
    history: list[Decision] = field(default_factory=list)
    axis: TimeAxis = field(default_factory=TimeAxis)

    def realised(self) -> Mapping[str, float]:
        """Realised share at the newest look that had new units; empty if none had."""
        return next((p["realised"] for p in reversed(self.axis.points) if p["realised"]), {})


@dataclass(frozen=True, slots=True)
class View:
    """What the pages read: replaced as a whole at every refresh."""

    experiments: Mapping[str, Followed] = field(default_factory=dict)
    heartbeats: tuple[Heartbeat, ...] = ()
    sources: Sources = field(default_factory=Sources)


class Follower:
    """Keeps a `View` fresh. The ports are synchronous and belong to whoever holds the lock."""

    def __init__(
        self,
        connect: Callable[[], tuple[DecisionLog, StateCache]],
        now_ms: Callable[[], int],
        kill_switch: Path,
    ) -> None:
        self.view = View()
        self._connect, self._now_ms, self._kill_switch = connect, now_ms, kill_switch
        self._ports: tuple[DecisionLog, StateCache] | None = None
        self._followed: dict[str, Followed] = {}
        self._lock = threading.Lock()

    def follow(self, stop: threading.Event, every_s: float) -> None:
        """Refresh until `stop` is set. An unexpected error is shown on the page and tried again."""
        while not stop.is_set():
            self.refresh()
            stop.wait(every_s)

    def refresh(self) -> None:
        """Read what is new; a source that can't be reached leaves its last values and its error in
        `Sources`."""
        sources = replace(self.view.sources, champion_only=self._kill_switch.exists())
        beats = self.view.heartbeats
        with self._lock:
            try:
                self._read_log()
                sources = replace(sources, read_at_ms=self._now_ms(), log_error=None)
            except Exception as error:  # noqa: BLE001 (the thread must outlive whatever the log holds)
                sources = replace(sources, log_error=_reason(error))
            try:
                beats = tuple(self._open()[1].heartbeats())
                sources = replace(sources, cache_error=None)
            except Exception as error:  # noqa: BLE001 (and whatever the cache holds)
                beats, sources = (), replace(sources, cache_error=_reason(error))
        self.view = View(dict(self._followed), beats, sources)

    def command(self, experiment: str, build: Callable[[Experiment], Decision]) -> Experiment:
        """Append what `build` makes of the newest state. Raises UnavailableError, or what `build` raises."""
        if not self._lock.acquire(timeout=COMMAND_WAIT_S):
            raise UnavailableError("the decision log", "still waiting for the broker; nothing was changed")
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
                followed = self._followed[name] = Followed(state)
            seen = followed.history[-1].revision if followed.history else 0
            if state.revision > seen:
                for decision in decisions.history(name, after_revision=seen):
                    followed.axis.extend([decision])  # first: what has no point there is read again
                    followed.history.append(decision)
            followed.state = state


def _is_another_log(followed: Followed, state: Experiment) -> bool:
    """A broker that lost its data starts a new log: then what was followed never happened."""
    return state.revision < followed.state.revision or state.started_ms != followed.state.started_ms


def _reason(error: Exception) -> str:
    """For the page; an error that nobody foresaw goes to the log of this process as a whole."""
    if isinstance(error, RingsideError | OSError):
        return f"{error}" or type(error).__name__
    log.error("reading failed; it is tried again", exc_info=error)
    return f"{type(error).__name__}: {error}"
