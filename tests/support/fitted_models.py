"""A small shop with two tastes, and every algorithm fitted on it; imported by the tests of models."""

import numpy as np

from models.algorithms import algorithm_class
from models.recommender import Catalogue, Interactions, Query, Recommender

DAY_S = 86_400.0
NOW_S = 100 * DAY_S
N_ITEMS = 60
SETTINGS = {"als": {"factors": 16, "threads": 1}, "ease": {"kept": 40}, "content": {"dimensions": 8}}


def catalogue(n_items: int = N_ITEMS) -> Catalogue:
    names = np.array([f"item-{k:03d}" for k in range(n_items)])
    category = np.array([f"cat-{k % 3}" for k in range(n_items)])
    numbers = np.zeros(n_items, np.int32)
    return Catalogue(names, names, category, numbers.astype(np.float32), names, numbers - 1, numbers > 0)


def interactions(rows: list[tuple[int, int, float]], n_users: int) -> Interactions:
    """From (user, item, days ago); all purchases."""
    rows = sorted(rows, key=lambda row: -row[2])
    user, item, ago = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        NOW_S - ago * DAY_S,
        np.ones(n, np.float32),
        np.ones(n, np.float32),
        np.full(n, 3, np.uint8),
        np.array([f"u{k}" for k in range(n_users)]),
    )


def two_tastes(seed: int = 0, n_users: int = 80) -> Interactions:
    """Even users buy among the first half of the items, odd ones among the second."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        bought = rng.choice(N_ITEMS // 2, 12, replace=False) + (user % 2) * (N_ITEMS // 2)
        rows += [(user, int(item), float(rng.uniform(0, 60))) for item in bought]
    return interactions(rows, n_users)


def embeddings(n_items: int = N_ITEMS) -> np.ndarray:
    """Two directions, one for each taste, with noise."""
    noise = np.random.default_rng(5).normal(0, 0.2, (n_items, 24))
    noise[: n_items // 2, 0] += 1.0
    noise[n_items // 2 :, 1] += 1.0
    return noise.astype(np.float32)


def fit(algorithm: str, learnt: Interactions, shop: Catalogue, **params: object) -> Recommender:
    kind = algorithm_class(algorithm)
    extra = {"embeddings": embeddings(len(shop))} if kind.needs_embeddings else {}
    given = {**SETTINGS.get(algorithm, {}), **extra, **params}
    return kind.fit(learnt, shop, now_s=NOW_S, seed=3, **given)


def query(items: list[int], days_ago: list[float] | None = None, **more: object) -> Query:
    ago = np.array(days_ago if days_ago is not None else [0.0] * len(items), np.float64)
    kinds = np.full(len(items), 3, np.uint8)
    return Query(np.array(items, np.int32), NOW_S - ago * DAY_S, kinds, NOW_S, **more)
