"""From a score vector to a ranking: the n highest scores among the allowed items."""

import numpy as np
from numpy.typing import NDArray

from models.recommender import Ranking

EMPTY_RANKING = Ranking(np.empty(0, np.int32), np.empty(0, np.float32))


def top_n(
    scores: NDArray[np.float32], n: int, *, allowed: NDArray[np.bool_] | None = None, reason: str = ""
) -> Ranking:
    """The `n` highest scores among `allowed` (bool [n_items]; None: all); shorter if fewer are allowed.

    scores: float32 [n_items], finite. `argpartition` is O(n_items), and only the n winners are sorted. Equal
    scores among the winners keep the order of the vocabulary.

    >>> top_n(np.float32([1, 5, 3]), 2).item.tolist()
    [1, 2]
    >>> top_n(np.float32([1, 5, 3]), 5, allowed=np.array([True, False, True])).item.tolist()
    [2, 0]
    """
    if n <= 0:
        return Ranking(EMPTY_RANKING.item, EMPTY_RANKING.score, reason)
    key = scores if allowed is None else np.where(allowed, scores, np.float32(-np.inf))
    best = np.argpartition(key, len(key) - n)[len(key) - n :] if n < len(key) else np.arange(len(key))
    best.sort()
    best = best[np.argsort(-key[best], kind="stable")]
    score = key[best]
    if allowed is not None and len(score) and score[-1] == -np.inf:
        kept = score > -np.inf
        best, score = best[kept], score[kept]
    return Ranking(best.astype(np.int32), score, reason)
