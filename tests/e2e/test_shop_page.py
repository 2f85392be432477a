"""The sample shop in a real browser, over a service of the same contract: a click changes the next slate."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from support.page_server import PageMonitor, scrolls_sideways, serve
from support.stub_api import KEY, StubApi

from services.settings import Settings
from services.shop.app import create_app

WIDE, NARROW = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}


@dataclass
class ShopInBrowser:
    url: str
    api: StubApi
    watch: PageMonitor
    pages: list = field(default_factory=list)

    def open(self, browser, path: str = "/", **context):
        page = self.watch.over(browser.new_context(**{"viewport": WIDE} | context).new_page())
        self.pages.append(page)
        page.goto(self.url + path)
        return page

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.api.events]


@pytest.fixture
def shop() -> Iterator[ShopInBrowser]:
    api = StubApi(lag=1)
    with serve(api.app()) as api_url:
        settings = Settings(storefront_key=KEY, recommend_url=api_url, shop_users="12748,14606")
        with serve(create_app(settings, httpx.AsyncClient())) as url:
            opened = ShopInBrowser(url, api, PageMonitor((url, api_url)))
            yield opened
            for page in opened.pages:
                page.context.close()


def items(page, section: str = "for-you") -> list[str]:
    cards = page.locator(f"[data-section={section}] .card")
    return cards.evaluate_all("cards => cards.map(card => card.dataset.item)")


def wait_for_events(shop: ShopInBrowser, page, *wanted: str) -> None:
    for _ in range(100):
        if set(wanted) <= set(shop.kinds()):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{wanted} expected, sent: {shop.kinds()}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_shop_draws_its_sections_without_errors_or_strangers(shop, browser, scheme):
    page = shop.open(browser, color_scheme=scheme)
    assert len(items(page)) == 12
    assert page.locator(".card .product-image").count() == 18
    page.locator("[data-section=for-you] .why summary").click()
    assert "als-20261123T140500-ee7637" in page.locator("[data-section=for-you] .why").inner_text()
    assert not scrolls_sideways(page)
    assert (shop.watch.errors, shop.watch.foreign_requests) == ([], [])


def test_a_click_updates_the_section_and_announces_the_change(shop, browser):
    page = shop.open(browser)
    before = items(page)
    chosen = page.locator("[data-section=for-you] .card").nth(2)
    category = shop.api.items[chosen.get_attribute("data-item")]["category"]
    chosen.hover()
    chosen.locator(".quick").click()
    page.locator("#quick-view[open]").wait_for()
    page.locator(
        "[data-section=for-you] .card.fresh"
    ).first.wait_for()  # the first try still has the old slate
    after = items(page)
    assert after != before
    assert shop.api.items[after[0]]["category"] == category
    fresh = page.locator("[data-section=for-you] .card.fresh")
    assert fresh.evaluate_all("c => c.map(e => e.dataset.item)") == [i for i in after if i not in before]
    change = page.locator("[data-section=for-you] .change").inner_text()
    assert change.startswith(f"{fresh.count()} new after your click on ")
    click = next(event for event in shop.api.events if event["type"] == "click")
    assert click["recommendation_id"].startswith("signed.")
    assert shop.watch.errors == []


def test_a_visit_sends_the_events_of_a_real_storefront(shop, browser):
    page = shop.open(browser)
    wait_for_events(shop, page, "impression")
    item = items(page)[1]
    page.locator("[data-section=for-you] .card a").nth(1).click()
    page.wait_for_url(f"**/item/{item}")
    wait_for_events(shop, page, "click", "view")
    page.get_by_role("button", name="Add to cart").click()
    page.wait_for_url("**/cart")
    page.get_by_role("button", name="Buy").click()
    page.get_by_text("Thank you!").wait_for()
    wait_for_events(shop, page, "add_to_cart", "purchase")
    of_item = {event["type"]: event for event in shop.api.events if event["item_id"] == item}
    slates = {of_item[kind]["recommendation_id"] for kind in ("click", "view", "add_to_cart", "purchase")}
    assert len(slates) == 1
    assert of_item["purchase"]["value"] == shop.api.items[item]["price"]
    assert len({event["event_id"] for event in shop.api.events}) == len(shop.api.events)
    assert len({event["session_id"] for event in shop.api.events}) == 1
    page.reload()  # asking again what was bought is not buying it again
    page.wait_for_timeout(200)
    assert shop.kinds().count("purchase") == 1


def test_going_back_shows_what_the_click_changed(shop, browser):
    page = shop.open(browser)
    before = items(page)
    page.locator("[data-section=for-you] .card a").nth(4).click()
    page.wait_for_url("**/item/*")
    wait_for_events(shop, page, "click")
    page.go_back()
    page.locator("[data-section=for-you] .card.fresh").first.wait_for()
    assert items(page) != before
    assert "after your click on" in page.locator("[data-section=for-you] .change").inner_text()


def test_becoming_somebody_else_asks_for_them(shop, browser):
    page = shop.open(browser)
    page.locator(".shopper summary").click()
    page.get_by_role("button", name="14606").click()
    page.get_by_text("Welcome back, 14606").wait_for()
    assert shop.api.asked[-1]["user_id"] == "14606"


def test_item_titles_are_inert(shop, browser):
    attack = "<img src=x onerror=window.hacked=1>\"'><b>"
    shop.api.items["sku-000"] = {"title": attack, "category": attack, "price": 1.0}
    page = shop.open(browser)
    card = page.locator("[data-section=for-you] .card").first
    assert card.locator(".title").inner_text() == attack
    card.hover()
    card.locator(".quick").click()
    assert page.locator("#quick-view h1").inner_text() == attack
    change = page.locator("[data-section=for-you] .change:not(:empty)")
    change.wait_for()
    assert attack in change.inner_text()
    page.goto(f"{shop.url}/item/sku-000")
    assert page.locator(".product h1").inner_text() == attack
    assert page.locator("main img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert shop.watch.errors == []


@pytest.mark.parametrize("path", ["/", "/item/sku-003", "/category/Bags", "/search?q=red", "/cart"])
def test_a_narrow_window_never_scrolls_sideways(shop, browser, path):
    page = shop.open(browser, path, viewport=NARROW)
    page.locator(".card").first.wait_for()
    assert not scrolls_sideways(page)


def test_without_the_service_the_shop_is_still_a_shop(shop, browser):
    page = shop.open(browser)
    shop.api.down = True
    page.reload()
    assert page.get_by_text("taking a short break").first.is_visible()
    assert page.locator("[data-section=popular] .card").count() == 6
    shop.api.down = False
    page.reload()
    assert len(items(page)) == 12
