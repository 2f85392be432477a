"""Making one slate: the assigned arm, else the champion, else the user's last slate, else what is popular."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from models.blend import KEEPS_BOUGHT, UNKNOWN, slate
from models.contract import Ranking
from services.errors import BadInputError
from services.ports import UserRow
from services.recommend.assigning import NOBODY, Visitor
from services.recommend.failures import NotFoundError
from services.recommend.fitted import ModelFailedError, Placed
from services.recommend.serving import Champion, Serving
from services.recommend.shelf import Shelf
from services.recommend.wire import PopularRequest, RerankRequest, SlateItem, SlateRequest

POPULAR = "popular"  # answered_by and model version of slates that no model made
NOTHING = Ranking(np.empty(0, np.int32), np.empty(0, np.float32))
K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The `limit` values put last, by key."""

    def __init__(self, limit: int):
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def put(self, key: K, value: V) -> None:
        """Remember."""
        values = self._values
        values[key] = value
        values.move_to_end(key)
        if len(values) > self._limit:
            values.popitem(last=False)

    def get(self, key: K) -> V | None:
        """What was put, if it is still remembered."""
        return self._values.get(key)


@dataclass(frozen=True, slots=True)
class Ask:
    """One question for a slate, from whichever route. `anchor`: the item that the slate should be like;
    `given`: the
    only items allowed, in the caller's order."""

    visitor: Visitor
    n: int
    placement: str
    exclude: list[str] = field(default_factory=list)
    category: list[str] = field(default_factory=list)
    price_min: float | None = None
    price_max: float | None = None
    context: list[str] = field(default_factory=list)
    anchor: str | None = None
    given: list[str] | None = None
    metadata: bool = True

    @classmethod
    def of(
        cls,
        said: SlateRequest,
        visitor: Visitor,
        *,
        context: list[str] | None = None,
        anchor: str | None = None,
    ) -> "Ask":
        """From /recommend and /similar."""
        return cls(
            visitor,
            said.n,
            said.placement,
            said.exclude,
            said.category,
            said.price_min,
            said.price_max,
            context or [],
            anchor,
            None,
            said.metadata,
        )

    @classmethod
    def rerank(cls, said: RerankRequest, visitor: Visitor) -> "Ask":
        """From /rerank."""
        given = list(dict.fromkeys(said.items))
        n = min(said.n or len(given), len(given))
        return cls(visitor, n, said.placement, given=given, metadata=said.metadata)

    @classmethod
    def popular(cls, said: PopularRequest) -> "Ask":
        """From /popular."""
        nobody = Visitor(None, None)
        return cls(
            nobody,
            said.n,
            "home",
            said.exclude,
            said.category,
            said.price_min,
            said.price_max,
            metadata=said.metadata,
        )


@dataclass(slots=True)
class Made:
    """A slate, who made it, and what was missing (codes of `degraded`)."""

    items: list[SlateItem]
    answered_by: str
    model_version: str
    notes: list[str]


def check(ask: Ask, shelf: Shelf, placements: frozenset[str]) -> None:
    """Refuse what no slate can answer. Raises BadInputError, or NotFoundError for an unknown anchor."""
    if ask.placement not in placements:
        raise BadInputError(
            "placement", f"unknown: {ask.placement!r}; known are {', '.join(sorted(placements))}"
        )
    if ask.price_min is not None and ask.price_max is not None and ask.price_min > ask.price_max:
        raise BadInputError("price_min", f"{ask.price_min} is above price_max {ask.price_max}")
    if ask.anchor is not None and ask.anchor not in shelf.index:
        raise NotFoundError("item_id", f"no item {ask.anchor!r} in the catalogue")


def allowed(ask: Ask, shelf: Shelf, row: UserRow) -> NDArray[np.bool_]:
    """Items that may stand in this slate, bool [n_items]; read only."""
    mask = shelf.mask(ask.category, ask.price_min, ask.price_max)
    hidden = [*ask.exclude, *ask.context] if ask.exclude or ask.context else []
    if ask.anchor is not None:
        hidden.append(ask.anchor)
    if ask.placement not in KEEPS_BOUGHT and ask.given is None and "purchase" in row.recent_types:
        bought = zip(row.recent_items, row.recent_types, strict=False)
        hidden += [item for item, kind in bought if kind == "purchase"]
    places = [place for place in shelf.places(hidden) if place != UNKNOWN]
    if ask.given is not None:
        mask = mask & among(shelf, ask.given)
    if places:
        mask = mask.copy()
        mask[places] = False
    return mask


def among(shelf: Shelf, item_ids: list[str]) -> NDArray[np.bool_]:
    """True at these items, bool [n_items]."""
    mask = np.zeros(len(shelf) + 1, np.bool_)  # UNKNOWN (-1) lands on the extra last place
    mask[shelf.places(item_ids)] = True
    return mask[:-1]


class Slates:
    """Makes slates, and remembers the last good one of each user and placement."""

    def __init__(
        self, *, deadline_s: float, threads: Executor, category_share: float, now_s: Callable[[], float]
    ):
        self._deadline_s = deadline_s
        self._threads = threads
        self._share = category_share
        self._now_s = now_s
        self._last: Recent[tuple[str, str, str | None], list[SlateItem]] = Recent(10_000)

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
                best = await self._ask_model(model, ask, row, mask)
            except ModelFailedError as failed:
                notes.append(f"{failed.how}:{name}")
                continue
            other = champion if champion is not None and champion.arm != name else None
            items = await self._filled(serving, ask, row, mask, best, other)
            self._remember(ask, items, notes)
            return self._made(items, name, model.fitted.model_version, notes, ask)
        return self._without_models(serving.shelf, ask, mask, notes)

    def popular(self, shelf: Shelf, ask: Ask) -> list[SlateItem]:
        """What is popular among the allowed items."""
        mask = allowed(ask, shelf, UserRow())
        return self._items(shelf, ask, [shelf.most_popular(ask.n, mask)], mask)

    async def _ask_model(self, model: Placed, ask: Ask, row: UserRow, mask: NDArray[np.bool_]) -> Ranking:
        many = ask.n if self._cap(ask) is None else 3 * ask.n
        now_s = self._now_s()

        def answer() -> Ranking:
            if ask.anchor is not None:
                return model.similar(ask.anchor, many, mask) or NOTHING
            return model.rank(model.query(row, ask.context, now_s), many, mask)

        return await model.fitted.answer(answer, self._deadline_s, self._threads)

    async def _filled(
        self,
        serving: Serving,
        ask: Ask,
        row: UserRow,
        mask: NDArray[np.bool_],
        best: Ranking,
        other: Champion | None,
    ) -> list[SlateItem]:
        """The arm's items; where they are too few (a user it can't judge), the champion's, then the
        popular ones."""
        items = self._items(serving.shelf, ask, [best], mask)
        if len(items) == ask.n:
            return items
        rankings = [best]
        model = serving.models.get(other.model_version) if other is not None else None
        if model is not None and len(best.item) < ask.n:
            with suppress(ModelFailedError):  # only a filler; what is popular follows anyway
                rankings.append(await self._ask_model(model, ask, row, mask))
        return self._items(serving.shelf, ask, [*rankings, *fillers(serving.shelf, ask, mask)], mask)

    def _without_models(self, shelf: Shelf, ask: Ask, mask: NDArray[np.bool_], notes: list[str]) -> Made:
        last = self._last.get(_memory_key(ask)) if ask.visitor.key is not None and ask.given is None else None
        if last is not None:
            kept = [
                item for item in last if (place := shelf.index.get(item.item_id)) is not None and mask[place]
            ]
            items = [_moved(item, at) for at, item in enumerate(kept[: ask.n])]
            if len(items) == ask.n:
                return Made(items, POPULAR, POPULAR, [*notes, "cached_slate"])
        items = self._items(shelf, ask, fillers(shelf, ask, mask), mask)
        return self._made(items, POPULAR, POPULAR, [*notes, POPULAR], ask)

    def _made(
        self, items: list[SlateItem], answered_by: str, version: str, notes: list[str], ask: Ask
    ) -> Made:
        if len(items) < ask.n:
            notes.append("fewer_eligible")
        return Made(items, answered_by, version, notes)

    def _cap(self, ask: Ask) -> int | None:
        free = not ask.category and ask.anchor is None and ask.given is None and self._share < 1.0
        return ceil(ask.n * self._share) if free else None

    def _items(
        self, shelf: Shelf, ask: Ask, rankings: list[Ranking], mask: NDArray[np.bool_]
    ) -> list[SlateItem]:
        cap = self._cap(ask)
        best = rankings[0]
        if mask[best.item].all():  # what models were asked for; only a sick one ranks what is not allowed
            chosen = leading(best.item.tolist(), ask.n, shelf.codes, cap)
            if len(chosen) == ask.n:
                return _slate_items(shelf, ask, chosen, best)
        picks = slate(rankings, n=ask.n, allowed=mask, category=shelf.codes, cap=cap)
        return [
            _slate_item(shelf, ask, at, pick.item, pick.score, pick.reason) for at, pick in enumerate(picks)
        ]

    def _remember(self, ask: Ask, items: list[SlateItem], notes: list[str]) -> None:
        if not notes and ask.visitor.key is not None and ask.given is None:
            self._last.put(_memory_key(ask), items)


def leading(places: list[int], n: int, codes: NDArray[np.int32], cap: int | None) -> list[int]:
    """Where in a ranking the slate's `n` items stand, in order: distinct items, at most `cap` of a category.

    Equals `models.blend.slate` on one ranking long enough, in a tenth of its time; fewer than `n` when the
    ranking alone can't fill the slate (then the blend decides what fills it).

    >>> leading([7, 7, 3, 5], 2, np.int32([0] * 8), None)
    [0, 2]
    """
    chosen: list[int] = []
    counts: dict[int, int] = {}
    code_of = codes[places].tolist() if cap is not None else places
    seen: set[int] = set()
    for at, place in enumerate(places):
        if place in seen:
            continue
        seen.add(place)
        if cap is not None and (code := code_of[at]) != UNKNOWN:
            counts[code] = counts.get(code, 0) + 1
            if counts[code] > cap:
                continue
        chosen.append(at)
        if len(chosen) == n:
            break
    return chosen


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


def fillers(shelf: Shelf, ask: Ask, mask: NDArray[np.bool_]) -> list[Ranking]:
    """What fills a slate that models left short: the caller's own order, else popular (like the anchor
    first)."""
    if ask.given is not None:
        places = [place for place in shelf.places(ask.given) if place != UNKNOWN]
        return [Ranking(np.array(places, np.int32), np.zeros(len(places), np.float32), "in the order given")]
    many = 3 * ask.n  # n distinct ones are enough; the rest lets the category cap choose
    if ask.anchor is not None:
        alike = mask & (shelf.codes == shelf.codes[shelf.index[ask.anchor]])
        return [shelf.most_popular(many, alike), shelf.most_popular(many, mask)]
    return [shelf.most_popular(many, mask)]


def _memory_key(ask: Ask) -> tuple[str, str, str | None]:
    return ask.visitor.key or "", ask.placement, ask.anchor


def _moved(item: SlateItem, position: int) -> SlateItem:
    return SlateItem(
        item_id=item.item_id, score=item.score, position=position, reason=item.reason, metadata=item.metadata
    )
