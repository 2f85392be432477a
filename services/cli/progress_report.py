"""Progress of an experiment: units and successes counted so far, and the time of the next look."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.allocation.assignment import DAY_MS
from experiments.counting.sums import Counts, ExperimentSums
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from services.bandit.decider.decider import last_look_ms
from services.errors import UnavailableError
from services.ports.state import SumStore

LATE_MS = 10_000  # a look takes a moment, and its record another


@dataclass(frozen=True, slots=True)
class CountedSums:
    """The sums of an experiment. `watermark_ms` None: some partition was never counted; `problem`: why there
    are no sums."""

    sums: ExperimentSums | None = None
    watermark_ms: int | None = None
    problem: str = ""

    @classmethod
    def of(cls, store: SumStore, state: Experiment, partitions: int) -> "CountedSums":
        """Read the sums. Errors become `problem`, because the rest of the report needs no sums."""
        try:
            flat, _, watermark_ms = store.load_all(state.name, partitions, state.counting.generation)
            return cls(ExperimentSums.parse(flat), watermark_ms)
        except (UnavailableError, ValueError) as error:
            return cls(problem=str(error))

    def arm(self, name: str) -> Counts | None:
        """Counts of one arm, None if there are no sums."""
        return self.sums.arm(name) if self.sums is not None else None


def progress(
    state: Experiment, counted: CountedSums, history: Sequence[Decision], now_ms: int
) -> Iterator[str]:
    """A sentence on counting and one on the next look, as far as they are known."""
    if counted.sums is not None:
        yield _counting(state, counted.sums.units, counted.watermark_ms, now_ms)
    if state.status == "running" and history:
        due_ms = last_look_ms(state, history, now_ms) + round(1_000 * state.rules.look_every_s)
        if now_ms < due_ms + LATE_MS:
            yield f"the next look is due {_at(due_ms, now_ms)}"
        else:
            yield f"the next look has been due since {_at(due_ms, now_ms)}; is `ringside decider` running?"


def _counting(state: Experiment, units: int, watermark_ms: int | None, now_ms: int) -> str:
    upto = "" if watermark_ms is None else f"counted up to {_at(watermark_ms, now_ms)}"
    if units:
        return upto or "some partitions have not been counted yet"
    began_ms = max(state.started_ms, state.counting.from_ms)
    first_ms = began_ms + round(1_000 * (state.rules.window_s + state.rules.lateness_s))
    if first_ms > now_ms:
        then = f"the first units mature at {_at(first_ms, now_ms)} at the earliest"
    else:
        then = upto or "is `ringside attribution` running?"
    return f"nothing has been counted yet; {then}"


def _at(at_ms: int, now_ms: int) -> str:
    """The minute, with its day if that is another one.

    >>> _at(3_600_000, 0), _at(86_400_000 + 60_000, 0)
    ('01:00 UTC', '1970-01-02 00:01 UTC')
    """
    form = "%H:%M UTC" if at_ms // DAY_MS == now_ms // DAY_MS else "%Y-%m-%d %H:%M UTC"
    return time.strftime(form, time.gmtime(at_ms / 1_000))
