"""Past interactions of the synthetic shop, for training before the first recommendation.

Shoppers came in sessions, browsed without recommendations or position bias, and viewed items with probability
proportional to exp(logit of attraction) in that week. The same attraction decides later what they click in
slates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import CART_GIVEN_CLICK, PURCHASE_GIVEN_CART
from experiments.simulation.synthetic_shop import TASTE, SyntheticShop

VIEW, CART, PURCHASE = 0, 2, 3  # indices of models.recommender.KINDS
WEEK_S = 7 * 86_400.0
VIEWS_PER_SESSION = 6.0
_LONGEST_SESSION_S = 3_600.0  # sessions start at least this long before the end of their week
_CHUNK = 4_096  # sessions per batch: 4,096 × 2,400 items in float32 are 39 MB


@dataclass(frozen=True, slots=True)
class History:
    """Past interactions, one row each, ordered by `at`.

    user, item: int32 [n]; at: float64 [n], s; quantity, price: float32 [n]; kind: uint8 [n], index into
    `models.recommender.KINDS`. A purchase follows a view and an add_to_cart row of the same item.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    quantity: NDArray[np.float32]
    price: NDArray[np.float32]
    kind: NDArray[np.uint8]


def history(shop: SyntheticShop, *, end_s: float, weeks: int = 8, sessions_per_week: int = 4_000) -> History:
    """Interactions of the `weeks` before `end_s` (s since the epoch). Equal arguments give an equal
    history."""
    rng = np.random.default_rng([shop.seed, 2])
    parts = []
    for week in range(weeks):
        start_s = end_s - (weeks - week) * WEEK_S
        for first in range(0, sessions_per_week, _CHUNK):
            parts.append(_browse(shop, rng, start_s, min(_CHUNK, sessions_per_week - first)))
    user, item, at, kind = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(at, kind="stable")
    quantity = np.where(kind == PURCHASE, 1 + rng.poisson(0.3, len(kind)), 1).astype(np.float32)
    price = shop.products.price[item]
    return History(user[order], item[order], at[order], quantity[order], price[order], kind[order])


def _browse(
    shop: SyntheticShop, rng: np.random.Generator, start_s: float, sessions: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], NDArray[np.uint8]]:
    """Rows (user, item, at, kind) of `sessions` sessions in the week from `start_s`."""
    shopper = shop.visitors(rng, sessions)
    opened_s = start_s + rng.uniform(0.0, WEEK_S - _LONGEST_SESSION_S, sessions)
    views = 1 + rng.poisson(VIEWS_PER_SESSION - 1, sessions)
    session = np.repeat(np.arange(sessions), views)
    item = _viewed_items(shop, rng, shopper, session, start_s + WEEK_S / 2)
    number = np.arange(len(session)) - np.repeat(np.cumsum(views) - views, views)  # of a view in its session
    at = opened_s[session] + 40.0 * number + rng.uniform(0.0, 30.0, len(session))
    cart = rng.random(len(session)) < CART_GIVEN_CLICK
    bought = cart & (rng.random(len(session)) < PURCHASE_GIVEN_CART)
    acts = [(VIEW, np.ones_like(cart), 0.0), (CART, cart, 8.0), (PURCHASE, bought, 60.0)]
    rows = np.concatenate([np.flatnonzero(done) for _, done, _ in acts])
    counts = [int(done.sum()) for _, done, _ in acts]
    kind = np.repeat(np.array([kind for kind, _, _ in acts], np.uint8), counts)
    delay_s = np.repeat([delay_s for _, _, delay_s in acts], counts)
    return shopper[session][rows], item[rows], at[rows] + delay_s, kind


def _viewed_items(
    shop: SyntheticShop,
    rng: np.random.Generator,
    shopper: NDArray[np.int32],
    session: NDArray[np.int64],
    at_s: float,
) -> NDArray[np.int32]:
    """Item of every view, int32 [len(session)], drawn in proportion to exp(logit) of its session's
    shopper."""
    department = rng.integers(shop.liked.shape[1], size=len(shopper))
    taste = shop.taste_with_intent(shopper, department)
    mass = np.exp(TASTE * (taste @ shop.vectors.T) + shop.quality + shop.trend(at_s))
    total = np.cumsum(mass, axis=1)
    target = rng.random(len(session)) * total[session, -1]
    chosen = np.empty(len(session), np.int32)
    ends = np.flatnonzero(np.diff(session, append=-1)) + 1
    for first, last in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        chosen[first:last] = np.searchsorted(total[session[first]], target[first:last])
    return np.minimum(chosen, shop.n_items - 1)
