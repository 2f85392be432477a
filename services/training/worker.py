"""Follows decisions: answers retraining requests, and keeps the registry's aliases and evidence in step."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Origin
from experiments.lifecycle.fold import Arm, Decision, Experiment, retraining_request
from models.recommender import Progress
from services.control.decide import decide
from services.errors import ArtifactError, BadInputError, RingsideError
from services.ports.state import DecisionLog
from services.ports.training import ModelRegistry, ModelStore
from services.training.model_spec import Recipe, recipe_of
from services.training.pipeline import AnsweredError, Trained, TrainingPipeline, enter, require_waiting

log = logging.getLogger(__name__)
REST_MS = 60_000  # after a failure: the broker or the disk may be back by then; doubled by each attempt
MOST_ATTEMPTS = 6  # half an hour after the first the request is given up
ALIASES = ("champion", "challenger", "holdback")
EVIDENT = ("rollback", "promote", "undo", "enter")  # decisions that say something about a model version


@dataclass(slots=True)
class TrainerWorker:
    """One experiment's trainer. What it did about a request is in the log, so that a restart goes on where
    the last one ended: every attempt begins with a record, and the request ends with one. `fitted`: request
    (its revision) and model of a fit whose answer is not known to be in the log. `gone`: retired models whose
    artifact is no more.
    """

    experiment: str
    decisions: DecisionLog
    models: ModelStore
    registry: ModelRegistry
    workshop: TrainingPipeline
    noted_revision: int = 0
    registry_rests_until_ms: int = 0
    registered: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    fitted: tuple[int, Trained] | None = None
    aliases: dict[str, str | None] = field(default_factory=dict)

    def look(self, progress: Progress) -> Trained | None:
        """One pass: answer a request, or else note what was decided. Returns what was trained."""
        state = self.decisions.catch_up().get(self.experiment)
        if state is None:
            return None
        asked = state.retrain_revision if state.retrain_pending else None
        if self.fitted is not None:
            return self._answer(*self.fitted) if self.fitted[0] == asked else self._settle(*self.fitted)
        if asked is None or self.workshop.clock_ms() < state.retrain_tried_ms + rest_ms(state):
            self._note(state)
            return None
        if state.retrain_attempts >= MOST_ATTEMPTS:
            self._give_up(state, "the trainer did not live to its end")
            return None
        self.fitted = (asked, self._attempt(state, progress))
        return self._answer(*self.fitted)

    def _attempt(self, state: Experiment, progress: Progress) -> Trained:
        """Fit the requested arm's algorithm again, on the latest window."""
        arm, why = self._request(state)
        log.info("retraining is asked for because of %s: %s", arm, why)
        asked = state.retrain_revision
        begun = self._decide(asked, lambda now: commands.attempt(now, self._origin(self._begins(now, why))))
        try:
            recipe, champion = self._recipe(begun, arm), self._recipe(begun, begun.champion)
            return self.workshop.train(recipe, champion, progress)
        except Exception as error:
            if begun.retrain_attempts >= MOST_ATTEMPTS:
                self._give_up(begun, f"{type(error).__name__}: {error}")
            raise

    def _answer(self, asked: int, trained: Trained) -> Trained:
        """Enter the model if gate and experiment take it; the log holds the answer either way."""
        if trained.outcome == "passed":
            trained = self._enter(asked, trained)
        else:
            self._end(asked, trained)
        self.fitted = None
        self.workshop.record(trained)
        return trained

    def _settle(self, asked: int, trained: Trained) -> Trained | None:
        """The request waits no more, so an answer got through: ours, although nobody acknowledged it, or
        somebody else's. What was fitted is noted either way, and returned if it is the answer."""
        self.fitted = None
        self.workshop.record(trained)
        made = (asked, trained.manifest.model_version)
        since = [d.detail for d in self.decisions.history(self.experiment, asked)]
        return trained if made in [(d.get("answers"), d.get("model_version")) for d in since] else None

    def _enter(self, asked: int, trained: Trained) -> Trained:
        made, found = trained.manifest.model_version, trained.verdict.reason
        origin = self._origin(f"{made} answers the retraining request ({found}).")
        try:
            enter(self.decisions, self.experiment, trained, origin, answers=asked)
        except AnsweredError:
            raise  # the next look settles it
        except BadInputError as error:
            trained = replace(trained, not_taken=str(error))
            self.fitted = (asked, trained)
            self._end(asked, trained)
        return trained

    def _end(self, asked: int, trained: Trained) -> None:
        """Record that the request led to no challenger, with what the gate found."""
        refused, outcome = trained.manifest.model_version, trained.outcome
        why = trained.not_taken or trained.verdict.reason
        log.warning("%s stays out: %s", refused, why)
        origin = self._origin(f"Retraining {outcome}: {refused} stays out, {why}.")
        origin = replace(origin, evidence={"gate": trained.verdict.evidence()})
        found = {"model_version": refused}
        self._decide(asked, lambda now: commands.answer(now, asked, outcome, found, origin))

    def _give_up(self, state: Experiment, why: str) -> None:
        asked, attempts = state.retrain_revision, state.retrain_attempts
        origin = self._origin(f"Retraining failed {attempts} times, the last time: {why}.")
        found = {"attempts": attempts, "error": why}
        self._decide(asked, lambda now: commands.answer(now, asked, "failed", found, origin))
        log.error("%s", origin.reason)

    def _decide(self, asked: int, build: Callable[[Experiment], Decision]) -> Experiment:
        def checked(state: Experiment) -> Decision:
            require_waiting(state, asked)
            return build(state)

        return decide(self.decisions, self.experiment, checked)

    def _begins(self, state: Experiment, why: str) -> str:
        number = state.retrain_attempts + 1
        return f"Retraining, attempt {number} of at most {MOST_ATTEMPTS}: {why}."

    def _origin(self, reason: str) -> Origin:
        now_ms = self.workshop.clock_ms()
        return Origin("trainer", now_ms, rule="retrain", reason=reason, code_version=version("ringside"))

    def _request(self, state: Experiment) -> tuple[str, str]:
        """Arm and reason of the request that waits; the champion, if the log no longer holds it."""
        since = self.decisions.history(self.experiment, state.retrain_revision - 1)
        waits = [retraining_request(d) for d in since if d.revision == state.retrain_revision]
        return waits[0] if waits and waits[0] else (state.champion, "unknown")

    def _recipe(self, state: Experiment, arm: str) -> Recipe:
        """The recipe of an arm's model; of the champion's, if the arm is not known any more."""
        known = state.arms.get(arm) or state.arms[state.champion]
        _, manifest = self.models.load(known.model_version)
        return recipe_of(manifest)

    def _note(self, state: Experiment) -> None:
        """Bring models, aliases and evidence into the registry: once a revision, and after a failure every
        minute."""
        if state.revision == self.noted_revision or self.workshop.clock_ms() < self.registry_rests_until_ms:
            return
        try:
            self._write(state)
        except RingsideError as error:
            self.registry_rests_until_ms = self.workshop.clock_ms() + REST_MS
            log.warning("the registry lags behind: %s", error)
            return
        self.noted_revision = state.revision

    def _write(self, state: Experiment) -> None:
        for arm in state.arms.values():
            if arm.model_version not in self.registered:
                self._register(arm)
        for decision in self.decisions.history(self.experiment, self.noted_revision):
            if decision.kind in EVIDENT:
                self._tag(state, decision)
        for alias, named in aliases_of(state).items():
            if alias not in self.aliases or self.aliases[alias] != named:
                self.registry.alias(alias, named)
                self.aliases[alias] = named

    def _register(self, arm: Arm) -> None:
        """A retired model may be deleted; then the registry goes on without what it says of it."""
        try:
            _, manifest = self.models.load(arm.model_version)
        except ArtifactError as error:
            if arm.role != "retired":
                raise
            if arm.model_version not in self.gone:
                log.warning("the registry goes on without a retired model: %s", error)
            self.gone.add(arm.model_version)
            return
        self.registry.register(manifest)
        self.registered.add(arm.model_version)

    def _tag(self, state: Experiment, decision: Decision) -> None:
        arm = state.arms.get(str(decision.detail.get("arm", "")))
        named = decision.detail.get("version_out") or (arm.model_version if arm else None)
        if named and named not in self.gone - self.registered:
            told = {"revision": decision.revision, "rule": decision.rule, "reason": decision.reason}
            text = json.dumps({**told, "at_ms": decision.received_at, "author": decision.author})
            self.registry.tag(str(named), {f"decision.{decision.kind}": text})


def aliases_of(state: Experiment) -> dict[str, str | None]:
    """Model version of each alias; the challenger that entered last; None: nobody has the role."""
    found: dict[str, str | None] = dict.fromkeys(ALIASES)
    for arm in state.live_arms():
        found[arm.role] = arm.model_version
    return found


def rest_ms(state: Experiment) -> int:
    """How long to wait after the beginning of the latest attempt: 1, 2, 4, 8 … minutes, 0 before the
    first."""
    return REST_MS << (state.retrain_attempts - 1) if state.retrain_attempts else 0
