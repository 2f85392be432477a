"""The click model of simulated shoppers whose true preferences are known.

A shopper examines position j with probability (1 + j)^-eta and clicks an examined item with its attraction,
which the simulated shop defines (`experiments.simulation.synthetic_shop`: latent tastes and trends;
`experiments.simulation.holdout_shop`: purchases of real users in held-out weeks). Positions are independent
given the slate: the position-based model of Richardson, Dominowska and Ragno (2007, doi
10.1145/1242572.1242643). With eta = 0.6 the tenth position is examined a quarter as often as the first.

Randomness is a hash of (seed, session, item, position), so a session behaves the same whichever arm made the
slate, and a shopper never learns the arm. A better ranking therefore earns more clicks, and nothing else
does.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.hash_uniform import uniform

EXAMINE_ETA = 0.6
CART_GIVEN_CLICK = 0.35
PURCHASE_GIVEN_CART = 0.5
NO_ITEM = -1  # pads short slates: never clicked

_CLICK, _CART, _PURCHASE = 1, 2, 3  # random streams, independent for the same session and item


@dataclass(frozen=True, slots=True)
class Visits:
    """A batch of page views, one row per slate.

    shopper: int32 [b], index into the shop's shoppers; session: uint64 [b], `hash_uniform.text_key` of the
    session id; at_s: time of the batch, s since the epoch (UTC).
    """

    shopper: NDArray[np.int32]
    session: NDArray[np.uint64]
    at_s: float

    def __len__(self) -> int:
        return len(self.shopper)


class SimulatedShop(Protocol):
    """Shoppers and items with known attraction. Indices in visits and slates are below `n_shoppers`,
    `n_items`."""

    @property
    def seed(self) -> int:
        """Seed of all its random numbers."""

    @property
    def n_shoppers(self) -> int:
        """Number of shoppers."""

    @property
    def n_items(self) -> int:
        """Number of items."""

    def visitors(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """Shoppers of the next `n` sessions, int32 [n]."""

    def attraction(self, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
        """P(click | examined), float64 [b, n], of the items `slate` int32 [b, n]; 0 where NO_ITEM."""


def examination(n: int, eta: float = EXAMINE_ETA) -> NDArray[np.float64]:
    """P(position is examined), float64 [n]: (1 + j)^-eta for position j from 0."""
    return np.power(1.0 + np.arange(n, dtype=np.float64), -eta)


def click_probability(shop: SimulatedShop, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
    """P(click) of every position, float64 [b, n]."""
    return shop.attraction(visits, slate) * examination(slate.shape[1])


def clicks(shop: SimulatedShop, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Positions that are clicked, bool [b, n]; the same arguments give the same clicks."""
    position = np.arange(slate.shape[1])
    draw = uniform(shop.seed, _CLICK, visits.session[:, None], slate, position)
    return draw < click_probability(shop, visits, slate)


def slate_value(shop: SimulatedShop, visits: Visits, slate: NDArray[np.int32]) -> NDArray[np.float64]:
    """True value of each slate, float64 [b]: the exact probability of at least one click."""
    no_click: NDArray[np.float64] = np.prod(1.0 - click_probability(shop, visits, slate), axis=1)
    return 1.0 - no_click


def click_outcome(
    shop: SimulatedShop, session: NDArray[np.uint64], item: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """How far a clicked item goes, uint8 [b]: 0 viewed, 1 added to the cart, 2 bought."""
    cart = uniform(shop.seed, _CART, session, item) < CART_GIVEN_CLICK
    bought = cart & (uniform(shop.seed, _PURCHASE, session, item) < PURCHASE_GIVEN_CART)
    return cart.astype(np.uint8) + bought
