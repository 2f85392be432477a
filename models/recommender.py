"""The contract of a recommender: arrays in, arrays out; no network, disk, clock or global state.

A model refers to items by their index in its own vocabulary `items` (unicode [n_items]); serving maps them to
the live catalogue. Times are float64 seconds since the epoch (UTC), and always arguments.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

ProgressCallback = Callable[[int, int, str], None]  # steps done, steps in total, name of the stage


def no_progress(done: int, total: int, stage: str) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """What users did, one row per interaction, ordered by `at`.

    user, item: int32 [n], indices into `users` and `Catalogue.items`; at: float64 [n], s; quantity, price:
    float32 [n]; kind: uint8 [n], index into KINDS; users: unicode [n_users], distinct.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    at: NDArray[np.float64]
    quantity: NDArray[np.float32]
    price: NDArray[np.float32]
    kind: NDArray[np.uint8]
    users: NDArray[np.str_]


KINDS = ("view", "click", "add_to_cart", "purchase")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items in a fixed order.

    items, title, category: unicode [n_items]; price: float32 [n_items]; description: str objects [n_items],
    because one long text would widen every row of a unicode array; stock: int32 [n_items] (-1: not tracked);
    hidden: bool [n_items].
    """

    items: NDArray[np.str_]
    title: NDArray[np.str_]
    category: NDArray[np.str_]
    price: NDArray[np.float32]
    description: NDArray[np.object_]
    stock: NDArray[np.int32]
    hidden: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Query:
    """What a model is given to score for, in indices of its own vocabulary (unknown items are left out).

    recent: int32 [r], the user's items, most recent first; recent_at: float64 [r], s; recent_kind: uint8 [r],
    index into KINDS; now_s: time of the request, s; context: int32 [c], items on the page or in the cart;
    category: restricts popularity to a category.
    """

    recent: NDArray[np.int32]
    recent_at: NDArray[np.float64]
    recent_kind: NDArray[np.uint8]
    now_s: float
    context: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items in order, best first.

    item: int32 [n], indices of the model's vocabulary; score: float32 [n], decreasing; reason: why, in a few
    words for the whole list ("popular now").
    """

    item: NDArray[np.int32]
    score: NDArray[np.float32]
    reason: str = ""


@runtime_checkable
class Recommender(Protocol):
    """A fitted model as serving uses it. Thread-safe, because no method changes the model.

    `models.algorithms.base.Algorithm` is the base class that implements it.
    """

    items: NDArray[np.str_]

    @property
    def algorithm(self) -> str:
        """Its key in the table `models.algorithms`."""

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Score of every item, float32 [n_items]; None if the query holds nothing this model uses."""

    def rank(self, query: Query, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The best `n` items among `allowed` (bool [n_items]; None: all). Empty if `scores` is None."""

    def similar(self, item: int, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The `n` items most similar to `item`, without `item` itself."""

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """Arrays (no object dtype) and JSON parameters, as an artifact stores them."""


ARTIFACT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model artifact says about itself.

    window: time of the first and of the last interaction learnt from, s; metrics: offline metrics; files:
    sha256 by file name; created_ms: ms since the epoch.
    """

    model_version: str
    algorithm: str
    data_version: str
    window: tuple[float, float]
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    code_version: str
    created_ms: int
    files: Mapping[str, str]
    format: int = ARTIFACT_FORMAT
