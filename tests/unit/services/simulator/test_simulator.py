"""Shoppers at a storefront double: they know items and nothing about arms, and what they see is measured."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from experiments.simulation.click_model import Visits, best_slate
from experiments.simulation.hash_uniform import text_key
from experiments.simulation.synthetic_shop import synthetic_shop
from services.simulator.arrivals import Traffic
from services.simulator.http_client import HttpError, Reply
from services.simulator.measurements import Measures, quantiles
from services.simulator.session import Habits, Session, Visit
from services.simulator.shoppers import Shoppers, acquainted, synthetic_crowd

NOW_S = 1_790_000_000.0


@pytest.fixture(scope="module")
def crowd() -> Shoppers:
    return synthetic_crowd(synthetic_shop(seed=11, n_items=400, n_shoppers=300))


class Storefront:
    """Answers as the recommend service does; `slate_of(session id, clicks so far)` chooses items."""

    def __init__(self, slate_of: Callable[[str, list[str]], list[str]], arm_of: Callable[[str], str]):
        self.origin = "http://double"
        self._slate_of, self._arm_of = slate_of, arm_of
        self.events: list[dict] = []
        self.queries: list[dict] = []
        self.status = 200

    async def get(self, path: str) -> Reply:
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        self.queries.append(query)
        session = query["session_id"]
        clicked = [e["item_id"] for e in self.events if e["type"] == "click" and e["session_id"] == session]
        items = [{"item_id": item} for item in self._slate_of(session, clicked)]
        answer = {
            "recommendation_id": f"r-{session}",
            "items": items,
            "arm": self._arm_of(session),
            "degraded": None,
        }
        return Reply(self.status, {}, json.dumps(answer).encode())

    async def post(self, path: str, body: bytes) -> Reply:
        assert path == "/events"
        self.events.extend(json.loads(body))
        return Reply(self.status, {}, b"{}")


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


def shop_for(crowd: Shoppers, storefront: Storefront, n: int, habits: Habits | None = None) -> Measures:
    """`n` sessions, one after the other."""
    measures, rng = Measures(), np.random.default_rng(5)

    async def everyone() -> None:
        for number in range(n):
            visit = Visit(int(crowd.world.visitors(rng, 1)[0]), f"s{number}", NOW_S)
            await Session(crowd, storefront, measures, habits or Habits(probe=0.0), visit, no_wait).run()

    asyncio.run(everyone())
    return measures


def ids(crowd: Shoppers, slate: np.ndarray) -> list[str]:
    names = list(crowd.index_of)
    return [names[index] for index in slate]


def good_and_bad(crowd: Shoppers) -> tuple[list[str], list[str]]:
    """The ten items that please shoppers most on average, and the ten that please least."""
    rng = np.random.default_rng(1)
    visits = Visits(crowd.world.visitors(rng, 500), rng.integers(2**62, size=500).astype(np.uint64), NOW_S)
    everything = np.tile(np.arange(crowd.world.n_items, dtype=np.int32), (500, 1))
    order = np.argsort(-crowd.world.attraction(visits, everything).mean(axis=0))
    return ids(crowd, order[:10]), ids(crowd, order[-10:])


def half(session: str) -> bool:
    return int(text_key(session)) % 2 == 0


def test_swapping_the_names_of_arms_changes_no_click(crowd: Shoppers) -> None:
    good, bad = good_and_bad(crowd)

    def play(names: tuple[str, str]) -> tuple[list[tuple], Measures]:
        storefront = Storefront(
            lambda s, _: good if half(s) else bad, lambda s: names[0] if half(s) else names[1]
        )
        measures = shop_for(crowd, storefront, 300)
        return [(e["session_id"], e["type"], e["item_id"]) for e in storefront.events], measures

    (events, before), (events_swapped, after) = play(("als", "popularity")), play(("popularity", "als"))
    assert events == events_swapped
    assert before.clicked["als"] == after.clicked["popularity"] > 0
    assert before.sessions["als"] == after.sessions["popularity"]


def test_better_slates_earn_more_clicks(crowd: Shoppers) -> None:
    good, bad = good_and_bad(crowd)
    storefront = Storefront(lambda s, _: good if half(s) else bad, lambda s: "good" if half(s) else "bad")
    measures = shop_for(crowd, storefront, 400)
    rate = {arm: measures.clicked[arm] / measures.sessions[arm] for arm in ("good", "bad")}
    assert rate["good"] > 3 * rate["bad"]
    truth = measures.summary()["truth"]
    assert truth["good"]["mean"] > 3 * truth["bad"]["mean"]
    assert truth["good"]["n"] + truth["bad"]["n"] == 400
    assert sum(measures.served.values()) == measures.sent["recommend"]


def test_events_name_the_slate_the_shopper_and_are_told_apart(crowd: Shoppers) -> None:
    good, _ = good_and_bad(crowd)
    storefront = Storefront(lambda s, _: good, lambda s: "a")
    measures = shop_for(crowd, storefront, 200)
    assert len({event["event_id"] for event in storefront.events}) == len(storefront.events)
    assert all(event["recommendation_id"] == f"r-{event['session_id']}" for event in storefront.events)
    kinds = [event["type"] for event in storefront.events]
    assert kinds.count("impression") >= kinds.count("click") > kinds.count("add_to_cart") > 0
    assert kinds.count("click") == kinds.count("view") == measures.acts["click"]
    guests = [query for query in storefront.queries if "user_id" not in query]
    assert 0.02 < len(guests) / len(storefront.queries) < 0.3
    assert {query.get("user_id", "u00000") for query in storefront.queries} <= set(crowd.users)


def test_a_click_that_changes_the_other_items_is_timed(crowd: Shoppers) -> None:
    good, bad = good_and_bad(crowd)
    storefront = Storefront(lambda s, clicked: bad if clicked else good, lambda s: "personal")
    measures = shop_for(crowd, storefront, 60, Habits(probe=1.0, slates=1))
    assert measures.summary()["click_to_slate"]["by_arm"]["personal"]["n"] == len(measures.clicked_before) > 5
    assert not measures.unchanged


def test_only_clicks_on_items_new_to_the_shopper_are_timed(crowd: Shoppers) -> None:
    good, bad = good_and_bad(crowd)
    n_items, shoppers = len(crowd.index_of), len(crowd.users)
    known = good[::2]
    met = np.sort([s * n_items + crowd.index_of[item] for s in range(shoppers) for item in known])
    timed: list[tuple[bool, str]] = []

    class Timing(Session):
        async def _probe(self, before: Any, clicked: str, began: float) -> None:
            timed.append(("user_id" in self._who, clicked))

    storefront = Storefront(lambda s, clicked: good, lambda s: "personal")
    asyncio.run(visits(replace(crowd, met=met), storefront, 150, Timing))
    clicked = {event["item_id"] for event in storefront.events if event["type"] == "click"}
    assert clicked & set(known)
    assert {item for user, item in timed if user} <= set(good) - set(known)
    assert {item for user, item in timed if not user} & set(known)  # the shop doesn't know who a guest is


async def visits(crowd: Shoppers, storefront: Storefront, n: int, kind: type[Session]) -> None:
    measures, rng = Measures(), np.random.default_rng(5)
    for number in range(n):
        visit = Visit(int(crowd.world.visitors(rng, 1)[0]), f"s{number}", NOW_S)
        await kind(crowd, storefront, measures, Habits(probe=1.0, guest=0.4), visit, no_wait).run()


def test_the_crowd_knows_what_the_shop_has_on_record(crowd: Shoppers) -> None:
    items = list(crowd.index_of)
    catalogue = SimpleNamespace(items=np.array([items[3], "not in the world", items[0]]))
    past = SimpleNamespace(
        users=np.array([crowd.users[7], "a stranger"]), user=np.array([0, 0, 1]), item=np.array([0, 1, 2])
    )
    told = acquainted(crowd, catalogue, past)
    assert told.has_met(7, items[3])
    assert not any(told.has_met(*pair) for pair in ((7, items[0]), (6, items[3]), (7, "not in the world")))
    assert len(told.met) == 1


def test_dropping_only_the_clicked_item_is_no_change(crowd: Shoppers) -> None:
    good, bad = good_and_bad(crowd)

    def refilled(_: str, clicked: list[str]) -> list[str]:
        return [item for item in [*good, *bad] if item not in clicked][:10]

    storefront = Storefront(refilled, lambda s: "static")
    measures = shop_for(crowd, storefront, 80, Habits(probe=1.0, slates=1, probe_for_s=0.005))
    assert measures.acts["click"] > 10
    assert measures.unchanged["static"] == 10  # then it is known to be impersonal, and is spared
    assert not measures.click_to_slate_ms["static"]


def test_failures_are_counted_and_end_the_session_only(crowd: Shoppers) -> None:
    storefront = Storefront(lambda s, _: [], lambda s: "a")
    storefront.status = 503
    measures = shop_for(crowd, storefront, 5)
    assert measures.errors == {"recommend: 503": 5}
    assert measures.acts["left for an error"] == 5


def test_no_answer_is_counted(crowd: Shoppers) -> None:
    class Gone(Storefront):
        async def get(self, path: str) -> Reply:
            raise HttpError("no answer within 5 s")

    measures = shop_for(crowd, Gone(lambda s, _: [], lambda s: "a"), 2)
    assert measures.errors == {"recommend: no answer within 5 s": 2}


def test_empty_slates_and_unknown_items_are_no_error(crowd: Shoppers) -> None:
    for items in ([], ["never heard of it"]):
        measures = shop_for(crowd, Storefront(lambda s, _, items=items: items, lambda s: "a"), 20)
        assert not measures.errors
        assert measures.acts["click"] == 0


def test_sessions_beyond_the_bound_are_skipped_and_counted() -> None:
    measures = Measures()
    forever = asyncio.Event()

    async def scenario() -> int:
        traffic = Traffic(5_000.0, 3, np.random.default_rng(0), measures.skip)

        async def session(_: int) -> None:
            await forever.wait()

        def enough() -> bool:
            if measures.skipped >= 10:
                forever.set()
            return forever.is_set()

        await traffic.run(session, enough)
        return traffic.opened

    assert asyncio.run(scenario()) == 3


def test_a_mistake_in_a_session_is_raised_not_swallowed() -> None:
    async def session(_: int) -> None:
        raise KeyError("a mistake")

    traffic = Traffic(1_000.0, 3, np.random.default_rng(0))
    with pytest.raises(KeyError, match="a mistake"):
        asyncio.run(traffic.run(session, lambda: False))


def test_quantiles_of_nothing_and_of_something() -> None:
    assert quantiles([]) == {"n": 0}
    assert quantiles(range(101)) == {"n": 101, "p50_ms": 50.0, "p99_ms": 99.0, "max_ms": 100.0}


def test_a_crowd_knows_its_world(crowd: Shoppers) -> None:
    visits = Visits(np.zeros(1, np.int32), np.ones(1, np.uint64), NOW_S)
    best = best_slate(crowd.world, visits, 5)
    np.testing.assert_array_equal(crowd.slate(ids(crowd, best[0])), best)
