"""POST /events: what is taken, what is refused, and what counts for which slate."""

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from support.small_shop import KEYS, SIGNING, START_MS, SmallShop, ids

from services.ports.event_log import Record
from services.recommend.api.events import acknowledged
from services.recommend.recommendation_id import RecommendationIds, Refusal
from services.recommend.schemas import FIRST_MS, LAST_MS


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    shop = SmallShop(tmp_path, broker_ack_deadline_ms=50)
    shop.race(0.5)
    return shop


def click(item: str, token: str | None = None, event_id: str = "e1", **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "type": "click", "item_id": item, "recommendation_id": token, **more}


def test_a_click_carries_what_its_slate_was(shop: SmallShop) -> None:
    with shop.client() as call:
        answer = call.slate(n=3)
        shop.now_ms += 5_000
        again = call.slate(n=3)
        item, token = ids(again)[2], again["recommendation_id"]
        response = call.post("/events", [click(item, token, ts=START_MS - 9_000_000)])
    taken = {"accepted": 1, "attributed": 1, "unattributed": [], "rejected": []}
    assert (response.status_code, response.json()) == (202, taken)
    (event,) = shop.events()
    first, second = shop.exposures()
    assert (event.received_at, event.ts, event.key) == (START_MS + 5_000, START_MS - 9_000_000, "anna")
    attribution = event.attribution
    assert attribution is not None
    assert (attribution.unit, attribution.unit_at, attribution.arm, attribution.propensity) == (
        first.unit,
        START_MS,
        answer["arm"],
        0.5,
    )
    assert (attribution.exposed_at, attribution.position, attribution.recommendation_id) == (
        second.received_at,
        2,
        second.recommendation_id,
    )


def long(name: str) -> str:
    """As long as an id may be, of the longest characters."""
    return (name + "\U0001f3f7" * 200)[:200]


def test_tokens_of_the_longest_slates_can_be_clicked(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path, category_share=1.0)
    shop.start()
    items = [{"item_id": long(f"{place}-"), "title": "T", "category": long("c")} for place in range(500)]
    who = {"user_id": long("u"), "session_id": long("s")}
    names = [item["item_id"] for item in items]
    asked = {
        **who,
        "n": 100,
        "exclude": [long(f"x{place}-") for place in range(1_000)],
        "context": [long(f"y{place}-") for place in range(100)],
        "category": [long("c"), *(long(f"c{place}-") for place in range(49))],
    }
    query = urlencode({**who, "n": 100, "category": long("c")})
    with shop.client() as call:
        assert call.post("/items", items, "admin").status_code == 200
        call.refresh()

        def send(path: str, body: Any) -> Any:
            answer = call.send("POST", path, content=json.dumps(body, ensure_ascii=False).encode())
            assert answer.status_code in (200, 202), answer.text[:300]
            return answer.json()

        slates = [
            call.get(f"/recommend?{query}").json(),
            call.get(f"/similar/{quote(names[7], safe='')}?{query}").json(),
            send("/recommend", asked),
            send("/rerank", {**who, "items": names}),
        ]
        assert [len(slate["items"]) for slate in slates] == [100, 100, 100, 500]
        for number, slate in enumerate(slates):
            row = click(ids(slate)[-1], slate["recommendation_id"], long(f"e{number}"), **who)
            assert send("/events", [row])["attributed"] == 1
        plain = {"type": "view", "item_id": "i" * 200, "user_id": "u" * 200, "session_id": "s" * 200}
        many = [{"event_id": f"{number:0200}", **plain} for number in range(500)]
        assert send("/events", many)["accepted"] == 500
    assert len(shop.events()) == 504
    assert [len(exposure.items) for exposure in shop.exposures()] == [100, 100, 100, 500]


def test_a_forged_foreign_expired_or_misused_token_counts_for_nothing(shop: SmallShop) -> None:
    with shop.client() as call:
        answer = call.slate(n=3)
        token, item = answer["recommendation_id"], ids(answer)[0]
        forged = ("A" if token[0] != "A" else "B") + token[1:]
        rows = [
            {"type": "tap"},
            click(item, forged, "forged"),
            click("i39" if item != "i39" else "i0", token, "other item"),
            click(item, "", "none"),
        ]
        taken = call.post("/events", rows).json()
        assert (taken["accepted"], taken["attributed"], len(taken["rejected"])) == (3, 0, 1)
        reasons = [(row["index"], row["reason"]) for row in taken["unattributed"]]
        assert reasons == [(1, "forged"), (2, "not_in_slate")]
        shop.now_ms += round(shop.settings.recommendation_ttl_s * 1_000) + 1
        late = call.post("/events", [click(item, token, "late")]).json()
        assert late["unattributed"] == [{"index": 0, "reason": "expired"}]
        text = call.get("/metrics", "analyst").text
    for reason in ("forged", "not_in_slate", "expired"):
        assert f'ringside_events_unattributed_total{{reason="{reason}"}} 1.0' in text
    assert [event.attribution for event in shop.events()] == [None] * 4


def test_no_single_changed_letter_of_a_token_is_accepted(shop: SmallShop) -> None:
    with shop.client() as call:
        token = call.slate(n=3)["recommendation_id"]
    tokens = RecommendationIds([SIGNING], 10**9)
    assert tokens.read(token) is not None
    for place in range(len(token) - 1):  # the last letter of the signature holds two bits that mean nothing
        other = "A" if token[place] != "A" else "B"
        assert tokens.read(token[:place] + other + token[place + 1 :]) is None


def test_signing_keys_rotate(shop: SmallShop) -> None:
    with shop.client() as call:
        answer = call.slate(n=1)
    token, item = answer["recommendation_id"], ids(answer)[0]
    old_and_new = RecommendationIds(["the new signing key", SIGNING], 10**9)
    only_new = RecommendationIds(["the new signing key"], 10**9)
    only_old = RecommendationIds([SIGNING], 10**9)
    ours = frozenset({"storefront"})
    assert old_and_new.attribute(token, item, ours, START_MS) == only_old.attribute(
        token, item, ours, START_MS
    )
    assert only_new.attribute(token, item, ours, START_MS) is Refusal.FORGED
    assert old_and_new.attribute(token, item, frozenset({"checkout"}), START_MS) is Refusal.FOREIGN
    assert only_new.read(old_and_new.sign(shop.exposures()[0])) is not None


def test_events_of_an_uncounted_slate_do_not_count(shop: SmallShop) -> None:
    with shop.client() as call:
        answer = call.slate(n=1, staff="true")
        taken = call.post("/events", [click(ids(answer)[0], answer["recommendation_id"])]).json()
    assert taken["unattributed"] == [{"index": 0, "reason": "not_counted"}]


def test_bad_rows_are_named_and_good_ones_kept(shop: SmallShop) -> None:
    rows = [
        click("i1", event_id="a"),
        {"type": "click"},
        click("i2", event_id="b", value="x"),
        {**click("i3"), "type": "tap"},
        7,
    ]
    with shop.client() as call:
        response = call.post("/events", rows)
    body = response.json()
    assert (response.status_code, body["accepted"]) == (202, 1)
    assert [(row["index"], row["field"]) for row in body["rejected"]] == [
        (1, "event_id"),
        (2, "value"),
        (3, "type"),
        (4, "body"),
    ]
    assert [event.event_id for event in shop.events()] == ["a"]


def test_a_string_that_is_no_text_costs_its_row_only(shop: SmallShop) -> None:
    """Browsers' JSON.stringify can emit half of a surrogate pair."""
    row = '{"event_id":"%s","type":"click","item_id":"i1"}'
    body = ("[" + row % "ok" + "," + row % r"\ud800" + "]").encode()
    with shop.client() as call:
        answer = call.send("POST", "/events", "storefront", content=body).json()
    assert (answer["accepted"], [row["index"] for row in answer["rejected"]]) == (1, [1])
    assert [event.event_id for event in shop.events()] == ["ok"]


def test_only_bad_rows_are_an_error(shop: SmallShop) -> None:
    with shop.client() as call:
        response = call.post("/events", [{**click("i3"), "type": "tap"}])
    assert (response.status_code, response.json()["error"]["field"]) == (422, "0.type")
    assert shop.events() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[1", 400),
        (b"{}", 422),
        (b'"x"', 422),
        (b"[" + b"1," * 600 + b"1]", 422),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'[{"event_id":' + b"[" * 50_000 + b"]" * 50_000 + b"}]", 400),
    ],
)
def test_what_is_no_list_of_events_is_refused(shop: SmallShop, body: bytes, status: int) -> None:
    with shop.client() as call:
        response = call.send("POST", "/events", content=body)
    assert (response.status_code, response.json()["error"]["field"]) == (status, "body")


def test_nothing_is_promised_until_the_broker_has_it(shop: SmallShop) -> None:
    with shop.client() as call:
        shop.broker.stall()
        waiting = call.post("/events", [click("i1")])
        shop.broker.release()
        shop.broker.down = True
        dead = call.post("/events", [click("i1")])
        shop.broker.down = False
        retried = call.post("/events", [click("i1")])
    for response in (waiting, dead):
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert retried.status_code == 202
    assert {event.event_id for event in shop.events()} == {"e1"}


def test_browsers_may_send_with_a_beacon(shop: SmallShop) -> None:
    key = KEYS["storefront"][0]
    body = b'[{"event_id": "b", "type": "view", "item_id": "i1"}]'
    headers = {"Content-Type": "text/plain;charset=UTF-8", "Origin": "https://shop.example"}
    with shop.client() as call:
        response = call.send("POST", f"/events?key={key}", None, content=body, headers=headers)
        preflight = call.send(
            "OPTIONS",
            "/recommend",
            None,
            headers={
                "Origin": "https://shop.example",
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "x-api-key",
            },
        )
        from_browser = call.get("/recommend?n=1", headers={"Origin": "https://shop.example"})
    assert response.status_code == 202
    assert preflight.status_code == 200
    for answer in (response, preflight, from_browser):
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("ts", [None, 1_700_000_000_000, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"])
def test_the_clients_clock_is_taken_as_ms_or_rfc_3339(shop: SmallShop, ts: Any) -> None:
    with shop.client() as call:
        assert call.post("/events", [click("i1", ts=ts)]).status_code == 202
    expected = {None: None, 1_700_000_000_000: 1_700_000_000_000}.get(ts, 1_767_225_600_000)
    assert shop.events()[0].ts == expected


@pytest.mark.parametrize(
    ("ts", "problem"),
    [
        (1_764_000_000, "1764000000 looks like seconds; send milliseconds since the epoch"),
        (1_764_000_000_000_000, "1764000000000000 looks like microseconds; send milliseconds"),
        (0, "0 is not between 2000 and 2100"),
        (LAST_MS + 1, "is not between 2000 and 2100"),
        ("1970-01-21T10:00:00Z", "1764000000 looks like seconds"),
    ],
)
def test_an_impossible_time_is_refused_by_row_and_field(shop: SmallShop, ts: Any, problem: str) -> None:
    with shop.client() as call:
        body = call.post("/events", [click("i1"), click("i2", event_id="e2", ts=ts)]).json()
    (refused,) = body["rejected"]
    assert (body["accepted"], refused["index"], refused["field"]) == (1, 1, "ts")
    assert problem in refused["problem"]


@pytest.mark.parametrize("ts", [FIRST_MS, START_MS - 10**10, START_MS + 10**10, LAST_MS])
def test_a_clock_may_be_months_off(shop: SmallShop, ts: int) -> None:
    with shop.client() as call:
        assert call.post("/events", [click("i1", ts=ts)]).json()["accepted"] == 1


def test_a_batch_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[Any] = []
    futures: list[Future[Record]] = [Future() for _ in range(100)]

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *call: (woken.append(call), wake(*call))[1])
        waiting = asyncio.create_task(acknowledged(futures, 5.0))
        await asyncio.sleep(0)
        for future in futures:
            threads.submit(future.set_result, Record("events", 0, 0, 0, None, b""))
        await waiting

    with ThreadPoolExecutor(4) as threads:
        asyncio.run(wait())
    assert len(woken) == 1
