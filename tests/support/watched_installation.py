"""Every process of a small installation, running, with its endpoints: Redis, embedded broker, Feast, keys."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from models.algorithms.popularity import Popularity
from models.recommender import Manifest
from services import bootstrap
from services.data_import.app import Order, import_data
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.process import Server, free_port
from services.local_servers.redis import EmbeddedRedis
from services.ports.event_log import Record
from services.settings import Settings
from support.scraping import Samples, parsed
from support.small_shop import KEYS, SIGNING

RINGSIDE = str(Path(sys.executable).with_name("ringside"))
COMMANDS: Mapping[str, list[str]] = {
    **{
        name: [name]
        for name in (
            "recommend",
            "attribution",
            "decider",
            "activity",
            "lake",
            "training",
            "console",
            "shop",
        )
    },
    "features": ["features", "materialize", "--every", "3600"],
}
FAST = {
    "refresh_s": 0.1, "heartbeat_s": 0.2, "window_s": 4.0, "lateness_s": 2.0, "look_every_s": 1.0,
    "min_new_units": 1, "stall_s": 600.0, "watermark_safety_s": 0.5, "lake_flush_s": 0.5,
    "broker_ack_deadline_ms": 500, "redis_deadline_ms": 100, "state_deadline_ms": 500, "text_model": "words",
    "materialize_horizon_ms": 1, "activity_horizon_ms": 0, "log_format": "json", "shed_lag_ms": 0,
}  # fmt: skip


@dataclass
class WatchedSite:
    """The running installation. `get`, `post`: to the recommend service, with an admin's key."""

    settings: Settings
    redis: EmbeddedRedis
    broker: EmbeddedBroker
    http: httpx.Client
    servers: dict[str, Server] = field(default_factory=dict)

    def stop(self) -> None:
        """End all processes, at the same time."""
        ending = [threading.Thread(target=server.stop) for server in self.servers.values()]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()

    def slate(self, user: str, **more: Any) -> dict[str, Any]:
        """One answer of /recommend, which must be a success."""
        answer = self.http.get("/recommend", params={"user_id": user, "session_id": user, "n": 5, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def event(self, number: str, slate: Mapping[str, Any], user: str, **more: Any) -> dict[str, Any]:
        """A click on the first item of a slate."""
        item, token = slate["items"][0]["item_id"], slate["recommendation_id"]
        said = {"event_id": number, "type": "click", "item_id": item, "user_id": user, "session_id": user}
        return {**said, "recommendation_id": token, **more}

    def send(self, *events: Any) -> httpx.Response:
        """POST /events."""
        return self.http.post("/events", json=list(events))

    def command(self, name: str, **body: Any) -> Any:
        """A command on the experiment, which must succeed."""
        answer = self.http.post(f"/experiments/storefront/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def raw(self, topic: str, value: bytes) -> Record:
        """Put bytes on a topic."""
        producer = bootstrap.producer(self.settings)
        try:
            return producer.send(topic, "somebody", value).result(20)
        finally:
            producer.close()

    def targets(self) -> dict[str, str]:
        """Address by process, as Prometheus would find them."""
        found = {}
        for file in (self.settings.home / "metrics").glob("*.json"):
            [group] = json.loads(file.read_text())
            found[group["labels"]["process"]] = group["targets"][0]
        return found

    def scrape(self, *processes: str) -> dict[str, Samples]:
        """What these processes (none: all) say now."""
        wanted = {name: at for name, at in self.targets().items() if name in (processes or COMMANDS)}
        return {name: parsed(httpx.get(f"http://{at}/metrics").text) for name, at in wanted.items()}

    def log(self, process: str) -> list[dict[str, Any]]:
        """Lines of a process's log."""
        text = (self.settings.home / f"{process}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def fitted(settings: Settings) -> Manifest:
    """Popularity on the imported data, saved."""
    data, now_s = bootstrap.data_store(settings).load(), time.time()
    model = Popularity.fit(data.interactions, data.catalogue, now_s=now_s)
    return bootstrap.model_store(settings).save(
        model, data_version=data.version, window=(0.0, now_s), metrics={}, now_ms=round(now_s * 1_000)
    )


@contextmanager
def watched_site(home: Path) -> Iterator[WatchedSite]:
    """All processes, from the moment on that all are found and the first one serves."""
    with ExitStack() as stack:
        redis, broker = stack.enter_context(EmbeddedRedis()), stack.enter_context(EmbeddedBroker(4))
        settings = _settings(home, redis, broker)
        import_data(settings, Order("synthetic"), datetime.now(UTC))
        fitted(settings)
        url = f"http://127.0.0.1:{settings.recommend_port}"
        http = stack.enter_context(
            httpx.Client(base_url=url, headers={"X-API-Key": KEYS["admin"][0]}, timeout=30)
        )
        site = WatchedSite(settings, redis, broker, http)
        stack.callback(site.stop)
        for name, command in COMMANDS.items():
            site.servers[name] = Server([RINGSIDE, *command], home / f"{name}.log", _environment(settings))
        until(lambda: site.targets().keys() >= COMMANDS.keys() and _serves(site))
        yield site


def _settings(home: Path, redis: EmbeddedRedis, broker: EmbeddedBroker) -> Settings:
    ports = {name: free_port() for name in ("recommend_port", "console_port", "shop_port")}
    keys = {"keys": ",".join(pair for _, pair in KEYS.values()), "signing_key": SIGNING}
    where = {"home": home, "redis_url": redis.url, "kafka_bootstrap": broker.bootstrap}
    return Settings(**{**where, **ports, **keys, **FAST, "storefront_key": KEYS["storefront"][0]})


def _environment(settings: Settings) -> dict[str, str]:
    named = {f"RINGSIDE_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    return {**os.environ, **one_thread, **named}


def _serves(site: WatchedSite) -> bool:
    dead = {name: server.exit_code() for name, server in site.servers.items() if not server.alive()}
    assert not dead, {name: (site.settings.home / f"{name}.log").read_text()[-2_000:] for name in dead}
    try:
        return site.http.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def until(holds: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Wait for it: far longer than a busy machine needs. Raises AssertionError when it never comes."""
    end = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.1)
    return found
