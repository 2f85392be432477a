"""Item changes with a real Redis and real brokers: changes that Redis loses are restored from the log."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from support.small_shop import Caller, SmallShop, ids

from services import bootstrap
from services.recommend.http_app import create_app, fast_path

pytestmark = pytest.mark.redis


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def shop(tmp_path: Path, redis_server: Any, request: pytest.FixtureRequest) -> SmallShop:
    broker = request.getfixturevalue(f"{request.param}_broker")
    shop = SmallShop(
        tmp_path,
        category_share=1.0,
        refresh_s=0.1,
        redis_url=redis_server.url,
        kafka_bootstrap=broker.bootstrap,
        kafka_mode=request.param,
        kafka_partitions=4,
    )
    shop.start()
    return shop


@pytest.fixture
def serve(shop: SmallShop) -> Callable[[], Any]:
    """A replica over the real log and overlay; the rest is in memory."""

    def replica() -> Any:
        settings = shop.settings
        return create_app(
            replace(
                shop.deps(),
                producer=bootstrap.producer(settings),
                overlay=bootstrap.item_overlay(settings),
                consumer=bootstrap.consumer(settings),
                admin=bootstrap.log_admin(settings),
            )
        )

    return replica


def until(holds: Callable[[], bool]) -> None:
    """Wait until the condition holds; the test's timeout limits the wait."""
    while not holds():
        time.sleep(0.05)


def ready(client: TestClient, app: Any) -> Caller:
    call = Caller(client, app)
    until(lambda: call.get("/health/ready", None).status_code == 200)
    return call


def test_an_emptied_redis_gets_its_item_changes_back(
    shop: SmallShop, redis_server: Any, serve: Callable[[], Any]
) -> None:
    overlay = bootstrap.item_overlay(shop.settings)
    app = serve()
    with TestClient(fast_path(app), raise_server_exceptions=False) as client:
        call = ready(client, app)
        done = call.send("PATCH", "/items", "admin", json=[{"item_id": "i0", "hidden": True}])
        assert (done.status_code, done.json()["changed"]) == (200, 1)
        call.send("PATCH", "/items/i1", "admin", json={"stock": 0})
        until(lambda: ids(call.slate(n=1)) == ["i2"])
        laid = overlay.changes()
        with redis.Redis.from_url(redis_server.url) as emptied:
            emptied.flushall()
        until(lambda: overlay.changes() == laid)
        assert ids(call.slate(n=1)) == ["i2"]
    with redis.Redis.from_url(redis_server.url) as emptied:
        emptied.flushall()
    app = serve()  # a replica that starts with an empty Redis
    with TestClient(fast_path(app), raise_server_exceptions=False) as client:
        until(lambda: ids(Caller(client, app).slate(n=1)) == ["i2"])
        assert overlay.changes() == laid


def test_changes_reach_answers_while_the_overlay_is_rebuilt(
    shop: SmallShop, redis_server: Any, serve: Callable[[], Any]
) -> None:
    overlay = bootstrap.item_overlay(shop.settings)
    app = serve()
    with (
        TestClient(fast_path(app), raise_server_exceptions=False) as client,
        redis.Redis.from_url(redis_server.url) as emptied,
    ):
        call = ready(client, app)
        for step in range(8):
            assert call.send("PATCH", f"/items/i{step}", "admin", json={"stock": 0}).status_code == 200
            emptied.flushall()
        until(lambda: len(overlay.changes()[1]) == 8)
        until(lambda: ids(call.slate(n=1)) == ["i8"])
