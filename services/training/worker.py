"""The training worker: answers retraining requests and mirrors decisions in the model registry."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Literal

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import AnswerDetail, Decision, EnterDetail, PromoteDetail, RollbackDetail
from experiments.lifecycle.state import Arm, Experiment
from experiments.lifecycle.transitions import retraining_request
from models.recommender import ProgressCallback
from services.control.decide import decide
from services.errors import ArtifactError, BadInputError, RingsideError
from services.ports.state import DecisionLog
from services.training.model_spec import ModelSpec, spec_of
from services.training.pipeline import AnsweredError, TrainingPipeline, TrainingResult, enter, require_pending

log = logging.getLogger(__name__)
AUTHOR = "trainer"  # of its decisions; the fold and recorded logs know the process by this name
BACKOFF_MS = 60_000  # after a failed attempt; doubles with each
MAX_ATTEMPTS = 6  # the request is given up half an hour after the first
ALIASES = ("champion", "challenger", "holdback")
TAGGED_KINDS = ("rollback", "promote", "undo", "enter")  # decisions that are evidence on a model version


@dataclass(slots=True)
class TrainingWorker:
    """Training for one experiment.

    Its progress is in the decision log, so that a restart continues: every attempt starts with a decision,
    and a request ends with one. `fitted`: revision of a request and the model fitted for it, until its answer
    is known to be in the log. `missing`: retired models whose artifact was deleted. `mirrored_revision`: last
    revision in the registry.
    """

    experiment: str
    decisions: DecisionLog
    pipeline: TrainingPipeline
    mirrored_revision: int = 0
    registry_retry_ms: int = 0
    registered: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    fitted: tuple[int, TrainingResult] | None = None

    def poll(self, progress: ProgressCallback) -> TrainingResult | None:
        """Answer a pending request, or else update the registry. Returns the model that was trained."""
        state = self.decisions.catch_up().get(self.experiment)
        if state is None:
            return None
        request = state.retrain_revision if state.retrain_pending else None
        if self.fitted is not None:
            return (
                self._answer(*self.fitted)
                if self.fitted[0] == request
                else self._record_answered(*self.fitted)
            )
        if request is None or self.pipeline.clock_ms() < state.retrain_tried_ms + backoff_ms(state):
            self._mirror_to_registry(state)
            return None
        if state.retrain_attempts >= MAX_ATTEMPTS:
            self._give_up(state, "the training process died during the last attempt")
            return None
        self.fitted = (request, self._attempt(state, progress))
        return self._answer(*self.fitted)

    def _attempt(self, state: Experiment, progress: ProgressCallback) -> TrainingResult:
        """Fit the spec of the requested arm's model again, on the latest window."""
        arm, reason = self._request(state)
        log.info("retraining requested for arm %s: %s", arm, reason)
        begun = self._decide(
            state.retrain_revision,
            lambda now: commands.attempt(now, self._provenance(_attempt_reason(now, reason))),
        )
        try:
            spec, champion = self._spec(begun, arm), self._spec(begun, begun.champion)
            return self.pipeline.train(spec, champion, progress)
        except Exception as error:
            if begun.retrain_attempts >= MAX_ATTEMPTS:
                self._give_up(begun, f"{type(error).__name__}: {error}")
            raise

    def _answer(self, request: int, trained: TrainingResult) -> TrainingResult:
        """Enter the model if gate and experiment accept it; the log gets an answer either way."""
        if trained.outcome == "passed":
            trained = self._enter(request, trained)
        else:
            self._refuse(request, trained)
        self.fitted = None
        self.pipeline.record(trained)
        return trained

    def _record_answered(self, request: int, trained: TrainingResult) -> TrainingResult | None:
        """Record a fitted model whose request is no longer pending.

        Either our answer reached the log without an acknowledgement, or another worker answered first.
        Returns the model in the first case.
        """
        self.fitted = None
        self.pipeline.record(trained)
        ours = (request, trained.manifest.model_version)
        since = [d.detail for d in self.decisions.history(self.experiment, request)]
        answers = [d for d in since if isinstance(d, EnterDetail | AnswerDetail)]
        return trained if ours in [(d.answers, d.model_version) for d in answers] else None

    def _enter(self, request: int, trained: TrainingResult) -> TrainingResult:
        model, reason = trained.manifest.model_version, trained.gate.reason
        provenance = self._provenance(f"{model} answers the retraining request ({reason}).")
        try:
            enter(self.decisions, self.experiment, trained, provenance, answers=request)
        except AnsweredError:
            raise  # the next poll settles it
        except BadInputError as error:
            trained = replace(trained, not_entered=str(error))
            self.fitted = (request, trained)
            self._refuse(request, trained)
        return trained

    def _refuse(self, request: int, trained: TrainingResult) -> None:
        """Record that the request led to no challenger, with the result of the gate."""
        model = trained.manifest.model_version
        outcome: Literal["refused", "failed"] = "failed" if trained.not_entered else "refused"
        reason = trained.not_entered or trained.gate.reason
        log.warning("%s does not enter the experiment: %s", model, reason)
        provenance = self._provenance(f"Retraining {outcome}: {model} stays out, {reason}.")
        provenance = replace(provenance, evidence=trained.gate.evidence())
        detail = AnswerDetail(answers=request, outcome=outcome, model_version=model)
        self._decide(request, lambda now: commands.answer(now, detail, provenance))

    def _give_up(self, state: Experiment, error: str) -> None:
        request, attempts = state.retrain_revision, state.retrain_attempts
        provenance = self._provenance(f"Retraining failed {attempts} times, the last time: {error}.")
        detail = AnswerDetail(answers=request, outcome="failed", attempts=attempts, error=error)
        self._decide(request, lambda now: commands.answer(now, detail, provenance))
        log.error("%s", provenance.reason)

    def _decide(self, request: int, build: Callable[[Experiment], Decision]) -> Experiment:
        def checked(state: Experiment) -> Decision:
            require_pending(state, request)
            return build(state)

        return decide(self.decisions, self.experiment, checked)

    def _provenance(self, reason: str) -> Provenance:
        now_ms = self.pipeline.clock_ms()
        return Provenance(AUTHOR, now_ms, rule="retrain", reason=reason, code_version=version("ringside"))

    def _request(self, state: Experiment) -> tuple[str, str]:
        """Arm and reason of the pending request; the champion, if the log no longer holds it."""
        since = self.decisions.history(self.experiment, state.retrain_revision - 1)
        requests = [retraining_request(d) for d in since if d.revision == state.retrain_revision]
        return requests[0] if requests and requests[0] else (state.champion, "unknown")

    def _spec(self, state: Experiment, name: str) -> ModelSpec:
        """Spec of an arm's model; the champion's, if the experiment no longer knows the arm."""
        arm = state.arms.get(name) or state.arms[state.champion]
        _, manifest = self.pipeline.models.load(arm.model_version)
        return spec_of(manifest)

    def _mirror_to_registry(self, state: Experiment) -> None:
        """Bring models, aliases and evidence into the registry: once per revision, retried every minute."""
        if state.revision == self.mirrored_revision or self.pipeline.clock_ms() < self.registry_retry_ms:
            return
        try:
            self._write_to_registry(state)
        except RingsideError as error:
            self.registry_retry_ms = self.pipeline.clock_ms() + BACKOFF_MS
            log.warning("the model registry is behind the decision log: %s", error)
            return
        self.mirrored_revision = state.revision

    def _write_to_registry(self, state: Experiment) -> None:
        for arm in state.arms.values():
            if arm.model_version not in self.registered:
                self._register(arm)
        for decision in self.decisions.history(self.experiment, self.mirrored_revision):
            if decision.kind in TAGGED_KINDS:
                self._tag(state, decision)
        for alias, model in aliases_of(state).items():
            self.pipeline.registry.alias(alias, model)

    def _register(self, arm: Arm) -> None:
        """Register an arm's model. A retired model may have been deleted; it is skipped with a warning."""
        try:
            _, manifest = self.pipeline.models.load(arm.model_version)
        except ArtifactError as error:
            if arm.role != "retired":
                raise
            if arm.model_version not in self.missing:
                log.warning("a retired model is not registered, because its artifact is missing: %s", error)
            self.missing.add(arm.model_version)
            return
        self.pipeline.registry.register(manifest)
        self.registered.add(arm.model_version)

    def _tag(self, state: Experiment, decision: Decision) -> None:
        model = _model_of(state, decision)
        if model and model not in self.missing - self.registered:
            text = json.dumps(
                {
                    "revision": decision.revision,
                    "rule": decision.rule,
                    "reason": decision.reason,
                    "at_ms": decision.received_at,
                    "author": decision.author,
                }
            )
            self.pipeline.registry.tag(model, {f"decision.{decision.kind}": text})


def _model_of(state: Experiment, decision: Decision) -> str | None:
    """The model version that a decision is about; None if it is about none."""
    match decision.detail:
        case EnterDetail(model_version=model):
            return model
        case RollbackDetail(arm=name, version_out=out) | PromoteDetail(arm=name, version_out=out):
            arm = state.arms.get(name)
            return out or (arm.model_version if arm else None)
    return None


def _attempt_reason(state: Experiment, reason: str) -> str:
    return f"Retraining, attempt {state.retrain_attempts + 1} of at most {MAX_ATTEMPTS}: {reason}."


def aliases_of(state: Experiment) -> dict[str, str | None]:
    """Model version of each alias; for challenger the arm that entered last; None if no arm has the role."""
    models: dict[str, str | None] = dict.fromkeys(ALIASES)
    for arm in state.live_arms():
        models[arm.role] = arm.model_version
    return models


def backoff_ms(state: Experiment) -> int:
    """Wait after the start of the latest attempt: 1, 2, 4, 8 … minutes; 0 before the first."""
    return BACKOFF_MS << (state.retrain_attempts - 1) if state.retrain_attempts else 0
