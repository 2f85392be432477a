"""`make test-faults`: every fault of Redis and broker, at start and while running, and overload: tables."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.proxied_servers import BOTH, ProxiedServers, check_promises, measure_fault
from support.real_installation import STOREFRONT, RecommendService, serving
from support.waiting import is_ready, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1_200)]
RESULTS = Path("bench-results")
FAULTS = [(names, how) for names in (("redis",), ("broker",), BOTH) for how in ("refused", "hung", "slow")]
LARGEST_GROWTH_MIB = 64
BOUND_MS = 2_000  # of accepted requests at 3 × capacity; without shedding they wait for ten seconds and more


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedServers]:
    """On Apache Kafka where there is Java, else on the embedded broker."""
    from services.local_servers.embedded_kafka import EmbeddedBroker
    from services.local_servers.kafka import LocalKafka
    from services.local_servers.redis import EmbeddedRedis

    real = shutil.which("java") and shutil.which("mvn")
    with (
        EmbeddedRedis() as redis,
        LocalKafka(tmp_path_factory.mktemp("kafka"), 4) if real else EmbeddedBroker(4) as broker,
    ):
        if real:
            broker.create_topics()
        site = ProxiedServers(redis, broker)
        yield site
        site.close()


def test_every_fault(installation: tuple[Path, str], site: ProxiedServers) -> None:
    home, model = installation
    settings = site.settings(home, drain_s=0.5)
    rows: list[Any] = []
    with serving(settings) as service:
        service.start_experiment(model)
        for names, how in FAULTS:
            rows.append({"when": "running", **measure_fault(site, service, names, how, answers=1_000)})
    for names, how in FAULTS:
        site.fault(names, how)
        with serving(settings, wait=False) as service:
            wait_until(lambda service=service: is_ready(service.client))
            rows.append({"when": "at start", **measure_fault(site, service, names, how, answers=1_000)})
    told("faults.json", {"broker": type(site.broker).__name__, "rows": rows})
    for row, (names, how) in zip(rows, 2 * FAULTS, strict=True):
        print(line(row))
        check_promises(row, names, how)


def line(row: dict[str, Any]) -> str:
    """One line of the table in the terminal."""
    cells = (row["when"], row["fault"], row["p50_ms"], row["p99_ms"], row["max_ms"], row["degraded"])
    return " | ".join(str(cell) for cell in (*cells, row["events"], row["recovery_s"], row["delivery_s"]))


def test_three_times_what_can_be_answered(installation: tuple[Path, str], site: ProxiedServers) -> None:
    with serving(site.settings(installation[0], redis_deadline_ms=1_000)) as service:
        wait_until(lambda: service.slate()["degraded"] is None)
        capacity = closed_loop(service)
        process = psutil.Process(service.process.pid)
        before = process.memory_info().rss
        found = open_loop(service, rate=3 * capacity["rps"], connections=1_500, seconds=8)
        grown_mib = (process.memory_info().rss - before) / 2**20
        health = service.client.get("/health/ready").status_code
    told("overload.json", {"capacity_rps": capacity["rps"], "grown_mib": grown_mib, **found})
    print(json.dumps(found, indent=1))
    assert set(found["statuses"]) == {"200", "503"}
    assert (found["without_retry_after"], found["unanswered"], found["lost"], health) == (0, 0, 0, 200)
    assert found["statuses"]["200"]["p99_ms"] < BOUND_MS
    assert grown_mib < LARGEST_GROWTH_MIB


def order(service: RecommendService, **more: Any) -> str:
    """What a load generator is told."""
    paths = [f"/recommend?user_id=u{at}&session_id=s{at}&n=100" for at in range(2_000)]
    return json.dumps({"port": service.port, "key": STOREFRONT, "paths": paths, **more})


def closed_loop(service: RecommendService) -> Any:
    """Capacity: 32 connections that ask again as soon as they are answered."""
    sent = order(service, core=1, connections=32, warm_s=1, seconds=4)
    return generated(["-m", "tests.benchmarks.load"], sent)


def open_loop(service: RecommendService, **more: Any) -> Any:
    """Requests that start when they are due."""
    return generated(
        [str(Path(__file__).parents[1] / "support" / "open_loop.py")], order(service, warm_s=2, **more)
    )


def generated(script: list[str], sent: str) -> Any:
    """What a generator printed."""
    done = subprocess.run([sys.executable, *script], input=sent, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def told(name: str, what: Any) -> None:
    """Keep a result."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(what, indent=1), "utf-8")
