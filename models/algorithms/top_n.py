"""The one way a score vector becomes a list: the best n of the allowed, best first."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from models.recommender import Query, Ranking

NOTHING = Ranking(np.empty(0, np.int32), np.empty(0, np.float32))


def top(
    scores: NDArray[np.float32], n: int, *, allowed: NDArray[np.bool_] | None = None, reason: str = ""
) -> Ranking:
    """The `n` highest scores among `allowed` (bool [n_items]; None: all); shorter if fewer are allowed.

    scores: float32 [n_items], finite. `argpartition` is O(n_items), only the n winners are sorted; equal
    scores among the winners keep the order of the vocabulary.

    >>> top(np.float32([1, 5, 3]), 2).item.tolist()
    [1, 2]
    >>> top(np.float32([1, 5, 3]), 5, allowed=np.array([True, False, True])).item.tolist()
    [2, 0]
    """
    if n <= 0:
        return Ranking(NOTHING.item, NOTHING.score, reason)
    key = scores if allowed is None else np.where(allowed, scores, np.float32(-np.inf))
    best = np.argpartition(key, len(key) - n)[len(key) - n :] if n < len(key) else np.arange(len(key))
    best.sort()
    best = best[np.argsort(-key[best], kind="stable")]
    score = key[best]
    if allowed is not None and len(score) and score[-1] == -np.inf:
        kept = score > -np.inf
        best, score = best[kept], score[kept]
    return Ranking(best.astype(np.int32), score, reason)


class Ranked:
    """Base of recommenders whose `rank` and `similar` are the best of a score vector."""

    reason: ClassVar[str]
    similar_reason: ClassVar[str]

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Score of every item, float32 [n_items]; None if the query says nothing to this model."""
        raise NotImplementedError

    def similarity(self, item: int) -> NDArray[np.float32]:
        """How alike every item is to `item`, float32 [n_items]."""
        raise NotImplementedError

    def rank(self, query: Query, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The best `n` items among `allowed`; empty if the query says nothing to this model."""
        scores = self.scores(query)
        return NOTHING if scores is None else top(scores, n, allowed=allowed, reason=self.reason)

    def similar(self, item: int, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The `n` items most like `item`, which is left out."""
        scores = self.similarity(item)
        others = np.ones(len(scores), bool) if allowed is None else allowed.copy()
        others[item] = False
        return top(scores, n, allowed=others, reason=self.similar_reason)
