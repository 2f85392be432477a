"""From an algorithm to a registered artifact, and from there into the experiment as a challenger."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from experiments.lifecycle import commands
from experiments.lifecycle.fold import Decision, Experiment, IllegalTransition
from models.evaluation.offline import Case
from models.evaluation.splits import TimeSplit
from models.recommender import Manifest, Progress, Recommender, silent
from services.control.decide import decide
from services.errors import BadInputError, UnavailableError
from services.ports.features import FeatureStore
from services.ports.state import DecisionLog
from services.ports.training import Dataset, ModelRegistry, ModelStore
from services.training.model_spec import EncoderFactory, Recipe
from services.training.offline_gate import Serve, Verdict, judge
from services.training.served_queries import as_served

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """A saved model, what the gate said about it, and why an experiment would not take it nevertheless."""

    manifest: Manifest
    verdict: Verdict
    not_taken: str = ""

    @property
    def outcome(self) -> str:
        """passed, refused (by the gate) or failed (passed, but not taken)."""
        if not self.verdict.passed:
            return "refused"
        return "failed" if self.not_taken else "passed"


@dataclass(frozen=True, slots=True)
class TrainingPipeline:
    """What training needs from outside. `dataset` gives the latest window; `clock_ms` our clock."""

    dataset: Callable[[], Dataset]
    models: ModelStore
    registry: ModelRegistry
    encoder: EncoderFactory
    clock_ms: Callable[[], int]
    features: FeatureStore | None = None  # None: judge on interactions alone
    activity_ttl_s: float = float("inf")  # how long rows of recent activity are served

    def train(self, made: Recipe, champion: Recipe | None = None, progress: Progress = silent) -> Trained:
        """Judge the recipe on a time split, fit it on everything, save the model.

        The model is saved whatever the gate says; `verdict.passed` says whether it may enter.
        """
        dataset = self.dataset()
        at = dataset.interactions.at
        if not len(at):
            raise BadInputError("data", f"data version {dataset.version} has no interactions to learn from")
        verdict = judge(made, champion, dataset, self._fit_before(dataset), self._served(dataset), progress)
        model = self._fit(made, dataset, float(at[-1]), progress)
        manifest = self.models.save(
            model,
            data_version=dataset.version,
            window=(float(at[0]), float(at[-1])),
            metrics=verdict.metrics,
            now_ms=self.clock_ms(),
        )
        return Trained(manifest, verdict)

    def _fit(self, made: Recipe, dataset: Dataset, now_s: float, progress: Progress) -> Recommender:
        return made.fit(
            dataset.interactions, dataset.catalogue, now_s=now_s, encoder=self.encoder, progress=progress
        )

    def _fit_before(self, dataset: Dataset) -> Callable[[Recipe, TimeSplit, Progress], Recommender]:
        def fit(made: Recipe, split: TimeSplit, progress: Progress) -> Recommender:
            return self._fit(made, dataset, split.cut_s, progress)

        return fit

    def _served(self, dataset: Dataset) -> Serve:
        def serve(judged: list[Case], split: TimeSplit) -> list[Case]:
            if self.features is None:
                return judged
            return as_served(judged, split, dataset.catalogue, self.features, self.activity_ttl_s)

        return serve

    def record(self, trained: Trained) -> None:
        """Note the model in the registry. Apart from `train`, and after `enter`: MLflow takes seconds to
        start, shoppers need not wait for it, and if it can't be written the model is still good."""
        manifest, verdict = trained.manifest, trained.verdict
        try:
            self.registry.register(manifest)
            tags = {"gate": "passed" if verdict.passed else "refused", "gate_reason": verdict.reason}
            self.registry.tag(manifest.model_version, tags)
        except UnavailableError as error:
            log.warning("%s is saved, but not registered: %s", manifest.model_version, error)


class AnsweredError(BadInputError):
    """A retraining request does not wait any more: somebody answered it, or the experiment ended."""


def require_waiting(state: Experiment, asked: int) -> None:
    """Raises AnsweredError unless the retraining request of revision `asked` waits for its answer."""
    if not (state.retrain_pending and state.retrain_revision == asked):
        raise AnsweredError("revision", f"the retraining request of revision {asked} was answered meanwhile")


def enter(
    decisions: DecisionLog,
    experiment: str,
    trained: Trained,
    origin: commands.Origin,
    arm: str | None = None,
    answers: int | None = None,
) -> Experiment:
    """Append an `enter` decision for a trained model; deciding again if somebody else decided meanwhile.

    The arm is named after the model version unless `arm` says otherwise. `answers`: revision of the
    retraining request that it settles (None: none). Raises BadInputError if the experiment has not started or
    takes no such challenger, AnsweredError if nobody waits for that answer any more.
    """
    version = trained.manifest.model_version
    found = replace(origin, evidence={**origin.evidence, "gate": trained.verdict.evidence()})

    def build(state: Experiment) -> Decision:
        if answers is not None:
            require_waiting(state, answers)
        try:
            return commands.enter(state, arm or version, version, found, answers)
        except IllegalTransition as error:
            raise BadInputError("arm", str(error)) from error

    return decide(decisions, experiment, build)
