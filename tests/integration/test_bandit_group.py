"""Attribution workers in a consumer group on a real Apache Kafka: members join and leave under load."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.breakable import BreakableDecisionLog, BreakableSumStore
from support.sql_recount import add_sums, recount
from support.traffic import EXPERIMENT, RULES, click, exposure

from experiments.lifecycle import commands
from services import bootstrap
from services.bandit.attribution.app import connect
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.errors import UnavailableError
from services.messages import events
from services.settings import Settings

WINDOW_S, LATENESS_S = RULES.window_s, RULES.lateness_s
UNITS = 400


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Member:
    """A worker in its own thread."""

    def __init__(self, settings: Settings, store: Any, decisions: Any) -> None:
        self.stop = threading.Event()
        self.consumer, owned = connect(settings)
        self.producer = bootstrap.producer(settings)
        deps = Deps(self.consumer, bootstrap.log_admin(settings), store, decisions, Decoder(self.producer))
        self.worker = Worker(deps, owned, now_ms, Pace(safety_ms=1_000, commit_ms=150, max_records=50))
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        while not self.stop.is_set():
            try:
                self.worker.step(0.05)
            except UnavailableError:
                time.sleep(0.1)
        self.consumer.close()
        self.producer.close()

    def leave(self) -> None:
        self.stop.set()
        self.thread.join(20)


@pytest.mark.slow
@pytest.mark.kafka
def test_rebalances_lose_and_double_nothing(kafka_broker: Any, settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(kafka_broker, window_s=WINDOW_S, lateness_s=LATENESS_S)
    store = BreakableSumStore()
    decisions = BreakableDecisionLog()
    champion = commands.Deployed("als", "als-1")
    origin = commands.Provenance("anna", now_ms())
    decisions.append(commands.start(EXPERIMENT, champion, RULES, "salt", origin))
    members = [Member(settings, store, decisions)]
    producer = bootstrap.producer(settings)
    try:
        for number in range(UNITS):
            visit(producer, number)
            if number == UNITS // 4:
                members.append(Member(settings, store, decisions))
            if number == UNITS // 2:
                members.append(Member(settings, store, decisions))
                members[0].leave()
            time.sleep(0.01)
        assert producer.flush(10)
        members[1].leave()
        truth = recount(whole_log(settings), EXPERIMENT, round(WINDOW_S * 1_000), round(LATENESS_S * 1_000))
        wait_for(lambda: counted(store, settings) == truth, 20)
        assert counted(store, settings) == truth
        shown = ("|n", "|late_exposures")  # on a busy machine an append may be too late
        assert sum(n for key, n in truth.items() if key.endswith(shown)) == UNITS
        assert set(members[2].worker.partitions) == set(range(settings.kafka_partitions))
    finally:
        for member in members:
            member.leave()
        producer.close()


def visit(producer: Any, number: int) -> None:
    slate = exposure(number, now_ms(), "als" if number % 3 else "pop")
    producer.send(events.EXPOSURES, slate.routing_key, events.encode(slate))
    if number % 2:
        event = click(slate, now_ms(), f"e{number}")
        producer.send(events.EVENTS, event.key, events.encode(event))


def whole_log(settings: Settings) -> list[Any]:
    consumer = bootstrap.consumer(settings)
    topics = (events.EXPOSURES, events.EVENTS)
    pairs = [(topic, index) for topic in topics for index in range(settings.kafka_partitions)]
    ends = consumer.end_offsets(pairs)
    consumer.assign(dict.fromkeys(pairs, 0))
    records: list[Any] = []
    while any(consumer.positions()[pair] < end for pair, end in ends.items()):
        records += consumer.poll(1.0, 10_000)
    consumer.close()
    return records


def counted(store: Any, settings: Settings) -> dict[str, int]:
    return add_sums(store.load(index)[1].get(EXPERIMENT, {}) for index in range(settings.kafka_partitions))


def wait_for(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
