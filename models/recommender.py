"""The contract of every recommender: arrays in, arrays out; no network, no clock, no global state.

Items are dense indices into the model's own vocabulary `items` (unicode array [n_items]); the serving side
maps them to the live catalogue. Times are float seconds since the epoch (UTC) and always arguments.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int, str], None]  # done, total, what


def silent(done: int, total: int, what: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """What users did, one row an interaction, ordered by `at`.

    user, item: int32 [n], indices into `users` / Catalogue.items; at: float64 [n], s; quantity, price:
    float32 [n]; kind: uint8 [n], index into KINDS. users: unicode [n_users].
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
    """Items in a fixed order. items, title, category: unicode [n_items]; description: str objects [n_items],
    because one long text would widen every row of an array of unicode; price: float32 [n_items]; stock: int32
    [n_items] (-1: not tracked); hidden: bool [n_items]."""

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
    """Who asks, as the model sees it, in indices of the model's own vocabulary (unknown items left out).

    recent: int32 [r], most recent first; recent_at: float64 [r], s; recent_kind: uint8 [r];
    context: int32 [c], items on the page or in the cart; now_s: the moment of the question.
    """

    recent: NDArray[np.int32]
    recent_at: NDArray[np.float64]
    recent_kind: NDArray[np.uint8]
    now_s: float
    context: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items in order, best first. item: int32 [n] in the model's vocabulary; score: float32 [n], decreasing.
    `reason` says in a few words why, for the whole list ("popular now", "like what you looked at")."""

    item: NDArray[np.int32]
    score: NDArray[np.float32]
    reason: str = ""


@runtime_checkable
class Recommender(Protocol):
    """A fitted model. Thread-safe for reading: `scores`, `rank` and `similar` change nothing."""

    algorithm: str  # "popularity", "als", "content"; key of models.artifacts.ALGORITHMS
    items: NDArray[np.str_]

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Score of every item, float32 [n_items]; None if the query says nothing to this model (no known
        item)."""

    def rank(self, query: Query, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The best `n` items among `allowed` (bool [n_items]; None: all). Empty if `scores` is None."""

    def similar(self, item: int, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The `n` items most like `item`, which is left out."""

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays (no object dtype) and JSON parameters from which `from_arrays` makes an equal model."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> "Recommender":
        """Inverse of `to_arrays`."""


FORMAT = 1  # of model artifacts (models.artifacts)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model artifact says about itself. `files` maps file name to sha256; `window` is (from, to),
    s."""

    model_version: str
    algorithm: str
    data_version: str
    window: tuple[float, float]
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    code_version: str
    created_ms: int
    files: Mapping[str, str]
    format: int = FORMAT
