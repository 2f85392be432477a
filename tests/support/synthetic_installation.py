"""A synthetic shop in memory: the real HTTP application, workers and decider over doubles of every port, and
shoppers. Time is a number that only the test moves, so that a run is a function of its seed."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from experiments.lifecycle import commands
from experiments.lifecycle.state import Experiment
from experiments.simulation.hash_uniform import text_key
from experiments.simulation.history import history
from experiments.simulation.synthetic_shop import SyntheticShop, synthetic_shop
from models.algorithms.als import Als
from models.algorithms.popularity import Popularity
from models.algorithms.reversed_popularity import ReversedPopularity
from models.recommender import Catalogue, Interactions
from services.activity.worker import ActivityWorker
from services.activity.worker import Deps as ActivityDeps
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.adapters.memory.stores import MemoryDataStore
from services.bandit.attribution.worker import Pace
from services.client.client import AsyncClient
from services.messages.events import EVENTS
from services.ports.features import UserRow
from services.ports.training import Dataset
from services.recommend.http_app import create_app, fast_path
from services.simulator.measurements import Measurements
from services.simulator.session import Habits, Session, Visitor
from services.simulator.shoppers import synthetic_shoppers
from support.breakable import BreakableActivityStore
from support.small_shop import KEYS, SmallShop
from support.small_shop import manifest as small_manifest

PARTITIONS = 4
STEP_MS = 1_000
HABITS = Habits(slates=2, probe=0.0, guest=0.2)


class InProcessTransport:
    """Calls the application directly: one ASGI call for each request, no sockets."""

    def __init__(self, app: Any):
        self._app = app

    async def aclose(self) -> None:
        """Nothing to close."""

    async def request(
        self, method: str, url: str, *, content: bytes | None, headers: dict[bytes, bytes]
    ) -> httpx.Response:
        """The reply of the application."""
        parts, sent, body = urlsplit(url), [], content or b""
        lines = [(name.lower(), value) for name, value in headers.items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [*lines, (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("memory", 80),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        whole = b"".join(message.get("body", b"") for message in sent[1:])
        return httpx.Response(sent[0]["status"], content=whole)


class SyntheticInstallation(SmallShop):
    """The installation. `step` is a second of it; `measurements` is what shoppers saw."""

    def __init__(self, home: Path, *, seed: int, sessions_per_step: int = 40, **settings: Any):
        super().__init__(home, kafka_partitions=PARTITIONS, **settings)
        self.rng = np.random.default_rng(seed)
        self.world: SyntheticShop = synthetic_shop(seed=seed, n_items=300, n_shoppers=400)
        self.shoppers = synthetic_shoppers(self.world)
        self.dataset = dataset_of(self.world, self.now_ms / 1e3)
        self.data = MemoryDataStore(self.dataset)
        self.measurements, self.sessions, self._per_step = Measurements(), 0, sessions_per_step
        self._add_workers()
        self.app = create_app(self.deps())
        self.storefront = AsyncClient(
            "http://memory", KEYS["storefront"][0], InProcessTransport(fast_path(self.app))
        )

    def fit(self, version: str, kind: Any, **params: Any) -> str:
        """Fit a model and put it into the store."""
        made = kind.fit(
            self.dataset.interactions, self.dataset.catalogue, now_s=self.now_ms / 1e3, seed=0, **params
        )
        self.models.put(made, small_manifest(version))
        return version

    def open(self, **rules: Any) -> Experiment:
        """Popularity serves."""
        self.fit("popularity", Popularity)
        self.fit("als", Als, factors=16, iterations=8, threads=1)
        self.fit("broken", ReversedPopularity)
        return self.start("popularity", **rules)

    def enter(self, version: str) -> Experiment:
        """A challenger, under the name of its version."""
        return self.decide(commands.enter, version, version)

    async def step(self) -> None:
        """Advance by one second: refresh the replica, run sessions, count, and let the decider tick."""
        await self.app.state.parts.refresher.refresh()
        for _ in range(self._per_step):
            self.now_ms += STEP_MS // self._per_step
            await self.visit()
            self._make_readable()
        while self.counting.step(0):
            pass
        self.decider.tick()

    async def visit(self) -> bool:
        """One session, from home page to leaving."""
        shopper = int(self.world.visitors(self.rng, 1)[0])
        self.sessions += 1
        visitor = Visitor(shopper, f"s{self.sessions}", self.now_ms / 1e3)
        return await Session(
            self.shoppers, self.storefront, self.measurements, HABITS, visitor, self._think
        ).run()

    async def _think(self, _: float) -> None:
        self._make_readable()  # a shopper thinks longer than the activity worker needs

    def _make_readable(self) -> None:
        while self.activity.step(0):
            pass
        for batch in self.online.pushes:
            for row in batch:
                self.reader.rows[row.user_id] = UserRow(
                    tuple(row.item_ids), tuple(row.item_at), tuple(row.item_types), row.received_at
                )
        self.online.pushes.clear()

    def _add_workers(self) -> None:
        self.counting = self.attribution_worker(Pace(max_records=100_000))
        self.decider = self.new_decider()
        self.online = BreakableActivityStore()
        pairs = frozenset((EVENTS, partition) for partition in range(PARTITIONS))
        producer, admin = MemoryEventProducer(self.broker), MemoryLogAdmin(self.broker)
        deps = ActivityDeps(MemoryEventConsumer(self.broker), producer, admin, self.online, lambda: pairs)
        self.activity = ActivityWorker(deps, self.clock, most=50, horizon_ms=0)


def dataset_of(world: SyntheticShop, end_s: float) -> Dataset:
    """The catalogue and four weeks of the past of a synthetic shop."""
    past, goods = history(world, end_s=end_s, weeks=4, sessions_per_week=800), world.products
    n = len(goods.items)
    catalogue = Catalogue(
        goods.items,
        goods.title,
        goods.category,
        goods.price,
        goods.description,
        np.full(n, -1, np.int32),
        np.zeros(n, bool),
    )
    done = Interactions(past.user, past.item, past.at, past.quantity, past.price, past.kind, world.users)
    return Dataset(f"synthetic-{int(text_key(str(world.seed))) % 1_000}", catalogue, done, "synthetic")
