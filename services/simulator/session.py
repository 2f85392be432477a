"""One session of a simulated shopper: request a slate, perhaps click an item by the position-based model,
open the item's page, request the next slate.

A shopper sees item ids and nothing else. The arm behind a slate goes to `Measurements` only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from experiments.simulation.click_model import Visits, click_outcome, clicks, slate_value
from experiments.simulation.hash_uniform import text_key, uniform
from services.client.client import (
    AsyncClient,
    CallError,
    Json,
    Request,
    ShopperFields,
    Slate,
    events_request,
    recommend_request,
    similar_request,
)
from services.simulator.measurements import Measurements
from services.simulator.shoppers import Shoppers

Sleep = Callable[[float], Awaitable[None]]
_STAY, _GUEST, _PROBE, _THINK, _IMPRESSION = 21, 22, 23, 24, 25  # random streams


@dataclass(frozen=True, slots=True)
class Habits:
    """How shoppers behave, apart from their tastes. Shares in [0, 1]; times in seconds.

    n: items of a slate; slates: at most, in a session; stay, stay_after_click: probability of requesting
    another slate; impressions: share of slates without a click for which one impression is sent; guest: share
    of sessions without a user id; think_s: mean time on a page, short so that a session fits the demo's
    attribution window; probe: share of clicks on new items that are timed, one at a time to limit the load.
    """

    n: int = 10
    slates: int = 3
    stay: float = 0.5
    stay_after_click: float = 0.8
    impressions: float = 0.25
    guest: float = 0.1
    think_s: float = 0.6
    probe: float = 1.0
    probe_every_s: float = 0.025
    probe_for_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Visitor:
    """Index of a shopper in the world, session id, and time of arrival (s since the epoch)."""

    shopper: int
    session_id: str
    at_s: float


class Session:
    """A session at one replica of the recommend service, over public HTTP."""

    def __init__(
        self,
        shoppers: Shoppers,
        client: AsyncClient,
        measurements: Measurements,
        habits: Habits,
        visitor: Visitor,
        sleep: Sleep = asyncio.sleep,
    ):
        self._shoppers, self._client, self._measurements = shoppers, client, measurements
        self._habits, self._visitor, self._sleep = habits, visitor, sleep
        self._key = text_key(visitor.session_id)
        self._ids: ShopperFields = {"session_id": visitor.session_id}
        if self._uniform(_GUEST) >= habits.guest:
            self._ids["user_id"] = str(shoppers.users[visitor.shopper])
        self._events = 0

    async def run(self) -> bool:
        """Run the session; True if the shopper clicked. A failed request is counted and ends the session."""
        arm, clicked = None, False
        try:
            for turn in range(self._habits.slates):
                slate = await self.request_slate()
                if turn == 0:
                    arm = slate.arm
                    self._measurements.add_slate_value(arm, self._value(slate))
                item = self._choose(slate)
                await self._react(turn, slate, item)
                clicked = clicked or item is not None
                if not self._stays(turn, item):
                    break
                await self._sleep(self._think_time_s(turn))
        except CallError:
            self._measurements.acts["left for an error"] += 1
        self._measurements.session_ended(arm, clicked)
        return clicked

    async def request_slate(self, kind: str = "recommend") -> Slate:
        """Request a slate. Raises CallError."""
        placement = self._shoppers.placement
        request = recommend_request(**self._ids, n=self._habits.n, placement=placement, metadata=False)
        slate = Slate.parse(await self._timed(kind, request))
        if slate.degraded:
            self._measurements.degraded[slate.degraded] += 1
        self._measurements.slate_served(int(time.time()), self._client.urls[0], slate.arm)
        return slate

    def _choose(self, slate: Slate) -> str | None:
        """The first item that the shopper clicks, by the click model."""
        if not slate.items:
            return None
        chosen = np.flatnonzero(clicks(self._shoppers.world, self._visits(), self._indices(slate))[0])
        return slate.items[chosen[0]].item_id if len(chosen) else None

    def _value(self, slate: Slate) -> float:
        return float(slate_value(self._shoppers.world, self._visits(), self._indices(slate))[0])

    def _indices(self, slate: Slate) -> NDArray[np.int32]:
        return self._shoppers.slate([item.item_id for item in slate.items])

    async def _react(self, turn: int, slate: Slate, item: str | None) -> None:
        """Send the events for a slate; time some of the clicks until the next slate follows them."""
        if item is None:
            if slate.items and self._uniform(_IMPRESSION, turn) < self._habits.impressions:
                await self._send([self._event("impression", slate, slate.items[0].item_id)])
            return
        began = time.perf_counter()
        await self._send([self._event("impression", slate, item), self._event("click", slate, item)])
        if (
            self._is_new(item)
            and self._uniform(_PROBE) < self._habits.probe
            and self._measurements.may_probe(slate.arm)
        ):
            self._measurements.probing = True
            try:
                await self._probe(slate, item, began)
            finally:
                self._measurements.probing = False
        await self._open_item(slate, item)

    def _is_new(self, item: str) -> bool:
        """True if the click is new information for the shop. A click on an item that this user bought or
        clicked before may rightly leave the next slate as it was (infra/adr/0010)."""
        first = self._measurements.is_first_click(self._visitor.shopper, item)
        on_record = "user_id" in self._ids and self._shoppers.has_history(self._visitor.shopper, item)
        return first and not on_record

    async def _open_item(self, slate: Slate, item: str) -> None:
        """Open the item's page with its similar items; perhaps put it into the cart, perhaps buy it."""
        await self._timed("similar", similar_request(item, **self._ids, n=4, metadata=False))
        index = self._shoppers.slate([item])[0]
        steps = int(click_outcome(self._shoppers.world, self._keys(), index)[0])
        acts = ["view", *["add_to_cart", "purchase"][:steps]]
        await self._send([self._event(act, slate, item) for act in acts])

    async def _probe(self, before: Slate, clicked: str, began: float) -> None:
        """Request slates until the other items changed. That the clicked item disappears proves nothing."""
        others = [item.item_id for item in before.items if item.item_id != clicked]
        while (waited_s := time.perf_counter() - began) < self._habits.probe_for_s:
            now = await self.request_slate("probe")
            left = [item.item_id for item in now.items if item.item_id != clicked][: len(others)]
            if left != others:
                delay_ms = 1e3 * (time.perf_counter() - began)
                self._measurements.click_to_slate_ms[now.arm or "none"].append(delay_ms)
                return
            await self._sleep(self._habits.probe_every_s)
        self._measurements.unchanged[before.arm or "none"] += waited_s > 0

    async def _send(self, events: list[Json]) -> None:
        await self._timed("events", events_request(events))
        self._measurements.acts.update(event["type"] for event in events)

    def _event(self, act: str, slate: Slate, item: str) -> Json:
        self._events += 1
        return {
            "event_id": f"{self._visitor.session_id}-{self._events}",
            "type": act,
            "item_id": item,
            "recommendation_id": slate.recommendation_id,
            **self._ids,
        }

    async def _timed(self, kind: str, request: Request) -> httpx.Response:
        """Send a request and measure it. Raises CallError unless the reply is a success."""
        began = time.perf_counter()
        answered = True
        try:
            return await self._client.send(request)
        except CallError as error:
            answered = error.reply is not None
            self._measurements.errors[f"{kind}: {error.reason}"] += 1
            raise
        finally:
            if answered:
                self._measurements.request_ended(kind, 1e3 * (time.perf_counter() - began))

    def _stays(self, turn: int, item: str | None) -> bool:
        chance = self._habits.stay if item is None else self._habits.stay_after_click
        return self._uniform(_STAY, turn) < chance

    def _think_time_s(self, turn: int) -> float:
        return -self._habits.think_s * float(np.log1p(-self._uniform(_THINK, turn)))

    def _uniform(self, stream: int, *keys: int) -> float:
        return float(uniform(self._shoppers.world.seed, stream, self._key, *keys))

    def _visits(self) -> Visits:
        return Visits(np.array([self._visitor.shopper], np.int32), self._keys(), self._visitor.at_s)

    def _keys(self) -> NDArray[np.uint64]:
        return np.array([self._key], np.uint64)
