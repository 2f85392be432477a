"""Text similarity: items are embeddings of title, category and description; a user is the decayed mean of
recent items.

Embeddings come in as an array (an adapter makes them), are reduced to `dimensions` by their principal
directions, so that an answer costs one small matrix-vector product, and brought to length 1. Works from the
first click and for items nobody has bought.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.algorithms.popularity import popularity
from models.algorithms.time_decay import DAY_S, parameters, recent_weights
from models.algorithms.top_n import Ranked
from models.recommender import Catalogue, Interactions, Progress, Query, silent


@dataclass(frozen=True, slots=True)
class ContentParams:
    """Dimensions kept, half-lives of a user's recent items, and weight of the items' decayed popularity.

    A recent item counts half after `recent_days`, and half again for every `recent_places` newer ones.
    """

    dimensions: int = 128
    recent_days: float = 14.0
    recent_places: float = 20.0
    trend: float = 0.3
    trend_days: float = 5.0


@dataclass(frozen=True, eq=False)
class Content(Ranked):
    """`vectors` float32 [n_items, d] of length 1 (0 for an item without text), `trend` float32 [n_items]."""

    algorithm = "content"
    params_type = ContentParams
    reason = "like what you looked at"
    similar_reason = "described alike"

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
        progress: Progress = silent,
        **params: Any,
    ) -> "Content":
        """`embeddings`: float32 [n_items, any], in the order of the catalogue; it is required."""
        embeddings = params.pop("embeddings", None)
        if embeddings is None or embeddings.shape[0] != len(catalogue):
            got = None if embeddings is None else embeddings.shape
            raise ValueError(f"embeddings: one row for each of {len(catalogue)} items is needed, got {got}")
        chosen = parameters(ContentParams, params)
        vectors = unit_rows(principal(embeddings, chosen.dimensions))
        counts = popularity(interactions, len(catalogue), now_s=now_s, half_life_s=chosen.trend_days * DAY_S)
        trend = (counts / max(counts.max(initial=0.0), 1e-12)).astype(np.float32)
        progress(1, 1, "content")
        return cls(catalogue.items, vectors, trend, chosen)

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Cosine of every item with the user's mean, plus the weighted trend."""
        item, weight = recent_weights(query, self.params.recent_days * DAY_S, self.params.recent_places)
        heaviest = weight.max(initial=0.0)
        if heaviest <= 0.0:
            return None
        user = (weight / heaviest) @ self.vectors[item]  # only the ratios matter, however long ago it all was
        return (
            self.vectors @ (user / max(np.linalg.norm(user), 1e-12))
            + np.float32(self.params.trend) * self.trend
        )

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Cosine of every item with this one."""
        return self.vectors @ self.vectors[item]

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON parameters."""
        return {"items": self.items, "vectors": self.vectors, "trend": self.trend}, asdict(self.params)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> "Content":
        """Inverse of `to_arrays`."""
        return cls(**arrays, params=parameters(ContentParams, dict(params)))


def texts(catalogue: Catalogue) -> list[str]:
    """What is embedded of each item: title, category and description, without what is empty or repeats the
    title."""
    rows = zip(
        catalogue.title.tolist(), catalogue.category.tolist(), catalogue.description.tolist(), strict=True
    )
    return [". ".join(dict.fromkeys(part for part in row if part)) for row in rows]


def principal(embeddings: NDArray[np.floating], dimensions: int) -> NDArray[np.float32]:
    """Coordinates along the `dimensions` strongest directions, float32 [n, min(dimensions, d)], signs fixed.

    Not centred: cosines between rows stay what they were, up to what the dropped directions held.
    """
    rows = np.asarray(embeddings, np.float64)
    if rows.shape[1] <= dimensions:
        return rows.astype(np.float32)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, ::-1][:, :dimensions]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(dimensions)] < 0, -1.0, 1.0)
    return (rows @ axes).astype(np.float32)


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows at length 1; rows of zeros stay."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 1e-12)
