"""Laws of every ModelStore, and of the model registry in memory."""

from pathlib import Path

import numpy as np
import pytest
from support.breakable import BreakableModelStore

from models.algorithms.popularity import Popularity
from models.recommender import Catalogue, Interactions, Manifest, Query, Recommender
from services.adapters.files.model_store import FolderModelStore
from services.adapters.memory.stores import MemoryModelRegistry
from services.errors import ArtifactError, ConfigurationError
from services.ports.training import ModelStore

NOW_MS = 1_700_000_000_000


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ModelStore:
    return BreakableModelStore() if request.param == "memory" else FolderModelStore(tmp_path)


def popularity(bought: list[int]) -> Recommender:
    """A model of purchases of three items, one per user, an hour apart."""
    names, none, n = np.array(["a", "b", "c"]), np.zeros(3), len(bought)
    shop = Catalogue(names, names, names, none.astype(np.float32), names, none.astype(np.int32) - 1, none > 0)
    learnt = Interactions(
        user=np.arange(n, dtype=np.int32),
        item=np.array(bought, np.int32),
        at=np.arange(n) * 3_600.0,
        quantity=np.ones(n, np.float32),
        price=np.ones(n, np.float32),
        kind=np.full(n, 3, np.uint8),
        users=np.array([f"u{index}" for index in range(n)]),
    )
    return Popularity.fit(learnt, shop, now_s=n * 3_600.0, seed=0)


def save(store: ModelStore, model: Recommender, now_ms: int = NOW_MS) -> Manifest:
    return store.save(model, data_version="d1", window=(1.0, 2.0), metrics={"recall@20": 0.5}, now_ms=now_ms)


def test_a_saved_model_ranks_as_before(store: ModelStore) -> None:
    model = popularity([1, 1, 2])
    again, manifest = store.load(save(store, model).model_version)
    empty = np.empty(0, np.int32)
    query = Query(empty, empty.astype(np.float64), empty.astype(np.uint8), now_s=NOW_MS / 1_000)
    np.testing.assert_array_equal(again.rank(query, 3).item, model.rank(query, 3).item)
    assert (manifest.data_version, manifest.window, manifest.created_ms) == ("d1", (1.0, 2.0), NOW_MS)
    assert manifest.model_version.startswith("popularity-20231114T221320Z-")


def test_one_model_at_one_moment_is_one_version(store: ModelStore) -> None:
    first, again = save(store, popularity([1, 1, 2])), save(store, popularity([1, 1, 2]))
    other = save(store, popularity([0, 0, 2]))
    assert first.model_version == again.model_version != other.model_version
    assert len(store.versions()) == 2


def test_versions_are_oldest_first(store: ModelStore) -> None:
    ages = (5_000, 0, 9_000)
    saved = {age: save(store, popularity([1]), NOW_MS + age).model_version for age in ages}
    assert store.versions() == [saved[age] for age in sorted(ages)]


def test_a_version_that_is_not_there_is_refused_by_name(store: ModelStore) -> None:
    with pytest.raises(ArtifactError, match="popularity-unknown"):
        store.load("popularity-unknown")


def test_the_memory_registry_refuses_unknown_versions() -> None:
    registry, manifest = MemoryModelRegistry(), save(BreakableModelStore(), popularity([1]))
    with pytest.raises(ConfigurationError):
        registry.alias("champion", manifest.model_version)
    registry.register(manifest)
    registry.alias("champion", manifest.model_version)
    registry.tag(manifest.model_version, {"evidence": "1"})
    registry.tag(manifest.model_version, {"look": "2"})
    assert registry.aliases == {"champion": manifest.model_version}
    assert registry.tags == {manifest.model_version: {"evidence": "1", "look": "2"}}
    registry.alias("champion", None)
    assert registry.aliases == {}
