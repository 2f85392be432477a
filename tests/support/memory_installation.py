"""An installation in memory: the ports of one experiment, and the workers that a test wants over them."""

from typing import Any

from experiments.lifecycle import commands
from experiments.lifecycle.state import Experiment
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.bandit.decider.decider import Decider, Identity
from services.bandit.decider.decider import Deps as DeciderDeps
from services.messages import events
from services.ports.event_log import EventConsumer
from services.ports.state import DecisionLog, StateCache, SumStore
from support.breakable import BreakableBroker, BreakableDecisionLog, BreakableStateCache, BreakableSumStore
from support.sql_recount import add_sums, recount
from support.traffic import EXPERIMENT, LATENESS_MS, RULES, WINDOW_MS, Clock


class MemoryInstallation:
    """A broker, a decision log, a cache of states and sums; `clock.now_ms` moves by the test alone.

    `store`: of sums; default: in memory.
    """

    author = "anna"

    def __init__(self, partitions: int = 4, *, store: SumStore | None = None, clock: Clock | None = None):
        self.clock = Clock() if clock is None else clock
        self.partitions = partitions
        self.broker = BreakableBroker(partitions=partitions, clock=self.clock)
        self.cache = BreakableStateCache(self.clock)
        self.log = BreakableDecisionLog(self.cache)
        self.store: Any = BreakableSumStore() if store is None else store

    @property
    def state(self) -> Experiment:
        """Of the experiment."""
        return self.log.catch_up()[EXPERIMENT]

    @property
    def now_ms(self) -> int:
        """The time."""
        return self.clock.now_ms

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self.clock.now_ms = now_ms

    def provenance(self) -> commands.Provenance:
        """Of a decision made by the test."""
        return commands.Provenance(self.author, self.now_ms)

    def start(self, champion: str, rules: Any = RULES, name: str = EXPERIMENT) -> Experiment:
        """An experiment whose champion has everything."""
        arm = commands.Deployed(champion, f"{champion}-1")
        return self.log.append(commands.start(name, arm, rules, "salt", self.provenance()))

    def enter(self, challenger: str = "als") -> Experiment:
        """A challenger, without weight."""
        entered = commands.enter(self.state, challenger, f"{challenger}-1", self.provenance())
        return self.log.append(entered)

    def attribution_worker(
        self,
        pace: Pace | None = None,
        *,
        store: SumStore | None = None,
        consumer: EventConsumer | None = None,
        owned: Any = None,
    ) -> Worker:
        """A worker of every partition, or of those that `owned` returns."""
        deps = Deps(
            consumer or MemoryEventConsumer(self.broker),
            MemoryLogAdmin(self.broker),
            store or self.store,
            self.log,
            Decoder(MemoryEventProducer(self.broker)),
        )
        everything = frozenset(range(self.partitions))
        return Worker(deps, owned or (lambda: everything), self.clock, pace or Pace())

    def new_decider(
        self, holder: str = "one", log: DecisionLog | None = None, cache: StateCache | None = None
    ) -> Decider:
        """A decider of this name."""
        deps = DeciderDeps(log or self.log, self.store, cache or self.cache)
        return Decider(deps, Identity(holder, "test"), self.partitions, self.clock)

    def stored_sums(self) -> dict[str, int]:
        """Sums of the experiment over all partitions, zeros left out."""
        sums = add_sums(self.store.load(index)[1].get(EXPERIMENT, {}) for index in range(self.partitions))
        return {key: count for key, count in sums.items() if count}

    def recounted_sums(self, from_ms: int = 0) -> dict[str, int]:
        """The same by an independent recount of the log."""
        logged = self.broker.records(events.EXPOSURES) + self.broker.records(events.EVENTS)
        return recount(logged, EXPERIMENT, WINDOW_MS, LATENESS_MS, from_ms)
