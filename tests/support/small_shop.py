"""A shop of forty items behind the real HTTP application, on in-memory ports."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from experiments.lifecycle import commands
from experiments.lifecycle.state import Experiment, Rules
from models.recommender import Catalogue, Interactions, Manifest, Query, Ranking
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.adapters.memory.stores import MemoryDataStore
from services.control.recount import RecountService
from services.messages.events import EVENTS, EXPOSURES, Event, Exposure, decode
from services.ports.training import Dataset
from services.recommend.deps import Deps
from services.recommend.http_app import create_app, fast_path
from services.settings import Settings
from services.web.api_keys import new_key
from support.breakable import BreakableItemOverlay, BreakableModelStore, BreakableOnlineReader
from support.memory_installation import MemoryInstallation
from support.traffic import Clock

ITEMS = np.array([f"i{place}" for place in range(40)])
CATEGORIES = ("lamps", "mugs", "cards", "bags")
KEYS = {role: new_key(role) for role in ("storefront", "analyst", "admin")}
SIGNING = "a signing key for tests only"
START_MS = 1_800_000_000_000


@dataclass
class FixedOrderModel:
    """Ranks items in one fixed order, starting after the newest known item; misbehaves on demand."""

    order: list[int]
    algorithm: str = "ordered"
    items: Any = field(default_factory=lambda: ITEMS)
    reason: str = "in order"
    fails: bool = False
    sleep_s: float = 0.0
    score: float = 1.0
    cold: bool = False
    asked: int = 0

    def scores(self, query: Query) -> Any:
        """Falling along the order."""
        scores = np.empty(len(self.items), np.float32)
        scores[self.order] = np.linspace(self.score, 0.1, len(self.order))
        return scores

    def rank(self, query: Query, n: int, *, allowed: Any = None) -> Ranking:
        """The allowed items in order."""
        self.asked += 1
        time.sleep(self.sleep_s)
        if self.fails:
            raise RuntimeError("this model is sick")
        if self.cold:
            return Ranking(np.empty(0, np.int32), np.empty(0, np.float32))
        order = np.array(self.order, np.int32)
        order = order[allowed[order]] if allowed is not None else order
        return Ranking(order[:n], self.scores(query)[order[:n]], self.reason)

    def similar(self, item: int, n: int, *, allowed: Any = None) -> Ranking:
        """As `rank`."""
        ranking = self.rank(None, n + 1, allowed=allowed)  # type: ignore[arg-type]
        keep = ranking.item != item
        return Ranking(ranking.item[keep][:n], ranking.score[keep][:n], "similar")

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """For the in-memory store."""
        return {"items": self.items, "order": np.array(self.order)}, {}

    @classmethod
    def from_arrays(cls, arrays: Any, params: Any) -> "FixedOrderModel":
        """Inverse of `to_arrays`."""
        return cls(list(arrays["order"]))


def catalogue() -> Catalogue:
    """Forty items in four categories, prices 1 … 40."""
    n = len(ITEMS)
    return Catalogue(
        items=ITEMS,
        title=np.array([f"Item {place}" for place in range(n)]),
        category=np.array([CATEGORIES[place % 4] for place in range(n)]),
        price=np.arange(1, n + 1, dtype=np.float32),
        description=np.full(n, "nice"),
        stock=np.full(n, -1, np.int32),
        hidden=np.zeros(n, np.bool_),
    )


def interactions() -> Interactions:
    """Item i39 was bought by the most users, i0 by one."""
    item = np.concatenate([np.full(place + 1, place) for place in range(len(ITEMS))]).astype(np.int32)
    user = np.concatenate([np.arange(place + 1) for place in range(len(ITEMS))]).astype(np.int32)
    n = len(item)
    return Interactions(
        user=user,
        item=item,
        at=np.full(n, START_MS / 1e3 - 3_600),
        quantity=np.ones(n, np.float32),
        price=np.ones(n, np.float32),
        kind=np.full(n, 3, np.uint8),
        users=np.array([f"user{place}" for place in range(len(ITEMS))]),
    )


def manifest(version: str) -> Manifest:
    """Of a model version."""
    return Manifest(version, "ordered", "d1", (0.0, 1.0), {}, {}, "test", START_MS, {})


class SmallShop(MemoryInstallation):
    """The ports, the clock and the models of a test; `client()` serves it."""

    author = "test"

    def __init__(self, home: Path, **settings: Any):
        super().__init__(clock=Clock(START_MS))
        self._ids = 0
        pairs = ",".join(pair for _, pair in KEYS.values())
        patient = {"refresh_s": 3_600.0, "rank_deadline_ms": 5_000}  # no model is late on a busy machine
        chosen = {**patient, "keys": pairs, "signing_key": SIGNING, **settings}
        self.settings = Settings(home=home, **chosen)
        self.reader = BreakableOnlineReader(clock=self.clock)
        self.overlay = BreakableItemOverlay()
        self.models = BreakableModelStore()
        self.data = MemoryDataStore(Dataset("d1", catalogue(), interactions(), "test"))
        self.good = self.add("good", FixedOrderModel(list(range(40))))
        self.other = self.add("other", FixedOrderModel(list(range(39, -1, -1)), reason="backwards"))

    def add(self, version: str, model: FixedOrderModel) -> FixedOrderModel:
        """Put a model into the store."""
        self.models.put(model, manifest(version))
        return model

    def start(self, champion: str = "good", **rules: Any) -> Experiment:
        """An experiment whose champion has everything."""
        arm = commands.Deployed(champion, champion)
        return self.log.append(commands.start("storefront", arm, Rules(**rules), "salt", self.provenance()))

    def race(self, share: float = 0.5, **rules: Any) -> Experiment:
        """An experiment of `good` (champion) against `other`, which has `share` of the traffic."""
        self.log.append(commands.enter(self.start(**rules), "other", "other", self.provenance()))
        return self.set_weights({"good": 1 - share, "other": share})

    def set_weights(self, shares: dict[str, float]) -> Experiment:
        """A new weights version."""
        return self.log.append(commands.allocate(self.state, shares, {}, 0, self.provenance()))

    def decide(self, make: Callable[..., Any], *args: Any) -> Experiment:
        """Append what one of `experiments.lifecycle.commands` makes of the state."""
        return self.log.append(make(self.state, *args, self.provenance()))

    def deps(self) -> Deps:
        """The ports."""
        return Deps(
            settings=self.settings,
            reader=self.reader,
            producer=MemoryEventProducer(self.broker),
            state=self.cache,
            decisions=self.log,
            recounting=RecountService(
                self.store, lambda: MemoryEventConsumer(self.broker), self.broker.keyed_partitions
            ),
            overlay=self.overlay,
            consumer=MemoryEventConsumer(self.broker),
            admin=MemoryLogAdmin(self.broker),
            data=self.data,
            models=self.models,
            clock_ms=lambda: self.now_ms,
            new_id=self._new_id,
            replica="r1",
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:032x}"

    def exposures(self) -> list[Exposure]:
        """Everything in the topic, in the order of the slates."""
        exposures = [decode(Exposure, record.value) for record in self.broker.records(EXPOSURES)]
        return sorted(exposures, key=lambda exposure: exposure.recommendation_id)

    def events(self) -> list[Event]:
        """Everything in the topic."""
        return [decode(Event, record.value) for record in self.broker.records(EVENTS)]

    @contextmanager
    def client(self) -> Iterator["Caller"]:
        """The running application."""
        app = create_app(self.deps())
        with TestClient(fast_path(app), raise_server_exceptions=False) as client:
            caller = Caller(client, app)
            caller.refresh()
            yield caller


class Caller:
    """Calls the API with a key of a role; `refresh` makes the replica take up what is new."""

    def __init__(self, client: TestClient, app: Any):
        self.http = client
        self.parts = app.state.parts

    def refresh(self) -> None:
        """Refresh the snapshot once."""
        self.http.portal.call(self.parts.refresher.refresh)  # type: ignore[union-attr]

    def send(self, method: str, path: str, role: str | None = "storefront", **more: Any) -> Any:
        """One request."""
        headers = {"X-API-Key": KEYS[role][0]} if role else {}
        return self.http.request(method, path, headers=headers | more.pop("headers", {}), **more)

    def get(self, path: str, role: str | None = "storefront", **more: Any) -> Any:
        """GET."""
        return self.send("GET", path, role, **more)

    def post(self, path: str, json: Any = None, role: str | None = "storefront", **more: Any) -> Any:
        """POST."""
        return self.send("POST", path, role, json=json, **more)

    def slate(self, user: str | None = "anna", session: str | None = "s1", **query: Any) -> dict[str, Any]:
        """The answer of /recommend, which must be a success."""
        params = {
            name: value for name, value in {"user_id": user, "session_id": session, **query}.items() if value
        }
        response = self.get("/recommend", params=params)
        assert response.status_code == 200, response.text
        return response.json()


def ids(answer: dict[str, Any]) -> list[str]:
    """Item ids of a slate in order."""
    return [item["item_id"] for item in answer["items"]]
