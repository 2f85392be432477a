"""Simulated shoppers: a world of known preferences, with the ids by which the shop knows its users and items.

Over imported data with a held-out part, shoppers click what those users really bought in the held-out weeks.
Over the synthetic shop, they click according to their latent tastes. Preferences are read from disk once; the
shop itself is only accessed over its public HTTP API."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import NO_ITEM, SimulatedShop
from experiments.simulation.holdout_shop import holdout_shop
from experiments.simulation.synthetic_shop import SyntheticShop
from models.recommender import KINDS, Catalogue, Interactions


@dataclass(frozen=True, slots=True)
class Shoppers:
    """A world with its ids. users: unicode [n_shoppers]; index_of: item id -> index in the world; placement:
    where on the site these shoppers see slates; history: int64, sorted, shopper · n_items + item for each
    pair with an interaction before the simulation."""

    world: SimulatedShop
    users: NDArray[np.str_]
    index_of: dict[str, int]
    placement: str = "home"
    history: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def has_history(self, shopper: int, item: str) -> bool:
        """True if the shop has an interaction of this shopper with this item on record."""
        if item not in self.index_of:
            return False
        code = shopper * len(self.index_of) + self.index_of[item]
        at = int(np.searchsorted(self.history, code))
        return at < len(self.history) and int(self.history[at]) == code

    def slate(self, items: Sequence[str]) -> NDArray[np.int32]:
        """Items of a slate as int32 [1, n]; an item that the world does not know is never clicked."""
        return np.array([[self.index_of.get(item, NO_ITEM) for item in items]], np.int32)


def with_history(shoppers: Shoppers, catalogue: Catalogue, past: Interactions) -> Shoppers:
    """`shoppers` with their interactions in `past`, whose item indices are those of `catalogue`."""
    shopper_of = {user: index for index, user in enumerate(shoppers.users.tolist())}
    shopper = np.array([shopper_of.get(user, -1) for user in past.users.tolist()], np.int64)[past.user]
    item = np.array([shoppers.index_of.get(name, -1) for name in catalogue.items.tolist()], np.int64)[
        past.item
    ]
    known = (shopper >= 0) & (item >= 0)
    return replace(shoppers, history=np.unique(shopper[known] * len(shoppers.index_of) + item[known]))


def synthetic_shoppers(shop: SyntheticShop) -> Shoppers:
    """The shoppers of a synthetic shop."""
    index_of = {item: index for index, item in enumerate(shop.products.items.tolist())}
    return Shoppers(shop, shop.users, index_of)


def holdout_shoppers(catalogue: Catalogue, held_out: Interactions, *, seed: int = 0) -> Shoppers:
    """The users of the held-out weeks, who want what they bought then. That includes items they had bought
    before, so they see a placement that does not exclude those."""
    bought = held_out.kind == KINDS.index("purchase")
    world = holdout_shop(
        held_out.user[bought],
        held_out.item[bought],
        catalogue.category,
        n_users=len(held_out.users),
        seed=seed,
    )
    index_of = {item: index for index, item in enumerate(catalogue.items.tolist())}
    return Shoppers(world, held_out.users, index_of, placement="buy_again")
