"""Which items of rankings make a slate, and what fills one that models left short, or of too few categories.
Pure."""

import numpy as np
from numpy.typing import NDArray

from models.recommender import Ranking
from models.slate import UNKNOWN
from services.recommend.slate_request import Ask
from services.recommend.snapshot.catalogue_index import Shelf


def leading(places: list[int], n: int, codes: NDArray[np.int32], cap: int | None) -> list[int]:
    """Where in a ranking the slate's `n` items stand, in order: distinct items, at most `cap` of a category.

    Equals `models.slate.slate` on one ranking long enough, in a tenth of its time; fewer than `n` when the
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


def keepable(shelf: Shelf, mask: NDArray[np.bool_], n: int, cap: int) -> bool:
    """Whether there are `n` of the masked items (bool [n_items]) with at most `cap` of a category."""
    many = np.bincount(shelf.codes[mask] - UNKNOWN, minlength=1)  # at 0 those of no category: never capped
    return int(many[0] + np.minimum(many[1:], cap).sum()) >= n


def varied(shelf: Shelf, mask: NDArray[np.bool_], n: int, cap: int) -> Ranking:
    """The most popular of the masked items (bool [n_items]), at most `cap` of a category.

    2 n of them end any slate of `n` within the cap, if that can be done at all: an item that is in the slate
    already rules one of them out, itself or one of its category.
    """
    many = 16 * n  # nearly always enough; sorting the whole catalogue takes ten times as long
    while True:
        item = shelf.most_popular(many, mask).item
        few = item[_first(shelf.codes[item], cap)][: 2 * n]
        if len(few) == 2 * n or len(item) < many:
            return Ranking(few, shelf.popularity[few], "popular now")
        many *= 16


def _first(code: NDArray[np.int32], many: int) -> NDArray[np.bool_]:
    """Which are among the first `many` of their code, bool [len(code)]; UNKNOWN is no code."""
    order = np.argsort(code, kind="stable")
    at = np.empty(len(code), np.intp)
    at[order] = np.arange(len(code)) - np.searchsorted(code[order], code[order])
    return (at < many) | (code == UNKNOWN)
