"""An attribution worker killed repeatedly (SIGKILL, at any instant), with a real broker and a real Redis."""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from support.sql_recount import add_sums, recount
from support.traffic import EXPERIMENT, RULES, click, exposure

from experiments.lifecycle import commands
from services import bootstrap
from services.bandit.attribution.app import run
from services.messages import events
from services.ports.event_log import Record
from services.ports.state import SumStore
from services.settings import Settings

KILLS = 6
WINDOW_S, LATENESS_S = 1.5, 1.0
PER_S = 150


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def settings(embedded_broker: Any, redis_server: Any, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(
        embedded_broker, redis_server, window_s=WINDOW_S, lateness_s=LATENESS_S, watermark_safety_s=1.0
    )


@pytest.fixture
def worker(settings: Settings) -> Iterator[Callable[[], BaseProcess]]:
    """Starts a process of `ringside attribution`, forked from one that has imported everything."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["services.bandit.attribution.app", "services.adapters.kafka", "services.adapters.redis.sum_store"]
    )
    started: list[BaseProcess] = []

    def start() -> BaseProcess:
        started.append(forks.Process(target=run, args=(settings,), daemon=True))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.slow
def test_six_kills_lose_and_double_nothing(settings, worker):
    rng = random.Random(11)
    start_experiment(settings)
    producer = bootstrap.producer(settings)
    store = bootstrap.sum_store(settings)
    running, shown = worker(), 0
    for _ in range(KILLS):
        before, work_s = watermark(store), rng.random() * 0.7
        while watermark(store) == before or (work_s := work_s - 1 / PER_S) > 0:
            shown += 1
            visit(producer, rng, shown)
            time.sleep(1 / PER_S)
        running.kill()
        running = worker()
    assert producer.flush(10)
    truth = recount(whole_log(settings), EXPERIMENT, round(WINDOW_S * 1_000), round(LATENESS_S * 1_000))
    deadline = time.monotonic() + 15
    while counted(store) != truth and time.monotonic() < deadline:
        time.sleep(0.1)
    assert counted(store) == truth
    assert sum(n for key, n in truth.items() if key.endswith(("|n", "|late_exposures"))) == shown
    producer.close()


def watermark(store: SumStore) -> int | None:
    """The lowest watermark; it moves with the first commit of the running worker."""
    return store.load_all(EXPERIMENT, 4)[2]


def start_experiment(settings: Settings) -> None:
    rules = replace(RULES, window_s=WINDOW_S, lateness_s=LATENESS_S)
    champion = commands.Deployed("als", "als-1")
    log = bootstrap.decision_log(settings)
    log.append(commands.start(EXPERIMENT, champion, rules, "salt", commands.Provenance("anna", now_ms())))


def visit(producer: Any, rng: random.Random, number: int) -> None:
    slate = exposure(number, now_ms(), rng.choice(["als", "pop"]))
    producer.send(events.EXPOSURES, slate.routing_key, events.encode(slate))
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        event = click(slate, now_ms(), f"e{rng.randrange(10**9)}")
        for _ in range(rng.choice([1, 1, 2])):  # a retried POST
            producer.send(events.EVENTS, event.key, events.encode(event))


def whole_log(settings: Settings) -> list[Record]:
    consumer = bootstrap.consumer(settings)
    pairs = [(topic, index) for topic in (events.EXPOSURES, events.EVENTS) for index in range(4)]
    bounds = {pair: consumer.bounds(*pair) for pair in pairs}
    assert all(start == 0 for start, _ in bounds.values())
    consumer.assign(dict.fromkeys(pairs, 0))
    records: list[Record] = []
    while len(records) < sum(end for _, end in bounds.values()):
        records += consumer.poll(1.0, 10_000)
    consumer.close()
    return records


def counted(store: SumStore) -> dict[str, int]:
    return add_sums(store.load(index)[1].get(EXPERIMENT, {}) for index in range(4))
