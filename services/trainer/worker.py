"""Follows decisions: answers retraining requests, and keeps the registry's aliases and evidence in step."""

import json
import logging
from collections.abc import Callable
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
    seen_revision: int = 0
    answered_ms: int = 0
    rests_until_ms: int = 0
    aliases: dict[str, str | None] = field(default_factory=dict)

    def look(self, progress: Progress) -> Trained | None:
        """One pass: note what was decided, answer a request if there is one. Returns what was trained."""
        state = self.decisions.catch_up().get(self.experiment)
        if state is None:
            return None
        self._note(state)
        now_ms = self.workshop.clock_ms()
        if (
            not state.retrain_pending
            or state.retrain_at_ms <= self.answered_ms
            or now_ms < self.rests_until_ms
        ):
            return None
        self.rests_until_ms = now_ms + REST_MS
        trained = self._answer(state, progress)
        self.answered_ms, self.rests_until_ms = state.retrain_at_ms, 0
        return trained

    def _answer(self, state: Experiment, progress: Progress) -> Trained:
        """Fit the requested arm's algorithm again, on the latest window; enter it if the gate lets it
        pass."""
        request = self._request()
        arm = str(request.detail.get("arm", state.champion)) if request else state.champion
        log.info(
            "retraining is asked for because of %s: %s", arm, request.detail.get("reason") if request else ""
        )
        trained = self.workshop.train(self._recipe(state, arm), self._recipe(state, state.champion), progress)
        if not trained.verdict.passed:
            log.warning("%s stays out: %s", trained.manifest.model_version, trained.verdict.reason)
            return trained
        version, why = trained.manifest.model_version, trained.verdict.reason
        origin = commands.Origin(
            author="trainer",
            now_ms=self.workshop.clock_ms(),
            rule="retrain",
            reason=f"{version} answers the retraining request ({why}).",
            code_version=trained.manifest.code_version,
        )
        entered = enter(self.decisions, self.experiment, trained, origin)
        self._note(entered)
        return trained

    def _recipe(self, state: Experiment, arm: str) -> Recipe:
        """The recipe of an arm's model; of the champion's, if the arm is not known any more."""
        known = state.arms.get(arm) or state.arms[state.champion]
        _, manifest = self.models.load(known.model_version)
        return recipe_of(manifest)

    def _request(self) -> Decision | None:
        asked = [d for d in self.decisions.history(self.experiment) if d.kind == "retrain"]
        return asked[-1] if asked else None

    def _note(self, state: Experiment) -> None:
        """Bring aliases and evidence into the registry; what it can't take is logged and tried with the
        next."""
        for decision in self.decisions.history(self.experiment, self.seen_revision):
            if decision.kind in EVIDENT:
                self._try(lambda d=decision: self._tag(state, d))
            self.seen_revision = decision.revision
        for alias, version in aliases_of(state).items():
            if self.aliases.get(alias) != version and self._try(
                lambda a=alias, v=version: self.registry.alias(a, v)
            ):
                self.aliases[alias] = version

    def _tag(self, state: Experiment, decision: Decision) -> None:
        arm = state.arms.get(str(decision.detail.get("arm", "")))
        version = decision.detail.get("version_out") or (arm.model_version if arm else None)
        if version:
            told = {"revision": decision.revision, "rule": decision.rule, "reason": decision.reason}
            text = json.dumps({**told, "at_ms": decision.received_at, "author": decision.author})
            self.registry.tag(str(version), {f"decision.{decision.kind}": text})

    def _try(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except RingsideError as error:
            log.warning("registry: %s", error)
            return False
        return True


def aliases_of(state: Experiment) -> dict[str, str | None]:
    """Model version of each alias; the challenger that entered last; None: nobody has the role."""
    found: dict[str, str | None] = dict.fromkeys(ALIASES)
    for arm in state.live_arms():
        found[arm.role] = arm.model_version
    return found
