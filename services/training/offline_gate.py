"""The offline gate: a new model must not be clearly worse than the champion before shoppers see it.

Both recipes learn from everything up to a cut and are judged on what came after it; judging the champion's
artifact itself would flatter it, because it may have learnt from the days it is judged on. The gate only
keeps out accidents: which of two good models is better, shoppers decide.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from models.algorithms.time_decay import DAY_S
from models.evaluation.offline import Case, cases, evaluate
from models.evaluation.splits import TimeSplit, last
from models.recommender import Progress, Recommender, silent
from services.ports.training import Dataset
from services.training.model_spec import Recipe

METRIC = "recall@20"
TOLERANCE = 0.10  # the candidate may lose this share of the champion's METRIC on new items
LONGEST_TEST_S = 28 * DAY_S
TEST_SHARE = 0.2  # of the window, when that is shorter
FEWEST_USERS = 30  # below this the gate can't judge, and says so

Fit = Callable[[Recipe, TimeSplit, Progress], Recommender]
Serve = Callable[[list[Case], TimeSplit], list[Case]]  # the cases that serving would ask about, as it would


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found. `candidate` and `champion`: METRIC on new items (None: there is no champion, or
    nobody to judge by). `metrics`: all of the candidate's, those over all items with the prefix `all `."""

    passed: bool
    reason: str
    candidate: float | None
    champion: float | None
    tolerance: float
    users: int
    cut_s: float
    metrics: Mapping[str, float]

    def evidence(self) -> dict[str, Any]:
        """The verdict for a decision or a registry tag, without the full metrics."""
        return {name: value for name, value in asdict(self).items() if name != "metrics"}


def judge(
    candidate: Recipe,
    champion: Recipe | None,
    dataset: Dataset,
    fit: Fit,
    serve: Serve = lambda judged, _: judged,
    progress: Progress = silent,
) -> Verdict:
    """Fit both on the same past, compare them on the same future."""
    try:
        split = last(dataset.interactions, test_span_s(dataset))
    except ValueError as error:
        return Verdict(True, f"not judged: {error}", None, None, TOLERANCE, 0, 0.0, {})
    judged = [case for case in cases(split) if len(np.setdiff1d(case.chosen, case.known))]
    judged = serve(judged, split)
    if len(judged) < FEWEST_USERS:
        reason = f"not judged: {len(judged)} users on both sides of the cut, {FEWEST_USERS} are needed"
        return Verdict(True, reason, None, None, TOLERANCE, len(judged), split.cut_s, {})
    metrics = metrics_of(fit(candidate, split, progress), judged)
    rival = None if champion is None else metrics_of(fit(champion, split, progress), judged)[METRIC]
    return compare(metrics, rival, split.cut_s)


def compare(metrics: Mapping[str, float], champion: float | None, cut_s: float) -> Verdict:
    """The rule itself: at least (1 − TOLERANCE) of the champion's METRIC on new items."""
    candidate = metrics[METRIC]
    passed = champion is None or candidate >= (1 - TOLERANCE) * champion
    against = "no champion yet" if champion is None else f"champion {champion:.4f}"
    reason = f"{METRIC} on new items {candidate:.4f}, {against}, tolerance {TOLERANCE:.0%}"
    users = int(metrics["users"])
    return Verdict(passed, reason, candidate, champion, TOLERANCE, users, cut_s, metrics)


def metrics_of(model: Recommender, judged: list[Case], progress: Progress = silent) -> dict[str, float]:
    """Metrics on new items under their own names, on all items with the prefix `all `."""
    with threadpool_limits(1, "blas"):  # as when serving
        new = evaluate(model, judged, new_only=True)
        overall = evaluate(model, judged, new_only=False, progress=progress)
    return {**new, **{f"all {name}": value for name, value in overall.items()}}


def test_span_s(dataset: Dataset) -> float:
    """Length of the test window: 28 days, or a fifth of what there is."""
    at = dataset.interactions.at
    return min(LONGEST_TEST_S, TEST_SHARE * float(at[-1] - at[0])) if len(at) else LONGEST_TEST_S
