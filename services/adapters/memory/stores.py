"""Data, models and their registry in memory: doubles of DataStore, ModelStore and ModelRegistry."""

from collections.abc import Mapping
from dataclasses import replace

from models.recommender import Manifest, Recommender
from services.errors import ArtifactError, ConfigurationError
from services.ports.catalogue import CatalogueProvenance
from services.ports.training import Dataset


class MemoryDataStore:
    """DataStore over datasets that were `put`; the last one put is current."""

    def __init__(self, *datasets: Dataset):
        self._datasets: dict[str, Dataset] = {}
        self.provenance: dict[str, CatalogueProvenance] = {}
        for dataset in datasets:
            self.put(dataset)

    def put(self, dataset: Dataset) -> None:
        """Import a version and make it current."""
        self._datasets.pop(dataset.version, None)
        self._datasets[dataset.version] = dataset

    def catalogue_provenance(self, version: str) -> CatalogueProvenance:
        """What `provenance` says; by default nothing."""
        return self.provenance.get(version, CatalogueProvenance())

    def current(self) -> str | None:
        """The version that training uses."""
        return next(reversed(self._datasets), None)

    def load(self, version: str | None = None) -> Dataset:
        """A version (None: the current one). Raises ConfigurationError if there is none."""
        wanted = version or self.current()
        if wanted is None or wanted not in self._datasets:
            raise ConfigurationError(
                f"data version {wanted or '(current)'} does not exist; run `ringside data import`"
            )
        return self._datasets[wanted]


class MemoryModelStore:
    """ModelStore: artifacts by version. `damage` makes one refuse to load, as a wrong hash does."""

    def __init__(self, code_version: str = "test") -> None:
        self._code_version = code_version
        self._artifacts: dict[str, tuple[Recommender, Manifest]] = {}
        self._damaged: dict[str, str] = {}

    def save(
        self,
        model: Recommender,
        *,
        data_version: str,
        window: tuple[float, float],
        metrics: Mapping[str, float],
        now_ms: int,
    ) -> Manifest:
        """Keep the model; equal models saved at one moment get one version."""
        from models.artifacts import Provenance, encode

        provenance = Provenance(data_version, window, dict(metrics), self._code_version, now_ms)
        return self.put(model, encode(model, provenance)[0])

    def put(self, model: Recommender, manifest: Manifest, model_version: str | None = None) -> Manifest:
        """Keep a model under a manifest that the test made (or under another version name)."""
        kept = manifest if model_version is None else replace(manifest, model_version=model_version)
        self._artifacts[kept.model_version] = (model, kept)
        return kept

    def damage(
        self, model_version: str, problem: str = "arrays.npz: sha256 differs from the manifest"
    ) -> None:
        """From now on this version is refused with `problem`."""
        self._damaged[model_version] = problem

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """An artifact. Raises ArtifactError when missing or damaged."""
        if model_version not in self._artifacts:
            raise ArtifactError(f"{model_version}: no such artifact")
        if model_version in self._damaged:
            raise ArtifactError(f"{model_version}: {self._damaged[model_version]}")
        return self._artifacts[model_version]

    def versions(self) -> list[str]:
        """Versions present, oldest first."""
        return sorted(self._artifacts, key=lambda version: self._artifacts[version][1].created_ms)


class MemoryModelRegistry:
    """ModelRegistry whose `manifests`, `aliases` and `tags` a test can read."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def register(self, manifest: Manifest) -> None:
        """Record a model version; again is harmless."""
        self.manifests[manifest.model_version] = manifest

    def alias(self, name: str, model_version: str | None) -> None:
        """Point an alias at a registered version, or remove it."""
        if model_version is None:
            self.aliases.pop(name, None)
            return
        self._check(model_version)
        self.aliases[name] = model_version

    def tag(self, model_version: str, tags: Mapping[str, str]) -> None:
        """Attach evidence to a registered version."""
        self._check(model_version)
        self.tags.setdefault(model_version, {}).update(tags)

    def _check(self, model_version: str) -> None:
        if model_version not in self.manifests:
            raise ConfigurationError(f"model version {model_version} is not registered")
