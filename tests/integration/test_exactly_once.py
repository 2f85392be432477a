"""Whatever happens between any two steps of any number of workers, the sums equal an independent recount."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from support.breakable import BreakableSumStore
from support.memory_installation import MemoryInstallation
from support.sql_recount import add_sums
from support.traffic import LATENESS_MS, WINDOW_MS, play, traffic

from services.adapters.memory.event_log import MemoryGroupConsumer
from services.adapters.redis.sum_store import RedisSumStore
from services.bandit.attribution.worker import Pace, Worker
from services.errors import UnavailableError
from services.messages import events
from services.ports.event_log import EventConsumer
from services.ports.state import Positions, Sums, SumStore

PARTITIONS = 3
PACE = Pace(safety_ms=2_000, commit_ms=200, max_records=40)
AFTERWARDS_MS = WINDOW_MS + 2 * LATENESS_MS + PACE.safety_ms + 10_000


class KilledError(Exception):
    """The process is gone: nothing in its memory is left."""


class Faulty:
    """A tally store between which and the worker anything can happen, by chance."""

    def __init__(self, store: SumStore, rng: random.Random, rate: float):
        self._store, self._rng, self._rate = store, rng, rate
        self.faults = 0

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        forget: Iterable[str] = (),
    ) -> None:
        self._maybe(KilledError("before apply"), UnavailableError("redis", "before apply"))
        self._store.apply(partition, fetched_from, moved_to, deltas, forget)
        self._maybe(KilledError("after apply"), UnavailableError("redis", "the answer was lost"))

    def positions(self, partitions: Iterable[int]) -> dict[int, Positions]:
        self._maybe(UnavailableError("redis", "positions"))
        return self._store.positions(partitions)

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def _maybe(self, *faults: Exception) -> None:
        if self._rng.random() < self._rate:
            self.faults += 1
            raise self._rng.choice(faults)


class WorkedInstallation(MemoryInstallation):
    """A broker with traffic, a decision log with one experiment, and workers that can be made at will."""

    def __init__(self, store: SumStore):
        super().__init__(PARTITIONS, store=store)

    def start_experiment(self) -> None:
        self.start("popularity")

    def worker(self, store: SumStore | None = None, consumer: EventConsumer | None = None) -> Worker:
        owned = None
        if isinstance(consumer, MemoryGroupConsumer):
            owned = lambda: frozenset(index for _, index in consumer.assignment())  # noqa: E731
        return self.attribution_worker(PACE, store=store, consumer=consumer, owned=owned)

    def finish(self, worker: Worker) -> None:
        """Nobody comes any more; time alone lets everything mature."""
        for _ in range(60):
            self.clock.now_ms += AFTERWARDS_MS // 40
            attempt(worker)
        assert worker.lost == frozenset()
        assert sum(partition.overtaken for partition in worker.partitions.values()) == 0


def attempt(worker: Worker) -> bool:
    """One step; False if the worker died in it."""
    try:
        worker.step(0)
    except UnavailableError:
        return True
    except KilledError:
        return False
    return True


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, settings_for: Callable) -> SumStore:
    if request.param == "memory":
        return BreakableSumStore()
    redis = request.getfixturevalue("redis_server")
    return RedisSumStore(settings_for(redis=redis, kafka_partitions=PARTITIONS))


@pytest.fixture
def shop(store: SumStore) -> WorkedInstallation:
    shop = WorkedInstallation(store)
    shop.start_experiment()
    return shop


def test_an_undisturbed_worker_counts_what_the_log_says(shop):
    worker = shop.worker()
    for _ in play(shop.broker, shop.clock, traffic(seed=1, units=400), step_ms=300):
        attempt(worker)
    shop.finish(worker)
    truth = shop.recounted_sums()
    assert shop.stored_sums() == truth
    kinds = {key.split("|")[-1] for key in truth}
    assert kinds == {
        "n",
        "s",
        "f",
        "acknowledged",
        "counted",
        "late",
        "duplicate",
        "unmatched",
        "late_exposures",
        "c",
        "exposed",
        "duplicate_exposures",
    }


@pytest.mark.parametrize("seed", range(4))
def test_kills_and_lost_answers_change_no_sum(shop, seed):
    rng = random.Random(seed)
    faulty = Faulty(shop.store, rng, rate=0.15)
    worker = shop.worker(faulty)
    kills = 0
    for _ in play(shop.broker, shop.clock, traffic(seed, units=250), step_ms=300):
        shop.broker.skip(rng.choice([events.EXPOSURES, events.EVENTS]), rng.randrange(PARTITIONS))
        if not attempt(worker) or rng.random() < 0.05:  # killed inside a step, or between two
            kills += 1
            worker = shop.worker(faulty)
    shop.finish(shop.worker())
    assert kills > 5
    assert faulty.faults > 10
    assert shop.stored_sums() == shop.recounted_sums()


@pytest.mark.parametrize("seed", range(3))
def test_two_workers_of_the_same_partitions_count_once(shop, seed):
    rng = random.Random(seed)
    zombies = [shop.worker(Faulty(shop.store, rng, 0.05)) for _ in range(2)]
    for _ in play(shop.broker, shop.clock, traffic(seed + 10, units=250), step_ms=300):
        for number in rng.sample(range(2), rng.choice([1, 2])):
            if not attempt(zombies[number]):
                zombies[number] = shop.worker(Faulty(shop.store, rng, 0.05))
    shop.finish(zombies[0])
    assert shop.stored_sums() == shop.recounted_sums()


def test_members_come_and_go(shop):
    rng = random.Random(5)
    members: list[tuple[MemoryGroupConsumer, Worker]] = []
    for _ in play(shop.broker, shop.clock, traffic(seed=5, units=300), step_ms=300):
        if rng.random() < 0.2 and len(members) < PARTITIONS:
            consumer = MemoryGroupConsumer(shop.broker, "bandit", (events.EXPOSURES, events.EVENTS))
            members.append((consumer, shop.worker(consumer=consumer)))
        elif rng.random() < 0.2 and members:
            members.pop(rng.randrange(len(members)))[0].close()
        for _, worker in members:
            attempt(worker)
    for consumer, _ in members:
        consumer.close()
    shop.finish(shop.worker())
    assert shop.stored_sums() == shop.recounted_sums()


def test_a_replay_from_nothing_gives_the_same_sums(shop):
    live = shop.worker()
    for _ in play(shop.broker, shop.clock, traffic(seed=8, units=300), step_ms=300):
        attempt(live)
    shop.finish(live)
    replayed = WorkedInstallation.__new__(WorkedInstallation)
    replayed.__dict__ |= shop.__dict__ | {"store": BreakableSumStore()}
    replayed.finish(replayed.worker())
    assert replayed.stored_sums() == shop.stored_sums() == shop.recounted_sums()


def test_unreadable_records_are_kept_with_reason_and_provenance(shop):
    worker = shop.worker()
    shop.broker.append(events.EVENTS, b"ada", b"\xff\xfe")
    assert all(steps(worker, shop))
    [bad] = shop.broker.records(events.EVENTS)
    [letter] = shop.broker.records(events.DEAD_LETTERS)
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (bad.key, bad.value)
    assert headers["origin"].decode() == f"{events.EVENTS}/{bad.partition}/{bad.offset}"
    assert headers["reason"].startswith(b"not a Event")
    assert shop.store.load(bad.partition)[0].events == bad.offset + 1


def test_a_later_experiment_is_counted_from_its_first_exposure(store):
    shop = WorkedInstallation(store)
    worker = shop.worker()
    attempt(worker)
    shop.start_experiment()
    for _ in play(shop.broker, shop.clock, traffic(seed=3, units=100), step_ms=300):
        attempt(worker)
    shop.finish(worker)
    assert shop.stored_sums() == shop.recounted_sums()
    assert any(key.endswith("|n") for key in shop.stored_sums())


def steps(worker: Worker, shop: WorkedInstallation, count: int = 5) -> Iterator[bool]:
    for _ in range(count):
        shop.clock.now_ms += PACE.commit_ms
        yield attempt(worker)


def test_losing_uncounted_records_stops_the_partition_until_accepted(shop):
    worker = shop.worker()
    for _ in itertools.islice(play(shop.broker, shop.clock, traffic(seed=4, units=150), step_ms=300), 8):
        attempt(worker)
    end = shop.broker.bounds((events.EXPOSURES, 1))[1]
    shop.broker.truncate(events.EXPOSURES, 1, before=end)
    restarted = shop.worker()
    assert all(steps(restarted, shop))
    assert restarted.lost == {1}
    assert f"to {end - 1} of exposures/1 are gone" in shop.store.losses()[1]
    before = shop.store.load(1)
    shop.store.acknowledge_loss(1, shop.store.losses()[1])
    assert all(steps(restarted, shop))
    assert (restarted.lost, shop.store.losses()) == (frozenset(), {})
    assert shop.store.load(1)[1] == before[1]
    assert shop.store.load(1)[0].exposures == end


def test_a_replaced_log_is_data_loss_until_accepted(shop):
    worker = shop.worker()
    for _ in play(shop.broker, shop.clock, traffic(seed=6, units=150), step_ms=300):
        attempt(worker)
    shop.finish(worker)
    first = shop.stored_sums()
    shop.broker.lose_everything("memory-2")
    for _ in play(shop.broker, shop.clock, traffic(seed=7, units=0), step_ms=300):
        pass
    assert all(steps(worker, shop))
    assert worker.lost == set(range(PARTITIONS))
    assert all("memory-2" in text for text in shop.store.losses().values())
    for index in range(PARTITIONS):
        shop.store.acknowledge_loss(index, shop.store.losses()[index])
    assert all(steps(worker, shop))
    later = traffic(seed=7, units=150)
    shift = shop.clock.now_ms
    assert later[0].at_ms < shift  # received_at lies before the append: everything is a late exposure
    for _ in play(shop.broker, shop.clock, later, step_ms=300):
        attempt(worker)
    shop.finish(worker)
    assert shop.stored_sums() == add_sums([first, shop.recounted_sums()])
