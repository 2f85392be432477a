"""The decider: looks at the sums of all partitions at intervals, and at what replicas serve every second.

Everything it knows comes from the log of decisions, the sums and the heartbeats; its own memory only spares
it work. Two deciders at once do no harm: of two decisions with one revision the log takes the first.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from experiments import commands
from experiments.commands import Origin
from experiments.experiment import Decision, Experiment
from experiments.verdict import Sight, look
from services.errors import StalePositionError
from services.ports import DecisionLog, Heartbeat, StateCache, TallyStore

logger = logging.getLogger(__name__)

AUTHOR = "decider"
LOOKS = ("allocate", "hold", "rollback", "retrain")  # what a look of the decider leaves in the log


@dataclass(frozen=True, slots=True)
class Ports:
    """What the decider talks to."""

    decisions: DecisionLog
    store: TallyStore
    cache: StateCache


@dataclass(frozen=True, slots=True)
class Identity:
    """Who decides. `holder`: name of this process; `lease_s`: how long others wait when it is gone."""

    holder: str
    code_version: str
    lease_s: float = 5.0


@dataclass(slots=True)
class Decider:
    """`tick` is called about once a second. `clock`: ms since the epoch; `partitions`: of exposures and
    events.

    A tick that raises UnavailableError may have decided something; the next one reads what the log says.
    """

    ports: Ports
    identity: Identity
    partitions: int
    clock: Callable[[], int]
    looked_ms: dict[str, int] = field(default_factory=dict)

    def tick(self) -> list[Decision]:
        """All that is due now, for every experiment; the decisions appended. Raises UnavailableError."""
        if not self.ports.cache.lease("decider", self.identity.holder, self.identity.lease_s):
            return []
        decided = []
        states = self.ports.decisions.catch_up()
        for name, state in states.items():
            self.ports.cache.put(state)  # a killed writer or an emptied Redis is repaired within a second
            decided += self._confirm(state)
            decided += self._look(self._state(name) if decided else state)
        self._accept_losses(states)
        return decided

    # ---- looks ---------------------------------------------------------------------------------------------

    def _look(self, state: Experiment) -> list[Decision]:
        """One look, if it is time: whatever follows from it, in order, until somebody else decides in
        between."""
        now_ms = self.clock()
        if now_ms - self._last_look_ms(state) < 1_000 * state.rules.look_every_s:
            return []
        self.looked_ms[state.name] = now_ms
        return self._append(look(state, self.sight(state)))

    def sight(self, state: Experiment) -> Sight:
        """What there is to see of one experiment."""
        sums, positions, watermark_ms = self.ports.store.load_all(
            state.name, self.partitions, state.counting.generation
        )
        return Sight(
            now_ms=self.clock(),
            sums=sums,
            watermark_ms=watermark_ms,
            positions=positions,
            loaded=loaded_everywhere(self.ports.cache.heartbeats()),
            losses=self.ports.store.losses(),
            decided_at=decided_at(self.ports.decisions.history(state.name)),
            author=AUTHOR,
            code_version=self.identity.code_version,
        )

    def _last_look_ms(self, state: Experiment) -> int:
        """Of whoever decided last: a restart, or a second decider, does not look more often."""
        looks = [
            d for d in self.ports.decisions.history(state.name) if d.author == AUTHOR and d.kind in LOOKS
        ]
        logged_ms = looks[-1].received_at if looks else state.started_ms
        return max(logged_ms, self.looked_ms.get(state.name, 0))

    # ---- confirmations -------------------------------------------------------------------------------------

    def _confirm(self, state: Experiment) -> list[Decision]:
        """A rollback, promotion or undo is done when every live replica serves it."""
        decided: list[Decision] = []
        beats = self.ports.cache.heartbeats() if state.unconfirmed else []
        for revision in filter(lambda revision: serves_everywhere(beats, revision), state.unconfirmed):
            now = self._state(state.name)
            if revision in now.unconfirmed:  # nobody else was faster
                decided += self._append([self._confirmation(now, revision, beats)])
        return decided

    def _confirmation(self, state: Experiment, revision: int, beats: list[Heartbeat]) -> Decision:
        now_ms = self.clock()
        history = self.ports.decisions.history(state.name, after_revision=revision - 1)
        decided_ms = next((d.received_at for d in history if d.revision == revision), state.updated_ms)
        origin = Origin(AUTHOR, now_ms, rule="served-everywhere", code_version=self.identity.code_version)
        replicas = [beat.replica for beat in beats]
        return commands.confirm(state, revision, replicas, (now_ms - decided_ms) / 1_000, origin)

    # ---- data loss -----------------------------------------------------------------------------------------

    def _accept_losses(self, states: Mapping[str, Experiment]) -> None:
        """`resume` of every experiment that a loss held is a person's word that counting may go on without
        it."""
        living = [state for state in states.values() if state.status != "ended"]
        for partition, loss in self.ports.store.losses().items():
            cause = f"partition {partition}: {loss}"  # as experiments.verdict names it
            if living and all(cause in state.acknowledged for state in living):
                self.ports.store.acknowledge_loss(partition)
                logger.warning("%s: accepted, counting begins anew", cause)

    # ---- the log -------------------------------------------------------------------------------------------

    def _state(self, name: str) -> Experiment:
        return self.ports.decisions.catch_up()[name]

    def _append(self, decisions: list[Decision]) -> list[Decision]:
        appended = []
        for decision in decisions:
            try:
                self.ports.decisions.append(decision)
            except StalePositionError as error:
                logger.info("%s", error)  # somebody else decided: the next tick sees what
                break
            logger.info(
                "%s %d: %s: %s", decision.experiment, decision.revision, decision.kind, decision.reason
            )
            appended.append(decision)
        return appended


def decided_at(history: Sequence[Decision]) -> Mapping[str, int]:
    """Positions of the latest decision that was made from sums, unless somebody resumed since, or let
    counting start at a moment: who accepts a loss accepts that counting stands elsewhere."""
    for decision in reversed(history):
        if decision.kind == "resume" or (decision.kind == "recount" and decision.detail.get("from_ms")):
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
