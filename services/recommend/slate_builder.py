"""Making one slate: the assigned arm, else the champion, else the user's last slate, else what is popular."""

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

import numpy as np
from cachetools import LRUCache
from msgspec import UNSET
from numpy.typing import NDArray

from models.recommender import Ranking
from models.slate import UNKNOWN, Candidate, slate
from services.ports.features import UserRow
from services.recommend.assignment import NOBODY
from services.recommend.filling import fillers, keepable, leading, varied
from services.recommend.schemas import SlateItem
from services.recommend.slate_request import Ask, allowed
from services.recommend.snapshot.catalogue_index import Shelf
from services.recommend.snapshot.model_runner import ModelFailedError, Placed
from services.recommend.snapshot.snapshot import Champion, Serving

POPULAR = "popular"  # answered_by and model version of slates that no model made
NOTHING = Ranking(np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(slots=True)
class Made:
    """A slate, who made it, and what was missing (codes of `degraded`)."""

    items: list[SlateItem]
    answered_by: str
    model_version: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Items of a slate; `within`: no category has more places than its share."""

    items: list[SlateItem]
    within: bool = True


class Slates:
    """Makes slates, and remembers the last good one of each user and placement."""

    def __init__(
        self, *, deadline_s: float, threads: Executor, category_share: float, now_s: Callable[[], float]
    ):
        self._deadline_s = deadline_s
        self._threads = threads
        self._share = category_share
        self._now_s = now_s
        self._last: LRUCache[tuple[str, str, str | None], list[SlateItem]] = LRUCache(10_000)

    async def make(self, serving: Serving, arm: str, ask: Ask, row: UserRow) -> Made:
        """The slate of `arm`, degraded step by step where a step fails; never an error because a model is
        sick."""
        mask = allowed(ask, serving.shelf, row)
        notes: list[str] = []
        champion = serving.champion
        for name in dict.fromkeys((arm, champion.arm if champion is not None else NOBODY)):
            model = serving.model_of(name)
            if model is None:
                if name != NOBODY:
                    notes.append(f"not_loaded:{name}")
                continue
            try:
                best = await self._ask_model(model, serving.shelf, ask, row, mask)
            except ModelFailedError as failed:
                notes.append(f"{failed.how}:{name}")
                continue
            other = champion if champion is not None and champion.arm != name else None
            chosen = await self._filled(serving, ask, row, mask, best, other)
            self._remember(ask, chosen.items, notes)
            return _made(chosen, name, model.fitted.model_version, notes, ask)
        return self._without_models(serving.shelf, ask, mask, notes)

    def popular(self, shelf: Shelf, ask: Ask) -> Made:
        """What is popular among the allowed items."""
        mask = allowed(ask, shelf, UserRow())
        return _made(self._chosen(shelf, ask, fillers(shelf, ask, mask), mask), POPULAR, POPULAR, [], ask)

    async def _ask_model(
        self, model: Placed, shelf: Shelf, ask: Ask, row: UserRow, mask: NDArray[np.bool_]
    ) -> Ranking:
        many = ask.n if self._cap(shelf, ask) is None else 3 * ask.n
        anchor = ask.anchor
        query = None if anchor is not None else model.query(row, ask.context, self._now_s(), ask.visitor.key)

        def answer() -> Ranking:
            if query is None:
                return model.similar(anchor or "", many, mask) or NOTHING
            return model.rank(query, many, mask)

        return await model.fitted.answer(answer, self._deadline_s, self._threads)

    async def _filled(
        self,
        serving: Serving,
        ask: Ask,
        row: UserRow,
        mask: NDArray[np.bool_],
        best: Ranking,
        other: Champion | None,
    ) -> Chosen:
        """The arm's items; where they are too few (a user it can't judge), the champion's, then the
        popular ones."""
        chosen = self._chosen(serving.shelf, ask, [best], mask)
        if len(chosen.items) == ask.n:
            return chosen
        rankings = [best]
        model = serving.models.get(other.model_version) if other is not None else None
        if model is not None and len(best.item) < ask.n:
            with suppress(ModelFailedError):  # only a filler; what is popular follows anyway
                rankings.append(await self._ask_model(model, serving.shelf, ask, row, mask))
        return self._chosen(serving.shelf, ask, [*rankings, *fillers(serving.shelf, ask, mask)], mask)

    def _without_models(self, shelf: Shelf, ask: Ask, mask: NDArray[np.bool_], notes: list[str]) -> Made:
        last = self._last.get(_memory_key(ask)) if ask.visitor.key is not None and ask.given is None else None
        if last is not None:
            items = self._again(shelf, ask, last, mask)
            if len(items) == ask.n:
                return Made(items, POPULAR, POPULAR, [*notes, "cached_slate"])
        chosen = self._chosen(shelf, ask, fillers(shelf, ask, mask), mask)
        return _made(chosen, POPULAR, POPULAR, [*notes, POPULAR], ask)

    def _again(
        self, shelf: Shelf, ask: Ask, last: list[SlateItem], mask: NDArray[np.bool_]
    ) -> list[SlateItem]:
        """What of a slate may be shown still, told as it is now."""
        placed = zip(shelf.places(item.item_id for item in last), last, strict=True)
        kept = [(place, item) for place, item in placed if place != UNKNOWN and mask[place]]
        chosen = leading([place for place, _ in kept], ask.n, shelf.codes, self._cap(shelf, ask))
        return [
            _slate_item(shelf, ask, at, place, item.score, item.reason)
            for at, (place, item) in enumerate(kept[here] for here in chosen)
        ]

    def _cap(self, shelf: Shelf, ask: Ask) -> int | None:
        """Places of one category; None where nobody would miss the others: who asked for some, a shop that
        has only one."""
        free = not ask.category and ask.anchor is None and ask.given is None and self._share < 1.0
        return ceil(ask.n * self._share) if free and len(shelf.categories) > 1 else None

    def _chosen(self, shelf: Shelf, ask: Ask, rankings: list[Ranking], mask: NDArray[np.bool_]) -> Chosen:
        """The slate of these rankings, one after another. Where they know too little of other categories,
        what is popular there comes before what the cap held back."""
        cap = self._cap(shelf, ask)
        best = rankings[0]
        if mask[best.item].all():  # what models were asked for; only a sick one ranks what is not allowed
            chosen = leading(best.item.tolist(), ask.n, shelf.codes, cap)
            if len(chosen) == ask.n:
                return Chosen(_slate_items(shelf, ask, chosen, best))
        picks = slate(rankings, n=ask.n, allowed=mask, category=shelf.codes, cap=cap)
        within = cap is None or _within(shelf, picks, cap)
        if cap is not None and not within and len(picks) == ask.n and keepable(shelf, mask, ask.n, cap):
            wider = [*rankings, varied(shelf, mask, ask.n, cap)]
            picks = slate(wider, n=ask.n, allowed=mask, category=shelf.codes, cap=cap)
            within = True
        items = [
            _slate_item(shelf, ask, at, pick.item, pick.score, pick.reason) for at, pick in enumerate(picks)
        ]
        return Chosen(items, within)

    def _remember(self, ask: Ask, items: list[SlateItem], notes: list[str]) -> None:
        if not notes and ask.visitor.key is not None and ask.given is None:
            self._last[_memory_key(ask)] = items


def _made(chosen: Chosen, answered_by: str, version: str, notes: list[str], ask: Ask) -> Made:
    if len(chosen.items) < ask.n:
        notes.append("fewer_eligible")
    if not chosen.within:
        notes.append("category_share")
    return Made(chosen.items, answered_by, version, notes)


def _within(shelf: Shelf, picks: list[Candidate], cap: int) -> bool:
    places = [pick.item for pick in picks]
    return len(leading(places, len(places), shelf.codes, cap)) == len(places)


def _slate_items(shelf: Shelf, ask: Ask, chosen: list[int], best: Ranking) -> list[SlateItem]:
    places, scores = best.item[chosen].tolist(), best.score[chosen].tolist()
    rows = zip(places, scores, strict=True)
    return [_slate_item(shelf, ask, at, place, score, best.reason) for at, (place, score) in enumerate(rows)]


def _slate_item(shelf: Shelf, ask: Ask, at: int, place: int, score: float, reason: str) -> SlateItem:
    return SlateItem(
        item_id=shelf.ids[place],
        score=score,
        position=at,
        reason=reason,
        metadata=shelf.metadata[place] if ask.metadata else UNSET,
    )


def _memory_key(ask: Ask) -> tuple[str, str, str | None]:
    return ask.visitor.key or "", ask.placement, ask.anchor
