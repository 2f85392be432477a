"""A simulated shop over real data: users click what they really bought in weeks that no model has seen.

A shopper who examines an item clicks it with probability `Levels.bought` if the user bought that item in the
held-out weeks, `same_category` if the user bought another item of its category, and `other` otherwise. The
levels are chosen and set how many clicks there are; which of two rankings earns more of them depends on the
real purchases.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import NO_ITEM, Visits


@dataclass(frozen=True, slots=True)
class Levels:
    """P(click | examined) by what the user bought in the held-out weeks."""

    bought: float = 0.25
    same_category: float = 0.006
    other: float = 0.0006


@dataclass(frozen=True, slots=True)
class HoldoutShop:
    """A `SimulatedShop` over the held-out weeks.

    category: int32 [n_items]; bought_keys: int64, sorted, shopper * n_items + item of every held-out
    purchase; category_keys: int64, sorted, shopper * n_categories + category of the same; activity: float64
    [n_shoppers], share of the sessions of each shopper (sums to 1).
    """

    seed: int
    n_shoppers: int
    n_items: int
    category: NDArray[np.int32]
    bought_keys: NDArray[np.int64]
    category_keys: NDArray[np.int64]
    activity: NDArray[np.float64]
    levels: Levels = Levels()

    def attraction(self, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """P(click | examined), float64 [b, n]; 0 where NO_ITEM."""
        shopper = visits.shopper[:, None].astype(np.int64)
        bought = _contains(self.bought_keys, shopper * self.n_items + slate)
        n_categories = int(self.category.max()) + 1
        category = _contains(self.category_keys, shopper * n_categories + self.category[slate])
        level = np.where(category, self.levels.same_category, self.levels.other)
        return np.where(slate == NO_ITEM, 0.0, np.where(bought, self.levels.bought, level))

    def visitors(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """Shoppers of the next `n` sessions, int32 [n], drawn by `activity`."""
        return rng.choice(self.n_shoppers, size=n, p=self.activity).astype(np.int32)


def holdout_shop(
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    category: NDArray[np.str_],
    *,
    n_users: int,
    seed: int = 0,
    levels: Levels | None = None,
) -> HoldoutShop:
    """A shop from held-out purchases. Raises ValueError if there are none.

    user, item: int32 [m], indices into the `n_users` users and the catalogue; category: unicode [n_items], of
    the whole catalogue. Users visit in proportion to the square root of the number of different items they
    bought, because a few wholesalers would otherwise make most of the visits.
    """
    if not len(user):
        raise ValueError("user: no held-out purchases, so no shopper would ever click; hold out more weeks")
    names, code = np.unique(category, return_inverse=True)
    bought = np.unique(user.astype(np.int64) * len(category) + item)
    visits = np.sqrt(np.bincount(bought // len(category), minlength=n_users).astype(np.float64))
    return HoldoutShop(
        seed=seed,
        n_shoppers=n_users,
        n_items=len(category),
        category=code.astype(np.int32),
        bought_keys=bought,
        category_keys=np.unique(user.astype(np.int64) * len(names) + code[item]),
        activity=visits / visits.sum(),
        levels=levels or Levels(),
    )


def _contains(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of `wanted` is in the sorted `keys`, bool of the shape of `wanted`."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    contained: NDArray[np.bool_] = keys[place] == wanted
    return contained
