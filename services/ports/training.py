"""Ports of training: imported data, model artifacts, the model registry, text embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from models.recommender import (
    Catalogue,
    Interactions,
    Manifest,
    ProgressCallback,
    Recommender,
    no_progress,
)
from services.ports.catalogue import CatalogueProvenance

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Dataset:
    """One imported data version. `shift_s` was added to every original time (0: none)."""

    version: str
    catalogue: Catalogue
    interactions: Interactions
    source: str
    shift_s: float = 0.0


class RuleFacts(TypedDict):
    """How many rows a cleaning rule dropped, and how many were left."""

    name: str
    why: str
    dropped: int
    left: int


class CatalogueFacts(TypedDict):
    """`as_of`: ISO time at which an imported catalogue was true; `fields`: those that its file provides."""

    as_of: str
    fields: list[str]


class DataFacts(TypedDict):
    """What an import records about a data version; times are ISO 8601."""

    created_at: str
    source: str
    licence: str
    citation: str
    window: list[str]
    split: str | None
    shift_s: float
    catalogue: NotRequired[CatalogueFacts]  # always written today; older releases did not
    rules: list[RuleFacts]


class DataManifest(DataFacts):
    """The manifest of a data version. counts: rows by table; files: SHA-256 by file name."""

    format: int
    version: str
    counts: dict[str, int]
    files: dict[str, str]


class DataStore(Protocol):
    """Imported data versions on disk."""

    def current(self) -> str | None:
        """The version that training uses; None before the first import."""

    def versions(self) -> list[str]:
        """Versions present, oldest first."""

    def load(self, version: str | None = None) -> Dataset:
        """A version (None: the current one). Raises ConfigurationError if it is missing or damaged."""

    def load_holdout(self, version: str | None = None) -> Interactions:
        """Interactions after the split, over the catalogue of the same version.

        Raises ConfigurationError if the version was imported without a split.
        """

    def catalogue_provenance(self, version: str) -> CatalogueProvenance:
        """Time and fields of this version's catalogue; the time moves when the same data are imported
        again."""

    def table(self, name: str, version: str | None = None) -> "pa.Table":
        """One table as imported: items, users, interactions, perhaps holdout."""

    def manifest(self, version: str | None = None) -> DataManifest:
        """Manifest of a version (None: the current one). Raises ConfigurationError as `load`."""

    def write(self, tables: "Mapping[str, pa.Table]", facts: DataFacts) -> str:
        """Store tables as a version and make it current; returns the version, a hash of their content."""


class ModelStore(Protocol):
    """Model artifacts on disk: `<home>/models/<model_version>/`."""

    def save(
        self,
        model: Recommender,
        *,
        data_version: str,
        window: tuple[float, float],
        metrics: Mapping[str, float],
        now_ms: int,
    ) -> Manifest:
        """Write an artifact atomically; its version is `<algorithm>-<UTC time>-<hash>`."""

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """A verified artifact. Raises ArtifactError naming what is wrong (hash, missing file, format)."""

    def versions(self) -> list[str]:
        """Versions present, oldest first."""


class ModelRegistry(Protocol):
    """The model registry for people (MLflow). All methods raise UnavailableError."""

    def register(self, manifest: Manifest) -> None:
        """Record a model version with its metrics and parameters; idempotent."""

    def alias(self, name: str, model_version: str | None) -> None:
        """Point an alias (champion, challenger, holdback) at a version; None removes it."""

    def tag(self, model_version: str, tags: Mapping[str, str]) -> None:
        """Attach evidence to a version, as tags."""


class TextEncoder(Protocol):
    """Texts to vectors."""

    def encode(self, texts: Sequence[str], progress: ProgressCallback = no_progress) -> NDArray[np.float32]:
        """One row per text, float32 [n, d], in order."""
