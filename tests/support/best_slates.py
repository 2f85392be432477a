"""The best slates of a simulated shop, which knows its true preferences."""

import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import SimulatedShop, Visits


def best_slate(shop: SimulatedShop, visits: Visits, n: int) -> NDArray[np.int32]:
    """The slate of highest value, int32 [b, n]: the `n` most attractive items, best first. O(b · n_items)."""
    everything = np.broadcast_to(np.arange(shop.n_items, dtype=np.int32), (len(visits), shop.n_items))
    attraction = shop.attraction(visits, everything)
    best = np.argpartition(-attraction, n - 1, axis=1)[:, :n]
    order = np.argsort(-np.take_along_axis(attraction, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1).astype(np.int32)
