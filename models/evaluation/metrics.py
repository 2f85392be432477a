"""Offline metrics of rankings against what users did afterwards, with binary relevance.

Arguments: `hits` bool [n_users, k_max], whether the item at each place was relevant (False past the end of a
short list); `relevant` int [n_users], how many items were relevant, >= 1.
"""

import numpy as np
from numpy.typing import NDArray


def recall(hits: NDArray[np.bool_], relevant: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Hits among the first k over min(k, relevant), float64 [n_users], so that a perfect list scores 1.

    Liang et al. 2018, doi 10.1145/3178876.3186150.

    >>> recall(np.array([[True, False, True]]), np.array([5]), 3).round(4).tolist()
    [0.6667]
    """
    share: NDArray[np.float64] = hits[:, :k].sum(axis=1) / np.minimum(relevant, k)
    return share


def ndcg(hits: NDArray[np.bool_], relevant: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Σ hit/log2(place + 1) over the same sum of a perfect list, float64 [n_users].

    Järvelin & Kekäläinen 2002, doi 10.1145/582415.582418.

    >>> ndcg(np.array([[False, True]]), np.array([1]), 2).round(4).tolist()
    [0.6309]
    """
    gain = 1.0 / np.log2(np.arange(2, k + 2))
    dcg: NDArray[np.float64] = hits[:, :k] @ gain[: hits.shape[1]]
    ideal: NDArray[np.float64] = np.cumsum(gain)[np.minimum(relevant, k) - 1]
    return dcg / ideal


def coverage(rankings: NDArray[np.integer], n_items: int, k: int) -> float:
    """Share of the `n_items` that are among the first k of at least one ranking.

    rankings: int [n_users, k_max], items; −1 past the end of a short list.
    """
    distinct = np.unique(rankings[:, :k])
    return float(np.count_nonzero(distinct >= 0) / max(n_items, 1))
