"""`ringside recommend` as a process: several workers on one port, signals, and a start without Redis and
broker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.small_shop import KEYS, SIGNING
from support.waiting import ready, until

from models.algorithms.popularity import Popularity
from services import bootstrap
from services.data_import.app import Order, import_data
from services.errors import ConfigurationError
from services.local_servers.process import free_port
from services.recommend.app import run
from services.settings import Settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with the synthetic shop and one model."""
    from datetime import UTC, datetime

    home = tmp_path_factory.mktemp("installation")
    settings = Settings(home=home)
    import_data(settings, Order("synthetic"), datetime.now(UTC))
    data = bootstrap.data_store(settings).load()
    now_s = time.time()
    model = Popularity.fit(data.interactions, data.catalogue, now_s=now_s)
    store = bootstrap.model_store(settings)
    store.save(model, data_version=data.version, window=(0.0, now_s), metrics={}, now_ms=round(now_s * 1_000))
    return home


def settings_of(home: Path, **changes: Any) -> Settings:
    dead = {"redis_url": f"redis://127.0.0.1:{free_port()}/0", "kafka_bootstrap": f"127.0.0.1:{free_port()}"}
    pairs = ",".join(pair for _, pair in KEYS.values())
    fast = {"refresh_s": 0.1, "heartbeat_s": 0.2, "window_s": 5, "lateness_s": 1}
    return Settings(
        home=home, keys=pairs, signing_key=SIGNING, recommend_port=free_port(), **{**dead, **fast, **changes}
    )


@contextmanager
def running(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    named = {f"RINGSIDE_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    command = [str(Path(sys.executable).with_name("ringside")), "recommend"]
    with subprocess.Popen(command, env={**os.environ, **named}, stderr=subprocess.DEVNULL) as process:
        headers = {"X-API-Key": KEYS["admin"][0]}
        url = f"http://127.0.0.1:{settings.recommend_port}"
        try:
            with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
                until(lambda: ready(client))
                yield process, client
        finally:
            process.terminate()
            process.wait(20)


def scraped(home: Path) -> str:
    """What the one target that is left in `home` says, without a key."""
    [file] = (home / "metrics").glob("recommend@*.json")
    [group] = json.loads(file.read_text())
    return httpx.get(f"http://{group['targets'][0]}/metrics").text


def test_it_starts_and_answers_without_redis_and_broker(home: Path) -> None:
    with running(settings_of(home)) as (process, client):
        answer = client.get("/recommend?user_id=a&n=3").json()
        assert len(answer["items"]) == 3
        assert "no_fresh_features" in answer["degraded"]
        unanswered = client.post("/events", json=[{"event_id": "e", "type": "view", "item_id": "x"}])
        assert (unanswered.status_code, unanswered.headers["retry-after"]) == (503, "1")
        assert client.get("/docs").status_code == 200
        assert 'ringside_slates_total{arm="' in scraped(home)
    assert process.returncode in (0, -signal.SIGTERM)
    assert not list((home / "metrics").iterdir())


def test_it_refuses_to_start_with_another_number_of_partitions(home: Path, embedded_broker: Any) -> None:
    settings = settings_of(home, kafka_bootstrap=embedded_broker.bootstrap, kafka_partitions=8)
    with pytest.raises(ConfigurationError, match="has 4 partitions, not 8"):
        run(settings)


def test_two_workers_share_a_port_and_are_replaced(
    home: Path, redis_server: Any, embedded_broker: Any
) -> None:
    settings = settings_of(
        home,
        recommend_workers=2,
        redis_url=redis_server.url,
        kafka_bootstrap=embedded_broker.bootstrap,
        rates="analyst=0.001",  # one request, and none for a quarter of an hour
    )
    cache = bootstrap.state_cache(settings)
    model = bootstrap.model_store(settings).versions()[-1]
    with running(settings) as (process, client):
        until(lambda: len(cache.heartbeats()) == 2)
        started = client.post("/experiments/storefront/start", json={"model_version": model, "arm": "first"})
        assert started.status_code == 200
        until(lambda: [(b.loaded, b.champion) for b in cache.heartbeats()] == [((model,), "first")] * 2)
        served = {_replica(client) for _ in range(40)}
        assert len(served) == 2
        answer = client.get("/recommend?user_id=a&session_id=s&n=3").json()
        assert (answer["arm"], answer["degraded"]) == ("first", None)
        for said in (scraped(home), client.get("/metrics").text):
            assert 'ringside_http_responses_total{route="/recommend",status="200"} 1.0' in said
            assert said.count("ringside_models_loaded{") == 2
        assert sorted(_analyst(client) for _ in range(20)) == [200] + [429] * 19  # whichever worker it was
        workers = [
            worker
            for worker in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(worker.cmdline())
        ]
        assert len(workers) == 2
        workers[0].kill()
        until(lambda: len({_replica(client) for _ in range(10)}) == 2)
        assert {_analyst(client) for _ in range(20)} == {429}  # nor does a new worker forget
        assert not list(home.glob(f"recommend/metrics-*/*_{workers[0].pid}.db"))
        assert 'ringside_http_responses_total{route="/recommend",status="200"} 1.0' in scraped(home)
    assert not [worker for worker in workers if worker.is_running()]


def _analyst(client: httpx.Client) -> int:
    """How a new connection of an analyst is answered."""
    headers = {"X-API-Key": KEYS["analyst"][0], "Connection": "close"}
    return client.get("/experiments", headers=headers).status_code


def _replica(client: httpx.Client) -> str | None:
    """Which worker answers a new connection."""
    try:
        return client.get("/health/ready", headers={"Connection": "close"}).json()["replica"]
    except httpx.TransportError:  # the connection went to the worker that just died
        return None
