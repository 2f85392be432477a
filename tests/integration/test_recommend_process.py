"""`ringside recommend` as a process: several workers on one port, signals, and a start without Redis and
broker."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.real_installation import install, serving, settings_of
from support.small_shop import KEYS
from support.waiting import wait_until

from services import bootstrap
from services.errors import ConfigurationError
from services.recommend.app import run
from services.settings import Settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation with the synthetic shop and one model."""
    home = tmp_path_factory.mktemp("installation")
    install(Settings(home=home))
    return home


def scraped(home: Path) -> str:
    """What the one target that is left in `home` says, without a key."""
    [file] = (home / "metrics").glob("recommend@*.json")
    [group] = json.loads(file.read_text())
    return httpx.get(f"http://{group['targets'][0]}/metrics").text


def test_it_starts_and_answers_without_redis_and_broker(home: Path) -> None:
    with serving(settings_of(home)) as service:
        client = service.client
        answer = client.get("/recommend?user_id=a&n=3").json()
        assert len(answer["items"]) == 3
        assert "no_fresh_features" in answer["degraded"]
        unanswered = client.post("/events", json=[{"event_id": "e", "type": "view", "item_id": "x"}])
        assert (unanswered.status_code, unanswered.headers["retry-after"]) == (503, "1")
        assert client.get("/docs").status_code == 200
        assert 'ringside_slates_total{arm="' in scraped(home)
    assert service.process.returncode in (0, -signal.SIGTERM)
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
    with serving(settings) as service:
        client = service.client
        wait_until(lambda: len(cache.heartbeats()) == 2)
        started = client.post("/experiments/storefront/start", json={"model_version": model, "arm": "first"})
        assert started.status_code == 200
        wait_until(lambda: [(b.loaded, b.champion) for b in cache.heartbeats()] == [((model,), "first")] * 2)
        served = {_replica(client) for _ in range(40)}
        assert len(served) == 2
        answer = client.get("/recommend?user_id=a&session_id=s&n=3").json()
        assert (answer["arm"], answer["degraded"]) == ("first", None)
        for text in (scraped(home), client.get("/metrics").text):
            assert 'ringside_http_responses_total{route="/recommend",status="200"} 1.0' in text
            assert text.count("ringside_models_loaded{") == 2
        statuses = [_analyst(client) for _ in range(20)]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= 2  # one of each worker
        workers = service.workers()
        assert len(workers) == 2
        workers[0].kill()
        wait_until(lambda: len({_replica(client) for _ in range(10)}) == 2)
        assert not list(home.glob(f"recommend/metrics-*/gauge_live*_{workers[0].pid}.db"))
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
