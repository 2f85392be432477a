"""Shoppers over real data: each clicks according to what that user really bought in weeks that no model saw.

A shopper who examines an item clicks it with P = `Levels.bought` if the user bought that very item in the
held-out weeks, `same_category` if the user bought another item of its category then, `other` otherwise. The
levels are chosen, the pattern is real: they set how many clicks there are, not which of two rankings earns
more of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import NO_ITEM, Visits


@dataclass(frozen=True, slots=True)
class Levels:
    """P(click | examined) by what the user did in the held-out weeks."""

    bought: float = 0.25
    same_category: float = 0.006
    other: float = 0.0006


@dataclass(frozen=True, slots=True)
class HoldoutShop:
    """The truth of the held-out weeks; a `World`.

    category: int32 [n_items]; bought_keys: int64, sorted, shopper * n_items + item of every held-out
    purchase; category_keys: int64, sorted, shopper * n_categories + category; activity: float64
    [n_shoppers], sums to 1."""

    seed: int
    n_shoppers: int
    n_items: int
    category: NDArray[np.int32]
    bought_keys: NDArray[np.int64]
    category_keys: NDArray[np.int64]
    activity: NDArray[np.float64]
    levels: Levels = Levels()

    def attraction(self, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """P(click | examined), float64 [b, n]; 0 where NO_ITEM (see
        `experiments.simulation.click_model.World`)."""
        shopper = visits.shopper[:, None].astype(np.int64)
        bought = _contains(self.bought_keys, shopper * self.n_items + slate)
        n_categories = int(self.category.max()) + 1
        category = _contains(self.category_keys, shopper * n_categories + self.category[slate])
        level = np.where(category, self.levels.same_category, self.levels.other)
        return np.where(slate == NO_ITEM, 0.0, np.where(bought, self.levels.bought, level))

    def visitors(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """Who comes next, int32 [n]: by how many things each bought, so that regulars return."""
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
    """A world from held-out purchases.

    user, item: int32 [m], indices into the users (`n_users` of them) and the catalogue; category: unicode
    [n_items], of the whole catalogue. Only users who bought something come to visit, in proportion to the
    square root of how many different items (else a few wholesalers would be the whole shop)."""
    if not len(user):
        raise ValueError("user: no held-out purchases, so nobody would ever click; hold out more weeks")
    names, code = np.unique(category, return_inverse=True)
    bought = np.unique(user.astype(np.int64) * len(category) + item)
    came = np.sqrt(np.bincount(bought // len(category), minlength=n_users).astype(np.float64))
    return HoldoutShop(
        seed=seed,
        n_shoppers=n_users,
        n_items=len(category),
        category=code.astype(np.int32),
        bought_keys=bought,
        category_keys=np.unique(user.astype(np.int64) * len(names) + code[item]),
        activity=came / came.sum(),
        levels=levels or Levels(),
    )


def _contains(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[place] == wanted
