"""Keys by role, limits of requests, and what a caller is told when something is wrong."""

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_shop import KEYS, SmallShop
from typer.testing import CliRunner

from services.cli.main import app
from services.errors import BadInputError, ConfigurationError
from services.recommend.app import run
from services.recommend.bots import is_bot
from services.recommend.http_app import create_app
from services.recommend.schemas import RecommendRequest, from_query
from services.settings import Settings
from services.web.api_keys import Keys, new_key, signing_keys


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    shop = SmallShop(tmp_path)
    shop.start()
    return shop


ALLOWED = {
    ("GET", "/recommend"): {"storefront", "admin"},
    ("GET", "/similar/i1"): {"storefront", "admin"},
    ("GET", "/popular"): {"storefront", "admin"},
    ("POST", "/rerank"): {"storefront", "admin"},
    ("POST", "/events"): {"storefront", "admin"},
    ("POST", "/items"): {"admin"},
    ("PATCH", "/items"): {"admin"},
    ("DELETE", "/items?item_id=i1"): {"admin"},
    ("GET", "/experiments"): {"analyst", "admin"},
    ("GET", "/experiments/storefront"): {"analyst", "admin"},
    ("GET", "/experiments/storefront/decisions"): {"analyst", "admin"},
    ("POST", "/experiments/storefront/pause"): {"admin"},
    ("POST", "/experiments/storefront/undo"): {"admin"},
    ("POST", "/champion-only"): {"admin"},
}


def test_each_role_may_do_only_its_own_actions(shop: SmallShop) -> None:
    with shop.client() as call:
        for (method, path), roles in ALLOWED.items():
            for role in (*KEYS, None):
                body = {} if method == "GET" else {"json": {}}
                status = call.send(method, path, role, **body).status_code
                refused = 401 if role is None else 403
                assert (status != refused) == (role in roles), (method, path, role, status)


@pytest.mark.parametrize("how", ["bearer", "header", "query"])
def test_a_key_may_come_three_ways(shop: SmallShop, how: str) -> None:
    key = KEYS["storefront"][0]
    headers = {"bearer": {"Authorization": f"Bearer {key}"}, "header": {"X-API-Key": key}}.get(how, {})
    with shop.client() as call:
        path = f"/recommend?key={key}" if how == "query" else "/recommend"
        assert call.get(path, None, headers=headers).status_code == 200
        wrong = call.get("/recommend", None, headers={"X-API-Key": key + "x"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "no_key")


def test_a_key_is_identified_by_role_and_hash() -> None:
    first, pair_one = new_key("admin")
    second, pair_two = new_key("admin")
    keys = Keys(f"{pair_one}, {pair_two}")
    digest = hashlib.sha256(second.encode()).hexdigest()
    found = keys.principal(second)
    assert found is not None
    assert (found.role, found.name) == ("admin", f"admin:{digest[:8]}")
    assert keys.principal(first) is not None
    assert first not in pair_one


@given(st.text(max_size=40))
def test_no_other_text_is_a_key(text: str) -> None:
    key, pair = new_key("storefront")
    assert Keys(pair).principal(text) is None or text == key


@pytest.mark.parametrize(
    ("keys", "signing", "names"),
    [
        ("", "s" * 32, "RINGSIDE_KEYS is empty"),
        ("storefront=abc", "s" * 32, "storefront"),
        ("boss=" + "0" * 64, "s" * 32, "role"),
        (KEYS["admin"][1], "", "RINGSIDE_SIGNING_KEY is empty"),
        (KEYS["admin"][1], "short", "RINGSIDE_SIGNING_KEY"),
    ],
    ids=["no keys", "a short hash", "an unknown role", "no signing key", "a short signing key"],
)
def test_without_valid_keys_nothing_starts_and_help_is_given(
    tmp_path: Path, keys: str, signing: str, names: str
) -> None:
    with pytest.raises(ConfigurationError, match=names) as told:
        run(Settings(home=tmp_path, keys=keys, signing_key=signing))
    assert "empty" not in names or "ringside keys new" in str(told.value)


def test_keys_new_prints_what_the_settings_take() -> None:
    printed = CliRunner().invoke(app, ["keys", "new"]).output
    lines = [line for line in printed.splitlines() if not line.startswith("#")]
    values = dict(line.removeprefix("RINGSIDE_").split("=", 1) for line in lines)
    settings = Settings(**{name.lower(): value for name, value in values.items()})
    shown = [line.split()[-1] for line in printed.splitlines() if line.startswith("#   ")]
    roles = {Keys(settings.keys).principal(key).role for key in shown}  # type: ignore[union-attr]
    assert roles == {"storefront", "analyst", "admin"}
    assert signing_keys(settings)


def test_keys_new_of_one_role_leaves_the_secret_alone() -> None:
    result = CliRunner().invoke(app, ["keys", "new", "--role", "analyst"])
    assert "RINGSIDE_KEYS=analyst=" in result.output
    assert "SIGNING" not in result.output


def test_keys_new_writes_a_private_file_and_overwrites_none(tmp_path: Path) -> None:
    file = tmp_path / "keys.env"
    told = CliRunner().invoke(app, ["keys", "new", "--to", str(file)])
    assert told.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    written = file.read_text()
    assert "RINGSIDE_SIGNING_KEY=" in written
    assert "rs_adm_" in written
    assert "rs_adm_" not in told.output
    again = CliRunner().invoke(app, ["keys", "new", "--to", str(file)])
    assert isinstance(again.exception, BadInputError)
    assert file.read_text() == written


# ---- wrong requests ----------------------------------------------------------------------------------------

WRONG = [
    ("n=0", "n"),
    ("n=101", "n"),
    ("n=ten", "n"),
    ("n=5&n=6", "n"),
    ("placement=moon", "placement"),
    ("price_min=-1", "price_min"),
    ("price_min=5&price_max=2", "price_min"),
    ("user_id=", "user_id"),
    (f"user_id={'u' * 201}", "user_id"),
    ("limit=5", "limit"),
    ("staff=perhaps", "staff"),
    ("exclude=" + ",".join(["i1"] * 1001), "exclude"),
    ("n=5&user_id=%ff", "user_id"),
    ("user_id=M%FCller", "user_id"),
    ("session_id=%ED%A0%80&user_id=u1", "session_id"),
    ("exclude=i1,%c3", "exclude"),
]


@pytest.mark.parametrize(("query", "field"), WRONG, ids=[query[:20] for query, _ in WRONG])
def test_a_wrong_field_is_named(shop: SmallShop, query: str, field: str) -> None:
    with shop.client() as call:
        response = call.get(f"/recommend?{query}")
    assert (response.status_code, response.json()["error"]["field"]) == (422, field)


def test_only_utf_8_escapes_are_decoded() -> None:
    for user in ("Müller", "\ufffd", "日本 1", "a+b&c=d"):
        query = f"user_id={quote(user)}&n=5".encode()
        assert from_query(RecommendRequest, query).user_id == user
    assert from_query(RecommendRequest, b"user_id=%EF%BF%BD+x").user_id == "\ufffd x"
    with pytest.raises(BadInputError, match="%ff: its %-escapes are not UTF-8"):
        from_query(RecommendRequest, b"n=5&%ff=1")


def test_an_endless_query_is_refused_with_advice() -> None:
    with pytest.raises(BadInputError, match="POST"):
        from_query(RecommendRequest, b"exclude=" + b"x" * 70_000)


POSTED = [
    (b"{", 400, "body"),
    (b"[]", 422, "body"),
    (b'{"n": "ten"}', 422, "n"),
    (b'{"context": [1]}', 422, "context[0]"),
    (b'{"exclude": [%s"x"]}' % (b'"x",' * 99_999), 422, "exclude"),
    (b'{"exclude": [%s"x"]}' % (b'"%s",' % (b"x" * 100) * 20_000), 413, "body"),
]


@pytest.mark.parametrize(("body", "status", "field"), POSTED, ids=[str(at) for at in range(len(POSTED))])
def test_a_wrong_body_is_named(shop: SmallShop, body: bytes, status: int, field: str) -> None:
    with shop.client() as call:
        response = call.send("POST", "/recommend", content=body)
    assert (response.status_code, response.json()["error"]["field"]) == (status, field)


def test_a_body_of_unknown_length_is_cut_off_too(shop: SmallShop) -> None:
    def chunks():
        for _ in range(30):
            yield b" " * 100_000

    with shop.client() as call:
        hot = call.send("POST", "/recommend", content=chunks())
        cold = call.send("POST", "/items", "admin", content=chunks())
    assert (hot.status_code, cold.status_code) == (413, 413)


def test_unknown_addresses_and_methods_have_the_same_shape(shop: SmallShop) -> None:
    with shop.client() as call:
        missing, method = call.get("/nothing"), call.send("DELETE", "/recommend")
    assert (missing.status_code, method.status_code) == (404, 405)
    assert set(missing.json()["error"]) == set(method.json()["error"]) == {"code", "field", "message"}


def test_an_unexpected_error_is_a_500_without_details(shop: SmallShop) -> None:
    with shop.client() as call:
        call.parts.storefront._slates.popular = None
        response = call.get("/popular")
    assert response.status_code == 500
    assert "NoneType" not in response.text


def test_documentation_needs_no_network(shop: SmallShop) -> None:
    with shop.client() as call:
        page = call.get("/docs", None).text
        assert "https://" not in page
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
            assert asset in page
            assert call.get(f"/static-offline-docs/{asset}", None).status_code == 200


def test_every_parameter_that_is_taken_is_documented(shop: SmallShop) -> None:
    document = create_app(shop.deps()).openapi()
    asked = document["paths"]["/recommend"]["get"]
    assert {part["name"] for part in asked["parameters"]} == {
        *("user_id", "session_id", "n", "placement", "exclude", "category", "price_min", "price_max"),
        *("metadata", "arm", "staff", "context"),
    }
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            assert said.get("summary") or said.get("description"), (method, path)
    assert document["paths"]["/events"]["post"]["requestBody"]["content"].keys() == {
        "application/json",
        "text/plain",
    }


ANDROID = "Mozilla/5.0 (Linux; Android 12"
PHONE = "AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/120.0 Mobile Safari/537.36"
YANDEX = "Mozilla/5.0 (compatible;"


@pytest.mark.parametrize(
    ("agent", "bot"),
    [
        ("Googlebot/2.1", True),
        ("facebookexternalhit/1.1", True),
        ("AdsBot-Google (+http://www.google.com/adsbot.html)", True),
        ("TelegramBot (like TwitterBot)", True),
        (f"{YANDEX} YandexBot/3.0; +http://yandex.com/bots)", True),
        (f"{YANDEX} YandexImages/3.0)", True),
        (f"{YANDEX} YandexTurbo/1.0; +http://yandex.ru/bots)", True),
        ("Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)", True),
        ("DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)", True),
        (f"{ANDROID}; CUBOT KINGKONG; {PHONE} Googlebot/2.1)", True),
        (f"{ANDROID}; CUBOT X20 PRO) {PHONE}", False),
        (f"{ANDROID}; CUBOT/NOTE20) {PHONE}", False),
        (
            f"{ANDROID}; Pixel 8) {PHONE} Telegram-Android/11.1.3 (Google Pixel 8; SDK 34; HIGH)",
            False,
        ),
        (f"{ANDROID}; SM-A515F) {PHONE} YandexSearch/8.10", False),
        (
            f"{ANDROID}; SM-A515F) {PHONE} YaApp_Android/24.10 YandexSearchBrowser/24.10",
            False,
        ),
        (f"{ANDROID}; V2002A) {PHONE} baiduboxapp/13.10.0.10 (Baidu; P1 10)", False),
        (f"{ANDROID}; Pixel 8) {PHONE} DuckDuckGo/5", False),
        ("curl/8.1", False),
        ("", False),
    ],
)
def test_bots_are_known_by_name(agent: str, bot: bool) -> None:
    assert is_bot(agent) is bot
