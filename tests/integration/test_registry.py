"""MLflow on SQLite: versions, aliases, evidence."""

import pytest

from models.recommender import Manifest
from services.adapters.mlflow_registry import MlflowRegistry
from services.errors import ConfigurationError, UnavailableError
from services.settings import Settings


def manifest(version: str) -> Manifest:
    return Manifest(
        model_version=version,
        algorithm="als",
        data_version="d1",
        window=(0.0, 1.0),
        params={"factors": 64},
        metrics={"new recall@20": 0.1},
        code_version="0.1.0",
        created_ms=1_700_000_000_000,
        files={},
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> MlflowRegistry:
    mlflow = MlflowRegistry(Settings(home=tmp_path_factory.mktemp("home")))
    for version in ("als-1", "als-2"):
        mlflow.register(manifest(version))
    return mlflow


def test_registering_twice_is_registering_once(registry):
    registry.register(manifest("als-1"))
    assert len(registry._client.search_model_versions(f"name = '{registry.name}'")) == 2
    (run,) = registry._client.search_runs([registry._experiment_id], "tags.model_version = 'als-1'")
    assert run.data.metrics == {"new recall_at_20": 0.1}
    assert run.data.params == {"factors": "64"}


def aliases(registry: MlflowRegistry) -> dict[str, str]:
    numbers = registry._client.get_registered_model(registry.name).aliases
    versions = {name: registry._client.get_model_version(registry.name, n) for name, n in numbers.items()}
    return {name: version.tags["model_version"] for name, version in versions.items()}


def test_an_alias_moves_and_goes(registry):
    registry.alias("champion", "als-1")
    registry.alias("challenger", "als-2")
    registry.alias("champion", "als-2")
    assert aliases(registry) == {"champion": "als-2", "challenger": "als-2"}
    registry.alias("challenger", None)
    registry.alias("challenger", None)
    assert aliases(registry) == {"champion": "als-2"}


def test_evidence_is_kept_as_tags_and_seen_by_another_process(registry):
    registry.tag("als-1", {"rollback": "log E 3.2"})
    again = MlflowRegistry(registry.settings)
    tags = again._client.get_model_version(again.name, again._number("als-1")).tags
    assert tags["rollback"] == "log E 3.2"
    assert tags["data_version"] == "d1"


@pytest.mark.parametrize("version", ["als-9", "o'brien"])
def test_an_unknown_version_is_named(registry, version):
    with pytest.raises(ConfigurationError, match="model_version"):
        registry.tag(version, {"a": "b"})


def test_a_registry_out_of_reach_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    broken = MlflowRegistry(Settings(home=tmp_path, mlflow_uri=f"sqlite:///{tmp_path}/file/mlflow.db"))
    with pytest.raises(UnavailableError, match="MLflow"):
        broken.alias("champion", None)


def test_nothing_is_written_outside_home(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MlflowRegistry(registry.settings).register(manifest("als-3"))
    assert list(tmp_path.iterdir()) == []
