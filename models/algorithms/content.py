"""Text similarity: an item is the embedding of its texts, a user the decayed mean of recent items.

An adapter computes the embeddings of title, category and description. They are reduced to `dimensions`
principal directions, so that an answer costs one small matrix-vector product, and normalised to length 1. The
model works from a user's first click and for items that were never bought.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.algorithms.base import Algorithm, parameters
from models.algorithms.popularity import relative_popularity
from models.algorithms.time_decay import DAY_S, recent_weights
from models.recommender import Catalogue, Interactions, ProgressCallback, Query, no_progress


@dataclass(frozen=True, slots=True)
class ContentParams:
    """Dimensions kept, half-lives of a user's recent items, and weight of the items' decayed popularity.

    The weight of a recent item halves after `recent_days`, and with every `recent_places` newer items.
    """

    dimensions: int = 128
    recent_days: float = 14.0
    recent_places: float = 20.0
    trend: float = 0.3
    trend_days: float = 5.0


@dataclass(frozen=True, eq=False)
class Content(Algorithm):
    """`vectors` float32 [n_items, d] of length 1 (0 for an item without text), `trend` float32 [n_items]."""

    algorithm = "content"
    params_type = ContentParams
    reason = "like what you looked at"
    similar_reason = "described alike"
    needs_embeddings = True

    items: NDArray[np.str_]
    vectors: NDArray[np.float32]
    trend: NDArray[np.float32]
    params: ContentParams

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        now_s: float,
        seed: int = 0,
        progress: ProgressCallback = no_progress,
        embeddings: NDArray[np.float32] | None = None,
        **params: Any,
    ) -> Self:
        """Reduce `embeddings` (float32 [n_items, any], required) and count popularity up to `now_s`."""
        if embeddings is None or embeddings.shape[0] != len(catalogue):
            shape = None if embeddings is None else embeddings.shape
            raise ValueError(f"embeddings: {len(catalogue)} rows are needed, one per item, but got {shape}")
        chosen = parameters(ContentParams, params)
        vectors = unit_rows(principal(embeddings, chosen.dimensions))
        trend = relative_popularity(
            interactions, len(catalogue), now_s=now_s, half_life_days=chosen.trend_days
        )
        progress(1, 1, cls.algorithm)
        return cls(catalogue.items, vectors, trend, chosen)

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Cosine of every item with the user's mean vector, plus the weighted trend."""
        item, weight = recent_weights(query, self.params.recent_days * DAY_S, self.params.recent_places)
        heaviest = weight.max(initial=0.0)
        if heaviest <= 0.0:
            return None
        # only ratios of weights matter: dividing keeps float32 in range, however old all of the items are
        user = (weight / heaviest) @ self.vectors[item]
        scores: NDArray[np.float32] = self.vectors @ (user / max(np.linalg.norm(user), 1e-12))
        return scores + np.float32(self.params.trend) * self.trend

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Cosine of every item with `item`."""
        cosine: NDArray[np.float32] = self.vectors @ self.vectors[item]
        return cosine

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """Arrays and JSON parameters."""
        return {"items": self.items, "vectors": self.vectors, "trend": self.trend}, asdict(self.params)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, object]) -> Self:
        """Inverse of `to_arrays`."""
        return cls(**arrays, params=parameters(ContentParams, params))


def texts(catalogue: Catalogue) -> list[str]:
    """The text to embed of each item: title, category and description, without empty and repeated parts."""
    rows = zip(
        catalogue.title.tolist(), catalogue.category.tolist(), catalogue.description.tolist(), strict=True
    )
    return [". ".join(dict.fromkeys(part for part in row if part)) for row in rows]


def principal(embeddings: NDArray[np.floating], dimensions: int) -> NDArray[np.float32]:
    """Coordinates along the `dimensions` principal directions, float32 [n, min(dimensions, d)], signs fixed.

    The rows are not centred, so cosines change only by what the dropped directions held.
    """
    rows = np.asarray(embeddings, np.float64)
    if rows.shape[1] <= dimensions:
        return rows.astype(np.float32)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, ::-1][:, :dimensions]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(dimensions)] < 0, -1.0, 1.0)
    reduced: NDArray[np.float32] = (rows @ axes).astype(np.float32)
    return reduced


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows normalised to length 1; rows of zeros stay zero. float32 [n, d]."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 1e-12)
    return unit
