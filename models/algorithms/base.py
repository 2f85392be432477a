"""The base class of every algorithm: how it is fitted, ranked, stored, and what it says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.algorithms.top_n import EMPTY_RANKING, top_n
from models.recommender import Catalogue, Interactions, ProgressCallback, Query, Ranking, no_progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


def parameters(params_type: type[P], params: Mapping[str, Any]) -> P:
    """An instance of the parameter dataclass `params_type`. Raises ValueError naming an unknown parameter.

    >>> from models.algorithms.popularity import PopularityParams
    >>> parameters(PopularityParams, {"days": 3})
    Traceback (most recent call last):
    ValueError: days: PopularityParams has no such parameter (it has fast_days, slow_days, slow_share)
    """
    names = [parameter.name for parameter in fields(params_type)]
    for name in params:
        if name not in names:
            raise ValueError(
                f"{name}: {params_type.__name__} has no such parameter (it has {', '.join(names)})"
            )
    return params_type(**params)


@dataclass(frozen=True, slots=True)
class Variant:
    """One more row of the offline report: an algorithm with parameters that differ from its defaults.

    `learn_days`: learn only from the last so many days before the cut (0: from everything).
    """

    name: str
    params: Mapping[str, object] = field(default_factory=dict)
    learn_days: float = 0.0


class Algorithm:
    """A `models.recommender.Recommender` whose ranking is the top n of a score vector.

    A subclass is a frozen dataclass with the fields `items` (unicode [n_items]) and `params` (an instance of
    `params_type`), and implements `fit`, `scores`, `similarity`, `to_arrays` and `from_arrays`. The defaults
    below suit most algorithms.
    """

    algorithm: ClassVar[str]  # its key in the table `models.algorithms`
    params_type: ClassVar[type["DataclassInstance"]]  # its parameters, each with a default
    reason: ClassVar[str]  # shown with a slate: why these items
    similar_reason: ClassVar[str]  # the same for similar items
    former_names: ClassVar[tuple[str, ...]] = ()  # names under which artifacts and commands still know it
    personalised: ClassVar[bool] = True  # scores depend on the user's items, and are None without any
    needs_embeddings: ClassVar[bool] = False  # `fit` takes `embeddings`, the text vectors of the catalogue
    broken_on_purpose: ClassVar[bool] = False  # for demos and tests of the rollback
    variants: ClassVar[tuple[Variant, ...]] = ()  # reported before the row with its defaults

    items: NDArray[np.str_]

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        now_s: float,
        seed: int = 0,
        progress: ProgressCallback = no_progress,
        **params: Any,
    ) -> Self:
        """Learn from what happened up to `now_s`. The result depends on the arguments only.

        params: fields of `params_type` that differ from their defaults; if `needs_embeddings`, also
        `embeddings`: float32 [n_items, any], rows in the order of the catalogue. Raises ValueError or
        TypeError naming the parameter that is wrong.
        """
        raise NotImplementedError

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Score of every item, float32 [n_items], finite; None if the query holds nothing this model uses."""
        raise NotImplementedError

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Similarity of every item to `item` (an index into `items`), float32 [n_items], finite."""
        raise NotImplementedError

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """Arrays (no object dtype) and JSON parameters from which `from_arrays` makes an equal model."""
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, object]) -> Self:
        """Inverse of `to_arrays`. Raises TypeError, KeyError or ValueError on wrong input."""
        raise NotImplementedError

    def rank(self, query: Query, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The `n` items of highest score among `allowed` (bool [n_items]; None: all), best first.

        Empty if `scores` is None, shorter than `n` if fewer items are allowed.
        """
        scores = self.scores(query)
        return EMPTY_RANKING if scores is None else top_n(scores, n, allowed=allowed, reason=self.reason)

    def similar(self, item: int, n: int, *, allowed: NDArray[np.bool_] | None = None) -> Ranking:
        """The `n` items most similar to `item` among `allowed`, without `item` itself."""
        scores = self.similarity(item)
        others = np.ones(len(scores), bool) if allowed is None else allowed.copy()
        others[item] = False
        return top_n(scores, n, allowed=others, reason=self.similar_reason)
