"""A reported loss is settled once: accepted, or of no concern to anybody, and nothing of it meets who comes
later."""

from collections.abc import Callable

import pytest
from counted_shop import LOOK_MS, PARTITIONS, Shop
from traffic import RULES, exposure

from experiments import commands
from experiments.experiment import Experiment
from services import events
from services.adapters.memory import MemoryTallyStore
from services.adapters.redis_state import RedisTallyStore

OTHER = "checkout"
LOSS = "offsets 5 to 7 of exposures/0 are gone, the log begins at 8"


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def shop(request: pytest.FixtureRequest, settings_for: Callable) -> Shop:
    if request.param == "memory":
        return Shop(MemoryTallyStore())
    server = request.getfixturevalue("redis_server")
    return Shop(RedisTallyStore(settings_for(redis=server, kafka_partitions=PARTITIONS)))


def start(shop: Shop, name: str) -> None:
    champion = {"name": "popularity", "model_version": "popularity-1"}
    shop.log.append(commands.start(name, champion, RULES, "salt", shop.origin()))


def state(shop: Shop, name: str) -> Experiment:
    return shop.log.catch_up()[name]


def lose(shop: Shop, partition: int = 0, loss: str = LOSS) -> None:
    """Somebody has met a loss, and whoever counts stops there; the decider holds what lives."""
    shop.store.report_loss(partition, loss)
    shop.worker = shop.new_worker()
    shop.pass_time(LOOK_MS)
    shop.decider.tick()
    assert shop.worker.lost == {partition}
    living = [held for held in shop.log.catch_up().values() if held.status != "ended"]
    assert {held.held_by for held in living} == {"data-loss"}


def nothing_meets(shop: Shop, name: str) -> None:
    """An experiment that starts by now is held by nothing, and all of its units count."""
    assert (shop.store.losses(), shop.worker.lost) == ({}, frozenset())
    start(shop, name)
    shop.pass_time(1_000)
    for number in range(20):
        shown = exposure(number, shop.clock(), "popularity", experiment=name, propensity=1.0)
        append(shop, events.EXPOSURES, shown)
    shop.worker = shop.new_worker()
    shop.pass_time(LOOK_MS)
    assert shop.worker.lost == frozenset()
    assert [decision.kind for decision in shop.decider.tick()] == ["allocate"]
    counted = shop.store.load_all(name, PARTITIONS)[0]
    assert sum(count for key, count in counted.items() if key.endswith("|n")) == 20


def test_an_ended_experiment_leaves_its_loss_to_nobody(shop: Shop) -> None:
    shop.trade()
    lose(shop)
    shop.log.append(commands.end(shop.state, shop.origin()))
    shop.pass_time(1_000)
    nothing_meets(shop, OTHER)


def test_nor_does_it_where_redis_forgot_what_the_log_no_longer_holds(shop: Shop) -> None:
    """Nothing is stored then: who accepted a loss there would skip what is in the log."""
    shop.trade()
    lose(shop, loss="Redis forgot the sums")
    with_nothing_stored(shop)
    shop.broker.truncate(events.EXPOSURES, 0, 1)
    shop.log.append(commands.end(shop.state, shop.origin()))
    shop.pass_time(1_000)
    assert not shop.store.loss_acknowledged(0, None)
    nothing_meets(shop, OTHER)


def with_nothing_stored(shop: Shop) -> None:
    told = shop.store.losses()
    if isinstance(shop.store, MemoryTallyStore):
        shop.store.forget()
    else:
        shop.store._redis.flushall()
    for partition, loss in told.items():
        shop.store.report_loss(partition, loss)


def append(shop: Shop, topic: str, said: events.Exposure | events.Event) -> None:
    key = said.routing_key if isinstance(said, events.Exposure) else said.attribution.routing_key
    shop.broker.append(topic, key.encode(), events.encode(said))
