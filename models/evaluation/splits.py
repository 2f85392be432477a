"""Splits of interactions by time, so that a model is evaluated on what happened after what it learnt from."""

from dataclasses import dataclass, replace

import numpy as np

from models.recommender import Interactions


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """`train`: at <= cut_s. `test`: cut_s < at <= until_s. Both keep the order and the users of the input."""

    train: Interactions
    test: Interactions
    cut_s: float
    until_s: float


def interactions_between(interactions: Interactions, after_s: float, until_s: float) -> Interactions:
    """Interactions with after_s < at <= until_s; views, not copies."""
    rows = slice(*np.searchsorted(interactions.at, [after_s, until_s], side="right").tolist())
    columns = ("user", "item", "at", "quantity", "price", "kind")
    return replace(interactions, **{name: getattr(interactions, name)[rows] for name in columns})


def split_at(interactions: Interactions, cut_s: float, until_s: float) -> TimeSplit:
    """Train on everything up to `cut_s`, test on what came after it up to `until_s`. Raises ValueError."""
    if not cut_s < until_s:
        raise ValueError(f"cut_s: {cut_s} is not before until_s {until_s}")
    train = interactions_between(interactions, -np.inf, cut_s)
    return TimeSplit(train, interactions_between(interactions, cut_s, until_s), cut_s, until_s)


def split_last(interactions: Interactions, test_s: float, skip: int = 0) -> TimeSplit:
    """Test on the last `test_s` seconds; with `skip` = 1 on the window before them, and so on (for tuning).

    Raises ValueError if a part is empty.
    """
    if not len(interactions.at):
        raise ValueError("interactions: there are none to split")
    until_s = float(interactions.at[-1]) - skip * test_s
    split = split_at(interactions, until_s - test_s, until_s)
    n_train, n_test = len(split.train.at), len(split.test.at)
    if not n_train or not n_test:
        raise ValueError(f"test_s: {test_s} leaves {n_train} rows to learn from and {n_test} to test on")
    return split
