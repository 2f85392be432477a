"""A broker that lost its data: reported with its range, held, never counted silently; an operator lets
counting continue."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.breakable import BreakableStateCache, BreakableSumStore
from support.traffic import EXPERIMENT, click, exposure

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Rules
from services import bootstrap
from services.adapters.kafka.decision_log import KafkaDecisionLog
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.bandit.decider.decider import Decider, Identity
from services.bandit.decider.decider import Deps as DeciderDeps
from services.errors import RingsideError
from services.messages import events
from services.messages.topics import partition_of
from services.settings import Settings

PARTITIONS = 4
RULES = Rules(window_s=0.5, lateness_s=2.5, look_every_s=0.3, stall_s=3_600.0)
PATIENCE_S = 60.0  # only how long a broken test takes to fail


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Rig:
    """A worker and a decider on a broker; the state in Redis (here in memory) outlives brokers."""

    def __init__(self, settings: Settings, store: BreakableSumStore, cache: BreakableStateCache):
        self.store, self.shown = store, 0
        self.consumer, reader = bootstrap.consumer(settings), bootstrap.consumer(settings)
        self.producer, admin = bootstrap.producer(settings), bootstrap.log_admin(settings)
        self.log = KafkaDecisionLog(settings, self.producer, reader, cache)
        deps = Deps(self.consumer, admin, store, self.log, Decoder(self.producer))
        pace = Pace(safety_ms=500, commit_ms=100)
        self.worker = Worker(deps, lambda: frozenset(range(PARTITIONS)), now_ms, pace)
        self.decider = Decider(
            DeciderDeps(self.log, store, cache), Identity("one", "test"), PARTITIONS, now_ms
        )
        self._clients = (self.consumer, reader, self.producer)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def start(self) -> None:
        champion = commands.Deployed("als", "als-1")
        self.log.append(
            commands.start(EXPERIMENT, champion, RULES, "salt", commands.Provenance("anna", now_ms()))
        )

    def visit(self, count: int) -> None:
        """So many units, each with a click, acknowledged; the producers have found their broker before."""
        bot = exposure(0, now_ms(), excluded="bot")
        self.producer.send(events.EXPOSURES, bot.routing_key, events.encode(bot)).result(30)
        self.producer.send(events.EVENTS, "nobody", b"{}").result(30)
        for _ in range(count):
            self.shown += 1
            slate = exposure(self.shown, now_ms())
            event = click(slate, now_ms(), f"e{self.shown}")
            self.producer.send(events.EXPOSURES, slate.routing_key, events.encode(slate)).result(30)
            self.producer.send(events.EVENTS, event.key, events.encode(event)).result(30)

    def until(self, holds: Callable[[], bool]) -> None:
        """Work until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, (self.units(), self.store.losses(), self.decisions()[-3:])
            try:
                self.worker.step(0.05)
                self.decider.tick()
            except RingsideError:  # what is unavailable is tried again
                time.sleep(0.1)

    def units(self) -> int:
        sums = self.store.load_all(EXPERIMENT, PARTITIONS)[0]
        return sum(count for key, count in sums.items() if key.endswith("|n"))

    def decisions(self) -> list[Decision]:
        return self.log.history(EXPERIMENT)

    def held(self) -> bool:
        state = self.log.catch_up()[EXPERIMENT]
        return state.held_by == "data-loss" and len(state.causes) == len(self.store.losses())

    def resume(self) -> None:
        state = self.log.catch_up()[EXPERIMENT]
        self.log.append(commands.resume(state, commands.Provenance("anna", now_ms())))


@pytest.fixture
def rig_on() -> Iterator[Callable[[Settings], Rig]]:
    store, cache = BreakableSumStore(), BreakableStateCache()
    with ExitStack() as opened:

        def make(settings: Settings) -> Rig:
            rig = Rig(settings, store, cache)
            opened.callback(rig.close)
            return rig

        yield make


@pytest.mark.slow
@pytest.mark.kafka
def test_deleted_uncounted_records_are_a_loss_with_range(
    kafka_broker: Any, settings_for: Callable[..., Settings], rig_on: Callable[[Settings], Rig]
) -> None:
    from kafka import KafkaAdminClient, TopicPartition

    settings = settings_for(kafka_broker, experiment=EXPERIMENT, broker_ack_deadline_ms=10_000)
    rig = rig_on(settings)
    rig.start()
    rig.visit(8)
    rig.until(lambda: rig.units() == 8)
    stood = {index: rig.store.load(index) for index in range(PARTITIONS)}
    rig.visit(8)  # and then they are gone before anybody read them
    index = partition_of(b"user-16", PARTITIONS)
    end = rig.consumer.bounds(events.EXPOSURES, index)[1]
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, api_version=(4, 0))
    admin.delete_records({TopicPartition(events.EXPOSURES, index): end})
    admin.close()
    rig.until(rig.held)
    position = stood[index][0].exposures
    held = rig.decisions()[-1]
    [cause] = held.detail.causes
    assert cause.startswith(f"partition {index}: offsets ")
    assert f"to {end - 1} of exposures/{index} are gone, the log begins at {end}" in cause
    assert position < end
    assert rig.store.load(index)[1] == stood[index][1]  # nothing was counted past the gap
    elsewhere = sum(partition_of(f"user-{n}".encode(), PARTITIONS) != index for n in range(9, 17))
    rig.until(lambda: rig.units() == 8 + elsewhere)  # the other partitions go on
    rig.resume()
    rig.until(lambda: not rig.store.losses() and not rig.worker.lost)
    rig.visit(8)
    rig.until(lambda: rig.units() == 16 + elsewhere)
    rig.until(lambda: rig.decisions()[-1].kind == "allocate")


def counts_on_after_its_word(before: Rig, after: Rig) -> None:
    """The log is another one: held with both logs named, nothing counted until `resume`, then all of it."""
    after.shown = before.shown
    counted = before.units()
    after.visit(6)
    after.until(after.held)
    causes = after.log.catch_up()[EXPERIMENT].causes
    assert len(causes) == PARTITIONS
    assert all(
        "but the broker holds log" in cause and "counted up to exposures/" in cause for cause in causes
    )
    assert after.units() == counted
    after.resume()
    after.until(lambda: after.units() == counted + 6)
    after.until(lambda: after.decisions()[-1].kind == "allocate")


def test_another_embedded_broker_is_another_log(
    settings_for: Callable[..., Settings], rig_on: Callable[[Settings], Rig]
) -> None:
    from services.local_servers.embedded_kafka import EmbeddedBroker

    with EmbeddedBroker(PARTITIONS) as broker:
        before = rig_on(settings_for(broker, experiment=EXPERIMENT))
        before.start()
        before.visit(6)
        before.until(lambda: before.units() == 6)
    with EmbeddedBroker(PARTITIONS) as broker:
        counts_on_after_its_word(before, rig_on(settings_for(broker, experiment=EXPERIMENT)))


@pytest.mark.slow
@pytest.mark.usefixtures("_kafka_process")  # Java and the jars are there
@pytest.mark.kafka
def test_a_kafka_with_an_emptied_disk_is_another_log(
    tmp_path: Path,
    settings_for: Callable[..., Settings],
    rig_on: Callable[[Settings], Rig],
) -> None:
    from services.local_servers.kafka import LocalKafka

    with LocalKafka(tmp_path / "first", PARTITIONS) as broker:
        broker.create_topics()
        rig = rig_on(settings_for(broker, experiment=EXPERIMENT, broker_ack_deadline_ms=10_000))
        rig.start()
        rig.visit(6)
        rig.until(lambda: rig.units() == 6)
    with LocalKafka(tmp_path / "second", PARTITIONS, broker.port) as empty:
        empty.create_topics()
        counts_on_after_its_word(rig, rig)
