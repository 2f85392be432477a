"""The offline gate: refuses a new model that is clearly worse than the champion before users see it.

Both specs are fitted on everything up to a cut and evaluated on what came after it. Evaluating the champion's
artifact itself would flatter it, because it may have learnt from the test window. The gate only prevents
accidents; which of two good models is better is decided by the experiment.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from threadpoolctl import threadpool_limits

from experiments.lifecycle.decisions import GateEvidence, GateVerdict
from models.algorithms.time_decay import DAY_S
from models.evaluation.offline import Case, cases, evaluate
from models.evaluation.splits import TimeSplit, split_last
from models.recommender import ProgressCallback, Recommender, no_progress
from services.ports.training import Dataset
from services.training.model_spec import ModelSpec

METRIC = "recall@20"
TOLERANCE = 0.10  # share of the champion's METRIC on new items that the candidate may lose
MAX_TEST_S = 28 * DAY_S
TEST_SHARE = 0.2  # of the window, where that is shorter
MIN_USERS = 30  # with fewer users the gate passes every model and says so in its reason

Fit = Callable[[ModelSpec, TimeSplit, ProgressCallback], Recommender]
ServedQueries = Callable[
    [list[Case], TimeSplit], list[Case]
]  # the cases with the queries that serving would make


@dataclass(frozen=True, slots=True)
class GateResult:
    """Result of the offline gate.

    candidate, champion: METRIC on new items (None: there is no champion, or too few users). metrics: all
    metrics of the candidate, those over all items with the prefix `all `.
    """

    passed: bool
    reason: str
    candidate: float | None
    champion: float | None
    tolerance: float
    users: int
    cut_s: float
    metrics: Mapping[str, float]

    def evidence(self) -> GateEvidence:
        """The result for the record of a decision, without `metrics`."""
        numbers = {name: value for name, value in asdict(self).items() if name != "metrics"}
        return GateEvidence(gate=GateVerdict(**numbers))


def run_gate(
    candidate: ModelSpec,
    champion: ModelSpec | None,
    dataset: Dataset,
    fit: Fit,
    as_served: ServedQueries = lambda users, _: users,
    progress: ProgressCallback = no_progress,
) -> GateResult:
    """Fit both specs on the same past and compare them on the same future. Too little data passes."""
    try:
        split = split_last(dataset.interactions, test_span_s(dataset))
    except ValueError as error:
        return GateResult(True, f"not evaluated: {error}", None, None, TOLERANCE, 0, 0.0, {})
    users = [case for case in cases(split) if len(case.relevant(new_only=True))]
    users = as_served(users, split)
    if len(users) < MIN_USERS:
        reason = f"not evaluated: {len(users)} users on both sides of the cut, {MIN_USERS} are needed"
        return GateResult(True, reason, None, None, TOLERANCE, len(users), split.cut_s, {})
    metrics = metrics_of(fit(candidate, split, progress), users)
    rival = None if champion is None else metrics_of(fit(champion, split, progress), users)[METRIC]
    return compare(metrics, rival, split.cut_s)


def compare(metrics: Mapping[str, float], champion: float | None, cut_s: float) -> GateResult:
    """The rule of the gate: at least (1 − TOLERANCE) of the champion's METRIC on new items."""
    candidate = metrics[METRIC]
    passed = champion is None or candidate >= (1 - TOLERANCE) * champion
    against = "no champion yet" if champion is None else f"champion {champion:.4f}"
    reason = f"{METRIC} on new items {candidate:.4f}, {against}, tolerance {TOLERANCE:.0%}"
    return GateResult(passed, reason, candidate, champion, TOLERANCE, int(metrics["users"]), cut_s, metrics)


def metrics_of(
    model: Recommender, users: list[Case], progress: ProgressCallback = no_progress
) -> dict[str, float]:
    """Metrics on new items under their own names, on all items with the prefix `all `."""
    with threadpool_limits(1, "blas"):  # as in serving
        new = evaluate(model, users, new_only=True)
        overall = evaluate(model, users, new_only=False, progress=progress)
    return {**new, **{f"all {name}": value for name, value in overall.items()}}


def test_span_s(dataset: Dataset) -> float:
    """Length of the test window in s: MAX_TEST_S, or TEST_SHARE of a shorter window."""
    at = dataset.interactions.at
    return min(MAX_TEST_S, TEST_SHARE * float(at[-1] - at[0])) if len(at) else MAX_TEST_S
