"""Doubles of the data store, the model store and the model registry, in memory."""

from collections.abc import Mapping
from dataclasses import replace

from models.recommender import Manifest, Recommender
from services.errors import ArtifactError, ConfigurationError
from services.ports.catalogue import CatalogueProvenance
from services.ports.training import Dataset


class MemoryDataStore:
    """The part of DataStore that reads datasets; tests `put` them, and the last one is current."""

    def __init__(self, *datasets: Dataset):
        self._datasets: dict[str, Dataset] = {}
        self.provenance: dict[str, CatalogueProvenance] = {}
        for dataset in datasets:
            self.put(dataset)

    def put(self, dataset: Dataset) -> None:
        """Add a version and make it current."""
        self._datasets.pop(dataset.version, None)
        self._datasets[dataset.version] = dataset

    def catalogue_provenance(self, version: str) -> CatalogueProvenance:
        """See DataStore."""
        return self.provenance.get(version, CatalogueProvenance())

    def current(self) -> str | None:
        """See DataStore."""
        return next(reversed(self._datasets), None)

    def load(self, version: str | None = None) -> Dataset:
        """See DataStore."""
        wanted = version or self.current()
        if wanted is None or wanted not in self._datasets:
            raise ConfigurationError(
                f"data version {wanted or '(current)'} does not exist; run `ringside data import`"
            )
        return self._datasets[wanted]


class MemoryModelStore:
    """ModelStore in memory."""

    def __init__(self, code_version: str = "test") -> None:
        self._code_version = code_version
        self._artifacts: dict[str, tuple[Recommender, Manifest]] = {}

    def save(
        self,
        model: Recommender,
        *,
        data_version: str,
        window: tuple[float, float],
        metrics: Mapping[str, float],
        now_ms: int,
    ) -> Manifest:
        """See ModelStore. Equal models saved at the same time get the same version."""
        from models.artifacts import Provenance, encode

        provenance = Provenance(data_version, window, dict(metrics), self._code_version, now_ms)
        return self.put(model, encode(model, provenance)[0])

    def put(self, model: Recommender, manifest: Manifest, model_version: str | None = None) -> Manifest:
        """Add a model with the given manifest, or with another version."""
        kept = manifest if model_version is None else replace(manifest, model_version=model_version)
        self._artifacts[kept.model_version] = (model, kept)
        return kept

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """See ModelStore."""
        if model_version not in self._artifacts:
            raise ArtifactError(f"{model_version}: no such artifact")
        return self._artifacts[model_version]

    def versions(self) -> list[str]:
        """See ModelStore."""
        return sorted(self._artifacts, key=lambda version: self._artifacts[version][1].created_ms)


class MemoryModelRegistry:
    """ModelRegistry whose `manifests`, `aliases` and `tags` a test can read."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def register(self, manifest: Manifest) -> None:
        """See ModelRegistry."""
        self.manifests[manifest.model_version] = manifest

    def alias(self, name: str, model_version: str | None) -> None:
        """See ModelRegistry."""
        if model_version is None:
            self.aliases.pop(name, None)
            return
        self._check(model_version)
        self.aliases[name] = model_version

    def tag(self, model_version: str, tags: Mapping[str, str]) -> None:
        """See ModelRegistry."""
        self._check(model_version)
        self.tags.setdefault(model_version, {}).update(tags)

    def _check(self, model_version: str) -> None:
        if model_version not in self.manifests:
            raise ConfigurationError(f"model version {model_version} is not registered")
