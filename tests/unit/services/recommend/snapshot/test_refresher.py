"""Hot reload: what a replica loads, when only the champion serves, and what it reports."""

import threading
from pathlib import Path

import pytest
from support.small_shop import FixedOrderModel, SmallShop, ids

from experiments.lifecycle import commands
from services.recommend.snapshot import sources
from services.recommend.snapshot.sources import KEEP_RETIRED, ModelSource

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, category_share=1.0)


def test_new_weights_and_a_new_champion_are_loaded(shop: SmallShop) -> None:
    shop.race(0.5)
    with shop.client() as call:
        shop.decide(commands.promote, "other")
        call.refresh()
        answer = call.slate(user="new", n=2)
        (beat,) = shop.cache.heartbeats()
        ready = call.get("/health/ready", "analyst").json()
    assert (beat.champion, beat.revision, set(beat.loaded)) == (
        "other",
        shop.state.revision,
        {"good", "other"},
    )
    assert (ready["champion"], ready["revision"]) == ("other", shop.state.revision)
    assert answer["arm"] in ("good", "other")


def test_a_challenger_is_reported_once_it_is_loaded(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        assert shop.cache.heartbeats()[0].loaded == ("good",)
        shop.decide(commands.enter, "late", "late")
        call.refresh()
        assert shop.cache.heartbeats()[0].loaded == ("good",)
        shop.add("late", FixedOrderModel(list(range(40))))
        shop.now_ms += 6_000
        call.refresh()
        assert set(shop.cache.heartbeats()[0].loaded) == {"good", "late"}


def test_no_request_fails_while_everything_is_swapped(shop: SmallShop) -> None:
    shop.race(0.5)
    failures: list[str] = []
    done = threading.Event()
    with shop.client() as call:

        def ask() -> None:
            while not done.is_set():
                answer = call.get("/recommend?user_id=u&n=5").json()
                if answer.get("degraded", "missing") is not None or len(answer["items"]) != 5:
                    failures.append(str(answer)[:200])

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        for step in range(12):
            shop.add(f"m{step}", FixedOrderModel(list(range(40))))
            shop.decide(commands.enter, f"m{step}", f"m{step}")
            call.refresh()
            shop.set_weights({**dict.fromkeys(shop.state.weights.shares, 0.0), f"m{step}": 1.0})
            call.send("PATCH", f"/items/i{step}", "admin", json={"hidden": True})
            call.refresh()
            shop.decide(commands.promote, f"m{step}")
            call.refresh()
        done.set()
        for thread in asking:
            thread.join()
    assert failures == []


def test_the_live_catalogue_reaches_answers(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        assert ids(call.slate(n=3)) == ["i0", "i1", "i2"]
        changes = [
            {"item_id": "i0", "hidden": True},
            {"item_id": "i1", "stock": 0},
            {"item_id": "i2", "price": 9.5},
        ]
        done = call.send("PATCH", "/items", "admin", json=changes).json()
        call.send("DELETE", "/items?item_id=i3", "admin")
        new = {"item_id": "new", "title": "New", "category": "novelties", "price": 3}
        call.post("/items", [new], "admin")
        call.refresh()
        answer = call.slate(n=2)
        only_new = call.slate(n=1, category="novelties")
    assert done == {"changed": 3, "revision": 3}
    assert ids(answer) == ["i2", "i4"]
    assert answer["items"][0]["metadata"]["price"] == 9.5
    assert (ids(only_new), only_new["items"][0]["metadata"]["title"]) == (["new"], "New")


def test_a_deleted_item_may_come_back(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        call.send("DELETE", "/items/i0", "admin")
        call.refresh()
        assert "i0" not in ids(call.slate(n=3))
        call.post("/items", [{"item_id": "i0", "title": "Back"}], "admin")
        call.refresh()
        assert ids(call.slate(n=3))[0] == "i0"


def test_an_item_id_with_a_slash_can_be_changed(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        call.post("/items", [{"item_id": "../a/b", "title": "Slashed"}], "admin")
        changed = call.send("PATCH", "/items/..%2Fa%2Fb", "admin", json={"stock": 0})
        deleted = call.send("DELETE", "/items/..%2Fa%2Fb", "admin")
        gone = call.send("DELETE", "/items/..%2Fa%2Fb", "admin")
    assert (changed.status_code, deleted.status_code, gone.status_code) == (200, 200, 404)


def test_items_that_do_not_exist_are_not_changed(shop: SmallShop) -> None:
    with shop.client() as call:
        response = call.send("PATCH", "/items", "admin", json=[{"item_id": "i0"}, {"item_id": "nope"}])
        single = call.send("DELETE", "/items/nope", "admin")
        broken = call.send("POST", "/items", "admin", content=b"{", headers=JSON)
        wrong = call.send("POST", "/items", "admin", json=[{"item_id": "x", "title": "X", "price": -1}])
    assert (response.status_code, response.json()["error"]["field"]) == (404, "1.item_id")
    assert single.status_code == 404
    assert (broken.status_code, broken.json()["error"]["field"]) == (400, "body")
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "0.price")


@pytest.mark.parametrize("field", ["title", "category", "description"])
def test_a_text_with_control_characters_is_refused_by_its_name(shop: SmallShop, field: str) -> None:
    shop.start()
    with shop.client() as call:
        for text in ("\x00", "Tea\x00", "Tea\x1b[2J"):
            answer = call.send("PATCH", "/items/i0", "admin", json={field: text})
            assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
        answer = call.send("PATCH", "/items/i0", "admin", json={field: "two\nlines,\ttabbed"})
    assert answer.status_code == 200


def test_a_change_that_the_log_did_not_take_changes_nothing(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        shop.broker.down = True
        response = call.send("PATCH", "/items/i0", "admin", json={"hidden": True})
        call.refresh()
        assert response.status_code == 503
        assert "i0" in ids(call.slate(n=1))


# ---- champion only -----------------------------------------------------------------------------------------


def test_the_kill_switch_works_without_redis_and_broker(shop: SmallShop) -> None:
    shop.race(0.5)
    shop.set_weights({"good": 0.0, "other": 1.0})
    with shop.client() as call:
        assert call.slate(n=1)["arm"] == "other"
        for part in (shop.reader, shop.cache, shop.log, shop.broker, shop.overlay):
            part.down = True
        assert call.post("/champion-only", {"on": True, "reason": "drill"}, "admin").status_code == 200
        call.refresh()
        answer = call.slate(n=1)
        assert (answer["arm"], answer["degraded"]) == (
            "good",
            "champion_only,no_fresh_features,exposure_lost",
        )
        assert "drill" in shop.settings.kill_switch_path.read_text()
        ready = call.get("/health/ready", "analyst").json()
        assert (ready["champion_only"], ready["cut_off"]) == (True, False)
        call.post("/champion-only", {"on": False}, "admin")
        call.refresh()
        assert "champion_only" not in call.slate(n=1)["degraded"]


def test_a_slate_under_the_kill_switch_does_not_count(shop: SmallShop) -> None:
    shop.race(0.5)
    shop.settings.kill_switch_path.touch()
    with shop.client() as call:
        assert call.slate(n=1)["degraded"] == "champion_only"
    assert shop.exposures()[0].excluded == "champion_only"


def test_cut_off_from_the_state_only_the_champion_serves(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path, state_cutoff_s=0.0)
    shop.race(0.5)
    shop.set_weights({"good": 0.0, "other": 1.0})
    with shop.client() as call:
        shop.cache.down = True
        call.refresh()
        answer = call.slate(n=1)
        ready = call.get("/health/ready", "analyst").json()
    assert (answer["arm"], answer["degraded"]) == ("good", "cut_off")
    assert (ready["champion_only"], ready["cut_off"]) == (False, True)
    assert shop.exposures()[0].excluded == "champion_only"


def test_a_replica_starts_offline_on_its_last_champion(shop: SmallShop) -> None:
    shop.start("other")
    with shop.client() as call:
        call.slate(n=1)
    for part in (shop.reader, shop.cache, shop.log, shop.broker, shop.overlay):
        part.down = True
    with shop.client() as call:
        known, anonymous = call.slate(n=2), call.slate(n=2, user_id=None, session_id=None)
        for part in (shop.reader, shop.cache, shop.log, shop.broker, shop.overlay):
            part.down = False
        call.refresh()
        assert call.slate(n=2, user_id=None, session_id=None)["degraded"] is None
    assert (ids(known), known["model_version"]) == (["i39", "i38"], "other")
    assert (known["degraded"], anonymous["degraded"]) == (
        "cut_off,no_fresh_features,exposure_lost",
        "cut_off,exposure_lost",
    )
    assert shop.settings.kill_switch_path.parent.joinpath("recommend/champion.json").exists()


def test_a_full_disk_stops_no_replica(
    shop: SmallShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = shop.settings.home / "recommend"
    monkeypatch.setattr(sources, "write_atomically", full)
    shop.start()
    with shop.client() as call:
        call.refresh()
        shop.decide(commands.enter, "other", "other")
        call.refresh()
        (beat,) = shop.cache.heartbeats()
        ours = [line for line in caplog.records if line.name.startswith("services")]
        warned = [line.getMessage() for line in ours if line.levelname == "WARNING"]
        errors = [line for line in ours if line.levelname == "ERROR"]
        monkeypatch.undo()
        call.refresh()
    assert (beat.revision, set(beat.loaded)) == (shop.state.revision, {"good", "other"})
    assert [line for line in warned if "champion" in line] == warned
    assert (len(warned), errors) == (1, [])
    assert (folder / "champion.json").exists()


def test_a_lost_cache_is_refilled_by_a_replica(shop: SmallShop) -> None:
    shop.race(0.5)
    with shop.client() as call:
        shop.cache.lose_data()
        call.refresh()
        assert call.slate(n=1)["degraded"] is None
    assert shop.cache.get("storefront") == shop.state


def test_an_older_state_is_never_loaded(shop: SmallShop) -> None:
    old = shop.start()
    shop.decide(commands.enter, "other", "other")
    with shop.client() as call:
        shop.cache.lose_data()
        shop.cache.put(old)
        call.refresh()
        assert call.get("/health/ready", "admin").json()["revision"] == shop.state.revision


def test_without_data_it_lives_but_is_not_ready(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    shop.data._datasets.clear()
    with shop.client() as call:
        assert call.get("/health/live", None).status_code == 200
        loading = call.get("/health/ready", None)
        assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
        answer = call.slate(n=3)
    assert (ids(answer), answer["degraded"]) == ([], "popular,fewer_eligible")


def test_unused_models_are_evicted_except_the_last_ones(shop: SmallShop) -> None:
    source = ModelSource(shop.models, lambda: 0.0)
    versions = [f"v{step}" for step in range(5)]
    for version in versions:
        shop.add(version, FixedOrderModel(list(range(40))))
        source.refresh([version])
    assert list(source.runners) == versions[-1 - KEEP_RETIRED :]
