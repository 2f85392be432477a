"""Select the items of a slate: rank, keep eligible items, keep categories diverse, fill up. Pure.

All indices are positions in the *live catalogue*; `vocabulary_map` and `ranking_in_catalogue` translate
a model's ranking. A request costs one mask (`eligible`) and one `select`:

    live = available(catalogue)                                         # when the catalogue changes
    assortment = Assortment(category_codes(catalogue), by_popularity, popularity)
    to_catalogue = vocabulary_map(model.items, catalogue.items)         # when a model is loaded
    mask = eligible(live, excluded=cart)
    ranking = model.rank(query, 30, allowed=mask_for_model(mask, to_catalogue))
    ranking = ranking_in_catalogue(ranking, to_catalogue)
    slate = select(ranking, 10, eligible=mask, assortment=assortment, cap=5)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.recommender import Catalogue, Ranking

UNKNOWN = -1  # index of an item that the other vocabulary lacks, and code of an empty category
# Placements that may show items that the user has bought.
PLACEMENTS_WITH_BOUGHT = frozenset({"buy_again"})

Pick = tuple[int, float, str]  # catalogue index, score, reason


@dataclass(frozen=True, slots=True)
class Selection:
    """Items of a slate in order, all distinct. `within_cap`: no category has more items than the cap."""

    picks: list[Pick]
    within_cap: bool


@dataclass(frozen=True, slots=True)
class Assortment:
    """Category and popularity of every catalogue item.

    category: int32 [n_items] of `category_codes`; by_popularity: int32 [n_items], items from the most popular
    on; popularity: float32 [n_items].
    """

    category: NDArray[np.int32]
    by_popularity: NDArray[np.int32]
    popularity: NDArray[np.float32]

    def most_popular(self, n: int, eligible: NDArray[np.bool_]) -> Ranking:
        """The `n` most popular of the eligible items (bool [n_items])."""
        return self._ranking(self.by_popularity[eligible[self.by_popularity]][:n])

    def most_popular_diverse(self, n: int, eligible: NDArray[np.bool_], cap: int) -> Ranking:
        """The most popular eligible items with at most `cap` of a category: enough to complete any slate.

        2 n items suffice, because each item already in the slate rules out one of them: itself or one of its
        category.
        """
        sample = 16 * n  # nearly always enough; sorting the whole catalogue takes ten times as long
        while True:
            item = self.most_popular(sample, eligible).item
            diverse = item[_within_first(self.category[item], cap)][: 2 * n]
            if len(diverse) == 2 * n or len(item) < sample:
                return self._ranking(diverse)
            sample *= 16

    def fits_cap(self, n: int, eligible: NDArray[np.bool_], cap: int) -> bool:
        """Whether `n` eligible items exist with at most `cap` of a category."""
        counts = np.bincount(self.category[eligible] - UNKNOWN, minlength=1)  # 0: no category, never capped
        return int(counts[0] + np.minimum(counts[1:], cap).sum()) >= n

    def _ranking(self, item: NDArray[np.int32]) -> Ranking:
        return Ranking(item, self.popularity[item], "popular now")


def vocabulary_map(model_items: NDArray[np.str_], catalogue_items: NDArray[np.str_]) -> NDArray[np.int32]:
    """Catalogue index of each model item, int32 [n_model_items]; UNKNOWN where the catalogue lacks it.

    >>> vocabulary_map(np.array(["a", "x"]), np.array(["b", "a"])).tolist()
    [1, -1]
    """
    index_of = {item: index for index, item in enumerate(catalogue_items.tolist())}
    return np.fromiter(
        (index_of.get(item, UNKNOWN) for item in model_items.tolist()), np.int32, len(model_items)
    )


def ranking_in_catalogue(ranking: Ranking, to_catalogue: NDArray[np.int32]) -> Ranking:
    """Translate a model's ranking to catalogue indices; items that the catalogue lacks are left out."""
    item = to_catalogue[ranking.item]
    known = item != UNKNOWN
    if known.all():
        return Ranking(item, ranking.score, ranking.reason)
    return Ranking(item[known], ranking.score[known], ranking.reason)


def category_codes(catalogue: Catalogue) -> NDArray[np.int32]:
    """Dense code of each item's category, int32 [n_items]; UNKNOWN for no category, which is never capped."""
    names, codes = np.unique(catalogue.category, return_inverse=True)
    return np.where(names[codes] == "", UNKNOWN, codes).astype(np.int32)


def available(catalogue: Catalogue) -> NDArray[np.bool_]:
    """Items that may be shown at all, bool [n_items]: not hidden, and in stock (or stock not tracked)."""
    return ~catalogue.hidden & np.not_equal(catalogue.stock, 0)


def eligible(
    live: NDArray[np.bool_], *, excluded: Iterable[int] = (), only: Iterable[int] | None = None
) -> NDArray[np.bool_]:
    """Items that one slate may show, bool [n_items]: those of `live` among `only` (None: all) and not in
    `excluded`.

    Returns `live` itself if nothing is left out, so don't write to it. UNKNOWN as an index is ignored.

    >>> eligible(np.array([True, True, False, True]), excluded=[0, UNKNOWN], only=[3, 0, 2]).tolist()
    [False, False, False, True]
    """
    mask = live
    if only is not None:
        mask = live & _members(only, len(live))
    left_out = [index for index in excluded if index != UNKNOWN]
    if left_out:
        mask = mask.copy()
        mask[left_out] = False
    return mask


def _members(indices: Iterable[int], n_items: int) -> NDArray[np.bool_]:
    mask = np.zeros(n_items + 1, np.bool_)  # UNKNOWN (-1) lands on the extra last entry
    mask[np.fromiter(indices, np.intp)] = True
    return mask[:-1]


def mask_for_model(mask: NDArray[np.bool_], to_catalogue: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Translate a catalogue mask to a model's vocabulary, bool [n_model_items]; False for items that the
    catalogue lacks."""
    return np.append(mask, False)[to_catalogue]


def select(
    ranking: Ranking,
    n: int,
    *,
    eligible: NDArray[np.bool_],
    assortment: Assortment,
    cap: int | None = None,
    fallback: Callable[[], Iterable[Ranking]] = tuple,
) -> Selection:
    """Select at most `n` distinct eligible items in the order of `ranking`, at most `cap` of a category.

    ranking: in catalogue indices; eligible: bool [n_items]; cap: None for no cap.

    If `ranking` holds fewer than `n` distinct eligible items, the rankings of `fallback` follow in turn. If
    the cap holds back items that the slate needs, popular items of other categories come first, provided that
    the eligible items can fill the slate within the cap; otherwise the held back items fill it, and
    `within_cap` is False. So a slate is short only if all rankings together hold too few items.

    >>> shop = Assortment(np.int32([0, 0, 0, 1]), np.int32([0, 1, 2, 3]), np.float32([9, 5, 2, 1]))
    >>> wanted = Ranking(np.int32([2, 2, 1, 0]), np.float32([4, 3, 2, 1]), "liked")
    >>> select(wanted, 2, eligible=np.ones(4, bool), assortment=shop).picks
    [(2, 4.0, 'liked'), (1, 2.0, 'liked')]
    >>> select(wanted, 2, eligible=np.ones(4, bool), assortment=shop, cap=1).picks
    [(2, 4.0, 'liked'), (3, 1.0, 'popular now')]
    """
    draft = _Draft(n, eligible, assortment.category, cap)
    draft.add(ranking)
    if draft.distinct < n:
        for more in fallback():
            draft.add(more)
            if len(draft.kept) == n:
                break
    if cap is not None and len(draft.kept) < n <= draft.distinct and assortment.fits_cap(n, eligible, cap):
        draft.add(assortment.most_popular_diverse(n, eligible, cap))
    missing = n - len(draft.kept)
    return Selection(draft.kept + draft.held[:missing], within_cap=missing == 0 or not draft.held)


class _Draft:
    """A slate in the making: `kept` within the cap, `held` back by it."""

    def __init__(self, n: int, eligible: NDArray[np.bool_], category: NDArray[np.int32], cap: int | None):
        self._n = n
        self._eligible = eligible
        self._category = category
        self._cap = cap
        self._seen: set[int] = set()
        self._counts: dict[int, int] = {}  # by category code
        self.kept: list[Pick] = []
        self.held: list[Pick] = []

    @property
    def distinct(self) -> int:
        """Distinct eligible items so far."""
        return len(self.kept) + len(self.held)

    def add(self, ranking: Ranking) -> None:
        """Take items of the ranking in order until the slate is full."""
        n, cap, seen, counts, kept = self._n, self._cap, self._seen, self._counts, self.kept
        items = ranking.item.tolist()
        codes = self._category[ranking.item].tolist() if cap is not None else items
        rows = zip(items, ranking.score.tolist(), self._eligible[ranking.item].tolist(), codes, strict=True)
        for item, score, allowed, code in rows:
            if len(kept) >= n:
                return
            if not allowed or item in seen:
                continue
            seen.add(item)
            if cap is not None and code != UNKNOWN:
                count = counts[code] = counts.get(code, 0) + 1
                if count > cap:
                    self.held.append((item, score, ranking.reason))
                    continue
            kept.append((item, score, ranking.reason))


def _within_first(code: NDArray[np.int32], many: int) -> NDArray[np.bool_]:
    """Which entries are among the first `many` of their code, bool [len(code)]; all of UNKNOWN are."""
    by_code = np.argsort(code, kind="stable")
    rank = np.empty(len(code), np.intp)
    rank[by_code] = np.arange(len(code)) - np.searchsorted(code[by_code], code[by_code])
    return np.less(rank, many) | np.equal(code, UNKNOWN)
