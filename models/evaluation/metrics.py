"""Offline metrics of ranked lists against what users then did. Binary relevance; definitions as in the
docstrings.

`hits`: bool [n_users, k_max], whether the item at each place was relevant (False past the end of a short
list); `relevant`: int [n_users], how many items were relevant, >= 1.
"""

import numpy as np
from numpy.typing import NDArray


def recall(hits: NDArray[np.bool_], relevant: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Hits among the first k over min(k, relevant), float64 [n_users]: a perfect list scores 1 (Liang et al.
    2018).

    >>> recall(np.array([[True, False, True]]), np.array([5]), 3).round(4).tolist()
    [0.6667]
    """
    return hits[:, :k].sum(axis=1) / np.minimum(relevant, k)


def ndcg(hits: NDArray[np.bool_], relevant: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Σ hit/log2(place + 1) over the same sum of a perfect list, float64 [n_users] (Järvelin & Kekäläinen
    2002).

    >>> ndcg(np.array([[False, True]]), np.array([1]), 2).round(4).tolist()
    [0.6309]
    """
    gain = 1.0 / np.log2(np.arange(2, k + 2))
    found = hits[:, :k] @ gain[: hits.shape[1]]
    return found / np.cumsum(gain)[np.minimum(relevant, k) - 1]


def coverage(lists: NDArray[np.integer], n_items: int, k: int) -> float:
    """Share of the catalogue that stands among the first k of at least one list; −1 marks places past the
    end."""
    shown = np.unique(lists[:, :k])
    return float(np.count_nonzero(shown >= 0) / max(n_items, 1))
