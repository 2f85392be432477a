"""Shoppers at a storefront double: they know items and nothing about arms, and what they see is measured."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from support.best_slates import best_slate

from experiments.simulation.click_model import Visits
from experiments.simulation.hash_uniform import text_key
from experiments.simulation.synthetic_shop import synthetic_shop
from services.client.client import AsyncClient
from services.simulator.arrivals import poisson_arrivals
from services.simulator.measurements import Measurements, quantiles
from services.simulator.session import Habits, Session, Visitor
from services.simulator.shoppers import Shoppers, synthetic_shoppers, with_history

NOW_S = 1_790_000_000.0


@pytest.fixture(scope="module")
def shoppers() -> Shoppers:
    return synthetic_shoppers(synthetic_shop(seed=11, n_items=400, n_shoppers=300))


class Storefront:
    """Transport that replies as the recommend service does; `slate_of(session id, clicks so far)` chooses
    items."""

    def __init__(self, slate_of: Callable[[str, list[str]], list[str]], arm_of: Callable[[str], str]):
        self._slate_of, self._arm_of = slate_of, arm_of
        self.events: list[dict] = []
        self.requests: list[dict] = []
        self.status = 200

    async def request(
        self, method: str, url: str, *, content: bytes | None, headers: dict[bytes, bytes]
    ) -> httpx.Response:
        if url.endswith("/events"):
            self.events.extend(json.loads(content))
            return httpx.Response(self.status, json={})
        fields = json.loads(content) if content else _query_of(url)
        self.requests.append(fields)
        session = fields["session_id"]
        clicked = [e["item_id"] for e in self.events if e["type"] == "click" and e["session_id"] == session]
        items = [{"item_id": item} for item in self._slate_of(session, clicked)]
        slate = {"recommendation_id": f"r-{session}", "items": items, "arm": self._arm_of(session)}
        return httpx.Response(self.status, json=slate)

    async def aclose(self) -> None:
        pass

    def client(self) -> AsyncClient:
        return AsyncClient("http://double", "key", self)


def _query_of(path: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


def shop_for(
    shoppers: Shoppers, storefront: Storefront, n: int, habits: Habits | None = None
) -> Measurements:
    """`n` sessions, one after the other."""
    measurements, rng = Measurements(), np.random.default_rng(5)

    async def everyone() -> None:
        for number in range(n):
            visit = Visitor(int(shoppers.world.visitors(rng, 1)[0]), f"s{number}", NOW_S)
            await Session(
                shoppers, storefront.client(), measurements, habits or Habits(probe=0.0), visit, no_wait
            ).run()

    asyncio.run(everyone())
    return measurements


def ids(shoppers: Shoppers, slate: np.ndarray) -> list[str]:
    names = list(shoppers.index_of)
    return [names[index] for index in slate]


def good_and_bad(shoppers: Shoppers) -> tuple[list[str], list[str]]:
    """The ten items that please shoppers most on average, and the ten that please least."""
    rng = np.random.default_rng(1)
    visits = Visits(shoppers.world.visitors(rng, 500), rng.integers(2**62, size=500).astype(np.uint64), NOW_S)
    everything = np.tile(np.arange(shoppers.world.n_items, dtype=np.int32), (500, 1))
    order = np.argsort(-shoppers.world.attraction(visits, everything).mean(axis=0))
    return ids(shoppers, order[:10]), ids(shoppers, order[-10:])


def half(session: str) -> bool:
    return int(text_key(session)) % 2 == 0


def test_swapping_the_names_of_arms_changes_no_click(shoppers: Shoppers) -> None:
    good, bad = good_and_bad(shoppers)

    def play(names: tuple[str, str]) -> tuple[list[tuple], Measurements]:
        storefront = Storefront(
            lambda s, _: good if half(s) else bad, lambda s: names[0] if half(s) else names[1]
        )
        measurements = shop_for(shoppers, storefront, 300)
        return [(e["session_id"], e["type"], e["item_id"]) for e in storefront.events], measurements

    (events, before), (events_swapped, after) = play(("als", "popularity")), play(("popularity", "als"))
    assert events == events_swapped
    assert before.clicked["als"] == after.clicked["popularity"] > 0
    assert before.sessions["als"] == after.sessions["popularity"]


def test_better_slates_earn_more_clicks(shoppers: Shoppers) -> None:
    good, bad = good_and_bad(shoppers)
    storefront = Storefront(lambda s, _: good if half(s) else bad, lambda s: "good" if half(s) else "bad")
    measurements = shop_for(shoppers, storefront, 400)
    rate = {arm: measurements.clicked[arm] / measurements.sessions[arm] for arm in ("good", "bad")}
    assert rate["good"] > 3 * rate["bad"]
    truth = measurements.summary()["truth"]
    assert truth["good"]["mean"] > 3 * truth["bad"]["mean"]
    assert truth["good"]["n"] + truth["bad"]["n"] == 400
    assert sum(measurements.served.values()) == measurements.sent["recommend"]


def test_events_name_the_slate_the_shopper_and_are_told_apart(shoppers: Shoppers) -> None:
    good, _ = good_and_bad(shoppers)
    storefront = Storefront(lambda s, _: good, lambda s: "a")
    measurements = shop_for(shoppers, storefront, 200)
    assert len({event["event_id"] for event in storefront.events}) == len(storefront.events)
    assert all(event["recommendation_id"] == f"r-{event['session_id']}" for event in storefront.events)
    kinds = [event["type"] for event in storefront.events]
    assert kinds.count("impression") >= kinds.count("click") > kinds.count("add_to_cart") > 0
    assert kinds.count("click") == kinds.count("view") == measurements.acts["click"]
    guests = [query for query in storefront.requests if "user_id" not in query]
    assert 0.02 < len(guests) / len(storefront.requests) < 0.3
    assert {query.get("user_id", "u00000") for query in storefront.requests} <= set(shoppers.users)


def test_a_click_that_changes_the_other_items_is_timed(shoppers: Shoppers) -> None:
    good, bad = good_and_bad(shoppers)
    storefront = Storefront(lambda s, clicked: bad if clicked else good, lambda s: "personal")
    measurements = shop_for(shoppers, storefront, 60, Habits(probe=1.0, slates=1))
    assert (
        measurements.summary()["click_to_slate"]["by_arm"]["personal"]["n"]
        == len(measurements.clicked_before)
        > 5
    )
    assert not measurements.unchanged


def test_only_clicks_on_items_new_to_the_shopper_are_timed(shoppers: Shoppers) -> None:
    good, bad = good_and_bad(shoppers)
    n_items, n_shoppers = len(shoppers.index_of), len(shoppers.users)
    known = good[::2]
    history = np.sort([s * n_items + shoppers.index_of[item] for s in range(n_shoppers) for item in known])
    timed: list[tuple[bool, str]] = []

    class Timing(Session):
        async def _probe(self, before: Any, clicked: str, began: float) -> None:
            timed.append(("user_id" in self._ids, clicked))

    storefront = Storefront(lambda s, clicked: good, lambda s: "personal")
    asyncio.run(visits(replace(shoppers, history=history), storefront, 150, Timing))
    clicked = {event["item_id"] for event in storefront.events if event["type"] == "click"}
    assert clicked & set(known)
    assert {item for user, item in timed if user} <= set(good) - set(known)
    assert {item for user, item in timed if not user} & set(known)  # the shop doesn't know who a guest is


async def visits(shoppers: Shoppers, storefront: Storefront, n: int, kind: type[Session]) -> None:
    measurements, rng = Measurements(), np.random.default_rng(5)
    for number in range(n):
        visit = Visitor(int(shoppers.world.visitors(rng, 1)[0]), f"s{number}", NOW_S)
        await kind(
            shoppers, storefront.client(), measurements, Habits(probe=1.0, guest=0.4), visit, no_wait
        ).run()


def test_the_shoppers_knows_what_the_shop_has_on_record(shoppers: Shoppers) -> None:
    items = list(shoppers.index_of)
    catalogue = SimpleNamespace(items=np.array([items[3], "not in the world", items[0]]))
    past = SimpleNamespace(
        users=np.array([shoppers.users[7], "a stranger"]), user=np.array([0, 0, 1]), item=np.array([0, 1, 2])
    )
    known = with_history(shoppers, catalogue, past)
    assert known.has_history(7, items[3])
    assert not any(
        known.has_history(*pair) for pair in ((7, items[0]), (6, items[3]), (7, "not in the world"))
    )
    assert len(known.history) == 1


def test_dropping_only_the_clicked_item_is_no_change(shoppers: Shoppers) -> None:
    good, bad = good_and_bad(shoppers)

    def refilled(_: str, clicked: list[str]) -> list[str]:
        return [item for item in [*good, *bad] if item not in clicked][:10]

    storefront = Storefront(refilled, lambda s: "static")
    measurements = shop_for(shoppers, storefront, 80, Habits(probe=1.0, slates=1, probe_for_s=0.005))
    assert measurements.acts["click"] > 10
    assert measurements.unchanged["static"] == 10  # then it is known to be impersonal, and is spared
    assert not measurements.click_to_slate_ms["static"]


def test_failures_are_counted_and_end_the_session_only(shoppers: Shoppers) -> None:
    storefront = Storefront(lambda s, _: [], lambda s: "a")
    storefront.status = 503
    measurements = shop_for(shoppers, storefront, 5)
    assert measurements.errors == {"recommend: 503": 5}
    assert measurements.acts["left for an error"] == 5


def test_no_answer_is_counted(shoppers: Shoppers) -> None:
    class Gone(Storefront):
        async def request(self, *_: object, **__: object) -> httpx.Response:
            raise httpx.ReadTimeout("no answer within 5 s")

    measurements = shop_for(shoppers, Gone(lambda s, _: [], lambda s: "a"), 2)
    assert measurements.errors == {"recommend: ReadTimeout": 2}


def test_empty_slates_and_unknown_items_are_no_error(shoppers: Shoppers) -> None:
    for items in ([], ["never heard of it"]):
        measurements = shop_for(shoppers, Storefront(lambda s, _, items=items: items, lambda s: "a"), 20)
        assert not measurements.errors
        assert measurements.acts["click"] == 0


def test_sessions_beyond_the_bound_are_skipped_and_counted() -> None:
    measurements = Measurements()
    forever = asyncio.Event()

    async def scenario() -> int:
        async def session(_: int) -> None:
            await forever.wait()

        def enough() -> bool:
            if measurements.skipped >= 10:
                forever.set()
            return forever.is_set()

        rng, skipped = np.random.default_rng(0), measurements.session_skipped
        return await poisson_arrivals(session, enough, rng, rate_per_s=5_000.0, max_open=3, on_skip=skipped)

    assert asyncio.run(scenario()) == 3


def test_a_mistake_in_a_session_is_raised_not_swallowed() -> None:
    async def session(_: int) -> None:
        raise KeyError("a mistake")

    arrivals = poisson_arrivals(
        session, lambda: False, np.random.default_rng(0), rate_per_s=1e3, max_open=3, on_skip=lambda: None
    )
    with pytest.RaisesGroup(KeyError):
        asyncio.run(arrivals)


def test_quantiles_of_nothing_and_of_something() -> None:
    assert quantiles([]) == {"n": 0}
    assert quantiles(range(101)) == {"n": 101, "p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 100.0}


def test_a_shoppers_knows_its_world(shoppers: Shoppers) -> None:
    visits = Visits(np.zeros(1, np.int32), np.ones(1, np.uint64), NOW_S)
    best = best_slate(shoppers.world, visits, 5)
    np.testing.assert_array_equal(shoppers.slate(ids(shoppers, best[0])), best)
