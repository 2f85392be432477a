"""Shoppers whose truth is known: the laws by which every world here answers a slate.

A shopper examines position j with probability (1 + j)^-eta and, having examined an item, clicks it with its
*attraction*, which a world knows (`experiments.simulation.synthetic_shop`: latent tastes and trends;
`experiments.simulation.holdout_shop`: what real users bought in held-out weeks). Positions are independent
given the
slate: the position-based model of Richardson, Dominowska and Ragno (2007); eta = 0.6 gives the tenth
position a quarter of the first one's looks.

Luck is a hash of (seed, session, item, position): the same session sees the same luck whatever arm made the
slate, and a shopper never learns which arm that was. So a better ranking earns more clicks, and nothing
else does."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.hash_uniform import luck

EXAMINE_ETA = 0.6
CART_GIVEN_CLICK = 0.35
PURCHASE_GIVEN_CART = 0.5
NO_ITEM = -1  # pads short slates: never clicked

_CLICK, _CART, _PURCHASE = 1, 2, 3  # streams of luck: independent of each other for the same session and item


@dataclass(frozen=True, slots=True)
class Visits:
    """Who looks at a slate, one row a decision.

    shopper: int32 [b], index into the world's shoppers; session: uint64 [b], the session's key
    (`world_chance.text_key` of its id); at_s: the moment, seconds since the epoch (UTC), one for the batch.
    """

    shopper: NDArray[np.int32]
    session: NDArray[np.uint64]
    at_s: float

    def __len__(self) -> int:
        return len(self.shopper)


class World(Protocol):
    """What a shopper thinks of an item. `n_shoppers` and `n_items` bound the indices in visits and slates."""

    @property
    def seed(self) -> int:
        """Seed of all random numbers of this world."""

    @property
    def n_shoppers(self) -> int:
        """Number of shoppers."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    def visitors(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """The next `n` shoppers who visit, int32 [n]."""

    def attraction(self, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """P(click | examined), float64 [b, n], of items `slate` int32 [b, n]; 0 where NO_ITEM."""


def examination(n: int, eta: float = EXAMINE_ETA) -> NDArray[np.float64]:
    """P(position is examined), float64 [n]: 1 for the first, falling as (1 + j)^-eta."""
    return (1.0 + np.arange(n)) ** -eta


def click_probability(world: World, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
    """P(click) of every position, float64 [b, n]."""
    return world.attraction(visits, slate) * examination(slate.shape[1])


def clicks(world: World, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which positions are clicked, bool [b, n]: a function of seed, session, item, position and the world's
    truth."""
    position = np.arange(slate.shape[1])
    chance = luck(world.seed, _CLICK, visits.session[:, None], slate, position)
    return chance < click_probability(world, visits, slate)


def slate_value(world: World, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
    """True value of each slate, float64 [b]: the exact probability of at least one click."""
    return 1.0 - np.prod(1.0 - click_probability(world, visits, slate), axis=1)


def best_slate(world: World, visits: Visits, n: int) -> NDArray[np.int32]:
    """The slate nobody can beat, int32 [b, n]: the `n` most attractive items, best first. Costs b x
    n_items."""
    everything = np.broadcast_to(np.arange(world.n_items, dtype=np.int32), (len(visits), world.n_items))
    attraction = world.attraction(visits, everything)
    best = np.argpartition(-attraction, n - 1, axis=1)[:, :n]
    order = np.argsort(-np.take_along_axis(attraction, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1).astype(np.int32)


def after_click(world: World, session: NDArray[np.uint64], item: NDArray[np.int32]) -> NDArray[np.uint8]:
    """How far a clicked item goes, uint8 [b]: 0 looked at, 1 put into the cart, 2 bought."""
    cart = luck(world.seed, _CART, session, item) < CART_GIVEN_CLICK
    bought = cart & (luck(world.seed, _PURCHASE, session, item) < PURCHASE_GIVEN_CART)
    return cart.astype(np.uint8) + bought
