"""Who comes to the shop: a world of known truth, and the ids by which the shop knows its people and things.

Over imported data with a held-out part, shoppers click what those users really bought in the held-out
weeks; over the synthetic shop, what their latent tastes like. The truth is read from disk, once; the shop
itself is only ever seen through its public HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import NO_ITEM, World
from experiments.simulation.holdout_shop import Levels, holdout_shop
from experiments.simulation.synthetic_shop import SyntheticShop
from models.recommender import KINDS, Catalogue, Interactions


@dataclass(frozen=True, slots=True)
class Shoppers:
    """A world with its ids. users: unicode [n_shoppers]; index_of: item id -> index in the world;
    placement: where its shoppers look; met: int64, sorted, shopper · n_items + item of what they had to do
    with before."""

    world: World
    users: NDArray[np.str_]
    index_of: dict[str, int]
    placement: str = "home"
    met: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def has_met(self, shopper: int, item: str) -> bool:
        """Whether the shop's records of before the simulation have this shopper with this item."""
        if item not in self.index_of:
            return False
        code = shopper * len(self.index_of) + self.index_of[item]
        at = int(np.searchsorted(self.met, code))
        return at < len(self.met) and int(self.met[at]) == code

    def slate(self, items: Sequence[str]) -> NDArray[np.int32]:
        """Items of a slate as int32 [1, n]; an item that the world does not know attracts nobody."""
        return np.array([[self.index_of.get(item, NO_ITEM) for item in items]], np.int32)


def acquainted(shoppers: Shoppers, catalogue: Catalogue, past: Interactions) -> Shoppers:
    """`crowd` with what its shoppers did in `past`, whose items are those of `catalogue`."""
    shopper_of = {user: index for index, user in enumerate(shoppers.users.tolist())}
    shopper = np.array([shopper_of.get(user, -1) for user in past.users.tolist()], np.int64)[past.user]
    item = np.array([shoppers.index_of.get(name, -1) for name in catalogue.items.tolist()], np.int64)[
        past.item
    ]
    known = (shopper >= 0) & (item >= 0)
    return replace(shoppers, met=np.unique(shopper[known] * len(shoppers.index_of) + item[known]))


def synthetic_crowd(shop: SyntheticShop) -> Shoppers:
    """The people of a synthetic shop."""
    return Shoppers(
        shop, shop.users, {item: index for index, item in enumerate(shop.products.items.tolist())}
    )


def holdout_crowd(
    catalogue: Catalogue, held_out: Interactions, *, seed: int = 0, levels: Levels | None = None
) -> Shoppers:
    """The users of the held-out weeks, who want what they bought then: also what they had bought before, so
    they look at a placement that keeps it."""
    bought = held_out.kind == KINDS.index("purchase")
    world = holdout_shop(
        held_out.user[bought],
        held_out.item[bought],
        catalogue.category,
        n_users=len(held_out.users),
        seed=seed,
        levels=levels,
    )
    index_of = {item: index for index, item in enumerate(catalogue.items.tolist())}
    return Shoppers(world, held_out.users, index_of, placement="buy_again")
