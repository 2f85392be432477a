"""From a model spec to a registered artifact, and from there into the experiment as a challenger."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import IllegalTransition
from models.evaluation.offline import Case
from models.evaluation.splits import TimeSplit
from models.recommender import Manifest, ProgressCallback, Recommender, no_progress
from services.control.decide import decide
from services.errors import BadInputError, UnavailableError
from services.ports.features import FeatureStore
from services.ports.state import DecisionLog
from services.ports.training import Dataset, ModelRegistry, ModelStore
from services.training.model_spec import EncoderFactory, ModelSpec
from services.training.offline_gate import GateResult, run_gate
from services.training.served_queries import with_served_queries

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A saved model with the result of the offline gate.

    `not_entered`: why the experiment refused a model that passed the gate; empty if it did not.
    """

    manifest: Manifest
    gate: GateResult
    not_entered: str = ""

    @property
    def outcome(self) -> Literal["passed", "refused", "failed"]:
        """passed, refused (by the gate) or failed (passed, but not entered)."""
        if not self.gate.passed:
            return "refused"
        return "failed" if self.not_entered else "passed"


@dataclass(frozen=True, slots=True)
class TrainingPipeline:
    """Training with its dependencies.

    dataset: loads the training window; clock_ms: ms since the epoch; features: None to evaluate on
    interactions alone; activity_ttl_s: how long rows of recent activity are served.
    """

    dataset: Callable[[], Dataset]
    models: ModelStore
    registry: ModelRegistry
    encoder: EncoderFactory
    clock_ms: Callable[[], int]
    features: FeatureStore | None = None
    activity_ttl_s: float = float("inf")

    def train(
        self, spec: ModelSpec, champion: ModelSpec | None = None, progress: ProgressCallback = no_progress
    ) -> TrainingResult:
        """Run the offline gate on a time split, fit the spec on the whole window, save the model.

        The model is saved also if the gate refuses it. Raises BadInputError if there are no interactions.
        """
        dataset = self.dataset()
        at = dataset.interactions.at
        if not len(at):
            raise BadInputError("data", f"data version {dataset.version} has no interactions to learn from")

        def fit(spec: ModelSpec, split: TimeSplit, progress: ProgressCallback) -> Recommender:
            return self._fit(spec, dataset, split.cut_s, progress)

        def served(users: list[Case], split: TimeSplit) -> list[Case]:
            if self.features is None:
                return users
            return with_served_queries(users, split, dataset.catalogue, self.features, self.activity_ttl_s)

        gate = run_gate(spec, champion, dataset, fit, served, progress)
        manifest = self.models.save(
            self._fit(spec, dataset, float(at[-1]), progress),
            data_version=dataset.version,
            window=(float(at[0]), float(at[-1])),
            metrics=gate.metrics,
            now_ms=self.clock_ms(),
        )
        return TrainingResult(manifest, gate)

    def _fit(
        self, spec: ModelSpec, dataset: Dataset, now_s: float, progress: ProgressCallback
    ) -> Recommender:
        """Fit on the interactions up to `now_s`; an algorithm ignores later rows."""
        return spec.fit(
            dataset.interactions, dataset.catalogue, now_s=now_s, encoder=self.encoder, progress=progress
        )

    def record(self, trained: TrainingResult) -> None:
        """Write the model and the gate's result to the registry; logs a warning if that is impossible.

        Called after `enter`, because MLflow takes seconds to start, and a model serves without it.
        """
        manifest, gate = trained.manifest, trained.gate
        try:
            self.registry.register(manifest)
            tags = {"gate": "passed" if gate.passed else "refused", "gate_reason": gate.reason}
            self.registry.tag(manifest.model_version, tags)
        except UnavailableError as error:
            log.warning("%s is saved, but not registered: %s", manifest.model_version, error)


class AnsweredError(BadInputError):
    """The retraining request is no longer pending: it was answered, or the experiment ended."""


def require_pending(state: Experiment, request: int) -> None:
    """Raise AnsweredError unless the retraining request of revision `request` is pending."""
    if not (state.retrain_pending and state.retrain_revision == request):
        raise AnsweredError(
            "revision", f"the retraining request of revision {request} was answered meanwhile"
        )


def enter(
    decisions: DecisionLog,
    experiment: str,
    trained: TrainingResult,
    provenance: commands.Provenance,
    arm: str | None = None,
    answers: int | None = None,
) -> Experiment:
    """Append an `enter` decision for a trained model, and retry if another decision came first.

    arm: its name (None: the model version); answers: revision of the retraining request that the decision
    answers (None: none). Raises BadInputError if the experiment has not started or refuses the challenger,
    AnsweredError if the request is no longer pending.
    """
    version = trained.manifest.model_version
    provenance = replace(provenance, evidence=trained.gate.evidence())

    def build(state: Experiment) -> Decision:
        if answers is not None:
            require_pending(state, answers)
        try:
            return commands.enter(state, arm or version, version, provenance, answers)
        except IllegalTransition as error:
            raise BadInputError("arm", str(error)) from error

    return decide(decisions, experiment, build)
