"""How each algorithm is fitted: its parameters, and what it needs beside interactions and catalogue."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from models.algorithms.content import texts
from models.artifacts import ALGORITHMS
from models.recommender import Catalogue, Interactions, Manifest, Progress, Recommender, silent
from services.errors import BadInputError
from services.ports.training import TextEncoder

EncoderFactory = Callable[[], TextEncoder]
Extras = Callable[[Catalogue, EncoderFactory, Progress], dict[str, Any]]


def _embeddings(catalogue: Catalogue, encoder: EncoderFactory, progress: Progress) -> dict[str, Any]:
    return {"embeddings": encoder().encode(texts(catalogue), progress)}


EXTRAS: Mapping[str, Extras] = {"content": _embeddings}  # of algorithms that need more than what users did


@dataclass(frozen=True, slots=True)
class Recipe:
    """An algorithm with the parameters that differ from its defaults."""

    algorithm: str
    params: Mapping[str, Any]

    def fit(
        self,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        now_s: float,
        encoder: EncoderFactory,
        progress: Progress = silent,
    ) -> Recommender:
        """A model of what happened up to `now_s`. Raises BadInputError naming a wrong parameter."""
        extras = EXTRAS[self.algorithm](catalogue, encoder, progress) if self.algorithm in EXTRAS else {}
        try:
            return ALGORITHMS[self.algorithm].fit(
                interactions, catalogue, now_s=now_s, seed=0, progress=progress, **extras, **self.params
            )
        except (TypeError, ValueError) as error:
            raise BadInputError("params", str(error)) from error


def recipe(algorithm: str, params: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a known algorithm. Raises BadInputError naming the algorithm or the parameter."""
    if algorithm not in ALGORITHMS:
        raise BadInputError("algorithm", f"{algorithm!r} is not one of {', '.join(sorted(ALGORITHMS))}")
    names = _parameter_names(algorithm)
    unknown = [name for name in params or {} if name not in names]
    if unknown:
        raise BadInputError("params", f"{algorithm} has no {unknown[0]!r} (it has {', '.join(names)})")
    return Recipe(algorithm, dict(params or {}))


def recipe_of(manifest: Manifest) -> Recipe:
    """The recipe by which a model was made, for making it again from newer data."""
    names = _parameter_names(manifest.algorithm)
    return recipe(
        manifest.algorithm, {name: manifest.params[name] for name in names if name in manifest.params}
    )


def _parameter_names(algorithm: str) -> list[str]:
    return [field.name for field in fields(ALGORITHMS[algorithm].params_type)]
