"""Weights of interactions by kind and age. Ages and half-lives are in seconds, unless named `…_days`."""

import functools

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from models.recommender import KINDS, Interactions, Query

DAY_S = 86_400.0
KIND_WEIGHT = np.array([0.1, 0.3, 0.6, 1.0])  # of KINDS; an order of importance, not an estimate


def decayed(
    at: NDArray[np.float64], kind: NDArray[np.uint8], *, now_s: float, half_life_s: float
) -> NDArray[np.float64]:
    """Weight of each interaction at `now_s`, float64 [n]: KIND_WEIGHT · 2^(−age / half-life).

    An interaction later than `now_s` has age 0.

    >>> decayed(np.float64([0, 10]), np.uint8([3, 3]), now_s=10, half_life_s=10).tolist()
    [0.5, 1.0]
    """
    age_s = np.maximum(now_s - at, 0.0)
    weight: NDArray[np.float64] = KIND_WEIGHT[kind] * np.exp2(-age_s / half_life_s)
    return weight


def rows_until(interactions: Interactions, now_s: float) -> slice:
    """Rows up to `now_s`, so that a model never learns from its future."""
    return slice(0, int(np.searchsorted(interactions.at, now_s, side="right")))


def user_item(
    interactions: Interactions, n_items: int, *, now_s: float, half_life_s: float
) -> scipy.sparse.csr_matrix:
    """Sum of the decayed weights of each (user, item) up to `now_s`, float32 CSR [n_users, n_items]."""
    rows = rows_until(interactions, now_s)
    weight = decayed(interactions.at[rows], interactions.kind[rows], now_s=now_s, half_life_s=half_life_s)
    shape = (len(interactions.users), n_items)
    pairs = (interactions.user[rows], interactions.item[rows])
    return scipy.sparse.coo_matrix((weight.astype(np.float32), pairs), shape=shape).tocsr()


def recent_weights(
    query: Query, half_life_s: float, half_life_places: float = np.inf
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Distinct items of the query and their weights: recent items decayed, context items as fresh clicks.

    Returns item int32 [m], increasing, and weight float32 [m]. Place k of `recent` counts 2^(−k /
    half_life_places). An item that occurs twice gets the sum.
    """
    weight = decayed(query.recent_at, query.recent_kind, now_s=query.now_s, half_life_s=half_life_s)
    weight *= _place_weights(len(weight), half_life_places)
    item = query.recent
    if len(query.context):
        item = np.concatenate([item, query.context])
        weight = np.concatenate([weight, np.full(len(query.context), KIND_WEIGHT[KINDS.index("click")])])
    return _sum_by_item(item, weight)


@functools.lru_cache(256)
def _place_weights(n: int, half_life: float) -> NDArray[np.float64]:
    """Weights 2^(−k / half_life) of places 0 … n − 1, read-only because the cache shares them."""
    weights = np.exp2(-np.arange(n) / half_life)
    weights.flags.writeable = False
    return weights


def _sum_by_item(
    item: NDArray[np.int32], weight: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Distinct items, increasing, and the sum of each one's weights.

    np.unique takes twice the time on lists as short as these.
    """
    if not len(item):
        return item, np.empty(0, np.float32)
    order = item.argsort(kind="stable")
    ordered = item[order]
    first = np.empty(len(item), np.bool_)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first], np.add.reduceat(weight[order], first.nonzero()[0]).astype(np.float32)
