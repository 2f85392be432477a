"""What to fit: an algorithm and its parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from models.algorithms import UnknownAlgorithmError, algorithm_class
from models.algorithms.content import texts
from models.recommender import Catalogue, Interactions, Manifest, ProgressCallback, Recommender, no_progress
from services.errors import BadInputError
from services.ports.training import TextEncoder

EncoderFactory = Callable[[], TextEncoder]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An algorithm with the parameters that differ from its defaults."""

    algorithm: str
    params: Mapping[str, object] = field(default_factory=dict)

    def fit(
        self,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        now_s: float,
        encoder: EncoderFactory,
        progress: ProgressCallback = no_progress,
    ) -> Recommender:
        """Fit a model on what happened up to `now_s`. `encoder` is called only if the algorithm needs it.

        Raises BadInputError naming the parameter that is wrong.
        """
        algorithm = algorithm_class(self.algorithm)
        params: dict[str, Any] = dict(self.params)
        if algorithm.needs_embeddings:
            params["embeddings"] = encoder().encode(texts(catalogue), progress)
        try:
            return algorithm.fit(interactions, catalogue, now_s=now_s, progress=progress, **params)
        except (TypeError, ValueError) as error:
            raise BadInputError("params", str(error)) from error


def model_spec(algorithm: str, params: Mapping[str, object] | None = None) -> ModelSpec:
    """A checked spec under the algorithm's present name; `algorithm` may be a former one.

    Raises BadInputError naming the algorithm or parameter that is unknown.
    """
    try:
        kind = algorithm_class(algorithm)
    except UnknownAlgorithmError as error:
        raise BadInputError("algorithm", str(error)) from error
    names = [parameter.name for parameter in fields(kind.params_type)]
    unknown = [name for name in params or {} if name not in names]
    if unknown:
        raise BadInputError("params", f"{kind.algorithm} has no {unknown[0]!r} (it has {', '.join(names)})")
    return ModelSpec(kind.algorithm, dict(params or {}))


def spec_of(manifest: Manifest) -> ModelSpec:
    """The spec by which a model was fitted, to fit it again on newer data."""
    names = {parameter.name for parameter in fields(algorithm_class(manifest.algorithm).params_type)}
    return model_spec(
        manifest.algorithm, {name: value for name, value in manifest.params.items() if name in names}
    )
