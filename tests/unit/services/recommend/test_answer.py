"""What /recommend, /similar, /rerank and /popular answer, healthy and sick."""

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.small_shop import CATEGORIES, START_MS, FixedOrderModel, SmallShop, ids

from services.ports.features import UserRow
from services.recommend.http_app import create_app
from services.recommend.snapshot import model_runner

FULL = {"category_share": 1.0}


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, **FULL)


def test_an_answer_names_everything_that_made_it(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        response = call.get("/recommend?user_id=anna&session_id=s&n=3")
    answer = response.json()
    assert response.headers["cache-control"] == "no-store"
    assert ids(answer) == ["i0", "i1", "i2"]
    assert [item["position"] for item in answer["items"]] == [0, 1, 2]
    assert answer["items"][0]["metadata"] == {"title": "Item 0", "category": "lamps", "price": 1.0}
    assert {name: answer[name] for name in ("experiment", "arm", "model_version", "degraded")} == {
        "experiment": "storefront",
        "arm": "good",
        "model_version": "good",
        "degraded": None,
    }


@pytest.mark.parametrize("query", ["", "user_id=nobody", "session_id=new"])
def test_a_stranger_gets_a_full_slate(shop: SmallShop, query: str) -> None:
    shop.start()
    shop.good.cold = True
    with shop.client() as call:
        answer = call.get(f"/recommend?n=5&{query}").json()
    assert ids(answer) == ["i39", "i38", "i37", "i36", "i35"]  # most bought first
    assert (answer["arm"], answer["degraded"]) == ("good", None)
    assert {item["reason"] for item in answer["items"]} == {"popular now"}


def test_get_and_post_give_the_same_slate(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        got = call.get("/recommend?user_id=a&n=4&exclude=i0,i1&exclude=i5&category=lamps&category=mugs")
        body = {"user_id": "a", "n": 4, "exclude": ["i0", "i1", "i5"], "category": ["lamps", "mugs"]}
        posted = call.post("/recommend", body)
    assert ids(got.json()) == ids(posted.json()) == ["i4", "i8", "i9", "i12"]


def test_filters_cart_and_history_are_left_out(shop: SmallShop) -> None:
    shop.start()
    shop.reader.rows["anna"] = UserRow(("i3", "i4"), (START_MS, START_MS), ("purchase", "view"), START_MS)
    with shop.client() as call:
        discover = call.post(
            "/recommend", {"user_id": "anna", "n": 3, "price_min": 3, "price_max": 7, "context": ["i2"]}
        ).json()
        again = call.slate(n=5, placement="buy_again")
    assert ids(discover) == ["i4", "i5", "i6"]  # i2 is in the cart, i3 was bought
    assert "i3" in ids(again)


def test_a_slate_is_short_only_without_enough_eligible_items(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        short = call.slate(n=5, price_max=2)
        none = call.slate(n=5, category="no such category")
    assert (ids(short), short["degraded"]) == (["i0", "i1"], "fewer_eligible")
    assert (ids(none), none["degraded"]) == ([], "fewer_eligible")


def test_no_category_takes_more_than_its_share(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path, category_share=0.5)
    shop.good.order.sort(key=lambda place: (place % 4, place))  # ten lamps first
    shop.start()
    with shop.client() as call:
        answer = call.slate(n=8)
    lamps = [item for item in answer["items"] if item["metadata"]["category"] == "lamps"]
    assert (len(answer["items"]), len(lamps)) == (8, 4)


COMMA = "Home, Garden"
LONG = "%2C".join(["lamps", *(f"nowhere-{number}" for number in range(20)), "mugs"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("category=Home%2C%20Garden", {COMMA}),
        ("category=Home%2C+Garden", {COMMA}),
        ("price_min=0&category=Home%2C%20Garden", {COMMA}),
        ("category=lamps,mugs", {"lamps", "mugs"}),
        ("category=lamps%2Cmugs", {"lamps", "mugs"}),  # as URLSearchParams writes a list
        ("category=lamps&category=mugs", {"lamps", "mugs"}),
        ("category=Home%2C%20Garden,lamps", {COMMA, "lamps"}),
        ("category=Home%2C%20Garden&category=lamps", {COMMA, "lamps"}),
        (
            "category=" + "%2C".join(["lamps", *(f"nowhere-{n}" for n in range(20)), "mugs"]),
            {"lamps", "mugs"},
        ),
        ("exclude=i1%2Ci2,i3&category=lamps", {"lamps"}),
        ("category=,", {*CATEGORIES, COMMA}),
    ],
)
def test_categories_are_asked_for_by_name_whatever_is_in_it(
    shop: SmallShop, query: str, expected: set[str]
) -> None:
    shop.start()
    with shop.client() as call:
        home = [{"item_id": f"i{place}", "category": COMMA} for place in range(8)]
        call.send("PATCH", "/items", "admin", json=home)
        call.refresh()
        for path in ("/popular?n=100&", "/recommend?n=100&user_id=anna&", "/similar/i0?n=100&"):
            answer = call.get(path + query)
            assert answer.status_code == 200, answer.text
            assert set(categories(answer.json())) == expected, path
        posted = call.post("/recommend", {"user_id": "anna", "category": [COMMA]}).json()
    assert set(categories(posted)) == {COMMA}


def test_lists_of_a_query_say_how_they_are_written(shop: SmallShop) -> None:
    asked = create_app(shop.deps()).openapi()["paths"]["/popular"]["get"]["parameters"]
    descriptions = {part["name"]: part.get("description", "") for part in asked}
    assert "%2C" in descriptions["category"]
    assert "commas" in descriptions["exclude"]


def categories(answer: dict) -> Counter[str]:
    return Counter(item["metadata"]["category"] for item in answer["items"])


def test_the_category_share_holds_if_others_are_eligible(tmp_path: Path) -> None:
    """Also by what is popular, and by a model that knows one category only."""
    shop = SmallShop(tmp_path, category_share=0.5)
    shop.good.order.sort(key=lambda place: (place % 4, place))  # ten lamps first
    shop.start()
    with shop.client() as call:
        few = call.slate(n=3)
        hidden = [{"item_id": f"i{place}", "hidden": True} for place in range(20, 40) if place % 4 != 3]
        call.send("PATCH", "/items", "admin", json=hidden)  # left of the most popular: bags
        call.refresh()
        popular = [call.get(f"/popular?n={n}").json() for n in (1, 2, 6, 8)]
        shop.good.cold = True
        stranger = call.slate(n=2, user="stranger")
        shop.good.fails = True
        no_model = call.slate(n=6, user="another")
    assert (categories(few)["lamps"], few["degraded"]) == (2, None)
    assert few["items"][2]["reason"] == "popular now"
    for answer, most in zip([*popular, stranger], (1, 1, 3, 4, 1), strict=True):
        assert (max(categories(answer).values()), answer["degraded"]) == (most, None)
    assert (max(categories(no_model).values()), no_model["degraded"]) == (3, "failed:good,popular")
    assert ids(popular[2]) == ["i39", "i35", "i31", "i18", "i17", "i16"]


def test_an_exceeded_category_share_is_reported_in_full_slates(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path, category_share=0.5)
    shop.start()
    with shop.client() as call:
        others = [place for place in range(39) if place % 4]
        hidden = [{"item_id": f"i{place}", "hidden": True} for place in others]
        call.send("PATCH", "/items", "admin", json=hidden)
        call.refresh()
        answers = [call.slate(n=4), call.get("/popular?n=4").json()]
        lamps = call.slate(n=4, category="lamps")  # asked for
    assert [(len(answer["items"]), answer["degraded"]) for answer in answers] == [(4, "category_share")] * 2
    assert [categories(answer)["lamps"] for answer in answers] == [3, 3]
    assert (len(lamps["items"]), lamps["degraded"]) == (4, None)


def test_a_shop_with_one_category_has_no_share_to_keep(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path, category_share=0.5)
    shop.start()
    with shop.client() as call:
        alike = [{"item_id": f"i{place}", "category": "lamps"} for place in range(40)]
        call.send("PATCH", "/items", "admin", json=alike)
        call.refresh()
        answers = [call.slate(n=4), call.get("/popular?n=4").json()]
    assert [(categories(answer), answer["degraded"]) for answer in answers] == [({"lamps": 4}, None)] * 2


def test_a_cached_slate_of_fewer_items_keeps_the_share(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path, category_share=0.5)
    shop.good.order.sort(key=lambda place: (place % 4, place))
    shop.start()
    with shop.client() as call:
        call.slate(n=6)
        shop.good.fails = True
        answer = call.slate(n=4)
    assert (ids(answer), answer["degraded"]) == (["i0", "i4", "i1", "i5"], "failed:good,cached_slate")


def test_similar_leaves_the_item_out_and_fills_from_its_category(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        known = call.get("/similar/i1?n=3").json()
        shop.good.cold = True
        filled = call.get("/similar/i1?n=3").json()
        missing = call.get("/similar/zzz")
    assert ids(known) == ["i0", "i2", "i3"]
    assert ids(filled) == ["i37", "i33", "i29"]  # mugs, most bought first
    assert (missing.status_code, missing.json()["error"]["field"]) == (404, "item_id")


def test_item_ids_may_hold_slashes_and_percent_signs(shop: SmallShop) -> None:
    shop.start()
    names = ["shelf/7", "50%25"]
    with shop.client() as call:
        call.post("/items", [{"item_id": name, "title": name} for name in names], "admin")
        call.refresh()
        answers = [
            call.get(f"/similar/{path}?n=2") for path in ("shelf%2F7", "50%252525")
        ]  # decoded twice here
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [len(answer.json()["items"]) for answer in answers] == [2, 2]


def test_rerank_orders_what_is_given_and_nothing_else(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        given = {"user_id": "a", "items": ["i9", "unknown", "i3", "i3", "i7"]}
        ranked = call.post("/rerank", given).json()
        shop.good.cold = True
        kept = call.post("/rerank", {"items": ["i9", "i3", "i7"]}).json()
    assert (ids(ranked), ranked["degraded"]) == (["i3", "i7", "i9"], "fewer_eligible")
    assert ids(kept) == ["i9", "i3", "i7"]


def test_popular_items_belong_to_no_arm(shop: SmallShop) -> None:
    with shop.client() as call:
        answer = call.get("/popular?n=2&exclude=i39").json()
    assert ids(answer) == ["i38", "i37"]
    assert (answer["recommendation_id"], answer["arm"]) == (None, None)
    assert shop.exposures() == []


# ---- sick models -------------------------------------------------------------------------------------------


def _all_on_other(shop: SmallShop) -> None:
    shop.race(0.5)
    shop.set_weights({"good": 0.0, "other": 1.0})


def test_the_champion_answers_for_a_failing_arm_which_counts(shop: SmallShop) -> None:
    _all_on_other(shop)
    with shop.client() as call:
        shop.other.fails = True
        answer = call.slate(n=3)
    assert (ids(answer), answer["arm"], answer["model_version"]) == (["i0", "i1", "i2"], "other", "good")
    assert answer["degraded"] == "failed:other"
    (exposure,) = shop.exposures()
    assert (exposure.arm, exposure.answered_by, exposure.first, exposure.excluded) == (
        "other",
        "good",
        True,
        None,
    )


@pytest.mark.parametrize("threaded", [False, True])
def test_a_late_arm_is_answered_by_the_champion(tmp_path: Path, threaded: bool) -> None:
    shop = SmallShop(tmp_path, rank_deadline_ms=150, **FULL)
    _all_on_other(shop)
    with shop.client() as call:
        call.parts.refresher.snapshot.models["other"].runner.inline = not threaded
        shop.other.sleep_s = 0.6
        answer = call.slate(n=3)
        other = call.parts.refresher.snapshot.models["other"].runner
        assert threaded or other.off_loop_until_s > time.monotonic()  # off the loop for a while
    assert (answer["degraded"], answer["model_version"]) == ("late:other", "good")


def test_a_model_off_the_loop_returns_when_quick_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each overrun in a row costs twice as much; one a day costs a second."""
    now = [1_000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr(model_runner, "time", clock)
    model = model_runner.ModelRunner("v", "a", None, {}, inline=True)  # type: ignore[arg-type]

    def overrun() -> float:
        with pytest.raises(model_runner.ModelFailedError, match="late"):
            model._run_inline(lambda: now.__setitem__(0, now[0] + 0.2), 0.1)  # type: ignore[arg-type, return-value]
        off_s = model.off_loop_until_s - now[0]
        now[0] = model.off_loop_until_s
        return off_s

    assert [overrun() for _ in range(5)] == pytest.approx([1, 2, 4, 8, 16])
    days = []
    for _ in range(20):
        now[0] += 86_400
        days.append(overrun())
    assert days == pytest.approx([1] * 20)


def test_scores_that_are_no_numbers_are_a_failure(shop: SmallShop) -> None:
    _all_on_other(shop)
    with shop.client() as call:
        shop.other.score = float("nan")
        assert call.slate(n=3)["degraded"] == "failed:other"


def test_a_model_that_keeps_failing_rests(shop: SmallShop) -> None:
    _all_on_other(shop)
    with shop.client() as call:
        shop.other.fails = True
        notes = [call.slate(n=3, user=f"u{visit}")["degraded"] for visit in range(6)]
        before = shop.other.asked
        call.slate(n=3)
    assert notes == ["failed:other"] * 5 + ["resting:other"]
    assert shop.other.asked == before


def test_a_sick_champion_leaves_the_last_slate_then_popular_items(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        good = call.slate(n=3)
        shop.good.fails = True
        cached, popular = call.slate(n=3), call.slate(n=3, user="stranger")
    assert (ids(cached), cached["degraded"]) == (ids(good), "failed:good,cached_slate")
    assert (ids(popular), popular["degraded"]) == (["i39", "i38", "i37"], "failed:good,popular")
    assert popular["model_version"] == "popular"


def test_a_cached_slate_shows_nothing_that_was_hidden_since(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        call.slate(n=3)
        call.send("PATCH", "/items/i1", "admin", json={"hidden": True})
        call.refresh()
        shop.good.fails = True
        answer = call.slate(n=3)
    assert "i1" not in ids(answer)
    assert len(ids(answer)) == 3


def test_a_cached_slate_shows_items_as_they_are_now(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        good = call.slate(n=2, metadata="false")
        call.send("PATCH", "/items/i0", "admin", json={"price": 99.0})
        call.refresh()
        shop.good.fails = True
        full, bare = call.slate(n=2), call.slate(n=2, metadata="false")
    assert full["degraded"] == bare["degraded"] == "failed:good,cached_slate"
    assert full["items"][0]["metadata"] == {"title": "Item 0", "category": "lamps", "price": 99.0}
    assert bare["items"] == good["items"]


def test_slates_are_cached_by_shopper_placement_and_item(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        call.slate(n=3)
        call.get("/similar/i5?n=3&user_id=anna")
        shop.good.fails = True
        asked = [
            "/recommend?n=3&user_id=anna",
            "/recommend?n=3&user_id=anna&placement=cart",
            "/recommend?n=3&user_id=anna&placement=item",
            "/recommend?n=3&user_id=bert",
            "/similar/i5?n=3&user_id=anna",
            "/similar/i6?n=3&user_id=anna",
            "/similar/i5?n=3&user_id=anna&placement=home",
        ]
        notes = [call.get(path).json()["degraded"].split(",")[-1] for path in asked]
    cached, other = "cached_slate", "popular"
    assert notes == [cached, other, other, other, cached, other, other]


def test_an_exposure_says_when_its_features_became_readable(shop: SmallShop) -> None:
    """Point-in-time reads of training rest on it."""
    shop.start()
    shop.reader.rows["anna"] = UserRow(("i3",), (START_MS - 9,), ("view",), START_MS - 5)
    with shop.client() as call:
        call.slate()
        call.slate(user="stranger")
    assert [exposure.features_at for exposure in shop.exposures()] == [START_MS - 5, None]


def test_an_artifact_that_is_refused_leaves_the_rest_serving(shop: SmallShop) -> None:
    shop.models.damage("other")
    _all_on_other(shop)
    with shop.client() as call:
        answer = call.slate(n=3)
        beats = shop.cache.heartbeats()
    assert (answer["degraded"], answer["model_version"]) == ("not_loaded:other", "good")
    assert beats[0].loaded == ("good",)


def test_a_model_that_breaks_while_tried_out_is_not_loaded(shop: SmallShop) -> None:
    shop.add("broken", FixedOrderModel(list(range(40)), fails=True))
    shop.start("broken")
    with shop.client() as call:
        answer = call.slate(n=2)
    assert answer["degraded"] == "not_loaded:broken,popular"


# ---- sick dependencies -------------------------------------------------------------------------------------


def test_without_redis_the_remembered_features_and_the_champion_answer(shop: SmallShop) -> None:
    _all_on_other(shop)
    shop.reader.rows["anna"] = UserRow(("i0",), (START_MS,), ("purchase",), START_MS)
    with shop.client() as call:
        assert "i0" not in ids(call.slate(n=3))
        shop.reader.down = True
        answer = call.slate(n=3)
    assert (ids(answer), answer["arm"]) == (["i1", "i2", "i3"], "good")  # what anna bought is still left out
    assert answer["degraded"] == "no_fresh_features"
    assert shop.exposures()[-1].excluded == "pin_unreachable"


def test_request_units_lose_only_their_features_without_redis(shop: SmallShop) -> None:
    shop.race(0.5, unit="request")
    shop.reader.down = True
    with shop.client() as call:
        arms = {call.slate(n=2)["arm"] for _ in range(40)}
    assert arms == {"good", "other"}
    assert {exposure.excluded for exposure in shop.exposures()} == {None}


def test_a_dead_reader_is_not_asked_again_and_again(shop: SmallShop) -> None:
    shop.start()
    shop.reader.down = True
    with shop.client() as call:
        for _ in range(6):
            call.slate(n=2)
        shop.reader.down = False
        assert call.slate(n=2)["degraded"] == "no_fresh_features"  # resting; tried again after a second


def test_a_stalled_broker_does_not_hold_slates_up(shop: SmallShop) -> None:
    shop.start()
    shop.broker.stall()
    with shop.client() as call:
        assert call.slate(n=2)["degraded"] is None
        shop.broker.release()
    assert len(shop.exposures()) == 1
