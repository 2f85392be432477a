"""Who may come in: every route of the OpenAPI description by every role, rotation of keys, and rates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.asgi_calls import AsgiRequest, AsgiResponse, call, key, racing_shop, running_app
from support.malformed_requests import Operation, RequestFuzzer, operations, to_request
from support.small_shop import KEYS

from services.errors import ConfigurationError, NoKeyError
from services.recommend.http_app import create_app
from services.settings import Settings
from services.web.api_keys import Keys, digest_of, new_key
from services.web.rate_limit import RateLimiter

STOREFRONT, READ, COMMAND, OPEN = {"storefront", "admin"}, {"analyst", "admin"}, {"admin"}, {"nobody"}
# A route that nobody thought of here fails the test until somebody does.
RULES = (
    (STOREFRONT, "GET /recommend", "POST /recommend", "GET /similar/{item_id}", "POST /rerank",
    "GET /popular"),
    (STOREFRONT, "POST /events"),
    (COMMAND, "POST /items", "PATCH /items", "DELETE /items", "PATCH /items/{item_id}",
    "DELETE /items/{item_id}"),
    (READ, "GET /experiments", "GET /experiments/{experiment}", "GET /experiments/{experiment}/decisions"),
    (COMMAND, *(f"POST /experiments/{{experiment}}/{verb}" for verb in
                ("start", "enter", "pause", "resume", "recount", "promote", "rollback", "undo", "end"))),
    (COMMAND, "POST /champion-only"),
    (READ, "GET /metrics"),
    (OPEN, "GET /health/live", "GET /health/ready"),
)  # fmt: skip
MATRIX = {route: roles for roles, *routes in RULES for route in routes}


def test_every_route_opens_to_its_roles_and_to_nobody_else(tmp_path: Path) -> None:
    async def knock() -> dict[tuple[str, str], int]:
        shop = racing_shop(tmp_path, rates="")
        document = create_app(shop.deps()).openapi()
        fuzz = RequestFuzzer(document, seed=5)
        async with running_app(shop) as (app, _):
            return {
                (f"{operation.method} {operation.path}", role): (await call(app, asked(fuzz, operation,
                role))).status
                for operation in operations(document)
                for role in (*KEYS, "nobody", "stranger")
            }  # fmt: skip

    statuses = asyncio.run(knock())
    assert {route for route, _ in statuses} == set(MATRIX)
    for (route, role), status in statuses.items():
        opened = status not in (401, 403)
        assert opened == (MATRIX[route] is OPEN or role in MATRIX[route]), (route, role, status)
        assert opened or status == (403 if role in KEYS else 401), (route, role, status)


def test_a_body_is_read_only_of_who_may_send_it(tmp_path: Path) -> None:
    """Else the megabytes of a stranger would be parsed while slates wait."""
    bodies = [route for route in MATRIX if not route.startswith(("GET", "DELETE /items/{item_id}"))]

    async def knock(app: Any, route: str, role: str | None) -> int:
        method, path = route.split(" ")
        headers = [(b"content-type", b"application/json"), *([key(role)] if role else [])]
        path = path.format(experiment="demo", item_id="i1")
        return (await call(app, AsgiRequest(method, path, headers=headers, body=(b"{",)))).status

    async def all_of(role: str | None) -> set[int]:
        async with running_app(racing_shop(tmp_path, rates="")) as (app, _):
            return {await knock(app, route, role) for route in bodies}

    assert [asyncio.run(all_of(role)) for role in (None, "analyst")] == [{401}, {403}]
    assert asyncio.run(all_of("admin")) == {400, 422}


def asked(fuzz: RequestFuzzer, operation: Operation, role: str) -> AsgiRequest:
    """A right request, with the key of a role, none ("nobody") or of another installation ("stranger")."""
    sent = to_request(fuzz.draft(operation))
    rest = [pair for pair in sent.headers if pair[0] != b"x-api-key"]
    strange = {"nobody": [], "stranger": [(b"x-api-key", new_key("admin")[0].encode())]}
    return AsgiRequest(sent.method, sent.path, sent.query, [*strange.get(role,
    [key(role)] if role in KEYS else []), *rest],
                sent.body)  # fmt: skip


def test_health_tells_a_stranger_no_more_than_that_it_answers(tmp_path: Path) -> None:
    with racing_shop(tmp_path).client() as caller:
        for role in (None, "storefront"):
            assert caller.get("/health/ready", role).json() == {"status": "ready"}
            assert caller.get("/health/live", role).json() == {"status": "live"}
        unknown = caller.get("/health/ready", None, headers={"X-API-Key": new_key("admin")[0]})
        assert (unknown.status_code, unknown.json()) == (200, {"status": "ready"})
        for role in ("analyst", "admin"):
            told = caller.get("/health/ready", role).json()
            assert (told["replica"], set(told["models"])) == ("r1", {"good", "other"})


def test_health_is_never_slowed_down(tmp_path: Path) -> None:
    got = bombard(tmp_path, 20, role="admin", path="/health/ready")
    assert {answer.status for answer in got} == {200}


def test_nothing_is_served_beside_what_is_documented(tmp_path: Path) -> None:
    app = create_app(racing_shop(tmp_path).deps())
    documented = set(app.openapi()["paths"])
    served = {getattr(route, "path", "").replace(":path", "") for route in app.routes}
    allowed = {"/docs", "/openapi.json", "/static-offline-docs", "/docs/oauth2-redirect", "", "/redoc"}
    assert {path for path in served if path} - documented <= allowed


# ---- keys --------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that only a test moves."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_key_is_rotated_while_the_service_runs(tmp_path: Path) -> None:
    """Both keys hold for a while; then the old one is withdrawn; a broken file changes nothing."""
    (old, old_pair), (new, new_pair) = new_key("storefront"), new_key("storefront")
    file, clock = tmp_path / "keys", Clock()

    def holders(text: str | None) -> list[bool]:
        if text is not None:
            (tmp_path / "aside").write_text(text)
            (tmp_path / "aside").replace(file)
        clock.now_s += 1.0
        return [keys.principal(key) is not None for key in (old, new)]

    file.write_text(f"# first\n{old_pair}\n")
    keys = Keys("", file, clock)
    assert holders(None) == [True, False]
    assert holders(f"{old_pair}  # leaves on Friday\n{new_pair}\n") == [True, True]
    assert holders("storefront=not a hash") == [True, True]
    file.unlink()
    assert holders(None) == [True, True]
    assert holders(f"{new_pair}\n") == [False, True]


def test_a_key_in_clear_is_never_taken_nor_repeated() -> None:
    clear = "a key somebody put there by mistake"
    for configured in (clear, f"storefront={clear}", f"{clear}={digest_of(clear)}"):
        with pytest.raises(ConfigurationError) as told:
            Keys(configured)
        assert clear not in str(told.value)
    with pytest.raises(NoKeyError) as refused:
        Keys(f"admin={digest_of(clear)}").allow(digest_of(clear), ("admin",))  # who stole the hash has no key
    assert digest_of(clear) not in str(refused.value)


def test_every_digest_is_compared_whole_and_none_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer says nothing of a key: each digest is compared, wherever the right one stands."""
    pairs = [new_key("storefront") for _ in range(5)]
    keys = Keys(",".join(pair for _, pair in pairs))
    seen: list[str] = []
    monkeypatch.setattr("services.web.api_keys.hmac.compare_digest", lambda a, b: seen.append(a) or a == b)
    for presented, _ in [*pairs, ("unknown", "")]:
        seen.clear()
        keys.principal(presented)
        assert seen == [pair.partition("=")[2] for _, pair in pairs]


# ---- rates -------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 3), max_size=200),
    st.sampled_from([0.5, 2.0, 20.0]),
    st.sampled_from([0.1, 1.0, 5.0]),
)
def test_a_bucket_never_exceeds_its_rate_and_burst(gaps: list[float], per_s: float, burst_s: float) -> None:
    limiter, now_s, taken = RateLimiter(per_s, burst_s), 0.0, 0
    for at, gap in enumerate(gaps):
        now_s += gap
        wait_s = limiter.take("a", now_s)
        taken += wait_s == 0.0
        assert wait_s <= 1 / per_s + 1e-6
        assert taken <= per_s * now_s + max(1.0, per_s * burst_s) + 1e-6
        assert limiter.take(f"newcomer {at}", now_s) == 0.0


def test_who_waits_as_told_is_let_in() -> None:
    limiter = RateLimiter(10.0, 0.5)
    assert [limiter.take("a", 5.0) == 0.0 for _ in range(6)] == [True] * 5 + [False]
    wait_s = limiter.take("a", 5.0)
    assert limiter.take("a", 5.0 + wait_s) == 0.0


HOME, PROXY, NAT = "203.0.113.7", "10.0.0.9", "198.51.100.4"


def bombard(tmp_path: Path, count: int, **how: object) -> list[AsgiResponse]:
    """`count` requests at once with limits of 2 a second and 2 s' worth."""

    async def go() -> list[AsgiResponse]:
        limits = {"rates": "analyst=2,admin=2,client=2", "rate_burst_s": 2.0}
        async with running_app(racing_shop(tmp_path, **limits)) as (app, parts):
            parts.access._now_s = lambda: 50.0
            role, path = str(how.get("role", "storefront")), str(how.get("path", "/popular"))
            peers: Iterator[str] = iter(how.get("peers", ()))  # type: ignore[call-overload]
            chains: Iterator[str] = iter(how.get("chains", ()))  # type: ignore[call-overload]
            got = []
            for _ in range(count):
                chain = [(b"x-forwarded-for", said.encode()) for said in [next(chains, "")] if said]
                peer = next(peers, how.get("peer", HOME))
                got.append(
                    await call(app, AsgiRequest("GET", path, b"", [key(role), *chain]), (str(peer), 5))
                )
            return got

    return asyncio.run(go())


def test_one_client_is_limited_with_retry_after(tmp_path: Path) -> None:
    got = bombard(tmp_path, 7)
    assert [answer.status for answer in got] == [200] * 4 + [429] * 3
    assert (got[-1].headers["retry-after"], got[-1].json()["error"]["code"]) == ("1", "too_many_requests")


def test_who_is_slowed_down_is_named_in_the_log_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bombard(tmp_path, 7)
    assert [line for line in caplog.messages if "exceeds its rate" in line] == [
        f"{HOME} exceeds its rate; the next such warning follows in 10 s at the earliest"
    ]
    caplog.clear()
    bombard(tmp_path, 6, role="analyst", path="/experiments", peer="127.0.0.1")
    assert sum("analyst:" in line and "exceeds its rate" in line for line in caplog.messages) == 1


def test_a_shop_server_speaks_for_all_of_its_shoppers(tmp_path: Path) -> None:
    assert {answer.status for answer in bombard(tmp_path, 50, peer="10.1.2.3")} == {200}


def test_shoppers_behind_our_proxy_are_told_apart(tmp_path: Path) -> None:
    chains = [f"203.0.113.{at}" for at in range(1, 51)]
    assert {answer.status for answer in bombard(tmp_path, 50, peer=PROXY, chains=chains)} == {200}
    one = bombard(tmp_path, 7, peer=PROXY, chains=[f"{HOME}, 10.0.0.1"] * 7)
    assert [answer.status for answer in one][4:] == [429] * 3


def test_neither_headers_nor_neighbouring_addresses_give_another_bucket(tmp_path: Path) -> None:
    lies = [f"192.0.2.{at}" for at in range(1, 8)]
    assert [a.status for a in bombard(tmp_path, 7, chains=lies)][4:] == [429] * 3  # told by a stranger
    passed_on = [f"{lie}, {NAT}" for lie in lies]
    assert [a.status for a in bombard(tmp_path, 7, peer=PROXY, chains=passed_on)][4:] == [429] * 3
    many = [f"2001:db8::{at:x}" for at in range(1, 8)]
    assert [a.status for a in bombard(tmp_path, 7, peers=many)][4:] == [429] * 3


def test_personal_keys_have_their_own_rate_at_any_address(tmp_path: Path) -> None:
    for role in ("analyst", "admin"):
        got = bombard(tmp_path, 6, role=role, path="/experiments", peer="127.0.0.1")
        assert [answer.status for answer in got] == [200] * 4 + [429] * 2


def test_the_defaults_limit_clients_and_people_but_not_a_storefront() -> None:
    assert Settings().rates.keys() == {"analyst", "admin", "client"}


# ---- browsers of other sites -------------------------------------------------------------------------------


def preflight(
    tmp_path: Path, origin: str, method: str, path: str = "/events", **settings: str
) -> AsgiResponse:
    headers = [(b"origin", origin.encode()), (b"access-control-request-method", method.encode())]

    async def ask() -> AsgiResponse:
        async with running_app(racing_shop(tmp_path, **settings)) as (app, _):
            return await call(app, AsgiRequest("OPTIONS", path, b"", headers))

    return asyncio.run(ask())


def test_browsers_of_any_shop_may_send_events_but_change_nothing(tmp_path: Path) -> None:
    """The publishable key decides, not the origin; cookies mean nothing here, so none are asked for."""
    got = preflight(tmp_path, "https://shop.example", "POST")
    assert (got.status, got.headers["access-control-allow-origin"]) == (200, "*")
    assert "access-control-allow-credentials" not in got.headers
    for method in ("PATCH", "DELETE", "PUT"):
        assert preflight(tmp_path, "https://shop.example", method, "/items").status == 400


def test_origins_can_be_limited_to_the_shop(tmp_path: Path) -> None:
    mine = {"cors_origins": "https://shop.example, https://www.shop.example"}
    assert preflight(tmp_path, "https://shop.example", "POST", **mine).status == 200
    for origin in (
        "https://evil.example",
        "https://shop.example.evil.example",
        "http://shop.example",
        "null",
    ):
        got = preflight(tmp_path, origin, "POST", **mine)
        assert (got.status, "access-control-allow-origin" in got.headers) == (400, False)


def test_a_page_can_read_every_refusal_and_retry_after(tmp_path: Path) -> None:
    """What lacks these headers is to a page as if no answer had come."""
    page = {"Origin": "https://shop.example"}
    with racing_shop(tmp_path, rates="analyst=1", rate_burst_s=1.0).client() as caller:
        caller.get("/experiments", "analyst")
        got = [
            caller.get("/experiments", "analyst", headers=page),
            caller.get("/recommend", None, headers=page),
            caller.get("/recommend?n=0", headers=page),
            caller.get("/nothing", headers=page),
            caller.post("/events", "x" * 2_000_000, headers=page),
        ]
        caller.parts.shedder.slates.limit = 0
        got += [caller.get("/recommend", headers=page) for _ in range(2)]
        unseen = caller.get("/recommend")
        caller.parts.access.keys = None  # an error that nobody foresaw
        got.append(caller.get("/experiments", "admin", headers=page))
    assert [answer.status_code for answer in got] == [429, 401, 422, 404, 413, 503, 503, 500]
    assert {answer.headers["access-control-allow-origin"] for answer in got} == {"*"}
    assert {answer.headers["access-control-expose-headers"] for answer in got} == {"Retry-After"}
    assert [answer.headers.get("retry-after") for answer in got if answer.status_code in (429, 503)] == [
        "1"
    ] * 3
    assert dict(got[5].headers) == dict(got[6].headers)
    assert "access-control-allow-origin" not in unseen.headers


def test_a_refusal_is_readable_for_the_shops_own_origin_only(tmp_path: Path) -> None:
    with racing_shop(tmp_path, cors_origins="https://shop.example").client() as caller:
        caller.parts.shedder.slates.limit = 0
        ours, theirs = (
            caller.get("/recommend", headers={"Origin": origin})
            for origin in ("https://shop.example", "https://evil.example")
        )
    assert ours.headers["access-control-allow-origin"] == "https://shop.example"
    assert (theirs.status_code, "access-control-allow-origin" in theirs.headers) == (503, False)


def test_a_file_of_keys_is_named_by_a_setting(tmp_path: Path) -> None:
    fresh, pair = new_key("analyst")
    (tmp_path / "keys").write_text(pair)
    found = Keys.of(Settings(keys_file=str(tmp_path / "keys"))).principal(fresh)
    assert found is not None
    assert found.role == "analyst"
    with pytest.raises(ConfigurationError, match="RINGSIDE_KEYS_FILE"):
        Keys.of(Settings(keys=pair, keys_file=str(tmp_path / "nowhere")))
