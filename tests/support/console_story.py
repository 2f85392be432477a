"""A seeded history of decisions like an hour at the demo: ALS wins, a broken challenger is rolled back.

Outcomes are drawn under the weights in force, and every decision is what experiments.decision_rules makes of
the sums: the console is tested on what the decider really writes.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from experiments import decision_rules
from experiments.decision_rules import Observation
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment, Rules
from services.adapters.memory.event_log import MemoryEventConsumer
from services.control.recount import RecountService
from services.ports.state import Heartbeat, Positions
from support.breakable import BreakableBroker, BreakableDecisionLog, BreakableStateCache, BreakableSumStore

START_MS = 1_790_000_000_000
LOOK_MS = 5_000
RATES = {"popularity": 0.052, "als": 0.081, "broken": 0.014}
RULES = Rules(window_s=6.0, lateness_s=2.0, look_every_s=5.0, min_new_units=50, stall_s=60.0)
LATE_MS = 8_400  # lag of the watermark behind the clock


@dataclass
class ScriptedExperiment:
    """Plays decisions one after another; `records` is the log, `state` the fold of it."""

    rates: Mapping[str, float] = field(default_factory=lambda: dict(RATES))
    looks: int = 200
    units_per_look: int = 180
    seed: int = 11
    name: str = "storefront"
    now_ms: int = START_MS
    records: list[Decision] = field(default_factory=list)
    state: Experiment | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.sums: Counter[str] = Counter()

    def play(self) -> "ScriptedExperiment":
        """The whole story: popularity serves, ALS enters and wins, a broken arm enters and loses."""
        origin = Provenance("demo", self.now_ms)
        self.add(commands.start(self.name, _deployed("popularity"), RULES, "salt", origin))
        arrivals = {4: "als", int(self.looks * 0.6): "broken"}
        for look in range(self.looks):
            if arm := arrivals.get(look):
                version = _deployed(arm).model_version
                self.add(commands.enter(self.state, arm, version, Provenance("trainer", self.now_ms)))
            self.look()
        return self

    def look(self) -> None:
        """One look of the decider, and the confirmations of the role changes that it made."""
        self.now_ms += LOOK_MS
        self._draw()
        for decision in decision_rules.look(self.state, self._observation()):
            self.add(decision)
        for revision in self.state.unconfirmed:
            self.now_ms += 900
            origin = Provenance("decider", self.now_ms, "served")
            self.add(commands.confirm(self.state, revision, ["replica-a", "replica-b"], 0.9, origin))

    def add(self, decision: Decision) -> None:
        """Append to the log."""
        self.state = apply(self.state, decision)
        self.records.append(decision)

    def _draw(self) -> None:
        shares, hour = self.state.weights.shares, self.now_ms // 3_600_000
        drawn = self.rng.multinomial(self.units_per_look, list(shares.values()))
        for arm, n in zip(shares, drawn.tolist(), strict=True):
            clicked = int(self.rng.binomial(n, self.rates[arm]))
            cell = f"{self.state.weights.version}|{arm}|{hour}"
            self.sums.update(
                {f"{cell}|n": n, f"{cell}|s": clicked, f"{cell}|f": int(self.rng.binomial(n, 0.004))}
            )
            again = int(self.rng.binomial(clicked, 0.2))
            late = int(self.rng.binomial(clicked, 0.01))
            account = {
                "acknowledged": clicked + again + late,
                "counted": clicked,
                "duplicate": again,
                "late": late,
            }
            self.sums.update({f"acct|{arm}|{key}": count for key, count in account.items()})

    def _observation(self) -> Observation:
        partitions = [(topic, p) for topic in ("exposures", "events") for p in range(4)]
        positions = {f"{topic}/{p}": 40 * len(self.records) + p for topic, p in partitions}
        loaded = frozenset(arm.model_version for arm in self.state.live_arms())
        return Observation(
            now_ms=self.now_ms,
            sums={key: count for key, count in self.sums.items() if count},
            watermark_ms=self.now_ms - LATE_MS,
            positions=positions,
            loaded=loaded,
            code_version="0.1.0",
        )


def _deployed(name: str) -> commands.Deployed:
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return commands.Deployed(name, f"{name}-20261123T140500-{digest}")


def decision_log_of(
    story: ScriptedExperiment, cache: BreakableStateCache | None = None
) -> BreakableDecisionLog:
    """The story in an in-memory decision log."""
    log = BreakableDecisionLog(cache)
    for record in story.records:
        log.append(record)
    return log


def recount_service_of(story: ScriptedExperiment) -> RecountService:
    """The story's sums, all in one partition, and a log that holds everything (`.store`, `.open_log`)."""
    store, broker = BreakableSumStore(), BreakableBroker(partitions=4, clock=lambda: story.now_ms)
    store.apply(0, None, Positions("memory-1", 1, 1, 1), {story.name: dict(story.sums)})
    return RecountService(store, lambda: MemoryEventConsumer(broker), broker.keyed_partitions)


def put_heartbeats(cache: BreakableStateCache, state: Experiment, replicas: int = 2) -> None:
    """Live replicas that serve what the log says."""
    loaded = tuple(arm.model_version for arm in state.live_arms())
    for index in range(replicas):
        name = f"replica-{chr(97 + index)}"
        cache.put_heartbeat(
            Heartbeat(name, state.revision, state.champion, loaded, state.updated_ms + 700), ttl_s=3_600
        )
