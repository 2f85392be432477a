"""The decider: analyses the sums of all partitions at intervals, and confirms every second what replicas
serve.

Its state is in the log of decisions, the sums and the heartbeats; its memory is only a cache. Two deciders at
once do no harm, because the log accepts only the first of two decisions with the same revision.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from experiments.decision_rules import LOSS_PREFIX, Observation, look, loss_cause
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Decision, RecountDetail, ResumeDetail
from experiments.lifecycle.state import Experiment
from services.errors import DegradedError, StalePositionError, UnavailableError
from services.ports.state import DecisionLog, Heartbeat, StateCache, SumStore

logger = logging.getLogger(__name__)

AUTHOR = "decider"
LOOK_KINDS = (
    "allocate",
    "hold",
    "rollback",
    "retrain",
)  # kinds that a look writes (retrain: earlier releases)


class LooksFailedError(DegradedError):
    """The looks of some experiments failed; all others succeeded. The message names them and why."""


@dataclass(frozen=True, slots=True)
class Deps:
    """What the decider talks to."""

    decisions: DecisionLog
    store: SumStore
    cache: StateCache


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a decider. `holder`: name of this process; `lease_s`: how long others wait when it is
    gone."""

    holder: str
    code_version: str
    lease_s: float = 5.0


@dataclass(slots=True)
class Decider:
    """`tick` is called about once a second. `clock`: ms since the epoch; `partitions`: of exposures and
    events.

    A tick that raises UnavailableError may have decided something; the next one reads what the log says.
    `looked_ms`: when each experiment was last looked at; `unfinished`: experiments whose latest look is only
    partly in the log; `failing`: experiments whose latest look raised an error, with the reason and the
    `looked_ms` of that look.
    """

    deps: Deps
    identity: Identity
    partitions: int
    clock: Callable[[], int]
    looked_ms: dict[str, int] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    failing: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    def tick(self) -> list[Decision]:
        """Confirm and look at every experiment that is due; return the decisions that were appended.

        Raises UnavailableError. Raises LooksFailedError at every tick while the latest look at some
        experiment failed."""
        if not self.deps.cache.acquire_lease("decider", self.identity.holder, self.identity.lease_s):
            return []
        decided: list[Decision] = []
        missed: UnavailableError | None = None
        states = self.deps.decisions.catch_up()
        self.failing = {name: failed for name, failed in self.failing.items() if name in states}
        for state in states.values():
            try:
                decided += self._process(state)
                self._note_success(state.name)
            except UnavailableError as error:  # perhaps only its sums: the others go on
                missed = error
            except Exception as error:  # noqa: BLE001 (one experiment's bad data must not stop the others)
                self._note_failure(state.name, error)
        self._accept_losses(states)
        if self.failing:
            summary = "; ".join(f"{name}: {why}" for name, (why, _) in sorted(self.failing.items()))
            raise LooksFailedError(f"looks fail: {summary}")
        if missed is not None:
            raise missed
        return decided

    def _note_failure(self, name: str, error: Exception) -> None:
        """Log the traceback once, not at every tick or look."""
        why = f"{type(error).__name__}: {error}"
        if self.failing.get(name, ("", None))[0] != why:
            logger.error("%s: a look failed; it is tried again", name, exc_info=error)
        self.failing[name] = why, self.looked_ms.get(name)

    def _note_success(self, name: str) -> None:
        """Clear a failure once a later look succeeded; a tick between two looks proves nothing."""
        if name in self.failing and self.failing[name][1] != self.looked_ms.get(name):
            del self.failing[name]
            logger.info("%s: looks succeed again", name)

    def _process(self, state: Experiment) -> list[Decision]:
        """Confirm and look at one experiment, as far as it is due."""
        self.deps.cache.put(state)  # repairs the cache after a killed writer or an emptied Redis
        confirmed = self._confirm(state)
        return confirmed + self._look(self._state(state.name) if confirmed else state)

    # ---- looks ---------------------------------------------------------------------------------------------

    def _look(self, state: Experiment) -> list[Decision]:
        """One look, if it is due: the decisions that follow from it, in order. If one is not appended,
        because something was unavailable or another process decided first, the next tick looks again."""
        now_ms = self.clock()
        waited_ms = now_ms - self._last_look_ms(state)
        if waited_ms < 1_000 * state.rules.look_every_s and state.name not in self.unfinished:
            return []
        self.unfinished.discard(state.name)
        self.looked_ms[state.name] = now_ms  # also if it fails, so that it is not repeated each second
        decided: list[Decision] = []
        try:
            complete = self._append(look(state, self.observe(state)), decided)
        except UnavailableError:
            self._look_again(state.name, decided)
            raise
        if not complete:
            self._look_again(state.name, decided)
        return decided

    def _look_again(self, name: str, decided: list[Decision]) -> None:
        """Look again at the next tick, unless the log shows a look of another process. Our own `decided`
        records are there too, but they are only part of a look."""
        del self.looked_ms[name]
        if decided:
            self.unfinished.add(name)

    def observe(self, state: Experiment) -> Observation:
        """Read everything that a look at one experiment needs."""
        unreadable = ""
        try:
            sums, positions, watermark_ms = self.deps.store.load_all(
                state.name, self.partitions, state.counting.generation
            )
        except ValueError as error:
            sums, positions, watermark_ms, unreadable = {}, {}, None, f"sums: {error}"
        return Observation(
            now_ms=self.clock(),
            sums=sums,
            unreadable=unreadable,
            watermark_ms=watermark_ms,
            positions=positions,
            loaded=loaded_everywhere(self.deps.cache.heartbeats()),
            losses=self.deps.store.losses(),
            decided_at=decided_at(self.deps.decisions.history(state.name)),
            restarting=self._restarting(state),
            author=AUTHOR,
            code_version=self.identity.code_version,
        )

    def _restarting(self, state: Experiment) -> frozenset[int]:
        """Partitions whose loss was accepted and whose workers have not restarted counting: their positions
        are still those of the loss."""
        if not any(cause.startswith(LOSS_PREFIX) for cause in state.acknowledged):
            return frozenset()
        store, every = self.deps.store, range(self.partitions)
        stored, losses = store.positions(every), store.losses()
        accepted = {index for index in every if store.loss_acknowledged(index, stored.get(index))}
        causes = {index: loss_cause(index, loss) for index, loss in losses.items()}
        return frozenset(accepted | {index for index, cause in causes.items() if cause in state.acknowledged})

    def _last_look_ms(self, state: Experiment) -> int:
        """Time of the latest look of any decider, so that a restart or a second decider does not look more
        often."""
        history, now_ms = self.deps.decisions.history(state.name), self.clock()
        ours_ms = self.looked_ms.get(state.name, 0)
        return max(last_look_ms(state, history, now_ms), ours_ms if ours_ms <= now_ms else 0)

    # ---- confirmations -------------------------------------------------------------------------------------

    def _confirm(self, state: Experiment) -> list[Decision]:
        """A rollback, promotion or undo is done when every live replica serves it."""
        decided: list[Decision] = []
        beats = self.deps.cache.heartbeats() if state.unconfirmed else []
        for revision in filter(lambda revision: serves_everywhere(beats, revision), state.unconfirmed):
            now = self._state(state.name)
            if revision in now.unconfirmed:  # no other decider was faster
                self._append([self._confirmation(now, revision, beats)], decided)
        return decided

    def _confirmation(self, state: Experiment, revision: int, beats: list[Heartbeat]) -> Decision:
        now_ms = self.clock()
        history = self.deps.decisions.history(state.name, after_revision=revision - 1)
        decided_ms = next((d.received_at for d in history if d.revision == revision), state.updated_ms)
        provenance = Provenance(
            AUTHOR, now_ms, rule="served-everywhere", code_version=self.identity.code_version
        )
        replicas = [beat.replica for beat in beats]
        return commands.confirm(state, revision, replicas, (now_ms - decided_ms) / 1_000, provenance)

    # ---- data loss -----------------------------------------------------------------------------------------

    def _accept_losses(self, states: Mapping[str, Experiment]) -> None:
        """Accept a loss once an operator has resumed every experiment that it held; counting then continues
        after the lost records."""
        living = [state for state in states.values() if state.status != "ended"]
        for partition, loss in self.deps.store.losses().items():
            cause = loss_cause(partition, loss)
            if not living or not all(cause in state.acknowledged for state in living):
                continue
            if self.deps.store.acknowledge_loss(partition, loss):
                logger.warning("%s: accepted, counting restarts", cause)

    # ---- the log -------------------------------------------------------------------------------------------

    def _state(self, name: str) -> Experiment:
        return self.deps.decisions.catch_up()[name]

    def _append(self, decisions: list[Decision], decided: list[Decision]) -> bool:
        """Append in order, and add each to `decided`. Returns False at the first one whose revision another
        process took. Raises UnavailableError."""
        for decision in decisions:
            try:
                self.deps.decisions.append(decision)
            except StalePositionError as error:
                logger.info("%s", error)  # the next tick reads the other process's decision
                return False
            logger.info(
                "%s %d: %s: %s", decision.experiment, decision.revision, decision.kind, decision.reason
            )
            decided.append(decision)
        return True


def last_look_ms(state: Experiment, history: Sequence[Decision], now_ms: int) -> int:
    """Time of the latest look that wrote a decision; the start if there was none. A time later than now comes
    from a wrong clock and delays no look."""
    looks = (d.received_at for d in reversed(history) if d.author == AUTHOR and d.kind in LOOK_KINDS)
    latest_ms = next((at_ms for at_ms in looks if at_ms <= now_ms), state.started_ms)
    return latest_ms if latest_ms <= now_ms else 0


def decided_at(history: Sequence[Decision]) -> Mapping[str, int]:
    """Positions of the latest decision that was made from sums. Empty if an operator has accepted a cause or
    restarted counting since, because then the sums may be at other positions."""
    for decision in reversed(history):
        match decision.detail:
            case ResumeDetail(accepts=accepts) if accepts != []:
                return {}
            case RecountDetail(from_ms=from_ms) if from_ms:
                return {}
        if decision.positions and decision.kind in ("allocate", "rollback"):
            return decision.positions
    return {}


def loaded_everywhere(beats: list[Heartbeat]) -> frozenset[str]:
    """Model versions that every live replica has loaded; none without a replica."""
    return frozenset.intersection(*(frozenset(beat.loaded) for beat in beats)) if beats else frozenset()


def serves_everywhere(beats: list[Heartbeat], revision: int) -> bool:
    """Whether there are replicas, and all of them serve `revision` or a later one."""
    return bool(beats) and all(beat.revision >= revision for beat in beats)
