"""Build one slate: by the assigned arm, else the champion, else the user's last slate, else popular items."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import ceil

import numpy as np
from cachetools import LRUCache
from msgspec import UNSET
from numpy.typing import NDArray

from models.recommender import Ranking
from models.slate import UNKNOWN, Pick, Selection, select
from services.ports.features import UserRow
from services.recommend.assignment import NO_ARM
from services.recommend.schemas import SlateItem
from services.recommend.slate_request import SlateRequest
from services.recommend.snapshot.catalogue_index import CatalogueIndex
from services.recommend.snapshot.model_runner import NO_ITEMS, BoundModel, ModelFailedError
from services.recommend.snapshot.snapshot import ServedExperiment, Snapshot

POPULAR = "popular"  # `answered_by` and model version of slates that no model made
CACHED_SLATES = 10_000


@dataclass(slots=True)
class SlateResult:
    """A slate, the arm and model version that answered, and what was missing (codes of `degraded`)."""

    items: list[SlateItem]
    answered_by: str = POPULAR
    model_version: str = POPULAR
    degraded: list[str] = field(default_factory=list)


class SlateBuilder:
    """Builds slates, and caches the last good one of each user, placement and anchor. Not thread-safe."""

    def __init__(
        self, *, deadline_s: float, threads: Executor, category_share: float, now_s: Callable[[], float]
    ):
        self._deadline_s = deadline_s
        self._threads = threads
        self._share = category_share
        self._now_s = now_s
        self._cache: MutableMapping[tuple[str, str, str | None], list[SlateItem]] = LRUCache(CACHED_SLATES)

    async def build(
        self, snapshot: Snapshot, experiment: ServedExperiment, arm: str, request: SlateRequest, row: UserRow
    ) -> SlateResult:
        """The slate of `arm`, degraded step by step as steps fail. A failing model raises nothing."""
        slate = self._slate(snapshot.catalogue, request, row)
        champion = experiment.champion.arm if experiment.champion is not None else NO_ARM
        degraded: list[str] = []
        for name in dict.fromkeys((arm, champion)):
            model = snapshot.model_of(experiment, name)
            if model is None:
                if name != NO_ARM:
                    degraded.append(f"not_loaded:{name}")
                continue
            try:
                ranking = await self._rank(model, slate)
            except ModelFailedError as error:
                degraded.append(f"{error.how}:{name}")
                continue
            more = []
            if len(ranking.item) < request.n and name != champion:  # the arm knows too little about this user
                more = await self._champion_ranking(snapshot.model_of(experiment, champion), slate)
            items, lacking = slate.fill(ranking, more)
            if not degraded and _cacheable(request):
                self._cache[_cache_key(request)] = items
            return SlateResult(items, name, model.runner.model_version, degraded + lacking)
        return self._without_models(slate, degraded)

    def popular(self, catalogue: CatalogueIndex, request: SlateRequest) -> SlateResult:
        """The most popular of the eligible items."""
        items, lacking = self._slate(catalogue, request, UserRow()).fill(NO_ITEMS)
        return SlateResult(items, degraded=lacking)

    def _slate(self, catalogue: CatalogueIndex, request: SlateRequest, row: UserRow) -> "_Slate":
        return _Slate(
            catalogue, request, row, request.eligible(catalogue, row), _cap(catalogue, request, self._share)
        )

    async def _rank(self, model: BoundModel, slate: "_Slate") -> Ranking:
        """The model's answer in catalogue indices; three times as many items where a category is capped."""
        request, eligible = slate.request, slate.eligible
        n = request.n if slate.cap is None else 3 * request.n
        if request.anchor is not None:
            call = partial(model.similar, request.anchor, n, eligible)
        else:
            query = model.query(slate.row, request.context, self._now_s(), request.visitor.key)
            call = partial(model.rank, query, n, eligible)
        return await model.runner.run(call, self._deadline_s, self._threads)

    async def _champion_ranking(self, model: BoundModel | None, slate: "_Slate") -> list[Ranking]:
        """What the champion adds to a short ranking; nothing if it fails, because popular items follow."""
        if model is not None:
            with suppress(ModelFailedError):
                return [await self._rank(model, slate)]
        return []

    def _without_models(self, slate: "_Slate", degraded: list[str]) -> SlateResult:
        cached = self._cache.get(_cache_key(slate.request)) if _cacheable(slate.request) else None
        items = slate.refreshed(cached) if cached is not None else None
        if items is not None:
            return SlateResult(items, degraded=[*degraded, "cached_slate"])
        items, lacking = slate.fill(NO_ITEMS)
        return SlateResult(items, degraded=[*degraded, POPULAR, *lacking])


@dataclass(slots=True)
class _Slate:
    """One slate being built. eligible: bool [n_items]; cap: items of one category, None for no cap."""

    catalogue: CatalogueIndex
    request: SlateRequest
    row: UserRow
    eligible: NDArray[np.bool_]
    cap: int | None

    def fill(self, ranking: Ranking, more: Iterable[Ranking] = ()) -> tuple[list[SlateItem], list[str]]:
        """Items of `ranking`, then of `more`, then popular ones; with codes of `degraded` for what lacks."""
        selection = self._select(ranking, lambda: chain(more, self._fallback()))
        lacking = []
        if len(selection.picks) < self.request.n:
            lacking.append("fewer_eligible")
        if not selection.within_cap:
            lacking.append("category_share")
        return self._items(selection.picks), lacking

    def refreshed(self, items: list[SlateItem]) -> list[SlateItem] | None:
        """The same items as they are now; None if they no longer make a full slate within the cap."""
        indices = self.catalogue.indices(item.item_id for item in items)
        last = {index: item for index, item in zip(indices, items, strict=True) if index != UNKNOWN}
        ranking = Ranking(np.fromiter(last, np.int32, len(last)), np.zeros(len(last), np.float32))
        selection = self._select(ranking)
        if len(selection.picks) < self.request.n or not selection.within_cap:
            return None
        if any(index not in last for index, _, _ in selection.picks):  # the cap needs other items
            return None
        return self._items((index, last[index].score, last[index].reason) for index, _, _ in selection.picks)

    def _select(self, ranking: Ranking, fallback: Callable[[], Iterable[Ranking]] = tuple) -> Selection:
        return select(
            ranking,
            self.request.n,
            eligible=self.eligible,
            assortment=self.catalogue.assortment,
            cap=self.cap,
            fallback=fallback,
        )

    def _fallback(self) -> Iterator[Ranking]:
        """Rankings that fill a slate which models left short: the caller's own order, else popular items,
        those of the anchor's category first."""
        catalogue, request = self.catalogue, self.request
        if request.given is not None:
            given = [index for index in catalogue.indices(request.given) if index != UNKNOWN]
            yield Ranking(np.array(given, np.int32), np.zeros(len(given), np.float32), "in the order given")
            return
        count = 3 * request.n  # n distinct items are enough; the rest gives the category cap a choice
        if request.anchor is not None:
            yield catalogue.assortment.most_popular(
                count, self.eligible & catalogue.same_category(request.anchor)
            )
        yield catalogue.assortment.most_popular(count, self.eligible)

    def _items(self, picks: Iterable[Pick]) -> list[SlateItem]:
        ids, metadata, wanted = self.catalogue.ids, self.catalogue.metadata, self.request.metadata
        return [
            SlateItem(
                item_id=ids[index],
                score=score,
                position=position,
                reason=reason,
                metadata=metadata[index] if wanted else UNSET,
            )
            for position, (index, score, reason) in enumerate(picks)
        ]


def _cap(catalogue: CatalogueIndex, request: SlateRequest, share: float) -> int | None:
    """Items of one category that a slate may hold; None where other categories would not be missed: the
    caller chose the items, or the shop has one category."""
    chosen = request.category or request.anchor is not None or request.given is not None
    if chosen or share >= 1.0 or len(catalogue.categories) <= 1:
        return None
    return ceil(request.n * share)


def _cacheable(request: SlateRequest) -> bool:
    return request.visitor.key is not None and request.given is None


def _cache_key(request: SlateRequest) -> tuple[str, str, str | None]:
    return request.visitor.key or "", request.placement, request.anchor
