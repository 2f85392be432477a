"""The shop over the real recommend application: both sides of the HTTP contract, without a network."""

import html
import json
import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient
from support.small_shop import KEYS, Caller, SmallShop

from services.settings import Settings
from services.shop.app import create_app

KEY = KEYS["storefront"][0]


@pytest.fixture
def service(tmp_path) -> Iterator[tuple[SmallShop, Caller]]:
    shop = SmallShop(tmp_path)
    shop.race()
    with shop.client() as caller:
        yield shop, caller


@pytest.fixture
def storefront(service) -> TestClient:
    _, caller = service

    def forward(request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        answer = caller.http.request(
            request.method, path, content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, content=answer.content)

    client = httpx.AsyncClient(transport=httpx.MockTransport(forward))
    settings = Settings(storefront_key=KEY, recommend_url="http://api")
    return TestClient(create_app(settings, client, fill_cache=False), headers={"user-agent": "Firefox/140"})


def section_of(page: str, name: str) -> tuple[str, list[str]]:
    part = page.split(f'data-section="{name}"')[1].split("</section>")[0]
    slate = re.search(r'data-slate="([^"]+)"', part)
    return html.unescape(slate[1]) if slate else "", re.findall(r'data-item="([^"]+)"', part)


def test_every_page_is_answered_by_the_real_service(service, storefront):
    shop, _ = service
    storefront.post("/cart", data={"item_id": "i3"})
    for path in ("/", "/item/i7", "/cart", "/category/mugs", "/search?q=mug", "/sections/for-you"):
        page = storefront.get(path).text
        assert "taking a short break" not in page, path
        assert re.search(r'data-item="i\d+"', page), path
    assert {exposure.placement for exposure in shop.exposures()} >= {"home", "item", "cart", "category"}


def test_an_item_id_with_a_slash_has_its_page(service, storefront):
    _, caller = service
    caller.post("/items", [{"item_id": "shelf/7", "title": "Shelf", "category": "lamps"}], "admin")
    caller.refresh()
    _, similar = section_of(storefront.get("/item/shelf/7").text, "similar")
    assert similar
    assert "shelf/7" not in similar


def test_all_slates_of_a_visit_share_the_named_arm(service, storefront):
    shop, _ = service
    pages = [storefront.get("/").text, storefront.get("/sections/for-you").text, storefront.get("/").text]
    arms = {re.search(r"Chosen by</dt><dd><b>([^<]+)</b>", page)[1] for page in pages}
    assert len(arms) == 1
    assert arms == {exposure.arm for exposure in shop.exposures()}
    assert sum(exposure.first for exposure in shop.exposures()) == 1


def test_a_question_about_an_item_is_no_unit(service, storefront):
    shop, _ = service
    storefront.get("/item/i39")
    marked = [exposure.excluded for exposure in shop.exposures() if exposure.items == ["i39"]]
    assert marked == ["staff"]


def test_browser_events_are_attributed_to_the_pages_slate(service, storefront):
    shop, caller = service
    slate, items = section_of(storefront.get("/").text, "for-you")
    session = storefront.cookies["shop_session"]
    event = {
        "event_id": "e1",
        "type": "click",
        "item_id": items[2],
        "session_id": session,
        "ts": 1_800_000_000_000,
    }
    body = json.dumps([event | {"recommendation_id": slate}])
    # As sendBeacon does: text/plain, and the key in the address.
    answer = caller.http.post(f"/events?key={KEY}", content=body, headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["attributed"]) == (202, 1)
    attribution = shop.events()[0].attribution
    assert (attribution.position, attribution.routing_key) == (2, session)


def test_an_unknown_item_is_a_404_and_not_a_fault(storefront):
    answer = storefront.get("/item/nothing")
    assert answer.status_code == 404
