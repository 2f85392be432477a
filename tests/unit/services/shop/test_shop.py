"""The sample shop without a browser: what it asks the service, what it keeps, what it shows when the
service is away."""

import re
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import Response
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from support.stub_api import KEY, StubApi

from services.client.client import Slate, SlateItem
from services.errors import ConfigurationError
from services.settings import Settings
from services.shop import images, session
from services.shop.app import create_app
from services.shop.product_cache import Product, ProductCache, product_of

SETTINGS = Settings(storefront_key=KEY, recommend_url="http://api", shop_users="12748, 14606")


@pytest.fixture
def api() -> StubApi:
    return StubApi()


@pytest.fixture
def shop(api) -> TestClient:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(api.app()))
    return TestClient(create_app(SETTINGS, client, fill_cache=False))


def slate(**titles: str) -> Slate:
    rows = enumerate(titles.items())
    return Slate(tuple(SlateItem(item, n, title=title) for n, (item, title) in rows))


def shown_in(page: str, section: str) -> list[str]:
    part = page.split(f'data-section="{section}"')[1].split("</section>")[0]
    return re.findall(r'data-item="([^"]+)"', part)


# ---- pages over the contract -------------------------------------------------------------------------------


def test_home_shows_the_slate_it_was_given_in_its_order(shop, api):
    page = shop.get("/").text
    asked = api.asked[0]
    expected = [item["item_id"] for item in StubApi().slate(asked)["items"]]
    assert shown_in(page, "for-you") == expected
    assert (asked["placement"], asked["n"]) == ("home", 12)
    assert len(shown_in(page, "popular")) == 6
    assert not set(shown_in(page, "popular")) & set(expected)


def test_every_call_carries_key_session_and_user_agent(shop, api):
    shop.get("/", headers={"user-agent": "Mozilla/5.0 Firefox/140"})
    shop.get("/")
    assert set(api.keys) == {KEY}
    assert len({asked["session_id"] for asked in api.asked}) == 1
    assert "user_id" not in api.asked[0]


@pytest.mark.parametrize("agent", [b"Mozilla/5.0 Firefox/140", b"T\xe9l\xe9phone/1", b"\xd0\x9f\xff", b""])
def test_a_browser_may_have_any_name(shop, api, agent):
    assert shown_in(shop.get("/", headers={"user-agent": agent}).text, "for-you")
    sent = agent.decode("latin-1").encode()  # as the test's client writes it
    assert sent.decode("latin-1") in api.agents


def test_the_slate_and_why_it_came_stand_on_the_page(shop):
    page = shop.get("/").text
    for text in ("Chosen by", "als-20261123T140500-ee7637", "storefront", "<dt>Complete</dt><dd>yes"):
        assert text in page
    assert 'data-slate="signed.' in page


def test_becoming_somebody_starts_a_new_visit_with_an_empty_cart(shop, api):
    shop.get("/")
    shop.post("/cart", data={"item_id": "sku-003"})
    shop.post("/shopper", data={"user": "12748"})
    page = shop.get("/").text
    before, after = api.asked[0], api.asked[-1]
    assert after["user_id"] == "12748"
    assert after["session_id"] != before["session_id"]
    assert "Welcome back, <b>12748</b>" in page
    assert "<b>1</b>" not in page.split("</header>")[0]
    shop.post("/shopper", data={"user": ""})
    shop.get("/")
    assert "user_id" not in api.asked[-1]


@pytest.mark.parametrize("user", ["12748", "ana@example.com", "Łucja", "ж:1+2"])
def test_a_user_once_accepted_is_kept_on_later_pages(shop, api, user):
    assert shop.post("/shopper", data={"user": user}).status_code == 200
    assert api.asked[-1]["user_id"] == user


def test_an_item_page_shows_similar_and_recently_viewed_items(shop, api):
    page = shop.get("/item/sku-010").text
    category = api.items["sku-010"]["category"]
    assert {api.items[item]["category"] for item in shown_in(page, "similar")} == {category}
    assert "sku-010" not in shown_in(page, "similar") + shown_in(page, "also-like")
    assert api.asked[-1]["context"] == ["sku-010"]
    home = shop.get("/").text
    assert f"Because you viewed {api.items['sku-010']['title']}" in home


def test_an_item_known_from_a_slate_is_not_refetched(shop, api):
    shop.get("/item/sku-000")
    first = [asked for asked in api.asked if "items" in asked]
    shop.get("/item/sku-000")
    assert [asked for asked in api.asked if "items" in asked] == first
    assert first[0]["staff"] is True  # a question about an item is no exposure of a shopper


def test_an_unknown_item_is_a_friendly_404(shop):
    answer = shop.get("/item/no-such-thing")
    assert answer.status_code == 404
    assert "We don&#39;t sell this item." in answer.text
    assert "Popular now" in answer.text


def test_the_cart_is_the_context_of_its_recommendations(shop, api):
    for item in ("sku-003", "sku-011", "sku-003"):
        shop.post("/cart", data={"item_id": item, "add": "true"})
    page = shop.get("/cart").text
    assert api.asked[-1]["placement"] == "cart"
    assert api.asked[-1]["context"] == ["sku-003", "sku-011"]
    total = 2 * api.items["sku-003"]["price"] + api.items["sku-011"]["price"]
    assert f"£{total:.2f}" in page
    shop.post("/cart", data={"item_id": "sku-003", "quantity": "0"})
    assert shop.get("/cart").text.count("Remove one") == 1


def test_buying_empties_the_cart_and_names_what_was_bought(shop, api):
    shop.post("/cart", data={"item_id": "sku-003", "quantity": "2"})
    page = shop.post("/checkout").text
    price = api.items["sku-003"]["price"]
    assert f"&#34;item_id&#34;: &#34;sku-003&#34;, &#34;value&#34;: {2 * price}" in page
    assert "Your cart is empty." in shop.get("/cart").text
    assert shop.post("/checkout", follow_redirects=False).headers["location"] == "/cart"


def test_browsing_and_searching_put_the_shoppers_best_first(shop, api):
    shop.get("/")
    page = shop.get("/category/Bags").text
    assert {api.items[item]["category"] for item in shown_in(page, "category")} == {"Bags"}
    found = shown_in(shop.get("/search", params={"q": "spotty tea"}).text, "search")
    assert found
    texts = [api.items[item]["title"] + " " + api.items[item]["category"] for item in found]
    assert all("Spotty" in text and "Tea" in text for text in texts)
    assert "No results for “zeppelin”" in shop.get("/search", params={"q": "zeppelin"}).text


@pytest.mark.parametrize("path", ["/", "/cart", "/category/Bags", "/search?q=mug", "/sections/for-you"])
def test_while_the_service_is_away_every_page_still_renders(shop, api, path):
    shop.get("/")
    api.down = True
    answer = shop.get(path)
    assert answer.status_code == 200
    if "search" not in path:
        assert "taking a short break" in answer.text


def test_popular_items_outlive_the_service(shop, api):
    shop.get("/")
    api.down = True
    page = shop.get("/").text
    assert "Recently popular" in page
    assert shown_in(page, "popular") == list(api.items)[:6]
    assert shop.get("/item/sku-220").status_code == 503


def test_an_answer_that_is_no_slate_is_an_absent_one():
    def nonsense(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"items": "none"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(nonsense))
    answer = TestClient(create_app(SETTINGS, client, fill_cache=False)).get("/")
    assert answer.status_code == 200
    assert "taking a short break" in answer.text


def test_a_reloaded_section_follows_a_click(shop, api):
    before = shown_in(shop.get("/").text, "for-you")
    session = api.asked[-1]["session_id"]
    api.events.append({"type": "click", "item_id": "sku-006", "session_id": session})
    after = shown_in(shop.get("/sections/for-you").text, "for-you")
    assert api.items["sku-006"]["category"] == api.items[after[0]]["category"]
    assert after != before
    assert shop.get("/sections/nothing").status_code == 404


def test_text_of_items_is_inert(shop, api):
    attack = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    api.items["sku-000"] = {"title": attack, "category": attack, "price": 1.0}
    pages = [shop.get(path).text for path in ("/", "/item/sku-000", "/cart", "/search?q=script")]
    assert any("&lt;script&gt;" in page for page in pages)
    assert not any("<script>alert" in page or "<img" in page for page in pages)


def test_the_content_policy_allows_the_browser_our_service_only(shop):
    policy = shop.get("/").headers["content-security-policy"]
    assert "connect-src 'self' http://api;" in policy
    assert "script-src 'self';" in policy


def test_without_a_storefront_key_it_does_not_start():
    with pytest.raises(ConfigurationError, match="RINGSIDE_STOREFRONT_KEY"):
        create_app(Settings(), httpx.AsyncClient())


def test_replicas_take_turns_and_the_default_is_the_local_service():
    assert Settings(recommend_url="http://a/, http://b").replica_urls == ("http://a", "http://b")
    assert Settings().replica_urls == ("http://127.0.0.1:8080",)


# ---- what it keeps -----------------------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_an_invalid_cart_cookie_is_an_empty_cart(cookie):
    assert all(count > 0 for count in session.read_cart(cookie).values())


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.integers(1, 99), max_size=session.MAX_LINES))
def test_a_cart_survives_its_cookie(cart):
    response = Response()
    session.write_cart(response, cart)
    cookie = re.match(r'shop_cart="?([^";]*)', response.headers["set-cookie"])[1]
    assert session.read_cart(cookie) == cart


def test_the_shelf_forgets_what_it_has_not_seen_for_longest():
    products = ProductCache(capacity=2)
    products.add(slate(a="A", b="B"))
    products.add(slate(a="A", c="C"))
    assert [products.get(item) is not None for item in "abc"] == [True, False, True]


def test_the_newest_word_about_an_item_wins():
    products = ProductCache()
    products.add(slate(a="Old"))
    products.add(slate(a="New"))
    assert products.get("a") == Product("a", "New")


def test_an_answer_without_metadata_still_makes_cards():
    assert product_of(SlateItem("x", 0)) == Product("x", "Item x")


# ---- pictures ----------------------------------------------------------------------------------------------


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_every_image_is_well_formed_without_item_text(item_id, title, category):
    svg = str(images.product_image(item_id, title, category))
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert "".join(root.itertext()) == ""
    assert svg == str(images.product_image(item_id, title, category))


@pytest.mark.parametrize(("words", "shape"), images.shapes(), ids=lambda text: text[:12])
def test_every_shape_is_well_formed_and_has_its_word(words, shape):
    ElementTree.fromstring(f"<g>{shape.format(d='#000', m='#555', l='#aaa')}</g>")
    word = re.sub(r"\\b|\W?\?", "", words.split("|")[0])
    svg = str(images.product_image("1", word, ""))
    assert shape.format(**images.inks(*images.colour(word, ""))) in svg


def test_colour_words_choose_the_colour_and_siblings_look_alike():
    red, blue = (str(images.product_image("1", f"{word} mug", "Tea")) for word in ("RED", "BLUE"))
    assert red != blue
    assert "hsl(4 62%" in red
    assert images.colour("mug", "Tea") == images.colour("cup", "Tea")
