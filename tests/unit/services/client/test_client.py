"""The storefront's client against the real application on in-memory ports."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.small_shop import KEYS, Caller, SmallShop

from experiments.lifecycle.decisions import Decision
from services.client import client as shop_client
from services.client.client import (
    BATCH,
    AsyncClient,
    CallError,
    Client,
    OutboxFullError,
    Slate,
    popular_request,
    rerank_request,
    similar_request,
)
from services.messages.events import decode


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    shop = SmallShop(tmp_path, category_share=1.0)
    shop.start()
    return shop


@pytest.fixture
def call(shop: SmallShop) -> Iterator[Caller]:
    with shop.client() as call:
        yield call


def client(call: Caller, key: str = KEYS["storefront"][0], outbox: int = 1_000) -> Client:
    return Client("", key, http=call.http, outbox=outbox)


def test_a_click_comes_back_attributed(shop: SmallShop, call: Caller) -> None:
    ours = client(call)
    slate = ours.recommend(user_id="anna", session_id="s1", n=2)
    assert slate is not None
    token = slate.recommendation_id
    event_id = ours.record("click", slate.items[0].item_id, user_id="anna", recommendation_id=token)
    assert (ours.deliver(), ours.undelivered) == (0.0, 0)
    assert [(event.event_id, event.attribution is not None) for event in shop.events()] == [(event_id, True)]


def test_events_wait_for_the_broker_and_none_is_lost(shop: SmallShop, call: Caller) -> None:
    ours = client(call)
    ids = {ours.record("view", "i1", session_id="s") for _ in range(2 * BATCH + 1)}
    shop.broker.down = True
    assert (ours.deliver(), ours.undelivered) == (1.0, len(ids))  # what Retry-After said
    shop.broker.down = False
    assert (ours.deliver(), ours.undelivered) == (0.0, 0)
    assert {event.event_id for event in shop.events()} == ids


def test_an_invalid_event_is_logged_and_delays_none(
    shop: SmallShop, call: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    ours = client(call)
    ours.record("no such type", "i1")
    assert (ours.deliver(), ours.undelivered) == (0.0, 0)  # all rows of a request are bad: 422
    ours.record("no such type", "i1")
    good = ours.record("view", "i1", session_id="s")
    assert ours.deliver() == 0.0
    assert [event.event_id for event in shop.events()] == [good]
    assert caplog.text.count("event rejected") == 2


def test_a_wrong_key_or_overload_loses_nothing(call: Caller) -> None:
    stranger = client(call, key="rs_unknown")
    stranger.record("view", "i1", session_id="s")
    assert (stranger.deliver(), stranger.undelivered) == (1.0, 1)
    assert stranger.recommend(session_id="s") is None
    ours = client(call)
    ours.record("view", "i1", session_id="s")
    call.parts.shedder.events.limit = 0
    assert (ours.deliver(), ours.undelivered) == (1.0, 1)


PAGE = "<html>Please log in to the hotel's network</html>"


@pytest.mark.parametrize("status", [200, 202, 204, 301, 308, 400, 404, 409, 413, 422, 502])
def test_a_foreign_answer_settles_no_event_and_no_slate(status: int) -> None:
    """A proxy, a wrong address: events wait, and a page goes on without a slate."""
    elsewhere = httpx.MockTransport(lambda _: httpx.Response(status, text=PAGE))
    ours = Client("", "key", http=httpx.Client(transport=elsewhere, base_url="http://x"))
    for _ in range(3):
        ours.record("view", "i1", session_id="s")
    if status == 413:  # one event after the other is too large for whoever is in between
        assert (ours.deliver(), ours.undelivered) == (0.0, 0)
    else:
        assert (ours.deliver(), ours.undelivered) == (1.0, 3)
    assert ours.recommend(session_id="s") is None


def test_events_too_large_for_one_request_come_in_several(shop: SmallShop, call: Caller) -> None:
    ours = client(call)
    slate = ["x" * 36] * 400
    ids = [ours.record("view", "i1", session_id="s", recommendation_id="".join(slate)) for _ in range(BATCH)]
    assert (ours.deliver(), ours.undelivered) == (0.0, 0)
    assert [event.event_id for event in shop.events()] == ids


def test_the_outbox_is_bounded(call: Caller) -> None:
    ours = client(call, outbox=1)
    ours.record("view", "i1")
    with pytest.raises(OutboxFullError, match="outbox"):
        ours.record("view", "i1")


def test_a_missing_slate_is_logged_with_reason_not_every_time(
    call: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    stranger, ours = client(call, key="rs_unknown"), client(call)
    for _ in range(3):
        assert stranger.recommend(session_id="s") is None
        assert ours.recommend(sesion_id="s") is None
    lines = [record.message for record in caplog.records if record.name == shop_client.__name__]
    assert [line.split()[4] for line in lines] == ["401", "422"]
    assert "not known" in lines[0]
    assert "sesion_id" in lines[1]


def test_sync_and_async_clients_return_the_same_slates(call: Caller) -> None:
    def forward(request: httpx.Request) -> httpx.Response:
        reply = call.http.request(
            request.method, request.url.raw_path.decode(), content=request.content, headers=request.headers
        )
        return httpx.Response(reply.status_code, content=reply.content)

    http = httpx.AsyncClient(transport=httpx.MockTransport(forward))
    ours, other = client(call), AsyncClient("http://api", KEYS["storefront"][0], http)

    async def slates() -> list[Slate | None]:
        return [
            await other.slate(similar_request("i1", session_id="s", n=3)),
            await other.slate(popular_request(n=3, category=["mugs"])),
            await other.slate(rerank_request(["i3", "i1", "i2"], session_id="s")),
        ]

    expected = [
        ours.similar("i1", session_id="s", n=3),
        ours.popular(n=3, category=["mugs"]),
        ours.rerank(["i3", "i1", "i2"], session_id="s"),
    ]
    received = asyncio.run(slates())
    assert [slate and [item.item_id for item in slate.items] for slate in received] == [
        [item.item_id for item in slate.items] for slate in expected if slate
    ]
    assert all(slate and slate.items and slate.items[0].title for slate in received)


def test_an_operator_reads_decisions_and_sends_commands(call: Caller) -> None:
    admin = client(call, key=KEYS["admin"][0])
    name = str(admin.decisions("storefront")[0]["experiment"])
    assert admin.experiment(name)["status"] == "running"
    assert admin.command(name, "pause", reason="prices are wrong")["status"] == "paused"
    records = [decode(Decision, json.dumps(row).encode()) for row in admin.decisions(name, after_revision=1)]
    assert [record.kind for record in records] == ["pause"]
    with pytest.raises(CallError, match="409") as refused:
        admin.command(name, "pause")
    assert refused.value.reply is not None
    with pytest.raises(CallError, match="403"):
        client(call).command(name, "resume")


def test_replicas_take_turns_and_replace_each_other() -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.host))
        if request.url.host == "b":
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json={"items": []})

    both = Client(["http://a/", "http://b"], "key", http=httpx.Client(transport=httpx.MockTransport(answer)))
    assert [both.recommend(session_id="s") for _ in range(3)] == [Slate()] * 3
    assert [host for _, host in seen] == ["b", "a", "b", "a", "b", "a"]
    with pytest.raises(CallError, match="ConnectError"):
        both.command("storefront", "pause")  # never twice: the first may have arrived
    assert len(seen) == 7


def test_the_file_is_all_that_a_storefront_must_copy(tmp_path: Path) -> None:
    shutil.copy(shop_client.__file__, tmp_path / "ringside_client.py")
    folders = [str(tmp_path), str(Path(httpx.__file__).parents[1])]
    script = (
        f"import sys; sys.path[:0] = {json.dumps(folders)}; sys.modules['services'] = None; "
        "import ringside_client; ringside_client.Client('http://127.0.0.1:1', 'key').close()"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True, cwd=tmp_path, timeout=60)
