"""One installation under fire: servers, a small shop on disk, models, keys, an experiment."""

import csv
import random
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.real_installation import fit_popularity

from services import bootstrap
from services.data_import.app import ImportRequest, import_data
from services.features.app import apply
from services.local_servers.kafka import LocalKafka
from services.local_servers.redis import EmbeddedRedis
from services.settings import Settings
from services.web.api_keys import ROLES, new_key, new_signing_key
from services.web.worker_supervisor import listener
from tests.crash.children import call
from tests.crash.schedule import Scenario

ITEMS, USERS = 60, 40
MODELS = 3
DAY_S = 86_400


class QuickKafka(LocalKafka):
    """A broker that lets members of a group have sessions shorter than six seconds."""

    def _properties(self) -> dict[str, object]:
        return {**super()._properties(), "group.min.session.timeout.ms": 1_000}


@dataclass(frozen=True, slots=True)
class CrashInstallation:
    """`keys` by role; `listening`: the one socket of the recommend service; `models`: versions to enter."""

    scenario: Scenario
    settings: Settings
    keys: Mapping[str, str]
    listening: socket.socket
    models: tuple[str, ...]
    logs: Path

    @property
    def url(self) -> str:
        """Of the recommend service."""
        return f"http://{self.settings.host}:{self.settings.recommend_port}"


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses of a broker with fresh topics and of an empty Redis; `broker`: if it is ours to kill."""

    kafka: str
    redis: str
    broker: LocalKafka | None


@contextmanager
def servers(scenario: Scenario, home: Path, kafka: str | None, redis: str | None) -> Iterator[Servers]:
    """Those that are named, or our own."""
    with ExitStack() as stack:
        broker = None
        if kafka is None:
            broker = stack.enter_context(QuickKafka(home / "kafka", scenario.partitions))
            broker.create_topics()
            kafka = broker.bootstrap
        if redis is None:
            redis = stack.enter_context(EmbeddedRedis(home / "redis")).url
        yield Servers(kafka, redis, broker)


def opened(scenario: Scenario, home: Path, on: Servers) -> CrashInstallation:
    """Everything on disk, and the socket; no process runs yet."""
    keys = {role: new_key(role) for role in ROLES}
    listening = listener("127.0.0.1", 0)
    settings = Settings(
        home=home,
        redis_url=on.redis,
        kafka_bootstrap=on.kafka,
        kafka_mode="kafka",
        kafka_partitions=scenario.partitions,
        keys=",".join(pair for _, pair in keys.values()),
        signing_key=new_signing_key(),
        recommend_port=listening.getsockname()[1],
        **_short(scenario),
    )
    logs = home / "logs"
    logs.mkdir(parents=True)
    call(furnish, logs / "furnish.log", settings)
    models = tuple(bootstrap.model_store(settings).versions())
    return CrashInstallation(
        scenario, settings, {role: key for role, (key, _) in keys.items()}, listening, models, logs
    )


def _short(scenario: Scenario) -> dict[str, Any]:
    """Clocks short enough to see everything mature; deadlines long enough for a busy machine."""
    return {
        "unit": scenario.unit,
        "window_s": scenario.window_s,
        "lateness_s": scenario.lateness_s,
        "look_every_s": 0.5,
        "min_new_units": 1,
        "stall_s": 600.0,
        "refresh_s": 0.25,
        "heartbeat_s": 0.4,
        "watermark_safety_s": 1.0,
        "redis_deadline_ms": 2_000,
        "rank_deadline_ms": 5_000,
        "state_deadline_ms": 5_000,
        "broker_ack_deadline_ms": 10_000,
        "lake_flush_s": 1.0,
        "metrics_port": -1,
        "log_level": "INFO",
    }


def furnish(settings: Settings) -> None:
    """Import a small shop, fit its models, register the features."""
    rng = random.Random(1)
    items, lines = settings.home / "items.csv", settings.home / "lines.csv"
    _write(items, ("item_id", "title", "category", "price"), _items())
    _write(lines, ("user_id", "item_id", "at"), _lines(rng, time.time()))
    import_data(settings, ImportRequest(str(items), str(lines)), datetime.now(UTC))
    now_ms = time.time_ns() // 1_000_000
    for number in range(MODELS):
        fit_popularity(settings, now_ms + number, fast_days=float(number + 2), slow_days=30.0)
    apply(settings)


def _items() -> Iterator[tuple[str, str, str, float]]:
    for number in range(ITEMS):
        yield f"i{number}", f"thing {number}", f"kind {number % 5}", 1.0 + number


def _lines(rng: random.Random, now_s: float) -> Iterator[tuple[str, str, str]]:
    for user in range(USERS):
        for _ in range(8):
            at_s = now_s - rng.uniform(1, 30) * DAY_S
            yield f"old{user}", f"i{rng.randrange(ITEMS)}", datetime.fromtimestamp(at_s, UTC).isoformat()


def _write(path: Path, header: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
