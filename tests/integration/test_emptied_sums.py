"""Redis loses everything: sums are counted again from the log, or reported as lost; never something in
between."""

import random

import pytest
import redis
from support.breakable import BreakableStateCache, BreakableSumStore
from support.traffic import EXPERIMENT, play, traffic

from experiments.lifecycle import commands
from services.adapters.memory.event_log import MemoryEventConsumer
from services.bandit.decider.decider import Decider, Deps, Identity
from services.errors import DataLossError, UnavailableError
from services.messages import events
from tests.integration.test_exactly_once import PARTITIONS, WorkedInstallation, attempt, shop, steps, store  # noqa: F401 (fixtures)


def empty(of: WorkedInstallation) -> None:
    if isinstance(of.store, BreakableSumStore):
        of.store.lose_data()
        return
    with redis.Redis.from_url(of.store._settings.redis_url) as client:
        client.flushall()


def resume(of: WorkedInstallation) -> None:
    state = of.log.catch_up()[EXPERIMENT]
    of.log.append(commands.resume(state, commands.Provenance("anna", of.clock.now_ms)))


def decider(of: WorkedInstallation) -> Decider:
    deps = Deps(of.log, of.store, BreakableStateCache(of.clock))
    return Decider(deps, Identity("one", "test"), PARTITIONS, of.clock)


@pytest.mark.parametrize("seed", range(3))
def test_an_emptied_redis_is_counted_again_by_whoever_counts(shop, seed):  # noqa: F811
    rng = random.Random(seed)
    workers = [shop.worker() for _ in range(2)]
    emptied = 0
    for _ in play(shop.broker, shop.clock, traffic(seed + 20, units=250), step_ms=300):
        attempt(rng.choice(workers))
        if rng.random() < 0.06:
            empty(shop)
            emptied += 1
        if rng.random() < 0.05:
            workers[rng.randrange(2)] = shop.worker()
    shop.finish(workers[0])
    assert emptied > 3
    assert shop.stored_sums() == shop.recounted_sums()


def test_a_wipe_is_noticed_without_traffic_one_line_each(shop, caplog):  # noqa: F811
    caplog.set_level("INFO", "services.bandit")
    worker = shop.worker()
    for _ in play(shop.broker, shop.clock, traffic(seed=31, units=100), step_ms=300):
        attempt(worker)
    shop.finish(worker)
    every = f"0-{PARTITIONS - 1}"
    begun = f"partitions {every} are counted from the beginning of their logs"
    assert said_by_the_worker(caplog) == [begun]
    caplog.clear()
    empty(shop)
    shop.finish(worker)
    assert shop.stored_sums() == shop.recounted_sums() != {}
    again = f"partitions {every} are counted to the ends of their logs again"
    assert said_by_the_worker(caplog) == [f"Redis lost the sums of partitions {every}", begun, again]


def said_by_the_worker(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.name.startswith("services.bandit")]


def counted_then_cut(of: WorkedInstallation, before_start: bool) -> None:
    """Traffic is counted, retention cuts the log (all of it before the experiment starts, or not), and Redis
    is emptied."""
    worker = of.worker()
    if before_start:
        for _ in range(20):
            for topic in (events.EXPOSURES, events.EVENTS):
                of.broker.append(topic, f"user-{_}".encode(), b"{}")
        of.clock.now_ms += 1
        of.start_experiment()
    for _ in play(of.broker, of.clock, traffic(seed=32, units=200), step_ms=300):
        attempt(worker)
    of.finish(worker)
    for topic in (events.EXPOSURES, events.EVENTS):
        start, end = of.broker.bounds((topic, 1))
        of.broker.truncate(topic, 1, before=start + 1 if before_start else end - 5)
    empty(of)


def test_a_log_cut_before_the_experiment_loses_nothing(store):  # noqa: F811
    shop = WorkedInstallation(store)  # noqa: F811
    counted_then_cut(shop, before_start=True)
    shop.finish(shop.worker())
    assert shop.broker.bounds((events.EXPOSURES, 1))[0] == 1
    assert shop.stored_sums() == shop.recounted_sums() != {}


def test_retention_moving_during_recovery_is_handled(store):  # noqa: F811
    shop, met = WorkedInstallation(store), []  # noqa: F811

    class Cut(MemoryEventConsumer):
        def poll(self, timeout_s: float, max_records: int = 1_000):
            if max_records == 1 and not met:  # the look at the first record of the log
                met.append(max_records)
                raise DataLossError("the position is outside of the log by now")
            return super().poll(timeout_s, max_records)

    counted_then_cut(shop, before_start=True)
    worker = shop.worker(consumer=Cut(shop.broker))
    with pytest.raises(UnavailableError):
        worker.step(0)
    shop.finish(worker)
    assert shop.stored_sums() == shop.recounted_sums() != {}


def test_lost_records_hold_the_experiment_until_a_command_accepts(shop):  # noqa: F811
    state = shop.log.catch_up()[EXPERIMENT]
    shop.log.append(commands.enter(state, "als", "als-1", commands.Provenance("anna", shop.clock.now_ms)))
    counted_then_cut(shop, before_start=False)
    worker, deciding = shop.worker(), decider(shop)
    assert all(steps(worker, shop, 20))
    assert worker.lost == {1}
    start = shop.broker.bounds((events.EXPOSURES, 1))[0]
    assert f"exposures/1 begins at offset {start}" in shop.store.losses()[1]
    assert shop.store.load(1) == (None, {})
    shop.clock.now_ms += 600_000
    assert [d.rule for d in deciding.tick()] == ["data-loss"]
    assert all(steps(shop.worker(), shop))  # a restart does not count what is in doubt
    resume(shop)
    deciding.tick()
    shop.finish(worker)
    assert shop.store.load(1)[0].exposures == shop.broker.bounds((events.EXPOSURES, 1))[1]
    first = shop.stored_sums()
    empty(shop)  # … and once more: the accepted loss is remembered by the log of decisions
    shop.broker.truncate(events.EXPOSURES, 1, before=0)
    assert all(steps(worker, shop, 20))
    assert "were accepted since the experiment began" in shop.store.losses()[1]
    assert shop.stored_sums().items() <= first.items()
