"""How large sums and weights versions grow, and how long a look at them keeps Redis from others: days of an
experiment at 32 partitions, on a real Redis.

Worst case of the rules: every look (300 s) makes a weights version, and every partition has units of every
arm under every version. `python -m tests.benchmarks.sums_size` prints one JSON object a day asked for.
"""

import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import msgspec
import redis

from experiments.lifecycle import commands
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment, Rules
from services.adapters.redis.sum_store import RedisSumStore
from services.local_servers.redis import EmbeddedRedis
from services.ports.state import Positions, Sums
from services.settings import Settings

PARTITIONS = 32
LOOKS_A_DAY = 288
ARMS = ("popularity", "als")
FIRST_HOUR = 472_000


def measure(days: int) -> dict[str, float]:
    """After `days`: size of Redis, fields, size of the cached state, time of one load of all sums."""
    with EmbeddedRedis() as server:
        settings = Settings(redis_url=server.url, kafka_partitions=PARTITIONS, state_deadline_ms=60_000)
        store = RedisSumStore(settings)
        with redis.Redis.from_url(server.url) as client:
            before = client.info("memory")["used_memory"]
            for partition in range(PARTITIONS):
                _fill(store, partition, days)
            used = client.info("memory")["used_memory"] - before
        with _another(server.url) as waits:
            began = time.perf_counter()
            sums = store.load_all("storefront", PARTITIONS)[0]
            load_s = time.perf_counter() - began
    state = _state(days)
    return {
        "days": days,
        "redis_mib": round(used / 2**20, 2),
        "fields_a_partition": len(sums),
        "load_all_ms": round(1_000 * load_s, 1),
        "longest_wait_of_others_ms": round(1_000 * waits.recv(), 1),
        "state_kib": round(len(msgspec.json.encode(state)) / 1_024, 1),
    }


@contextmanager
def _another(url: str) -> Iterator[Connection]:
    """Somebody else asks Redis all the time, in a process of their own; says their longest wait (s) in the
    end."""
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=_ping, args=(url, theirs))
    other.start()
    ours.recv()
    yield ours
    ours.send("enough")
    other.join()


def _ping(url: str, pipe: Connection) -> None:
    with redis.Redis.from_url(url) as client:
        client.ping()
        pipe.send("ready")
        longest_s = 0.0
        while not pipe.poll():
            began = time.perf_counter()
            client.ping()
            longest_s = max(longest_s, time.perf_counter() - began)
        pipe.send(longest_s)


def _fill(store: RedisSumStore, partition: int, days: int) -> None:
    at: Positions | None = None
    for day in range(days):
        moved = Positions("log", day + 1, day + 1, day + 1)
        store.apply(partition, at, moved, {"storefront": dict(_day(day))})
        at = moved


def _day(day: int) -> Iterator[tuple[str, int]]:
    """Cells of one day: a version lies in the hour of its look."""
    for look in range(LOOKS_A_DAY):
        version, hour = day * LOOKS_A_DAY + look + 1, FIRST_HOUR + day * 24 + look // 12
        for arm in ARMS:
            yield from ((f"{version}|{arm}|{hour}|{what}", 7 + look) for what in ("n", "s", "c"))


def _state(days: int) -> Experiment:
    origin = commands.Provenance("bench", 1)
    champion = commands.Deployed(ARMS[0], "popularity-1")
    state = apply(None, commands.start("storefront", champion, Rules(), "salt", origin))
    state = apply(state, commands.enter(state, ARMS[1], "als-1", origin))
    for look in range(days * LOOKS_A_DAY):
        share = round(0.2 + 0.6 * (look % 9_973) / 9_973, 4)
        shares: Sums = {ARMS[0]: 1.0 - share, ARMS[1]: share}  # type: ignore[dict-item]
        state = apply(state, commands.allocate(state, shares, {}, look, origin))
    return state


if __name__ == "__main__":
    for asked in (1, 7, 28):
        print(json.dumps(measure(asked)), flush=True)
