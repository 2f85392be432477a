"""A reported loss is settled once (accepted, or withdrawn), and does not affect later experiments."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from support.breakable import BreakableSumStore
from support.counted_installation import LOOK_MS, PARTITIONS, CountedInstallation
from support.traffic import EXPERIMENT, LATENESS_MS, RULES, WINDOW_MS, click, exposure

from experiments.counting.sums import HOUR_MS
from experiments.lifecycle import commands
from experiments.lifecycle.state import Experiment
from services.adapters.redis.sum_store import RedisSumStore
from services.bandit.attribution.worker import Pace
from services.messages import events
from services.messages.topics import partition_of

OTHER = "checkout"
SAFETY_MS = Pace().safety_ms
LOSS = "offsets 5 to 7 of exposures/0 are gone, the log begins at 8"


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def shop(request: pytest.FixtureRequest, settings_for: Callable) -> CountedInstallation:
    if request.param == "memory":
        return CountedInstallation(BreakableSumStore())
    server = request.getfixturevalue("redis_server")
    return CountedInstallation(RedisSumStore(settings_for(redis=server, kafka_partitions=PARTITIONS)))


def start(shop: CountedInstallation, name: str) -> None:
    champion = commands.Deployed("popularity", "popularity-1")
    shop.log.append(commands.start(name, champion, RULES, "salt", shop.provenance()))


def state(shop: CountedInstallation, name: str) -> Experiment:
    return shop.log.catch_up()[name]


def report_loss(shop: CountedInstallation, partition: int = 0, loss: str = LOSS) -> None:
    """Report a loss: the worker stops counting the partition, and the decider holds all experiments."""
    shop.store.report_loss(partition, loss)
    shop.worker = shop.new_worker()
    shop.pass_time(LOOK_MS)
    shop.decider.tick()
    assert shop.worker.lost == {partition}
    living = [held for held in shop.log.catch_up().values() if held.status != "ended"]
    assert {held.held_by for held in living} == {"data-loss"}


def assert_unaffected(shop: CountedInstallation, name: str) -> None:
    """An experiment that starts now is not held, and all of its units count."""
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


def test_an_ended_experiment_leaves_its_loss_to_nobody(shop: CountedInstallation) -> None:
    shop.simulate_traffic()
    report_loss(shop)
    shop.log.append(commands.end(shop.state, shop.provenance()))
    shop.pass_time(1_000)
    assert_unaffected(shop, OTHER)


def test_nor_does_it_where_redis_lost_truncated_records(shop: CountedInstallation) -> None:
    """Nothing is stored then: accepting the loss would skip the records in the log."""
    shop.simulate_traffic()
    report_loss(shop, loss="Redis lost the sums")
    with_nothing_stored(shop)
    shop.broker.truncate(events.EXPOSURES, 0, 1)
    shop.log.append(commands.end(shop.state, shop.provenance()))
    shop.pass_time(1_000)
    assert not shop.store.loss_acknowledged(0, None)
    assert_unaffected(shop, OTHER)


def with_nothing_stored(shop: CountedInstallation) -> None:
    losses = shop.store.losses()
    if isinstance(shop.store, BreakableSumStore):
        shop.store.lose_data()
    else:
        shop.store._redis.flushall()
    for partition, loss in losses.items():
        shop.store.report_loss(partition, loss)


def between_success_and_credit(shop: CountedInstallation, name: str) -> int:
    """Count a success whose click is not counted yet, because it follows a click of an immature unit.

    Returns the partition.
    """
    began_ms = shop.clock()
    waits_ms = (0, LATENESS_MS - 100)
    units = [exposure(1, began_ms + wait_ms, unit=f"s:user-1:{wait_ms}") for wait_ms in waits_ms]
    for shown in units:
        shop.clock.now_ms = shown.received_at
        append(shop, events.EXPOSURES, replace(shown, experiment=name))
    for number, shown in enumerate(reversed(units)):
        append(shop, events.EVENTS, click(replace(shown, experiment=name), shop.clock(), f"e{number}"))
    for _ in range(3):
        shop.clock.now_ms = max(shop.clock() + 200, began_ms + WINDOW_MS + LATENESS_MS + SAFETY_MS + 1)
        shop.worker.step(0)
    return partition_of(units[0].routing_key.encode(), PARTITIONS)


def append(shop: CountedInstallation, topic: str, message: events.Exposure | events.Event) -> None:
    key = message.routing_key if isinstance(message, events.Exposure) else message.attribution.routing_key
    shop.broker.append(topic, key.encode(), events.encode(message))


def cells(shop: CountedInstallation, partition: int, name: str) -> tuple[int, int]:
    """Successes, and credits by events."""
    sums = shop.store.load(partition)[1].get(name, {})
    return tuple(sum(n for key, n in sums.items() if key.endswith(what)) for what in ("|s", "|c"))


@pytest.mark.parametrize("recounts", [False, True])
def test_an_accepted_loss_is_written_off_during_a_recount(shop: CountedInstallation, recounts: bool) -> None:
    start(shop, OTHER)
    shop.simulate_traffic()
    partition = between_success_and_credit(shop, OTHER)
    assert cells(shop, partition, OTHER) == (1, 0)
    report_loss(shop, partition)
    shop.log.append(commands.resume(state(shop, OTHER), shop.provenance()))
    from_ms = commands.recount_from(shop.state, shop.clock())
    word = commands.recount(shop.state, from_ms, {}, shop.provenance()) if recounts else None
    shop.log.append(word or commands.resume(shop.state, shop.provenance()))
    shop.decider.tick()
    shop.pass_time(1_000)
    assert (shop.store.losses(), shop.worker.lost) == ({}, frozenset())
    assert cells(shop, partition, OTHER) == (1, 1)
    assert bool(shop.store.load(partition)[1].get(EXPERIMENT)) != recounts
    shop.pass_time(2 * HOUR_MS)
    shop.decider.tick()
    assert state(shop, OTHER).held_by == ""


def test_unreadable_sums_are_dropped_by_an_accepting_recount(
    redis_server: Any, settings_for: Callable
) -> None:
    shop = CountedInstallation(RedisSumStore(settings_for(redis=redis_server, kafka_partitions=PARTITIONS)))
    shop.simulate_traffic()
    report_loss(shop)
    shop.store._redis.hset(f"{{bandit:0}}:sums:{EXPERIMENT}", "1|als|472222|n", "abc")
    from_ms = commands.recount_from(shop.state, shop.clock())
    shop.log.append(commands.recount(shop.state, from_ms, {}, shop.provenance()))
    shop.decider.tick()
    shop.pass_time(1_000)
    assert (shop.store.losses(), shop.worker.lost) == ({}, frozenset())
    assert shop.store.load(0)[1] == {EXPERIMENT: {}}
