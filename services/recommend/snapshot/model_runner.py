"""One loaded model as this replica serves it: a deadline that holds, a breaker, and the way from its items
to the shelf."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from models.recommender import KINDS, Query, Ranking, Recommender
from models.slate import UNKNOWN, for_model, in_catalogue, vocabulary_map
from services.errors import RingsideError
from services.ports.features import UserRow
from services.recommend.snapshot.catalogue_index import Shelf
from services.recommend.snapshot.circuit_breaker import Breaker

_kind = {kind: code for code, kind in enumerate(KINDS)}.get
# A model whose answers take longer than this while it is tried out never runs on the event loop.
INLINE_LIMIT_S = 0.002
TRIALS = 8
REMEMBERED = 10_000  # users whose unchanged row is not translated again
LONG_HISTORY = 50  # recent items of a user on trial: Settings.recent_items by default
FORGIVEN = 10  # times the time off the loop without an overrun, and the next one costs a second again
IN_FLIGHT = 4  # answers of one model that may be under way in threads; more fail at once


class ModelFailedError(RingsideError):
    """The model gave no usable answer in time. `how`: failed, late or resting."""

    def __init__(self, how: str, problem: str):
        super().__init__(f"{how}: {problem}")
        self.how = how


@dataclass(slots=True)
class Fitted:
    """A model in memory. Only `aside_until_s`, `penalty_s`, `in_flight` and the breaker ever change.

    Fast models (`inline`: proved when loaded, median answer under 2 ms) run on the event loop: a hop to a
    thread and back costs 100-200 µs under load, more than ALS or popularity need for the answer. Such an
    answer can't be interrupted, so one that overruns the deadline is thrown away, and the model runs in
    threads, where the deadline holds whatever it does, for a second; after the next overrun for two, and so
    on: a slow model is kept off the loop. After ten times as long without an overrun all is forgiven: a
    machine that stands still for a moment each day is not a slow model.
    """

    model_version: str
    algorithm: str
    model: Recommender
    index: dict[str, int]
    inline: bool
    breaker: Breaker = field(default_factory=Breaker)
    in_flight: int = 0
    aside_until_s: float = 0.0  # monotonic
    penalty_s: float = 1.0

    async def answer(self, ask: Callable[[], Ranking], deadline_s: float, threads: Executor) -> Ranking:
        """What `ask` answers within the deadline. Raises ModelFailedError; never anything else of the
        model's."""
        now_s = time.monotonic()
        if not self.breaker.closed(now_s):
            raise ModelFailedError("resting", f"{self.model_version} failed too often")
        try:
            ranking = (
                self._here(ask, deadline_s)
                if self.inline and now_s >= self.aside_until_s
                else await self._aside(ask, deadline_s, threads)
            )
        except ModelFailedError:
            self.breaker.failed(time.monotonic())
            raise
        except Exception as error:
            self.breaker.failed(time.monotonic())
            raise ModelFailedError("failed", f"{self.model_version}: {error!r}") from error
        self.breaker.succeeded()
        return ranking

    def _here(self, ask: Callable[[], Ranking], deadline_s: float) -> Ranking:
        start = time.perf_counter()
        ranking = ask()
        if (took_s := time.perf_counter() - start) > deadline_s:
            now_s = time.monotonic()
            if now_s - self.aside_until_s > FORGIVEN * self.penalty_s:
                self.penalty_s = 1.0
            self.aside_until_s = now_s + self.penalty_s
            self.penalty_s *= 2
            raise ModelFailedError("late", f"{self.model_version} took {took_s * 1e3:.0f} ms")
        return ranking

    async def _aside(self, ask: Callable[[], Ranking], deadline_s: float, threads: Executor) -> Ranking:
        if self.in_flight >= IN_FLIGHT:
            raise ModelFailedError("late", f"{self.model_version}: {IN_FLIGHT} answers are still under way")
        self.in_flight += 1
        future = asyncio.get_running_loop().run_in_executor(threads, ask)
        future.add_done_callback(self._landed)
        done, _ = await asyncio.wait([future], timeout=deadline_s)
        if not done:
            raise ModelFailedError("late", f"{self.model_version} took more than {deadline_s * 1e3:.0f} ms")
        return future.result()

    def _landed(self, future: "asyncio.Future[Ranking]") -> None:
        self.in_flight -= 1
        if not future.cancelled():
            future.exception()  # seen, so that asyncio does not log answers that came too late


def fit_in(model: Recommender, model_version: str, now_s: float) -> Fitted:
    """Index a model's items and try it out. Raises whatever the model raises: then it is not loaded."""
    items = model.items.tolist()
    index = {item: place for place, item in enumerate(items)}
    took_s = (
        [_trial(model, place, now_s) for place in np.linspace(0, len(items) - 1, TRIALS).astype(int)]
        if items
        else [0.0]
    )
    return Fitted(
        model_version, model.algorithm, model, index, inline=float(np.median(took_s)) < INLINE_LIMIT_S
    )


def _trial(model: Recommender, place: int, now_s: float) -> float:
    """Seconds for an answer to somebody who did as much as serving remembers."""
    recent = np.roll(np.arange(len(model.items), dtype=np.int32), -place)[:LONG_HISTORY]
    query = Query(recent, np.full(len(recent), now_s), np.zeros(len(recent), np.uint8), now_s)
    start = time.perf_counter()
    model.rank(query, min(30, len(model.items)))
    return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class _Translated:
    """Recent items of a row in a model's vocabulary: the arrays of models.recommender.Query."""

    row: UserRow
    recent: NDArray[np.int32]
    at_s: NDArray[np.float64]
    kinds: NDArray[np.uint8]


def _translated(row: UserRow, index: dict[str, int]) -> _Translated:
    many = len(row.recent_items)
    recent = np.fromiter(map(index.get, row.recent_items, repeat(UNKNOWN)), np.int32, many)
    at_s = np.array(row.recent_at, np.float64) / 1_000
    kinds = np.fromiter(map(_kind, row.recent_types, repeat(0)), np.uint8, len(row.recent_types))
    known = recent != UNKNOWN
    if not known.all():
        recent, at_s, kinds = recent[known], at_s[known], kinds[known]
    return _Translated(row, recent, at_s, kinds)


@dataclass(frozen=True, slots=True)
class Placed:
    """A fitted model against one shelf. to_shelf: int32 [n_model_items], UNKNOWN where the shelf lacks the
    item; live: bool [n_model_items], what may be shown to anybody, None: all."""

    fitted: Fitted
    shelf: Shelf
    to_shelf: NDArray[np.int32]
    live: NDArray[np.bool_] | None
    _known: LRUCache[str, "_Translated"] = field(default_factory=lambda: LRUCache(REMEMBERED))

    def query(self, row: UserRow, context: list[str], now_s: float, key: str | None = None) -> Query:
        """The user as this model sees them: items that it does not know are left out. `key`: whose row it
        is."""
        known = self._known.get(key) if key is not None else None
        if known is None or known.row is not row:
            known = _translated(row, self.fitted.index)
            if key is not None:
                self._known[key] = known
        index = self.fitted.index
        on_page = [index[item] for item in context if item in index]
        return Query(known.recent, known.at_s, known.kinds, now_s, np.array(on_page, np.int32))

    def allowed(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask over the shelf in this model's vocabulary, bool [n_model_items]."""
        return self.live if mask is self.shelf.live else for_model(mask, self.to_shelf)

    def rank(self, query: Query, n: int, mask: NDArray[np.bool_]) -> Ranking:
        """The model's best `n` of the masked items, in places of the shelf. Raises what the model raises."""
        return self._on_shelf(self.fitted.model.rank(query, n, allowed=self.allowed(mask)))

    def similar(self, item_id: str, n: int, mask: NDArray[np.bool_]) -> Ranking | None:
        """The `n` masked items most like `item_id`, in places of the shelf; None if the model does not
        know it."""
        place = self.fitted.index.get(item_id)
        if place is None:
            return None
        return self._on_shelf(self.fitted.model.similar(place, n, allowed=self.allowed(mask)))

    def _on_shelf(self, ranking: Ranking) -> Ranking:
        if not np.isfinite(ranking.score).all():
            raise ValueError("the model gave scores that are not finite")
        return in_catalogue(ranking, self.to_shelf)


def place(fitted: Fitted, shelf: Shelf) -> Placed:
    """Put a model against a shelf; done again when the catalogue changes."""
    to_shelf = vocabulary_map(fitted.model.items, shelf.catalogue.items)
    live = for_model(shelf.live, to_shelf)
    return Placed(fitted, shelf, to_shelf, None if live.all() else live)
