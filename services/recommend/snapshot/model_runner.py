"""Run one loaded model under a deadline and a circuit breaker, and translate between its items and the
catalogue's."""

import asyncio
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from models.recommender import KINDS, Query, Ranking, Recommender
from models.slate import UNKNOWN, mask_for_model, ranking_in_catalogue, vocabulary_map
from services.errors import RingsideError
from services.ports.features import UserRow
from services.recommend.snapshot.catalogue_index import CatalogueIndex
from services.recommend.snapshot.circuit_breaker import CircuitBreaker

_kind_code = {kind: code for code, kind in enumerate(KINDS)}.get
INLINE_LIMIT_S = 0.002  # a model whose median trial takes longer never runs on the event loop
TRIALS = 8
NO_ITEMS = Ranking(np.empty(0, np.int32), np.empty(0, np.float32))
CACHED_HISTORIES = 10_000  # users whose unchanged row is not translated again
LONG_HISTORY = 50  # recent items of the user in a trial: Settings.recent_items by default
PENALTY_RESET = 10  # a penalty is reset after this many times its length without an overrun
IN_FLIGHT = 4  # concurrent answers of one model in threads; more fail at once


class ModelFailedError(RingsideError):
    """The model gave no usable answer in time. `how`: failed, late or resting."""

    def __init__(self, how: str, problem: str):
        super().__init__(f"{how}: {problem}")
        self.how = how


@dataclass(slots=True)
class ModelRunner:
    """A model in memory. Only `off_loop_until_s`, `penalty_s`, `in_flight` and the breaker ever change.

    Fast models (`inline`: the median trial took less than 2 ms) run on the event loop, because a hop to a
    thread and back costs 100-200 µs under load, more than ALS or popularity need for the answer. Such an
    answer can't be interrupted. So an answer that overruns the deadline is thrown away, and the model runs in
    threads, where the deadline always holds, for a penalty of one second. Each further overrun doubles the
    penalty, which keeps a slow model off the loop. Ten penalties without an overrun reset it, because a
    machine that stands still for a moment each day does not make the model slow.
    """

    model_version: str
    algorithm: str
    model: Recommender
    index: dict[str, int]
    inline: bool
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    in_flight: int = 0
    off_loop_until_s: float = 0.0  # monotonic
    penalty_s: float = 1.0

    async def run(self, call: Callable[[], Ranking], deadline_s: float, threads: Executor) -> Ranking:
        """Result of `call`, a call of the model, within the deadline. Raises ModelFailedError, and nothing
        else that the model may raise."""
        now_s = time.monotonic()
        if not self.breaker.closed(now_s):
            raise ModelFailedError("resting", f"{self.model_version} failed too often")
        try:
            ranking = (
                self._run_inline(call, deadline_s)
                if self.inline and now_s >= self.off_loop_until_s
                else await self._run_in_thread(call, deadline_s, threads)
            )
        except ModelFailedError:
            self.breaker.failed(time.monotonic())
            raise
        except Exception as error:
            self.breaker.failed(time.monotonic())
            raise ModelFailedError("failed", f"{self.model_version}: {error!r}") from error
        self.breaker.succeeded()
        return ranking

    def _run_inline(self, call: Callable[[], Ranking], deadline_s: float) -> Ranking:
        start = time.perf_counter()
        ranking = call()
        if (took_s := time.perf_counter() - start) > deadline_s:
            now_s = time.monotonic()
            if now_s - self.off_loop_until_s > PENALTY_RESET * self.penalty_s:
                self.penalty_s = 1.0
            self.off_loop_until_s = now_s + self.penalty_s
            self.penalty_s *= 2
            raise ModelFailedError("late", f"{self.model_version} took {took_s * 1e3:.0f} ms")
        return ranking

    async def _run_in_thread(
        self, call: Callable[[], Ranking], deadline_s: float, threads: Executor
    ) -> Ranking:
        if self.in_flight >= IN_FLIGHT:
            raise ModelFailedError("late", f"{self.model_version}: {IN_FLIGHT} answers are still under way")
        self.in_flight += 1
        future = asyncio.get_running_loop().run_in_executor(threads, call)
        future.add_done_callback(self._finished)
        done, _ = await asyncio.wait([future], timeout=deadline_s)
        if not done:
            raise ModelFailedError("late", f"{self.model_version} took more than {deadline_s * 1e3:.0f} ms")
        return future.result()

    def _finished(self, future: "asyncio.Future[Ranking]") -> None:
        self.in_flight -= 1
        if not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not log answers that came too late


def try_out(model: Recommender, model_version: str, now_s: float) -> ModelRunner:
    """Index a model's items and time a few answers. Raises what the model raises: then it is not loaded."""
    items = model.items.tolist()
    index = {item: row for row, item in enumerate(items)}
    took_s = (
        [_trial(model, row, now_s) for row in np.linspace(0, len(items) - 1, TRIALS).astype(int)]
        if items
        else [0.0]
    )
    inline = float(np.median(took_s)) < INLINE_LIMIT_S
    return ModelRunner(model_version, model.algorithm, model, index, inline)


def _trial(model: Recommender, row: int, now_s: float) -> float:
    """Seconds for an answer to a user with as long a history as serving remembers."""
    recent = np.roll(np.arange(len(model.items), dtype=np.int32), -row)[:LONG_HISTORY]
    query = Query(recent, np.full(len(recent), now_s), np.zeros(len(recent), np.uint8), now_s)
    start = time.perf_counter()
    model.rank(query, min(30, len(model.items)))
    return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class _History:
    """Recent items of a row in a model's vocabulary: the arrays of models.recommender.Query."""

    row: UserRow
    recent: NDArray[np.int32]
    at_s: NDArray[np.float64]
    kinds: NDArray[np.uint8]


def _history(row: UserRow, index: dict[str, int]) -> _History:
    count = len(row.recent_items)
    recent = np.fromiter(map(index.get, row.recent_items, repeat(UNKNOWN)), np.int32, count)
    at_s = np.array(row.recent_at, np.float64) / 1_000
    kinds = np.fromiter(map(_kind_code, row.recent_types, repeat(0)), np.uint8, len(row.recent_types))
    known = recent != UNKNOWN
    if not known.all():
        recent, at_s, kinds = recent[known], at_s[known], kinds[known]
    return _History(row, recent, at_s, kinds)


@dataclass(frozen=True, slots=True)
class BoundModel:
    """A model bound to one catalogue index, so that it ranks catalogue items. `query` is not thread-safe.

    to_catalogue: int32 [n_model_items], UNKNOWN where the catalogue lacks the item; live: bool
    [n_model_items], items that may be shown, None: all.
    """

    runner: ModelRunner
    catalogue: CatalogueIndex
    to_catalogue: NDArray[np.int32]
    live: NDArray[np.bool_] | None
    _histories: MutableMapping[str, _History] = field(default_factory=lambda: LRUCache(CACHED_HISTORIES))

    def query(self, row: UserRow, context: list[str], now_s: float, key: str | None = None) -> Query:
        """The user of `row` in this model's vocabulary, without items that it does not know.

        key: of the user, under which the translated row is cached.
        """
        history = self._histories.get(key) if key is not None else None
        if history is None or history.row is not row:
            history = _history(row, self.runner.index)
            if key is not None:
                self._histories[key] = history
        index = self.runner.index
        on_page = [index[item] for item in context if item in index]
        return Query(history.recent, history.at_s, history.kinds, now_s, np.array(on_page, np.int32))

    def rank(self, query: Query, n: int, eligible: NDArray[np.bool_]) -> Ranking:
        """The model's best `n` eligible items, in catalogue indices. Raises what the model raises."""
        return self._in_catalogue(self.runner.model.rank(query, n, allowed=self._allowed(eligible)))

    def similar(self, item_id: str, n: int, eligible: NDArray[np.bool_]) -> Ranking:
        """The `n` eligible items most like `item_id`, in catalogue indices; none if the model does not know
        it."""
        item = self.runner.index.get(item_id)
        if item is None:
            return NO_ITEMS
        return self._in_catalogue(self.runner.model.similar(item, n, allowed=self._allowed(eligible)))

    def _allowed(self, eligible: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """A catalogue mask in this model's vocabulary, bool [n_model_items]; None: all items."""
        return self.live if eligible is self.catalogue.live else mask_for_model(eligible, self.to_catalogue)

    def _in_catalogue(self, ranking: Ranking) -> Ranking:
        if not np.isfinite(ranking.score).all():
            raise ValueError("the model gave scores that are not finite")
        return ranking_in_catalogue(ranking, self.to_catalogue)


def bind(runner: ModelRunner, catalogue: CatalogueIndex) -> BoundModel:
    """Bind a model to a catalogue index; repeated when the catalogue changes."""
    to_catalogue = vocabulary_map(runner.model.items, catalogue.catalogue.items)
    live = mask_for_model(catalogue.live, to_catalogue)
    return BoundModel(runner, catalogue, to_catalogue, None if live.all() else live)
