"""The console and the sample shop against guessing, forged forms, injected markup, paths and rubbish."""

import asyncio
import base64
import json
import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import msgspec
import pytest
from fastapi.testclient import TestClient
from support.asgi_calls import AsgiRequest, AsgiResponse, call
from support.breakable import BreakableStateCache
from support.console_story import ScriptedExperiment, decision_log_of, recount_service_of
from support.malformed_requests import HOSTILE, Verbatim, dumps
from support.page_server import PageMonitor, serve
from support.small_shop import KEYS, SIGNING
from support.stub_api import KEY, StubApi

from services.console.app import create_app
from services.console.log_follower import LogFollower
from services.settings import Settings
from services.shop.app import create_app as create_shop

HTML = {"accept": "text/html"}
PAYLOADS = (
    "<img src=x onerror=window.pwned=1>", "\"><script>window.pwned=1</script>", "'-window.pwned=1-'",
    "{{7*7}}${7*7}",
    "javascript:window.pwned=1", "</title><svg onload=window.pwned=1>",
    "<a href='javascript:window.pwned=1'>x</a>",
    "../../etc/passwd", "a/b?c#d%2e%2e", "{% include 'base.html' %}",
)  # fmt: skip


class Console:
    """A console whose clock a test moves."""

    def __init__(self, home: Path, story: ScriptedExperiment):
        self.now_ms = story.now_ms + 1_000
        self.log = decision_log_of(story, BreakableStateCache(lambda: self.now_ms))
        cache = BreakableStateCache(lambda: self.now_ms)
        pairs = ",".join(pair for _, pair in KEYS.values())
        self.settings = Settings(keys=pairs, signing_key=SIGNING, home=home)
        follower = LogFollower(lambda: (self.log, cache), lambda: self.now_ms, self.settings.kill_switch_path)
        follower.refresh()
        self.app = create_app(
            self.settings, follower, recount_service_of(story), lambda: self.now_ms, follow=False
        )

    def client(self, role: str | None = None) -> TestClient:
        client = TestClient(self.app, follow_redirects=False)
        if role is not None:
            assert client.post("/login", data={"key": KEYS[role][0]}).status_code == 303
        return client


@pytest.fixture(scope="module")
def story() -> ScriptedExperiment:
    return ScriptedExperiment(looks=12, units_per_look=300).play()


@pytest.fixture
def console(tmp_path: Path, story: ScriptedExperiment) -> Console:
    return Console(tmp_path, story)


# ---- log-in and forms --------------------------------------------------------------------------------------


def test_guessing_is_slowed_down_and_the_wait_is_said(console: Console) -> None:
    client = console.client()
    tries = [client.post("/login", data={"key": f"rs_adm_{at}"}) for at in range(12)]
    assert [answer.status_code for answer in tries] == [401] * 10 + [429] * 2
    assert 0 < int(tries[-1].headers["retry-after"]) <= 6
    assert client.post("/login", data={"key": KEYS["admin"][0]}).status_code == 429  # not told apart by then
    console.now_ms += 6_001
    assert client.post("/login", data={"key": KEYS["admin"][0]}).status_code == 303


def test_logging_in_costs_no_guess(console: Console) -> None:
    assert {
        console.client().post("/login", data={"key": KEYS["analyst"][0]}).status_code for _ in range(30)
    } == {303}


def test_a_copy_of_the_cookie_ends_with_the_session(console: Console) -> None:
    client = console.client("admin")
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/experiments", headers=HTML).text)
    stolen = dict(client.cookies)
    assert token is not None
    thief = console.client()
    thief.cookies.update(stolen)
    assert thief.get("/experiments").status_code == 200
    client.post("/logout", data={"csrf": token[1]})
    assert thief.get("/experiments").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}, {"origin": "http://testserver.evil.example"}],
)  # fmt: skip
def test_a_form_of_another_site_is_refused_at_login(console: Console, headers: dict[str, str]) -> None:
    answer = console.client().post("/login", data={"key": KEYS["admin"][0]}, headers=headers)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("headers", [{}, {"origin": "http://testserver"}, {"sec-fetch-site": "same-origin"}])
def test_forms_of_the_console_pass(console: Console, headers: dict[str, str]) -> None:
    assert console.client().post("/login", data={"key": KEYS["admin"][0]}, headers=headers).status_code == 303


def test_the_cookie_is_secure_over_https(console: Console) -> None:
    client = TestClient(console.app, base_url="https://testserver", follow_redirects=False)
    header = client.post("/login", data={"key": KEYS["admin"][0]}).headers["set-cookie"].lower()
    assert all(flag in header for flag in ("; secure", "; httponly", "; samesite=strict", "; path=/"))


def test_scripts_come_from_files_and_nobody_may_frame_the_pages(console: Console) -> None:
    shop = TestClient(create_shop(Settings(storefront_key=KEY), httpx.AsyncClient(), fill_cache=False))
    for answer in (
        console.client().get("/login"),
        console.client().get("/nothing"),
        shop.get("/health/live"),
    ):
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
        assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == (
            "'none'",
            "'none'",
            "'self'",
        )
        assert "unsafe-inline" not in policy.get("style-src-elem", policy["style-src"]) or "shop" not in str(
            policy
        )
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == (
            "nosniff",
            "same-origin",
        )


@pytest.mark.parametrize("role", ["storefront", "analyst"])
def test_who_may_not_command_reaches_no_command(console: Console, role: str) -> None:
    client, before = (
        console.client(None if role == "storefront" else role),
        console.log.catch_up()["storefront"],
    )
    for kind in ("pause", "resume", "recount", "promote", "rollback", "undo", "end", "../../logout"):
        answer = client.post(
            f"/experiments/storefront/commands/{quote(kind)}", data={"reason": "x", "csrf": "x"}
        )
        assert answer.status_code in (401, 403, 404, 405)
    assert console.log.catch_up()["storefront"] == before


# ---- rubbish and paths -------------------------------------------------------------------------------------


PATHS = (
    "/static/x/../../app.py", "/static/x/..%2f..%2fapp.py", "/static/x/%2e%2e/%2e%2e/app.py",
    "/static/x//etc/passwd",
    "/static/../../../../etc/passwd", "/static/x/\x00", "/static/shop.css/../../app.py",
    "/static/..\\..\\app.py",
    "/static/plotly-../../app.py.js", "/static//", "/static/x/templates/base.html", "/.git/config",
    "/services/keys.py",
)  # fmt: skip


def answers(app: Any, requests: list[AsgiRequest]) -> list[Any]:
    async def go() -> list[Any]:
        return [await asyncio.wait_for(call(app, sent), 60) for sent in requests]

    return asyncio.run(go())


def spoken(cookies: dict[str, str]) -> tuple[bytes, bytes]:
    return b"cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()).encode(
        "utf-8", "replace"
    )


def test_no_path_leads_out_of_the_static_folder(console: Console) -> None:
    shop = create_shop(Settings(storefront_key=KEY), httpx.AsyncClient(), fill_cache=False)
    for app in (console.app, shop):
        for path, got in zip(PATHS, answers(app, [AsgiRequest("GET", path) for path in PATHS]), strict=True):
            assert got.status in (303, 307, 401, 404, 405), (path, got)
            assert b"import" not in got.body, path


def texts() -> list[str]:
    """Everything hostile, as text."""
    values = [
        value if isinstance(value, str) and not isinstance(value, Verbatim) else dumps(value)
        for value in HOSTILE
    ]
    return [value[:3_000] for value in [*values, *PAYLOADS]]


def wanted(
    paths: tuple[str, ...], names: tuple[str, ...], headers: list[tuple[bytes, bytes]]
) -> list[AsgiRequest]:
    """Each path with each hostile text in its place and in each parameter."""
    asked = []
    for text in texts():
        query = urlencode(dict.fromkeys(names, text), errors="replace").encode()
        form = [*headers, (b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"text/html")]
        for path in paths:
            filled = path.replace("*", text)
            asked += [
                AsgiRequest("GET", filled, query, [*headers, (b"accept", b"text/html")]),
                AsgiRequest("POST", filled, b"", form, (query,)),
            ]
        asked.append(
            AsgiRequest(
                "GET",
                paths[0],
                b"",
                [(b"cookie", text.encode("utf-8", "replace")), (b"accept", b"text/html")],
            )
        )
    return asked


def drawn(got: AsgiResponse) -> bool:
    """Whether markup that was sent stands in a page as markup."""
    is_page = got.headers.get("content-type", "").startswith("text/html")
    return is_page and any(payload.encode() in got.body for payload in PAYLOADS if "<" in payload)


def test_rubbish_at_the_console_ends_in_no_500(console: Console) -> None:
    client = console.client("admin")
    page = "/experiments/storefront"
    paths = ("/experiments/*", f"{page}/live", f"{page}/decisions", f"{page}/decisions/*", "/login",
    "/logout", "/*",
             f"{page}/commands/*", f"{page}/commands/undo", f"{page}/decisions/*/record.json")  # fmt: skip
    names = ("after_revision", "before", "looks", "part", "next", "key", "csrf", "reverts", "arm", "reason")
    for sent, got in zip(
        asked := wanted(paths, names, [spoken(dict(client.cookies))]),
        answers(console.app, asked),
        strict=True,
    ):
        assert got.failure is None, (str(sent), got.failure)
        assert 200 <= got.status < 500, str(sent)
        assert not drawn(got), str(sent)
        assert re.match(r"(http://memory)?/(?![/\\])", got.headers.get("location", "/")), str(sent)


def test_rubbish_at_the_shop_ends_in_no_500() -> None:
    transport = httpx.ASGITransport(StubApi().app())
    settings = Settings(storefront_key=KEY, recommend_url="http://api")
    app = create_shop(settings, httpx.AsyncClient(transport=transport), fill_cache=False)
    paths = (
        "/item/*",
        "/category/*",
        "/search",
        "/cart",
        "/sections/because",
        "/sections/*",
        "/checkout",
        "/shopper",
        "/",
    )
    asked = wanted(paths, ("q", "item", "category", "item_id", "quantity", "add", "user"), [])
    for text in texts():
        for raw in (
            text,
            f"[[{dumps(text)},1]]",
            '[["i1",1e999]]',
            '[["\\ud800",1]]',
            "[" * 4_000,
            '{"a":1}',
            "[[1,2,3]]",
        ):
            cart = base64.urlsafe_b64encode(raw.encode("utf-8", "replace")).decode()
            cookies = {
                "shop_cart": cart,
                "shop_user": text,
                "shop_session": text,
                "shop_seen": quote(text, errors="replace"),
            }
            asked += [
                AsgiRequest(method, path, b"", [spoken(cookies)])
                for method, path in (("GET", "/cart"), ("POST", "/checkout"))
            ]
    random.Random(1).shuffle(asked)
    for sent, got in zip(asked[:1_500], answers(app, asked[:1_500]), strict=True):
        assert got.failure is None, (str(sent), repr(got.failure))
        assert 200 <= got.status < 500 or got.status == 503, str(sent)
        assert not drawn(got), str(sent)


# ---- forms in a charset of the sender's choice -------------------------------------------------------------

HALVES = {"unicode_escape": b"\\ud800", "utf-7": b"+2AA-"}  # half a character: no page holds it


def in_charset(charset: str, **fields: bytes) -> dict[str, Any]:
    """A form of several parts whose sender says how to read it."""
    part = b'--xx\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    body = b"".join(part % (name.encode(), value) for name, value in fields.items()) + b"--xx--\r\n"
    return {
        "content": body,
        "headers": {"content-type": f"multipart/form-data; boundary=xx; charset={charset}"},
    }


@pytest.mark.parametrize("charset", HALVES)
def test_half_a_character_in_a_shop_form_is_refused(charset: str) -> None:
    transport = httpx.ASGITransport(StubApi().app())
    settings = Settings(storefront_key=KEY, recommend_url="http://api")
    shop = TestClient(create_shop(settings, httpx.AsyncClient(transport=transport), fill_cache=False))
    half = HALVES[charset]
    for path, field, more in (
        ("/cart", "item_id", {}),
        ("/cart", "quantity", {"item_id": b"i1"}),
        ("/cart", "add", {"item_id": b"i1"}),
        ("/shopper", "user", {}),
    ):
        answer = shop.post(path, **in_charset(charset, **more, **{field: half}), follow_redirects=False)
        assert (answer.status_code, answer.text.partition(":")[0]) == (422, field)


@pytest.mark.parametrize("charset", HALVES)
def test_half_a_character_in_a_console_form_changes_nothing(console: Console, charset: str) -> None:
    half, client = HALVES[charset], console.client("admin")
    token = re.search(r'name="csrf" value="([^"]+)"', client.get("/experiments", headers=HTML).text)
    assert token is not None
    csrf, command = token[1].encode().replace(b"+", b"+-"), "/experiments/storefront/commands/"
    before = console.log.catch_up()
    kinds = ("pause", "resume", "promote", "rollback", "undo", "recount")
    for path in ("/logout", *(command + kind for kind in kinds)):
        assert client.post(path, **in_charset(charset, csrf=half, reason=b"x")).status_code == 403, path
    for path, fields in (
        *((command + kind, {"csrf": csrf, "reason": half}) for kind in kinds),
        (f"{command}rollback", {"csrf": csrf, "reason": b"x", "arm": half}),
        (f"{command}undo", {"csrf": csrf, "reason": b"x", "reverts": half}),
        (f"{command}recount", {"csrf": csrf, "reason": b"x", "seen": half}),
        (f"{command}recount", {"csrf": csrf, "reason": b"x", "from_now": half}),
        ("/login", {"key": half}),
        ("/login", {"key": KEYS["admin"][0].encode(), "next": b"/" + half}),
    ):
        answer = client.post(path, **in_charset(charset, **fields))
        assert answer.status_code == 422, (path, answer.text)
    assert console.log.catch_up() == before


# ---- markup in a real browser ------------------------------------------------------------------------------


def test_hostile_items_are_text_in_the_shop(browser: Any) -> None:
    api = StubApi()
    for at, (name, payload) in enumerate(zip(list(api.items), PAYLOADS * 30, strict=False)):
        api.items[name] = {"title": f"{payload} {at}", "category": PAYLOADS[at % 3], "price": 1.0}
    with serve(api.app()) as api_url:
        settings = Settings(storefront_key=KEY, recommend_url=api_url)
        with serve(create_shop(settings, httpx.AsyncClient())) as url:
            watch = PageMonitor((url, api_url))
            page = watch.over(browser.new_context(user_agent=f"Mozilla {PAYLOADS[0]}").new_page())
            for path in (
                "/",
                "/item/sku-000",
                f"/category/{quote(PAYLOADS[0], safe='')}",
                f"/search?q={quote(PAYLOADS[0])}",
            ):
                page.goto(url + path)
                page.wait_for_selector(".card, h1")
                assert page.evaluate("window.pwned") is None, path
            page.goto(url)
            page.locator(".card .quick").first.click(force=True)
            page.locator("#quick-view[open]").wait_for()
            assert page.locator("#quick-view h1").inner_text().startswith("<img")
            assert page.evaluate("window.pwned") is None
            page.context.close()
    assert (watch.foreign_requests, [error for error in watch.errors if "Content Security" in error]) == (
        [],
        [],
    )


def test_hostile_names_are_text_in_the_console(
    tmp_path: Path, story: ScriptedExperiment, browser: Any
) -> None:
    """Experiment, arms, authors and reasons as no command of ours would let them into the log."""
    name = PAYLOADS[0].replace("/", "")
    raw = json.loads(json.dumps([_plain(record) for record in story.records]).replace("storefront", name))
    hostile = ScriptedExperiment()
    hostile.records = [_hostile(record, source) for record, source in zip(raw, story.records, strict=True)]
    hostile.now_ms = story.now_ms
    console = Console(tmp_path, hostile)
    with serve(console.app) as url:
        watch = PageMonitor((url,))
        page = watch.over(browser.new_context().new_page())
        page.goto(f"{url}/login#key={KEYS['admin'][0]}")
        page.wait_for_url("**/experiments")
        for path in (
            "",
            f"/{quote(name, safe='')}",
            f"/{quote(name, safe='')}/decisions",
            f"/{quote(name, safe='')}/decisions/2",
        ):
            page.goto(f"{url}/experiments{path}")
            if path == f"/{quote(name, safe='')}":
                page.wait_for_selector("#timeline[data-drawn]")
            assert page.evaluate("window.pwned") is None, path
            assert name in page.inner_text("body"), path
        page.context.close()
    assert (watch.foreign_requests, [error for error in watch.errors if "Content Security" in error]) == (
        [],
        [],
    )


def _plain(record: Any) -> Any:
    return json.loads(msgspec.json.encode(record))


def _hostile(raw: Any, source: Any) -> Any:
    changes = {
        "experiment": raw["experiment"],
        "reason": f"{raw['reason']} {PAYLOADS[1]}",
        "author": PAYLOADS[6],
    }
    return msgspec.structs.replace(source, **changes)
