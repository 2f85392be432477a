"""Rubbish at the door: made from the OpenAPI description and spoiled, in process for the volume and on a real
socket. Whatever comes, the answer is no 500, comes at all, and says which field is wrong."""

import asyncio
import json
import random
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.asgi_calls import AsgiRequest, AsgiResponse, call, key, racing_shop, running_app
from support.malformed_requests import HOSTILE, RequestFuzzer, ValueGenerator, dumps, operations
from support.raw_sockets import INVALID, VALID, corrupted_request, exchange, get, post, running_server
from support.small_shop import KEYS, SIGNING, SmallShop

from services.recommend.http_app import create_app, fast_path

PATIENCE_S = 60.0  # far beyond any answer: whoever takes longer hangs
SECRETS = [key.encode() for key, _ in KEYS.values()] + [SIGNING.encode()]
A_WHILE_S = 2.0  # in which even a busy machine answers
LOOK_EVERY = 2_000  # requests between two looks of the replica at what they changed
LONGEST = 2_000  # characters of a message: nobody gets back all that they sent


def complaint(sent: AsgiRequest, got: AsgiResponse) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    if got.failure is not None or got.status == 0 or got.status >= 500:
        return f"{got.status} {got.failure!r}"
    if any(secret in got.body for secret in SECRETS):
        return "a secret in the answer"
    if got.status < 400 or sent.method in ("HEAD", "OPTIONS"):
        return None
    said = json.loads(got.body)["error"]
    if set(said) != {"code", "field", "message"} or not said["message"] or len(said["message"]) > LONGEST:
        return f"not an error as documented: {said}"
    return "no field is named" if got.status in (413, 422) and not said["field"] else None


async def storm(home: Path, seed: int, count: int) -> tuple[Counter[int], list[str]]:
    """`count` requests of a seed at a fresh shop; how they were answered, and what was wrong."""
    shop = racing_shop(home, rates="")
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    async with running_app(shop) as (app, parts):
        slate = await call(app, AsgiRequest("GET", "/recommend", b"user_id=anna&session_id=s1", [key()]))
        fuzz = RequestFuzzer(create_app(shop.deps()).openapi(), seed, [slate.json()["recommendation_id"]])
        for number, sent in enumerate(fuzz.requests(count)):
            got = await asyncio.wait_for(call(app, sent), PATIENCE_S)
            statuses[got.status] += 1
            if problem := complaint(sent, got):
                wrong.append(f"{problem}: {sent}")
            if number % LOOK_EVERY == LOOK_EVERY - 1:
                await parts.refresher.refresh()
        after = await call(app, AsgiRequest("GET", "/recommend", b"user_id=anna", [key()]))
        assert after.status == 200, "the shop did not survive"
    return statuses, wrong


def hit(home: Path, seeds: range, count: int) -> None:
    """Storms of these seeds; all of their complaints at once."""
    total: Counter[int] = Counter()
    wrong: list[str] = []
    for seed in seeds:
        statuses, found = asyncio.run(storm(home / str(seed), seed, count))
        total += statuses
        wrong += found
    print(f"{total.total():,} requests: {dict(sorted(total.items()))}")
    assert wrong == []
    # rubbish that is all turned away at the first door would prove nothing about the rooms behind it
    assert min(total[status] for status in (200, 202, 400, 404, 409, 413, 422)) > total.total() / 200


def test_rubbish_gets_an_answer_that_is_no_500(tmp_path: Path) -> None:
    hit(tmp_path, range(1, 3), 4_000)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_flood_of_rubbish_gets_answers_that_are_no_500(tmp_path: Path) -> None:
    hit(tmp_path, range(100, 112), 10_000)


# ---- every field, by name ----------------------------------------------------------------------------------


def bodies(document: dict[str, Any]) -> list[tuple[str, str, str, dict[str, Any], bool]]:
    """(method, path, field, schema of the object, whether the body is a list of such objects)."""
    maker = ValueGenerator(document, random.Random(0))
    found = []
    for operation in operations(document):
        if operation.body is None:
            continue
        schema = maker.resolved(operation.body)
        rows = schema.get("type") == "array"
        row = maker.resolved(schema["items"]) if rows else schema
        path = operation.path.replace("{experiment}", "storefront").replace("{item_id}", "i1")
        found += [(operation.method, path, field, row, rows) for field in row["properties"]]
    return found


def readable(text: str) -> tuple[bool, Any]:
    """(whether this is JSON, its value)."""
    try:
        value = json.loads(text, parse_constant=lambda _: 1 / 0)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, ZeroDivisionError, RecursionError):
        return False, None
    return True, value


def test_a_wrong_value_is_refused_by_its_field(tmp_path: Path) -> None:
    asyncio.run(_every_field(racing_shop(tmp_path, rates="")))


async def _every_field(shop: SmallShop) -> None:
    document = create_app(shop.deps()).openapi()
    maker = ValueGenerator(document, random.Random(0))
    wrong = []
    async with running_app(shop) as (app, _):
        for method, path, field, row, rows in bodies(document):
            full = {name: maker.value(row["properties"][name], name) for name in row.get("required", ())}
            schema = {"$ref": "#/row", "row": row, "components": document["components"]}
            validator = jsonschema.Draft202012Validator(schema)
            for value in HOSTILE:
                text = dumps([{**full, field: value}] if rows else {**full, field: value})
                headers = [key("admin"), (b"content-type", b"application/json")]
                got = await call(app, AsgiRequest(method, path, b"", headers, (text.encode(),)))
                wrong += _mismatch(validator, rows, field, text, got)
    assert wrong == []


def _mismatch(validator: Any, rows: bool, field: str, text: str, got: AsgiResponse) -> list[str]:
    is_json, value = readable(text)
    allowed = is_json and validator.is_valid(value[0] if rows else value)
    expected = (200, 202, 404, 409, 422) if allowed else (422, 413) if is_json else (400, 422)
    named = got.status != 422 or not is_json or allowed or field in (got.field or "")
    return [] if got.status in expected and named else [f"{text:.200}: {got.status} {got.body!r:.200}"]


QUERIES = {
    "n": (b"0", b"101", b"ten", b"1.5", b"", b"%00", "٥".encode(), b"9" * 5_000, b"-1"),
    "user_id": (b"", b"u" * 201), "session_id": (b"", b"%F0%9F%A6%8A" * 201), "placement": (b"moon",
    b"{{7*7}}"),
    "price_min": (b"-1", b"nan", b"inf", b"1e400", b"x"), "price_max": (b"-0.1", b"NaN", b"1e10"),
    "metadata": (b"perhaps", b"2"), "staff": (b"", b"yes please"), "arm": (b"nobody", b"../x", b"a" * 300),
    "exclude": (b"x," * 101, b"i" * 201), "category": (b"a," * 51, b"c" * 201), "context": (b"i1," * 101,),
}  # fmt: skip


def test_a_wrong_value_in_a_query_is_refused_by_name(tmp_path: Path) -> None:
    with racing_shop(tmp_path).client() as caller:
        for field, values in QUERIES.items():
            for value in values:
                got = caller.get(f"/recommend?{field}={value.decode('latin-1')}", "admin")
                assert (got.status_code, got.json()["error"]["field"].partition("[")[0]) == (422, field), (
                    value
                )


def test_a_filter_that_nothing_passes_is_a_short_slate(tmp_path: Path) -> None:
    with racing_shop(tmp_path).client() as caller:
        body = {"category": [f"c{at}" for at in range(50)], "price_min": 1e9, "price_max": 1e9,
                "exclude": [f"i{at}" for at in range(1_000)],
                "context": ["nobody knows this"] * 100}  # fmt: skip
        got = caller.post("/recommend", body).json()
    assert (got["items"], "fewer_eligible" in got["degraded"]) == ([], True)


@pytest.mark.parametrize("path", ["/recommend", "/rerank", "/events", "/items", "/champion-only"])
def test_ten_megabytes_are_refused_before_they_are_read(tmp_path: Path, path: str) -> None:
    async def attack() -> tuple[AsgiResponse, AsgiResponse, int]:
        async with running_app(racing_shop(tmp_path)) as (app, _):
            headers = [key("admin"), (b"content-type", b"application/json")]
            parts = tuple(b" " * 65_536 for _ in range(160))
            read = 0

            async def reading(scope: Any, receive: Any, send: Any) -> None:
                async def counted() -> Any:
                    nonlocal read
                    message = await receive()
                    read += len(message.get("body", b""))
                    return message

                await app(scope, counted, send)

            length = (b"content-length", b"10485760")
            said = await call(reading, AsgiRequest("POST", path, b"", [*headers, length], parts))
            assert read == 0
            return said, await call(reading, AsgiRequest("POST", path, b"", headers, parts)), read

    said, unsaid, read = asyncio.run(attack())
    for got in (said, unsaid):
        assert (got.status, got.field, got.json()["error"]["code"]) == (413, "body", "too_large")
    assert read < 2 * 1_048_576


# ---- raw bytes ---------------------------------------------------------------------------------------------


def bombard(home: Path, seed: int, count: int) -> None:
    """Bytes that are no request at a real server; afterwards it answers as before."""
    rng = random.Random(seed)
    salvos = [[raw] for raw in INVALID] + [corrupted_request(rng) for _ in range(count)]
    with racing_shop(home).client() as caller:
        with running_server(caller.http.app, receive_s=0.3) as at, ThreadPoolExecutor(32) as guns:
            replies = list(guns.map(lambda salvo: exchange(at, *salvo), salvos))
        for raw, reply in zip(salvos, replies, strict=True):
            assert reply.closed, raw  # no hang, whatever is missing
            assert all(100 <= status < 500 for status in reply.statuses), (raw, reply.raw[:300])
            assert not any(secret in reply.raw for secret in SECRETS)
        with running_server(caller.http.app) as at:
            for raw in VALID:
                assert exchange(at, raw).statuses[0] in (200, 202), raw


def test_bytes_that_are_no_request_do_no_harm(tmp_path: Path) -> None:
    bombard(tmp_path, 1, 400)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_flood_of_malformed_bytes_does_no_harm(tmp_path: Path) -> None:
    bombard(tmp_path, 2, 10_000)


def test_who_sends_without_end_is_hung_up_on(tmp_path: Path) -> None:
    """A head without end, and a body without end where there is a limit."""
    chunks = [b"a" * 65_536] * 400
    lines = [b"x: y\r\n" * 10_000] * 400
    with running_server(
        fast_path(create_app(racing_shop(tmp_path).deps())), head_bytes=9_000, body_bytes=900
    ) as at:
        for endless in (
            [b"GET /", *chunks],
            [b"GET / HTTP/1.1\r\n", *lines],
            [post(b"/nowhere", b"a" * 10**8)],
        ):
            reply = exchange(at, *endless)
            assert reply.closed
            assert reply.sent < sum(map(len, endless))
        for status, little in ((431, b"GET /" + b"a" * 9_001), (413, post(b"/nowhere", b"a" * 901))):
            assert exchange(at, little).statuses == [status]


def test_a_connection_sending_bytes_slowly_is_closed(tmp_path: Path) -> None:
    with racing_shop(tmp_path).client() as caller, running_server(caller.http.app, receive_s=0.3) as at:
        for begun in (VALID[1][:-5], VALID[1][:40], b"", b"\r\n"):
            reply = exchange(at, begun)
            assert (reply.closed, reply.statuses) == (True, [408])
    with (
        racing_shop(tmp_path).client() as caller,
        running_server(caller.http.app, receive_s=A_WHILE_S) as at,
        socket.create_connection(at, PATIENCE_S) as line,  # a line break ends uvicorn's keep-alive clock
    ):
        line.sendall(get(b"/popular", close=False))
        assert line.recv(65_536).startswith(b"HTTP/1.1 200")
        line.sendall(b"\r\n")
        assert line.recv(65_536).startswith(b"HTTP/1.1 408")


def test_a_connection_sending_a_body_after_its_answer_is_closed(tmp_path: Path) -> None:
    with racing_shop(tmp_path).client() as caller, running_server(caller.http.app, receive_s=A_WHILE_S) as at:
        unknown = post(b"/rerank", b"", b"content-length: 9", close=False).replace(
            b"x-api-key: ", b"x-api-key: x"
        )
        with socket.create_connection(at, PATIENCE_S) as line:
            line.sendall(unknown)
            assert line.recv(65_536).startswith(b"HTTP/1.1 401")
            line.sendall(b"too late!")
            assert line.recv(65_536).startswith(b"HTTP/1.1 408")
