"""Shedding: who is let in, by a clock that the test moves."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from support.small_shop import SmallShop

from services.web.load_shedding import FEWEST, MOST, TICK_S, ConcurrencyLimit, Shedder

TARGET_S = 0.02


class Loop:
    """An event loop whose turns take as long as the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.due: list[Callable[[], None]] = []
        self.shedder = Shedder(
            TARGET_S, now_s=lambda: self.now_s, later=lambda _, call: self.due.append(call)
        )

    def turns(self, count: int, lag_s: float, busy: int = 0) -> None:
        places = self.shedder.slates
        for _ in range(count):
            entered = [places.enter() for _ in range(busy) if places.open]
            self.now_s += TICK_S + lag_s
            if self.due:
                self.due.pop()()
            for _ in entered:
                places.leave()


def test_a_standing_queue_lowers_the_limit_until_it_ends() -> None:
    loop = Loop()
    loop.turns(30, lag_s=2 * TARGET_S, busy=200)
    closed = loop.shedder.slates.limit
    assert FEWEST <= closed < 200
    loop.turns(300, lag_s=2 * TARGET_S, busy=200)
    assert loop.shedder.slates.limit == FEWEST  # some are always let in
    loop.turns(1_000, lag_s=0.0, busy=1)
    assert loop.shedder.slates.limit == MOST


def test_a_burst_or_a_pause_is_no_overload() -> None:
    loop = Loop()
    for _ in range(50):
        loop.turns(9, lag_s=0.0, busy=100)
        loop.turns(1, lag_s=20 * TARGET_S, busy=100)
    assert loop.shedder.slates.limit == MOST


def test_an_idle_process_sleeps_and_wakes() -> None:
    loop = Loop()
    loop.turns(1, lag_s=0.0, busy=1)
    loop.turns(50, lag_s=0.0)
    assert not loop.due
    loop.turns(60, lag_s=2 * TARGET_S, busy=50)
    assert loop.shedder.slates.limit < MOST


def test_events_and_slates_have_places_of_their_own(tmp_path: Path) -> None:
    with SmallShop(tmp_path, category_share=1.0).client() as call:
        call.parts.shedder.events.limit = 0
        refused = call.post("/events", [])
        assert call.get("/recommend").status_code == 200
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "overloaded"
        call.parts.shedder.slates.limit = 0
        assert call.get("/recommend").status_code == 503
        from_a_page = call.get("/recommend", headers={"Origin": "https://shop.example"})
        assert from_a_page.status_code == 503
        for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/experiments"):
            assert call.get(path, "admin").status_code == 200, path
        assert call.post("/champion-only", {"on": True}, "admin").status_code == 200
        shed = 'ringside_requests_shed_total{reason="overload"} 3.0'
        assert shed in call.get("/metrics", "admin").text


def test_every_place_is_given_back(tmp_path: Path) -> None:
    with SmallShop(tmp_path).client() as call:
        for path in ("/recommend", "/recommend?n=0", "/similar/nothing", "/popular"):
            call.get(path)
            call.get(path, headers={"Origin": "https://shop.example"})
        call.post("/events", [{}])
        both = (call.parts.shedder.slates, call.parts.shedder.events)
        assert [places.under_way for places in both] == [0, 0]


def test_a_places_lets_in_no_more_than_its_limit() -> None:
    places = ConcurrencyLimit(lambda: None)
    places.limit = 2
    seen = []

    async def visit() -> None:
        if not places.open:
            seen.append("shed")
            return
        places.enter()
        await asyncio.sleep(0)
        places.leave()
        seen.append("in")

    async def crowd() -> None:
        await asyncio.gather(*(visit() for _ in range(5)))

    asyncio.run(crowd())
    assert sorted(seen) == ["in", "in", "shed", "shed", "shed"]
