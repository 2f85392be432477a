"""DecisionLog in memory."""

import threading
from collections.abc import Mapping

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment
from services.errors import StalePositionError
from services.ports.state import StateCache


class MemoryDecisionLog:
    """DecisionLog over a list."""

    def __init__(self, cache: StateCache | None = None):
        self._cache = cache
        self._states: dict[str, Experiment] = {}
        self._history: dict[str, list[Decision]] = {}
        self._lock = threading.Lock()

    def catch_up(self) -> Mapping[str, Experiment]:
        """See DecisionLog."""
        return dict(self._states)

    def history(self, experiment: str, after_revision: int = 0) -> list[Decision]:
        """See DecisionLog."""
        return [record for record in self._history.get(experiment, []) if record.revision > after_revision]

    def append(self, decision: Decision) -> Experiment:
        """See DecisionLog."""
        with self._lock:
            state = self._states.get(decision.experiment)
            following = 1 if state is None else state.revision + 1
            if decision.revision != following:
                raise StalePositionError(
                    f"{decision.experiment}: revision {decision.revision} is void, {following} is next"
                )
            new = self._states[decision.experiment] = apply(state, decision)
            self._history.setdefault(decision.experiment, []).append(decision)
        if self._cache is not None:
            self._cache.put(new)
            if state is None:
                self._cache.mark_complete(decision.experiment)
        return new
