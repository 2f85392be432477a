"""Splits of interactions by time, and by nothing else: a model is judged on what came after it learnt."""

from dataclasses import dataclass, replace

import numpy as np

from models.recommender import Interactions


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """`train`: at <= cut_s. `test`: cut_s < at <= until_s. Both keep the order and the users of the whole."""

    train: Interactions
    test: Interactions
    cut_s: float
    until_s: float


def between(interactions: Interactions, after_s: float, until_s: float) -> Interactions:
    """The interactions with after_s < at <= until_s; views, not copies."""
    rows = slice(*np.searchsorted(interactions.at, [after_s, until_s], side="right").tolist())
    columns = ("user", "item", "at", "quantity", "price", "kind")
    return replace(interactions, **{name: getattr(interactions, name)[rows] for name in columns})


def by_time(interactions: Interactions, cut_s: float, until_s: float) -> TimeSplit:
    """Train on everything up to `cut_s`, test on what came after it up to `until_s`."""
    if not cut_s < until_s:
        raise ValueError(f"cut_s: {cut_s} is not before until_s {until_s}")
    train = between(interactions, -np.inf, cut_s)
    return TimeSplit(train, between(interactions, cut_s, until_s), cut_s, until_s)


def last(interactions: Interactions, test_s: float, skip: int = 0) -> TimeSplit:
    """The last `test_s` seconds are the test; with `skip` = 1 the window before it, and so on (for tuning).

    Raises ValueError if there is nothing to learn from or nothing to test on.
    """
    if not len(interactions.at):
        raise ValueError("interactions: there are none to split")
    until_s = float(interactions.at[-1]) - skip * test_s
    split = by_time(interactions, until_s - test_s, until_s)
    learn, judge = len(split.train.at), len(split.test.at)
    if not learn or not judge:
        raise ValueError(f"test_s: {test_s} leaves {learn} rows to learn from and {judge} to test on")
    return split
