"""Exposures and clicks in, a rollback out: worker and decider together over in-memory parts."""

import random
from dataclasses import replace

from support.memory_installation import MemoryInstallation
from support.sql_recount import recount
from support.traffic import EXPERIMENT, LATENESS_MS, RULES, WINDOW_MS, click, exposure

from experiments.allocation.assignment import assign
from experiments.counting.sums import ExperimentSums
from experiments.lifecycle.fold import fold
from services.bandit.attribution.worker import Pace
from services.messages import events
from services.ports.state import Heartbeat

PARTITIONS = 2
RATES = {"pop": 0.20, "broken": 0.02}
UNITS_A_STEP, STEP_MS = 40, 1_000


class ReplicatedInstallation(MemoryInstallation):
    """Replicas that follow the cached state, shoppers, a worker and a decider."""

    def __init__(self, seed: int) -> None:
        super().__init__(PARTITIONS)
        self.rng, self.shown = random.Random(seed), 0
        self.worker = self.attribution_worker(Pace(max_records=100_000))
        self.decider = self.new_decider()
        self.replicas = {"a": None, "b": None}  # replica -> state it serves
        self.served: list[str] = []

    def open(self) -> None:
        self.start("pop", replace(RULES, look_every_s=10.0, min_new_units=100))
        self.enter("broken")

    def step(self, lagging: str = "") -> None:
        """A second: replicas refresh (but `lagging`), shoppers come, worker and decider work."""
        for name in self.replicas:
            if name != lagging or self.replicas[name] is None:
                self.replicas[name] = self.cache.get(EXPERIMENT)
            state = self.replicas[name]
            self.cache.put_heartbeat(
                Heartbeat(name, state.revision, state.champion, ("pop-1", "broken-1"), self.clock()), 5
            )
        for _ in range(UNITS_A_STEP):
            self.clock.now_ms += STEP_MS // UNITS_A_STEP
            self.shop(self.replicas[self.rng.choice(sorted(self.replicas))])
        while self.worker.step(0):
            pass
        self.decider.tick()

    def shop(self, state) -> None:
        self.shown += 1
        unit = f"s:user-{self.shown}:1"
        arm, propensity = assign(state.salt, EXPERIMENT, unit, state.weights.shares)
        self.served.append(arm)
        slate = exposure(
            self.shown, self.clock(), arm, weights_version=state.weights.version, propensity=propensity
        )
        self.broker.append(events.EXPOSURES, slate.routing_key.encode(), events.encode(slate))
        if self.rng.random() < RATES[arm]:
            event = click(slate, self.clock(), f"e{self.shown}")
            self.broker.append(events.EVENTS, event.key.encode(), events.encode(event))


def test_no_replica_serves_a_broken_challenger_after_rollback():
    site = ReplicatedInstallation(seed=3)
    site.open()
    while not (state := site.log.catch_up()[EXPERIMENT]).unconfirmed:
        site.step()
        assert site.shown < 40_000, "never rolled back"
    rollback = site.log.history(EXPERIMENT)[-1]
    assert (rollback.kind, rollback.rule, rollback.author) == ("rollback", "click-race", "decider")
    assert (rollback.detail.version_out, rollback.detail.version_in) == ("broken-1", "pop-1")
    [race] = rollback.evidence.races
    assert race.log_e >= race.log_threshold
    assert 0 < site.served.count("broken") < site.shown / 2

    for _ in range(3):  # one replica hangs on: the rollback is decided, not done
        site.step(lagging="b")
    assert site.log.catch_up()[EXPERIMENT].unconfirmed == (rollback.revision,)
    before = len(site.served)
    site.step()
    site.step()
    done = site.log.history(EXPERIMENT, after_revision=rollback.revision)
    [confirmed] = [decision for decision in done if decision.kind == "confirm"]
    assert confirmed.detail.replicas == ["a", "b"]
    assert confirmed.detail.seconds >= 3
    assert "broken" not in site.served[before:]
    assert state.arms["broken"].role == "retired"


def test_the_log_alone_reproduces_state_and_sums():
    site = ReplicatedInstallation(seed=4)
    site.open()
    while not site.log.catch_up()[EXPERIMENT].unconfirmed:
        site.step()
        assert site.shown < 40_000, "never rolled back"
    history = site.log.history(EXPERIMENT)
    assert fold(history) == site.log.catch_up()[EXPERIMENT]
    matured_to = site.store.load_all(EXPERIMENT, PARTITIONS)[1]
    matured = [
        record
        for record in site.broker.records(events.EXPOSURES)
        if record.offset < matured_to[f"{record.topic}/{record.partition}"]
    ]
    records = matured + site.broker.records(events.EVENTS)
    counted = ExperimentSums.parse(site.store.load_all(EXPERIMENT, PARTITIONS)[0])
    truth = ExperimentSums.parse(recount(records, EXPERIMENT, WINDOW_MS, LATENESS_MS))
    assert counted.cells == truth.cells
    assert history[-1].sums_digest == counted.digest()
