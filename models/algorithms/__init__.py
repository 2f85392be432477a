"""The table of algorithms. To add a model, write `models/algorithms/<name>.py` and add one line here.

The table holds names instead of classes, so that the command line lists the algorithms without importing
numpy and scipy. Everything else about an algorithm stands on its class (`models.algorithms.base.Algorithm`).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.algorithms.base import Algorithm

_CLASS_NAMES: Mapping[str, str] = {  # algorithm, which is also the name of its file: class in that file
    "popularity": "Popularity",
    "als": "Als",
    "content": "Content",
    "ease": "Ease",
    "reversed_popularity": "ReversedPopularity",
}
ALGORITHM_NAMES = tuple(_CLASS_NAMES)


class UnknownAlgorithmError(ValueError):
    """No algorithm has this name. The message lists those that exist."""


def algorithm_class(name: str) -> type["Algorithm"]:
    """Class of the algorithm `name`, which may be a former name. Raises UnknownAlgorithmError.

    >>> algorithm_class("linear").algorithm
    'ease'
    """
    name = current_name(name)
    algorithm: type[Algorithm] = getattr(import_module(f"models.algorithms.{name}"), _CLASS_NAMES[name])
    return algorithm


def current_name(name: str) -> str:
    """The present name of an algorithm, given a present or a former one. Raises UnknownAlgorithmError."""
    if name in _CLASS_NAMES:
        return name
    for candidate in ALGORITHM_NAMES:
        if name in algorithm_class(candidate).former_names:
            return candidate
    raise UnknownAlgorithmError(f"{name!r} is not one of {', '.join(ALGORITHM_NAMES)}")
