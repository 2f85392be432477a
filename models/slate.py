"""From rankings to a slate: merge by rounds, dedupe, eligibility, diversity. Pure, list to list.

Everything here speaks in indices of the *live catalogue*; `vocabulary_map` and `in_catalogue` bring a model's
ranking there. A request costs one mask (`eligible`) and one `slate`:

    live = available(catalogue)                              # once a catalogue change
    to_catalogue = vocabulary_map(model.items, catalogue.items)   # once a loaded model
    codes = category_codes(catalogue)                        # once a catalogue change
    allowed = eligible(live, excluded=cart, bought=history, placement="home")
    ranking = model.rank(query, 100, allowed=for_model(allowed, to_catalogue))
    picks = slate([in_catalogue(ranking, to_catalogue), popular], n=10, allowed=allowed, category=codes)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from models.recommender import Catalogue, Ranking

UNKNOWN = -1  # index of an item that the other vocabulary lacks, and code of an empty category
# Placements that may show what the user has bought. All others leave out what the caller names as bought:
# serving names purchases among the recent acts that it remembers, so what was bought long ago may come back.
KEEPS_BOUGHT = frozenset({"buy_again"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place of a slate. `item`: index in the live catalogue; `source`: the ranking it is from."""

    item: int
    score: float
    reason: str
    source: int


def vocabulary_map(model_items: NDArray[np.str_], catalogue_items: NDArray[np.str_]) -> NDArray[np.int32]:
    """Catalogue index of each model item, int32 [n_model_items]; UNKNOWN where the catalogue lacks it.

    >>> vocabulary_map(np.array(["a", "x"]), np.array(["b", "a"])).tolist()
    [1, -1]
    """
    place = {item: index for index, item in enumerate(catalogue_items.tolist())}
    return np.fromiter(
        (place.get(item, UNKNOWN) for item in model_items.tolist()), np.int32, len(model_items)
    )


def in_catalogue(ranking: Ranking, to_catalogue: NDArray[np.int32]) -> Ranking:
    """A model's ranking in catalogue indices; items that the catalogue lacks are left out."""
    item = to_catalogue[ranking.item]
    known = item != UNKNOWN
    if known.all():
        return Ranking(item, ranking.score, ranking.reason)
    return Ranking(item[known], ranking.score[known], ranking.reason)


def category_codes(catalogue: Catalogue) -> NDArray[np.int32]:
    """Dense code of each item's category, int32 [n_items]; UNKNOWN for an empty one: never capped."""
    names, codes = np.unique(catalogue.category, return_inverse=True)
    return np.where(names[codes] == "", UNKNOWN, codes).astype(np.int32)


def available(catalogue: Catalogue) -> NDArray[np.bool_]:
    """Items that may be shown to anybody, bool [n_items]: not hidden, and in stock (or stock not tracked)."""
    return ~catalogue.hidden & (catalogue.stock != 0)


def eligible(
    live: NDArray[np.bool_],
    *,
    excluded: Iterable[int] = (),
    bought: Iterable[int] = (),
    placement: str = "home",
) -> NDArray[np.bool_]:
    """Mask of one request, bool [n_items]: `live` (from `available`) without `excluded`, and without `bought`
    unless the placement keeps it. Indices of items that the catalogue lacks (UNKNOWN) are harmless."""
    allowed = np.append(live, False)  # index -1 lands on the extra last place
    allowed[np.fromiter(excluded, np.intp)] = False
    if placement not in KEEPS_BOUGHT:
        allowed[np.fromiter(bought, np.intp)] = False
    return allowed[:-1]


def for_model(allowed: NDArray[np.bool_], to_catalogue: NDArray[np.int32]) -> NDArray[np.bool_]:
    """A catalogue mask in a model's vocabulary, bool [n_model_items]; False for what the catalogue lacks."""
    return np.append(allowed, False)[to_catalogue]


def merge(rankings: Sequence[Ranking], takes: Sequence[int] | None = None) -> Iterator[Candidate]:
    """Merge by rounds without repeats: in each round ranking i gives its next `takes[i]` items not yet taken.

    takes: one count a ranking, each >= 1; None: the rankings one after another, so that later ones only fill
    up. An item keeps the place, score and reason of the first ranking that gave it. Lazy: a slate of ten
    touches little more than ten candidates.

    >>> pair = [Ranking(np.int32([1, 2, 3]), np.ones(3, np.float32)), Ranking(np.int32([2, 9]), np.ones(2))]
    >>> [c.item for c in merge(pair, takes=(1, 1))]
    [1, 2, 3, 9]
    >>> [c.item for c in merge(pair, takes=(1, 2))]
    [1, 2, 9, 3]
    """
    taken: set[int] = set()
    queues = [_untaken(ranking, source, taken) for source, ranking in enumerate(rankings)]
    if takes is None:
        return chain.from_iterable(queues)
    if len(takes) != len(rankings) or any(take < 1 for take in takes):
        raise ValueError(f"takes: needs a count >= 1 for each of {len(rankings)} rankings, got {list(takes)}")
    return _rounds(list(zip(queues, takes, strict=True)))


def _rounds(queues: list[tuple[Iterator[Candidate], int]]) -> Iterator[Candidate]:
    """Take from each queue in turn until all are dry."""
    while queues:
        for turn in tuple(queues):
            queue, take = turn
            batch = list(islice(queue, take))
            yield from batch
            if len(batch) < take:
                queues.remove(turn)


def _untaken(ranking: Ranking, source: int, taken: set[int]) -> Iterator[Candidate]:
    """The ranking's items that nobody took; each is marked as taken when it is given."""
    for item, score in zip(ranking.item.tolist(), ranking.score.tolist(), strict=True):
        if item not in taken:
            taken.add(item)
            yield Candidate(item, score, ranking.reason, source)


def diversify(
    candidates: Iterable[Candidate], n: int, *, category: NDArray[np.int32], cap: int | None
) -> list[Candidate]:
    """The first `n` candidates with at most `cap` of one category (codes of `category_codes`; None: no cap).

    What the cap held back fills the slate only if it would be short otherwise: a slate is short only when
    fewer items are eligible. Candidates of no known category are never held back.
    """
    kept: list[Candidate] = []
    held: list[Candidate] = []
    count: dict[int, int] = {}
    for candidate in candidates if n > 0 else ():
        code = int(category[candidate.item])
        count[code] = count.get(code, 0) + 1
        if cap is None or code == UNKNOWN or count[code] <= cap:
            kept.append(candidate)
            if len(kept) == n:
                return kept
        else:
            held.append(candidate)
    return kept + held[: n - len(kept)]


def slate(
    rankings: Sequence[Ranking],
    *,
    n: int,
    allowed: NDArray[np.bool_],
    category: NDArray[np.int32],
    cap: int | None = None,
    takes: Sequence[int] | None = None,
) -> list[Candidate]:
    """At most `n` distinct allowed candidates: merged by rounds, filtered, at most `cap` of a category.

    rankings: in catalogue indices (`in_catalogue`); allowed: bool [n_items] from `eligible`; category: int32
    [n_items]. Shorter than `n` only if the rankings hold fewer distinct allowed items.
    """
    merged = (candidate for candidate in merge(rankings, takes) if allowed[candidate.item])
    return diversify(merged, n, category=category, cap=cap)
