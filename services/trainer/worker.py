"""Follows decisions: answers retraining requests, and keeps the registry's aliases and evidence in step."""

import json
import logging
from dataclasses import dataclass, field

from experiments import commands
from experiments.experiment import Decision, Experiment
from models.contract import Progress
from services.errors import RingsideError
from services.ports import DecisionLog, ModelRegistry, ModelStore
from services.trainer.recipes import Recipe, recipe_of
from services.trainer.training import Trained, Workshop, enter

log = logging.getLogger(__name__)
REST_MS = 60_000  # after a failure: the broker or the disk may be back by then
ALIASES = ("champion", "challenger", "holdback")
EVIDENT = ("rollback", "promote", "undo", "enter")  # decisions that say something about a model version


@dataclass(slots=True)
class TrainerWorker:
    """One experiment's trainer. `answered_ms` is the request it dealt with last: one that the gate refused
    stays pending in the log, and must not be tried again and again. After a failure it rests, then tries
    again.
    """

    experiment: str
    decisions: DecisionLog
    models: ModelStore
    registry: ModelRegistry
    workshop: Workshop
    noted_revision: int = 0
    registry_rests_until_ms: int = 0
    registered: set[str] = field(default_factory=set)
    answered_ms: int = 0
    rests_until_ms: int = 0
    aliases: dict[str, str | None] = field(default_factory=dict)

    def look(self, progress: Progress) -> Trained | None:
        """One pass: answer a request, or else note what was decided. Returns what was trained."""
        state = self.decisions.catch_up().get(self.experiment)
        if state is None:
            return None
        now_ms = self.workshop.clock_ms()
        asked = state.retrain_pending and state.retrain_at_ms > self.answered_ms
        if not asked or now_ms < self.rests_until_ms:
            self._note(state)
            return None
        self.rests_until_ms = now_ms + REST_MS
        trained = self._answer(state, progress)
        self.answered_ms, self.rests_until_ms = state.retrain_at_ms, 0
        self.workshop.record(trained)
        return trained

    def _answer(self, state: Experiment, progress: Progress) -> Trained:
        """Fit the requested arm's algorithm again, on the latest window; enter it if the gate lets it."""
        arm, why = self._request(state)
        log.info("retraining is asked for because of %s: %s", arm, why)
        trained = self.workshop.train(self._recipe(state, arm), self._recipe(state, state.champion), progress)
        if trained.verdict.passed:
            enter(
                self.decisions,
                self.experiment,
                trained,
                self._origin(trained),
                answers_ms=state.retrain_at_ms,
            )
        else:
            log.warning("%s stays out: %s", trained.manifest.model_version, trained.verdict.reason)
        return trained

    def _origin(self, trained: Trained) -> commands.Origin:
        version, found = trained.manifest.model_version, trained.verdict.reason
        return commands.Origin(
            author="trainer",
            now_ms=self.workshop.clock_ms(),
            rule="retrain",
            reason=f"{version} answers the retraining request ({found}).",
            code_version=trained.manifest.code_version,
        )

    def _request(self, state: Experiment) -> tuple[str, str]:
        """Arm and reason of the latest request; the champion, if the log no longer holds it."""
        asked = [d.detail for d in self.decisions.history(self.experiment) if d.kind == "retrain"]
        return (str(asked[-1]["arm"]), str(asked[-1]["reason"])) if asked else (state.champion, "unknown")

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
                self.registry.register(self.models.load(arm.model_version)[1])
                self.registered.add(arm.model_version)
        for decision in self.decisions.history(self.experiment, self.noted_revision):
            if decision.kind in EVIDENT:
                self._tag(state, decision)
        for alias, version in aliases_of(state).items():
            if alias not in self.aliases or self.aliases[alias] != version:
                self.registry.alias(alias, version)
                self.aliases[alias] = version

    def _tag(self, state: Experiment, decision: Decision) -> None:
        arm = state.arms.get(str(decision.detail.get("arm", "")))
        version = decision.detail.get("version_out") or (arm.model_version if arm else None)
        if version:
            told = {"revision": decision.revision, "rule": decision.rule, "reason": decision.reason}
            text = json.dumps({**told, "at_ms": decision.received_at, "author": decision.author})
            self.registry.tag(str(version), {f"decision.{decision.kind}": text})


def aliases_of(state: Experiment) -> dict[str, str | None]:
    """Model version of each alias; the challenger that entered last; None: nobody has the role."""
    found: dict[str, str | None] = dict.fromkeys(ALIASES)
    for arm in state.live_arms():
        found[arm.role] = arm.model_version
    return found
