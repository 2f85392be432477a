"""The model registry in MLflow: every model version with its parameters, metrics, aliases and evidence.

An installation has one registered model, named after the experiment. Ringside's model version is a tag of
MLflow's numbered versions. The registry is for people (`mlflow ui --backend-store-uri …`); serving never
depends on it.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from models.recommender import Manifest
from services.errors import ConfigurationError, UnavailableError
from services.settings import Settings

TAG = "model_version"
MLFLOW_ENVIRONMENT = {  # MLflow's own defaults send telemetry and wait minutes for an unreachable server
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MlflowRegistry:
    """MLflow at `settings.mlflow_uri`, by default SQLite in `<home>/registry`.

    Connects on first use, which takes seconds. Methods raise UnavailableError if MLflow or its store fails.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.name = settings.experiments.default

    @property
    def uri(self) -> str:
        """The tracking and registry URI in use."""
        folder = self.settings.home.absolute() / "registry"
        return self.settings.mlflow_uri or f"sqlite:///{folder / 'mlflow.db'}"

    def register(self, manifest: Manifest) -> None:
        """Create a run with parameters and metrics, and a model version that points at the artifact.
        Idempotent."""
        with self._unavailable():
            if self._find(manifest.model_version) is not None:
                return
            created_ms, version = manifest.created_ms, manifest.model_version
            run = self._client.create_run(
                self._experiment_id, start_time=created_ms, run_name=version, tags=_tags(manifest)
            )
            self._log(run.info.run_id, manifest)
            self._client.set_terminated(run.info.run_id, end_time=created_ms)
            source = (self.settings.models_path.absolute() / version).as_uri()
            self._client.create_model_version(self.name, source, run.info.run_id, tags=_tags(manifest))

    def alias(self, name: str, model_version: str | None) -> None:
        """Point `name` (champion, challenger, holdback) at a version; None removes it."""
        with self._unavailable():
            if model_version is None:
                self._client.delete_registered_model_alias(self.name, name)
            else:
                self._client.set_registered_model_alias(self.name, name, self._number(model_version))

    def tag(self, model_version: str, tags: Mapping[str, str]) -> None:
        """Attach evidence to a version, as tags. Raises ConfigurationError if it is not registered."""
        with self._unavailable():
            number = self._number(model_version)
            for key, value in tags.items():
                self._client.set_model_version_tag(self.name, number, key, value)

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Translate exceptions of MLflow and its store to UnavailableError."""
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            raise UnavailableError(f"MLflow at {self.uri}", str(error)) from error

    @cached_property
    def _client(self) -> Any:
        """The client; creates the registered model if it is missing."""
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        if not self.settings.mlflow_uri:
            (self.settings.home / "registry").mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        if not client.search_registered_models(filter_string=f"name = '{self.name}'"):
            client.create_registered_model(self.name)
        return client

    @cached_property
    def _experiment_id(self) -> str:
        """Id of the MLflow experiment that holds the runs; created if it is missing.

        Without a configured server its files stay under `home` instead of the working folder.
        """
        experiment = self._client.get_experiment_by_name(self.name)
        if experiment is not None:
            return str(experiment.experiment_id)
        local = None if self.settings.mlflow_uri else self.settings.home.absolute() / "registry" / "artifacts"
        return str(self._client.create_experiment(self.name, artifact_location=local and local.as_uri()))

    def _log(self, run_id: str, manifest: Manifest) -> None:
        from mlflow.entities import Metric, Param

        metrics = [
            Metric(_metric_name(key), value, manifest.created_ms, 0)
            for key, value in manifest.metrics.items()
        ]
        params = [Param(key, str(value)) for key, value in manifest.params.items()]
        self._client.log_batch(run_id, metrics=metrics, params=params)

    def _find(self, model_version: str) -> str | None:
        """MLflow's number of a version; None if it is not registered."""
        if "'" in model_version:  # it would end the string in the filter
            raise ConfigurationError(f"model_version: {model_version!r} is not a model version")
        matches = self._client.search_model_versions(
            f"name = '{self.name}' and tag.{TAG} = '{model_version}'"
        )
        return str(matches[0].version) if matches else None

    def _number(self, model_version: str) -> str:
        number = self._find(model_version)
        if number is None:
            raise ConfigurationError(f"model_version: {model_version} is not registered in {self.uri}")
        return number


def _tags(manifest: Manifest) -> dict[str, str]:
    return {
        TAG: manifest.model_version,
        "algorithm": manifest.algorithm,
        "data_version": manifest.data_version,
        "code_version": manifest.code_version,
    }


def _metric_name(metric: str) -> str:
    """Name of a metric in MLflow, which allows no `@`."""
    return metric.replace("@", "_at_")
