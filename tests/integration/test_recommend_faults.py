"""The application on a real Redis that hangs, dies and comes back."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.small_shop import Caller, SmallShop, ids

from services import bootstrap
from services.recommend.deps import Deps
from services.recommend.http_app import create_app, fast_path

pytestmark = pytest.mark.redis


@pytest.fixture
def shop(tmp_path: Path, redis_server: Any) -> SmallShop:
    settings = {"redis_url": redis_server.url, "redis_deadline_ms": 100, "state_deadline_ms": 200}
    return SmallShop(tmp_path, category_share=1.0, state_cutoff_s=3_600, **settings)


@pytest.fixture
def deps(shop: SmallShop) -> Deps:
    """The in-memory ports, but for those that Redis serves."""
    shop.log._cache = bootstrap.state_cache(shop.settings)
    return replace(
        shop.deps(),
        reader=bootstrap.online_reader(shop.settings),
        state=bootstrap.state_cache(shop.settings),
        overlay=bootstrap.item_overlay(shop.settings),
    )


@pytest.fixture
def call(shop: SmallShop, deps: Deps) -> Iterator[Caller]:
    shop.race(0.5)
    app = create_app(deps)
    with TestClient(fast_path(app), raise_server_exceptions=False) as client:
        caller = Caller(client, app)
        caller.refresh()
        yield caller


def healthy_again(call: Caller) -> dict[str, Any]:
    """The first answer that is not degraded; the test's timeout ends a wait in vain."""
    while True:
        answer = call.slate(n=2)
        if answer["degraded"] is None:
            return answer
        time.sleep(0.1)


def test_pins_live_in_redis_and_are_kept(shop: SmallShop, call: Caller) -> None:
    first = call.slate(n=2)
    shop.set_weights({"good": 0.0, "other": 1.0} if first["arm"] == "good" else {"good": 1.0, "other": 0.0})
    call.refresh()
    assert call.slate(n=2)["arm"] == first["arm"]
    assert [exposure.first for exposure in shop.exposures()] == [True, False]


@pytest.mark.parametrize("how", ["freeze", "kill"])
def test_redis_hangs_or_dies_and_comes_back(
    shop: SmallShop, call: Caller, redis_server: Any, how: str
) -> None:
    before = call.slate(n=2)
    getattr(redis_server.server, how)()
    answers = [call.slate(n=2, user=f"u{visit}") for visit in range(8)]
    call.refresh()
    assert {answer["degraded"] for answer in answers} == {"no_fresh_features"}
    assert all(len(ids(answer)) == 2 and answer["arm"] == "good" for answer in answers)
    assert {exposure.excluded for exposure in shop.exposures()[1:]} == {"pin_unreachable"}
    assert call.get("/health/live", None).status_code == 200
    if how == "freeze":
        redis_server.server.thaw()
        assert healthy_again(call)["arm"] == before["arm"]  # the pin outlived the hang
    else:
        redis_server.restart()  # it comes back empty; no unit is pinned until its pins are marked complete
        bootstrap.pin_store(shop.settings).mark_complete(["storefront"], 0)
        assert healthy_again(call)["items"]


def test_a_hung_redis_stops_no_events_and_no_kill_switch(
    shop: SmallShop, call: Caller, redis_server: Any
) -> None:
    token = call.slate(n=2)
    redis_server.server.freeze()
    click = {"event_id": "e", "type": "click", "item_id": ids(token)[0]}
    taken = call.post("/events", [{**click, "recommendation_id": token["recommendation_id"]}])
    assert (taken.status_code, taken.json()["attributed"]) == (202, 1)
    assert call.post("/champion-only", {"on": True}, "admin").status_code == 200
    assert call.send("PATCH", "/items/i0", "admin", json={"stock": 0}).status_code == 503


def test_a_live_change_is_seen_by_every_replica(shop: SmallShop, deps: Deps, call: Caller) -> None:
    second = create_app(replace(deps, overlay=bootstrap.item_overlay(shop.settings), replica="r2"))
    with TestClient(fast_path(second)) as client:
        other = Caller(client, second)
        call.send(
            "PATCH", "/items", "admin", json=[{"item_id": "i0", "stock": 0}, {"item_id": "i39", "stock": 0}]
        )
        call.refresh()
        other.refresh()
        for replica in (call, other):
            assert not {"i0", "i39"} & set(ids(replica.slate(n=40)))
        assert {beat.replica for beat in deps.state.heartbeats()} == {"r1", "r2"}


def test_a_cache_that_lost_everything_is_refilled(
    shop: SmallShop, deps: Deps, call: Caller, redis_server: Any
) -> None:
    redis_server.server.kill()
    redis_server.restart()
    call.refresh()
    call.refresh()
    assert deps.state.get("storefront") == shop.state
