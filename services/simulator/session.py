"""One shopper's visit: open home, look at the slate, perhaps click, look at the item, look at the next slate.

A shopper sees item ids and nothing else: which arm answered goes to `Measures` only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import Visits, after_click, clicks, slate_value
from experiments.simulation.hash_uniform import luck, text_key
from services.simulator.http_client import HttpClient, HttpError, Reply
from services.simulator.measurements import Measures
from services.simulator.shoppers import Shoppers

Sleep = Callable[[float], Awaitable[None]]
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_STAY, _GUEST, _PROBE, _THINK, _IMPRESSION = 21, 22, 23, 24, 25  # streams of luck


@dataclass(frozen=True, slots=True)
class Habits:
    """How shoppers behave, apart from taste. Shares in [0, 1]; times in seconds.

    The demo's shoppers hurry (`think_s`), so that a session fits its short attribution window.
    """

    n: int = 10
    slates: int = 3  # at most, in a session
    stay: float = 0.5  # goes on to the next slate without having clicked
    stay_after_click: float = 0.8
    impressions: float = 0.25  # share of slates without a click of which one is sent
    guest: float = 0.1  # sessions without a user id
    think_s: float = 0.6  # mean time on a page
    probe: float = 1.0  # share of clicks on new items that are timed; one at a time, to be no burden
    probe_every_s: float = 0.025
    probe_for_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Slate:
    """An answer as a shopper sees it, plus what only `Measures` may know (`arm`, `degraded`)."""

    recommendation_id: str | None
    items: list[str]
    arm: str | None
    degraded: str | None


@dataclass(frozen=True, slots=True)
class Visit:
    """Who visits: index in the crowd's world, session id, and the clock's second at which the visit began."""

    shopper: int
    session_id: str
    at_s: float


class Session:
    """A visit in progress at one storefront (`client`: its recommend service over public HTTP)."""

    def __init__(
        self,
        shoppers: Shoppers,
        client: HttpClient,
        measures: Measures,
        habits: Habits,
        visit: Visit,
        sleep: Sleep = asyncio.sleep,
    ):
        self._crowd, self._client, self._measures = shoppers, client, measures
        self._habits, self._visit, self._sleep = habits, visit, sleep
        self._key = text_key(visit.session_id)
        who = {"session_id": visit.session_id}
        if self._luck(_GUEST) >= habits.guest:
            who["user_id"] = str(shoppers.users[visit.shopper])
        self._who = who
        self._events = 0

    async def run(self) -> bool:
        """Live through the visit; True if it clicked. Failed requests are measured, and end it."""
        arm, clicked = None, False
        try:
            for turn in range(self._habits.slates):
                slate = await self.look()
                if turn == 0:
                    arm = slate.arm
                    self._measures.worth(arm, self._value(slate))
                item = self._choose(slate)
                await self._report(turn, slate, item)
                clicked = clicked or item is not None
                if not self._goes_on(turn, item):
                    break
                await self._sleep(self._think(turn))
        except HttpError:
            self._measures.acts["left for an error"] += 1
        self._measures.session_ended(arm, clicked)
        return clicked

    async def look(self, kind: str = "recommend") -> Slate:
        """Ask for a slate. Raises HttpError when there is none."""
        query = urlencode(
            {**self._who, "n": self._habits.n, "placement": self._crowd.placement, "metadata": "false"}
        )
        reply = await self._timed(kind, self._client.get(f"/recommend?{query}"))
        answer = _decode(reply.body)
        items = [row["item_id"] for row in answer["items"]]
        if answer["degraded"]:
            self._measures.degraded[answer["degraded"]] += 1
        self._measures.answered(int(time.time()), self._client.origin, answer["arm"])
        return Slate(answer["recommendation_id"], items, answer["arm"], answer["degraded"])

    def _choose(self, slate: Slate) -> str | None:
        """The first item that the shopper clicks, by the world's truth."""
        if not slate.items:
            return None
        chosen = np.flatnonzero(clicks(self._crowd.world, self._visits(), self._crowd.slate(slate.items))[0])
        return slate.items[chosen[0]] if len(chosen) else None

    def _value(self, slate: Slate) -> float:
        return float(slate_value(self._crowd.world, self._visits(), self._crowd.slate(slate.items))[0])

    async def _report(self, turn: int, slate: Slate, item: str | None) -> None:
        """Tell the storefront what was done; a click may be followed to the next slate with a stopwatch."""
        if item is None:
            if slate.items and self._luck(_IMPRESSION, turn) < self._habits.impressions:
                await self._send([self._event("impression", slate, slate.items[0])])
            return
        began = time.perf_counter()
        await self._send([self._event("impression", slate, item), self._event("click", slate, item)])
        if (
            self._is_new(item)
            and self._luck(_PROBE) < self._habits.probe
            and self._measures.may_probe(slate.arm)
        ):
            self._measures.probing = True
            try:
                await self._probe(slate, item, began)
            finally:
                self._measures.probing = False
        await self._open_item(slate, item)

    def _is_new(self, item: str) -> bool:
        """Whether it tells the shop something: a click on what this user bought or clicked before says what
        a model knows already, and may rightly change nothing (infra/adr/0010)."""
        first = self._measures.first_click(self._visit.shopper, item)
        return first and not ("user_id" in self._who and self._crowd.has_met(self._visit.shopper, item))

    async def _open_item(self, slate: Slate, item: str) -> None:
        """Look at the item's page (its own list of similar items); perhaps put it into the cart, perhaps
        buy it."""
        query = urlencode({**self._who, "n": 4, "metadata": "false"})
        await self._timed("similar", self._client.get(f"/similar/{quote(item, safe='')}?{query}"))
        index = self._crowd.slate([item])[0]
        how_far = int(after_click(self._crowd.world, self._keys(), index)[0])
        acts = ["view", *["add_to_cart", "purchase"][:how_far]]
        await self._send([self._event(act, slate, item) for act in acts])

    async def _probe(self, before: Slate, clicked: str, began: float) -> None:
        """Ask until the *other* items of the slate changed: that the clicked one went away proves nothing."""
        others = [item for item in before.items if item != clicked]
        while (waited_s := time.perf_counter() - began) < self._habits.probe_for_s:
            now = await self.look("probe")
            left = [item for item in now.items if item != clicked][: len(others)]
            if left != others:
                self._measures.click_to_slate_ms[now.arm or "none"].append(
                    1e3 * (time.perf_counter() - began)
                )
                return
            await self._sleep(self._habits.probe_every_s)
        self._measures.unchanged[before.arm or "none"] += waited_s > 0

    async def _send(self, events: list[dict[str, Any]]) -> None:
        if not events:
            return
        await self._timed("events", self._client.post("/events", _encode(events)))
        self._measures.acts.update(event["type"] for event in events)

    def _event(self, act: str, slate: Slate, item: str) -> dict[str, Any]:
        self._events += 1
        return {
            "event_id": f"{self._visit.session_id}-{self._events}",
            "type": act,
            "item_id": item,
            "recommendation_id": slate.recommendation_id,
            **self._who,
        }

    async def _timed(self, kind: str, request: Awaitable[Reply]) -> Reply:
        """Await a request, measure it, and accept only a 2xx. Raises HttpError."""
        began = time.perf_counter()
        try:
            reply = await request
        except HttpError as error:
            self._measures.failed(kind, str(error))
            raise
        self._measures.requested(kind, 1e3 * (time.perf_counter() - began))
        if reply.status // 100 != 2:
            self._measures.failed(kind, str(reply.status))
            raise HttpError(f"{kind}: status {reply.status}")
        return reply

    def _goes_on(self, turn: int, item: str | None) -> bool:
        return self._luck(_STAY, turn) < (
            self._habits.stay if item is None else self._habits.stay_after_click
        )

    def _think(self, turn: int) -> float:
        return -self._habits.think_s * float(np.log1p(-self._luck(_THINK, turn)))

    def _luck(self, stream: int, *keys: int) -> float:
        return float(luck(self._crowd.world.seed, stream, self._key, *keys))

    def _visits(self) -> Visits:
        return Visits(np.array([self._visit.shopper], np.int32), self._keys(), self._visit.at_s)

    def _keys(self) -> NDArray[np.uint64]:
        return np.array([self._key], np.uint64)
