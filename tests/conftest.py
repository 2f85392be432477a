"""Fixtures every test may use. What a machine lacks is a skip with its reason on a laptop and a failure on
CI."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

import prometheus_client  # noqa: F401 (before Feast, which would make it count in files)
import pytest
from hypothesis import settings as hypothesis_settings
from support.breakable import BreakableBroker

from services.settings import Settings

MARKER_OF_FIXTURE = {
    "kafka_broker": "kafka",
    "redis_server": "redis",
    "browser": "browser",
    "data_dir": "data",
}
TESTS = Path(__file__).parent
LONGEST_FIRST = (
    "kafka", "observability", "faults", "statistical", "e2e", "integration", "security", "conformance",
    "unit",
)  # fmt: skip
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


hypothesis_settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
hypothesis_settings.load_profile("no deadline")
# Kafka clients log at any moment what goes wrong with a broker; `caplog` shows what Ringside says about it.
logging.getLogger("kafka").propagate = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by what it needs, so that `-m "not kafka"` is right, and bring the longest tests first,
    so that parallel workers end at about the same time."""
    for item in items:
        for fixture in set(getattr(item, "fixturenames", ())) & MARKER_OF_FIXTURE.keys():
            item.add_marker(MARKER_OF_FIXTURE[fixture])
    items.sort(key=lambda item: LONGEST_FIRST.index(_group(item.path).partition("/")[0]))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Group tests for parallel workers (`make test`): a file is not split, because its fixtures are made
    once, and one worker gets all files with tests on Apache Kafka, because a second broker costs 400 MiB.

    (`--dist loadgroup` of pytest-xdist 3.8 has no effect with pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / nodeid.partition("::")[0])

    return ByGroup(config, log)


@cache
def _group(file: Path) -> str:
    """`kafka`, or the file's path below tests/."""
    on_kafka = re.search(r"kafka_broker|_kafka_process|mark\.kafka", file.read_text("utf-8"))
    return "kafka" if on_kafka else str(file.relative_to(TESTS))


def _require(what: object, reason: str) -> None:
    if what:
        return
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"missing on CI: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require() -> Callable[[object, str], None]:
    """`require(what, reason)`: go on if `what` is there, else skip (laptop) or fail (CI=true) with
    `reason`."""
    return _require


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RINGSIDE_") and name != "RINGSIDE_DATA_DIR"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _kafka_consumers() -> WeakSet[Any]:
    """Every Kafka consumer that is made in this process."""
    from kafka import KafkaConsumer

    opened: WeakSet[Any] = WeakSet()
    make = KafkaConsumer.__init__

    def noted(consumer: Any, *topics: str, **options: Any) -> None:
        make(consumer, *topics, **options)
        opened.add(consumer)

    KafkaConsumer.__init__ = noted
    return opened


@pytest.fixture(autouse=True)
def _close_kafka_consumers(_kafka_consumers: WeakSet[Any]) -> Iterator[None]:
    """Close what a test leaves open: its threads would look for a dead broker until the last test is over."""
    before = set(_kafka_consumers)
    yield
    for consumer in set(_kafka_consumers) - before:
        consumer.close(autocommit=False, timeout_ms=200)


@pytest.fixture
def memory_broker() -> BreakableBroker:
    """A broker in memory with four partitions, of which every append is a millisecond later."""
    now_ms = iter(range(1_700_000_000_000, 1_800_000_000_000))
    return BreakableBroker(partitions=4, clock=lambda: next(now_ms))


@pytest.fixture
def embedded_broker() -> Iterator[Any]:
    """An embedded broker of this test's own (services.local_servers.embedded_kafka.EmbeddedBroker; 0.2 s)."""
    from services.local_servers.embedded_kafka import EmbeddedBroker

    with EmbeddedBroker(partitions=4) as broker:
        yield broker


@pytest.fixture(scope="session")
def _redis_process(require: Callable[[object, str], None]) -> Iterator[Any]:
    from services.errors import ConfigurationError
    from services.local_servers.redis import EmbeddedRedis, redis_executable

    try:
        executable = redis_executable()
    except ConfigurationError as error:
        require(None, str(error))
    with EmbeddedRedis(executable=executable) as running:
        yield running


@pytest.fixture
def redis_server(_redis_process: Any) -> Iterator[Any]:
    """An empty Redis (EmbeddedRedis: `.url`, `.server.freeze()`, `.server.kill()`, `.restart()`)."""
    import redis

    if not _redis_process.server.alive():
        _redis_process.restart()
    with redis.Redis.from_url(_redis_process.url) as client:
        client.flushall()
    yield _redis_process
    if _redis_process.server.alive():
        _redis_process.server.thaw()


@pytest.fixture(scope="session")
def _kafka_process(
    require: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    from services.local_servers.kafka import LocalKafka

    require(shutil.which("java"), "Apache Kafka needs Java 17 (`java` is not on PATH)")
    require(shutil.which("mvn"), "the jars of Apache Kafka are resolved by Maven (`mvn` is not on PATH)")
    with LocalKafka(tmp_path_factory.mktemp("kafka"), partitions=4) as broker:
        yield broker


@pytest.fixture
def kafka_broker(_kafka_process: Any) -> Iterator[Any]:
    """A real Apache Kafka with freshly made, empty topics (LocalKafka: `.bootstrap`, `.server`,
    `.restart()`)."""
    if not _kafka_process.server.alive():
        _kafka_process.restart()
    from services.adapters.kafka.admin import KafkaLogAdmin

    admin = KafkaLogAdmin(_kafka_process.settings)
    admin.delete_topics()
    admin.create_topics(_kafka_process.partitions)
    yield _kafka_process
    if _kafka_process.server.alive():
        _kafka_process.server.thaw()


@pytest.fixture(scope="session")
def data_dir(require: Callable[[object, str], None]) -> Path:
    """Folder with the real data sets."""
    named = os.environ.get("RINGSIDE_DATA_DIR")
    require(named, "RINGSIDE_DATA_DIR does not name the folder with the real data sets")
    folder = Path(str(named))
    require(folder.is_dir(), f"RINGSIDE_DATA_DIR names {folder}, which is no folder")
    return folder


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., Settings]:
    """`settings_for(broker=…, redis=…, window_s=…)`: settings with a home of their own and these servers."""

    def make(broker: Any = None, redis: Any = None, **values: Any) -> Settings:
        if broker is not None:
            kafka = type(broker).__name__ == "LocalKafka"
            values.setdefault("kafka_bootstrap", broker.bootstrap)
            values.setdefault("kafka_mode", "kafka" if kafka else "embedded")
            values.setdefault("kafka_partitions", broker.partitions)
        if redis is not None:
            values.setdefault("redis_url", redis.url)
        return Settings(**{"home": tmp_path / "home", **values})

    return make


@pytest.fixture(scope="module")
def _chromium(require: Callable[[object, str], None]) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require(executable, "Chromium is not on PATH")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def browser(_chromium: Any) -> Any:
    """Chromium, headless (a playwright Browser, sync API); open pages with `browser.new_page()`."""
    return _chromium
