"""`ringside rebuild` with a real Redis and broker: all is restored after Redis is emptied under load."""

import time
from typing import Any

import pytest
import redis
from rich.console import Console
from support.sql_recount import add_sums, recount

from experiments.lifecycle import commands
from experiments.lifecycle.fold import fold
from experiments.lifecycle.state import Rules
from models.recommender import no_progress
from services import bootstrap
from services.adapters.kafka.admin import KafkaLogAdmin
from services.adapters.kafka.consumer import KafkaEventConsumer
from services.adapters.kafka.producer import KafkaEventProducer
from services.adapters.redis import keys
from services.bandit.attribution import app as attribution
from services.cli import rebuild
from services.messages import events
from services.messages.events import Event
from services.ports.event_log import Record

PARTITIONS = 4
WINDOW_MS, LATENESS_MS = 1_000, 500
EXPERIMENT = "storefront"


@pytest.fixture
def settings(embedded_broker, redis_server, settings_for) -> Any:
    made = settings_for(broker=embedded_broker, redis=redis_server, watermark_safety_s=0.1)
    KafkaLogAdmin(made).create_topics(PARTITIONS)
    return made


class Load:
    """Sends visits of shoppers."""

    def __init__(self, settings: Any):
        self.producer, self.sent = KafkaEventProducer(settings), 0

    def visits(self, times: int) -> None:
        sent = [future for _ in range(times) for future in self.visit()]
        for future in sent:
            future.result(30)

    def visit(self) -> list[Any]:
        self.sent += 1
        number, at_ms = self.sent, time.time_ns() // 1_000_000
        key, arm = f"user-{number % 17}", ("pop", "als")[number % 2]
        shown = events.Exposure(
            received_at=at_ms, recommendation_id=f"r{number}", experiment=EXPERIMENT, routing_key=key,
            unit=f"r:{number}", unit_at=at_ms, first=True, arm=arm, answered_by=arm, model_version=arm,
            weights_version=2, propensity=0.5, placement="home", items=["a"],
        )  # fmt: skip
        attribution = events.Attribution(
            recommendation_id=f"r{number}", experiment=EXPERIMENT, routing_key=key, unit=f"r:{number}",
            unit_at=at_ms, exposed_at=at_ms, arm=arm, weights_version=2, propensity=0.5, position=0,
        )  # fmt: skip
        click = Event(
            received_at=at_ms, event_id=f"e{number}", type="click", item_id=f"i{number}", user_id=key,
            attribution=attribution,
        )  # fmt: skip
        futures = [self.producer.send(events.EXPOSURES, key, events.encode(shown))]
        return futures + [self.producer.send(events.EVENTS, key, events.encode(click))] * (number % 3 == 0)


def logged(settings: Any) -> list[Record]:
    consumer = KafkaEventConsumer(settings)
    pairs = [(topic, index) for topic in (events.EXPOSURES, events.EVENTS) for index in range(PARTITIONS)]
    ends, records = consumer.end_offsets(pairs), []
    consumer.assign(dict.fromkeys(pairs, 0))
    while len(records) < sum(ends.values()):
        records += consumer.poll(0.2)
    consumer.close()
    return records


def begin(settings: Any) -> Any:
    log, origin = bootstrap.decision_log(settings), commands.Provenance("anna", time.time_ns() // 1_000_000)
    rules = Rules(window_s=WINDOW_MS / 1e3, lateness_s=LATENESS_MS / 1e3)
    champion = commands.Deployed("pop", "pop")
    state = log.append(commands.start(EXPERIMENT, champion, rules, "salt", origin))
    state = log.append(commands.enter(state, "als", "als", origin))
    return log, state


def rebuilt(settings: Any) -> str:
    console = Console(record=True, width=200)
    assert rebuild.run(settings, console) == 0, console.export_text()
    return console.export_text()


def test_everything_is_there_again(settings, redis_server):
    bootstrap.feature_store(settings).apply()
    log, state = begin(settings)
    load = Load(settings)
    load.visits(60)
    rebuilt(settings)  # nothing was lost: nothing changes, and rows are online now
    users = [f"user-{index}" for index in range(17)]
    rows = bootstrap.activity_store(settings).load(users)
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.flushall()
    load.visits(30)
    redis_server.server.kill()
    redis_server.restart()
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.flushall()
    output = rebuilt(settings)
    assert "storefront at revision 2" in output
    assert "every unit without one is new" in output
    with redis.Redis.from_url(redis_server.url) as raw:
        assert raw.exists(keys.pins_complete(EXPERIMENT))
    assert "4 partitions counted to the end of the log" in output
    assert bootstrap.state_cache(settings).get(EXPERIMENT) == state == fold(log.history(EXPERIMENT))
    again = bootstrap.activity_store(settings).load(users)
    assert rows.keys() <= again.keys()
    for user, row in rows.items():
        assert set(row.event_ids) <= set(again[user].event_ids)
    positions = bootstrap.sum_store(settings).load_all(EXPERIMENT, PARTITIONS)[1]
    assert positions.keys() == {f"{t}/{i}" for t in ("exposures", "events") for i in range(PARTITIONS)}
    assert_sums_are_the_truth(settings)
    load.producer.close()


def assert_sums_are_the_truth(settings: Any) -> None:
    truth, store = (
        recount(logged(settings), EXPERIMENT, WINDOW_MS, LATENESS_MS),
        bootstrap.sum_store(settings),
    )
    sums: dict[str, int] = {}
    for _ in range(20):  # until the last units have matured
        time.sleep(WINDOW_MS / 1e3)
        attribution.rebuild(settings, no_progress)
        sums = add_sums(store.load(index)[1].get(EXPERIMENT, {}) for index in range(PARTITIONS))
        if sums == truth:
            break
    assert sums == truth != {}
