"""Simulated shoppers over public HTTP. A request whose connection breaks is repeated once; what they saw and
what was acknowledged to them is kept."""

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.crash.schedule import Scenario

TRIES = 2
AGAIN = 5  # times an event that was refused with 503 is sent
# What each arm earns, by the order in which it entered: the second is best, so weights never rest.
RATES = (0.25, 0.4, 0.15)
UNASSIGNED = {"no_fresh_features", "no_pins", "champion_only", "cut_off"}  # slates of no arm's account
STEADY = 24  # shoppers who stay from the first moment to the last
SLATE = 5


@dataclass(slots=True)
class Seen:
    """What the crowd saw. `acknowledged`: event id -> how often it had to be sent; `arms`: unit as the
    client knows it -> arms in order of their first answer; `lives`: unit -> first and last answer, ms."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    broken: int = 0
    empty: int = 0
    refused: int = 0
    acknowledged: dict[str, int] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    arms: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    lives: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    degraded: Counter[str] = field(default_factory=Counter)


class Crowd:
    """Runs until told to stop; then everybody ends their visit."""

    def __init__(self, url: str, key: str, scenario: Scenario):
        self.seen = Seen()
        self.stopping = asyncio.Event()
        self._scenario = scenario
        self._rng = random.Random(scenario.seed * 1_000)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=32)
        self._http = httpx.AsyncClient(
            base_url=url, headers={"X-API-Key": key}, limits=limits, timeout=httpx.Timeout(60.0)
        )
        self._visits: set[asyncio.Task[None]] = set()
        self._order: dict[str, int] = {}

    async def run(self) -> None:
        """Steady shoppers, and new ones all the time."""
        for number in range(STEADY):
            self._visit(f"steady{number}", None)
            await asyncio.sleep(0.05)
        number = 0
        while not self.stopping.is_set():
            number += 1
            await asyncio.sleep(self._rng.expovariate(self._scenario.arrivals_per_s))
            self._visit(f"guest{number}", self._rng.randrange(1, 4))
        await asyncio.gather(*self._visits)
        await self._http.aclose()

    def _visit(self, user: str, slates: int | None) -> None:
        task = asyncio.create_task(self._shop(user, slates, random.Random(self._rng.random())))
        self._visits.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: "asyncio.Task[None]") -> None:
        self._visits.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.seen.failures.append(repr(error))

    async def _shop(self, user: str, slates: int | None, rng: random.Random) -> None:
        """A visit of so many slates; None: until the end."""
        session, shown, answer = f"{user}-1", 0, None
        while not self.stopping.is_set() and (slates is None or shown < slates):
            answer = await self._slate(user, session)
            shown += 1
            await asyncio.sleep(rng.uniform(0.2, 1.0))
            if answer is not None:
                await self._act(user, session, answer, rng)
            await asyncio.sleep(rng.uniform(0.5, 3.0 if slates is None else 1.5))
        if answer is not None and rng.random() < 0.3:  # somebody comes back to a page that is long open
            await asyncio.sleep(rng.uniform(0.7, 1.3) * self._scenario.window_s)
            await self._act(user, session, answer, rng)

    async def _slate(self, user: str, session: str) -> dict[str, Any] | None:
        params = {"user_id": user, "session_id": session, "n": str(SLATE)}
        response, _ = await self._ask("GET", "/recommend", params=params)
        if response is None:
            self.seen.failures.append("/recommend: the connection broke twice")
            return None
        self.seen.statuses[response.status_code] += 1
        if response.status_code != 200:
            self.seen.failures.append(f"/recommend {response.status_code}: {response.text[:200]}")
            return None
        answer = response.json()
        self._note(user, session, answer)
        return answer

    def _note(self, user: str, session: str, answer: dict[str, Any]) -> None:
        self.seen.empty += not answer["items"]
        self.seen.degraded[answer["degraded"] or "full"] += 1
        left_out = UNASSIGNED & set((answer["degraded"] or "").split(","))
        unit = {"session": (user, session), "user_day": (user, "")}.get(self._scenario.unit)
        if unit is None or left_out or answer["experiment"] is None:
            return
        now_ms = time.time_ns() // 1_000_000
        self.seen.lives[unit] = (self.seen.lives.get(unit, (now_ms,))[0], now_ms)
        arms = self.seen.arms.setdefault(unit, [])
        if answer["arm"] not in arms:
            arms.append(answer["arm"])

    async def _act(self, user: str, session: str, answer: dict[str, Any], rng: random.Random) -> None:
        """What follows a slate: an impression always, clicks by the arm's rate, some sent twice, some on an
        item that was never shown."""
        arm, items = answer["arm"], [item["item_id"] for item in answer["items"]]
        if not items:
            return
        rate = RATES[self._order.setdefault(arm, len(self._order)) % len(RATES)]
        kinds = ["impression"] + ["click"] * (rng.random() < rate) * rng.choice([1, 1, 2])
        kinds += ["add_to_cart"] * (rng.random() < 0.1) + ["view"] * (rng.random() < 0.2)
        shown = answer["recommendation_id"]
        rows = [
            {
                "event_id": str(uuid.UUID(int=rng.getrandbits(128))),
                "type": kind,
                "item_id": rng.choice(items) if rng.random() > 0.03 else "i59x",
                "user_id": user,
                "session_id": session,
                "recommendation_id": shown,
            }
            for kind in kinds
        ]
        await self._tell(rows)
        if rng.random() < 0.1:  # the same rows once more: a page that was not sure
            await self._tell(rows)

    async def _tell(self, rows: list[dict[str, Any]]) -> None:
        """POST until acknowledged, at most `AGAIN` times."""
        ids = [row["event_id"] for row in rows]
        sent = 0
        for _ in range(AGAIN):
            response, tries = await self._ask("POST", "/events", json=rows)
            sent += tries
            if response is not None and response.status_code == 202:
                for event_id in ids:
                    self.seen.acknowledged[event_id] = self.seen.acknowledged.get(event_id, 0) + sent
                return
            if response is not None and response.status_code != 503:
                self.seen.failures.append(f"/events {response.status_code}: {response.text[:200]}")
                return
            self.seen.refused += 1
            await asyncio.sleep(
                float(response.headers.get("retry-after", 1)) if response is not None else 1.0
            )
        self.seen.unanswered.update(ids)

    async def _ask(self, method: str, path: str, **more: Any) -> tuple[httpx.Response | None, int]:
        """The answer, None if the connection broke twice; and how often it was asked for."""
        for attempt in range(1, TRIES + 1):
            try:
                return await self._http.request(method, path, **more), attempt
            except httpx.TransportError:
                self.seen.broken += 1
        return None, TRIES
