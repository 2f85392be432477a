"""Installations on disk and on real servers: `ringside recommend` alone, or every process."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from models.algorithms.popularity import Popularity
from services import bootstrap
from services.data_import.app import ImportRequest, import_data
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.process import Server, free_port
from services.local_servers.redis import EmbeddedRedis
from services.ports.event_log import Record
from services.settings import Settings
from support.scraping import Samples, parse_samples
from support.small_shop import KEYS, SIGNING
from support.waiting import is_ready, wait_until

RINGSIDE = str(Path(sys.executable).with_name("ringside"))
STOREFRONT = KEYS["storefront"][0]
ADMIN = {"X-API-Key": KEYS["admin"][0]}
SECRETS = {"keys": ",".join(pair for _, pair in KEYS.values()), "signing_key": SIGNING}
FAST = {"refresh_s": 0.1, "heartbeat_s": 0.2, "window_s": 5, "lateness_s": 5}
EVERYTHING_FAST = {
    "refresh_s": 0.1, "heartbeat_s": 0.2, "window_s": 4.0, "lateness_s": 2.0, "look_every_s": 1.0,
    "min_new_units": 1, "stall_s": 600.0, "watermark_safety_s": 0.5, "lake_flush_s": 0.5,
    "broker_ack_deadline_ms": 500, "redis_deadline_ms": 100, "state_deadline_ms": 500, "text_model": "words",
    "materialize_horizon_ms": 1, "activity_horizon_ms": 0, "log_format": "json", "shed_lag_ms": 0,
}  # fmt: skip
PROCESSES: Mapping[str, list[str]] = {
    **{
        name: [name]
        for name in ("recommend", "attribution", "decider", "activity", "lake", "training", "console", "shop")
    },
    "features": ["features", "materialize", "--every", "3600"],
}


# ---- what lies on disk -------------------------------------------------------------------------------------


def fit_popularity(settings: Settings, now_ms: int | None = None, **params: Any) -> str:
    """Fit a model on the imported data and save it; its version."""
    data = bootstrap.data_store(settings).load()
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    model = Popularity.fit(data.interactions, data.catalogue, now_s=now_ms / 1e3, **params)
    window = (0.0, now_ms / 1e3)
    saved = bootstrap.model_store(settings).save(
        model, data_version=data.version, window=window, metrics={}, now_ms=now_ms
    )
    return saved.model_version


def install(settings: Settings) -> str:
    """Import the synthetic shop and fit a model; its version."""
    import_data(settings, ImportRequest("synthetic"), datetime.now(UTC))
    return fit_popularity(settings)


def settings_of(home: Path, **changes: Any) -> Settings:
    """Of a service on a free port; Redis and broker are dead unless named."""
    dead = {"redis_url": f"redis://127.0.0.1:{free_port()}/0", "kafka_bootstrap": f"127.0.0.1:{free_port()}"}
    return Settings(home=home, **{"recommend_port": free_port(), **SECRETS, **dead, **FAST, **changes})


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process with these settings."""
    return {**os.environ, **variables(settings)}


def variables(settings: Settings) -> dict[str, str]:
    """The variables that were set, by name."""
    return {f"RINGSIDE_{name.upper()}": _text(getattr(settings, name)) for name in settings.model_fields_set}


def _text(value: object) -> str:
    """A setting as the text of its variable."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={rate}" for name, rate in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple | frozenset) else str(value)


# ---- `ringside recommend` alone ----------------------------------------------------------------------------


@dataclass
class RecommendService:
    """A running `ringside recommend`."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    settings: Settings

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.settings.recommend_port

    def workers(self) -> list[psutil.Process]:
        """Its worker processes that are alive."""
        family = psutil.Process(self.process.pid).children()
        return [one for one in family if one.is_running() and _is_worker(one)]

    def slate(self, user: str = "a", **more: Any) -> dict[str, Any]:
        """One answer of /recommend, which must be a success."""
        return _slate(self.client, user, n=3, **more)

    def start_experiment(self, model_version: str) -> None:
        """Start an experiment with this champion, and wait until it serves."""
        body = {"model_version": model_version, "arm": "first"}
        assert self.client.post("/experiments/storefront/start", json=body).status_code == 200
        wait_until(lambda: self.slate()["arm"] == "first" and self.slate()["degraded"] is None)


@contextmanager
def serving(settings: Settings, wait: bool = True) -> Iterator[RecommendService]:
    """The process, from the moment it is ready; ended in the end."""
    command = [RINGSIDE, "recommend"]
    log = (settings.home / "recommend.log").open("ab")
    with subprocess.Popen(command, env=environment(settings), stderr=log) as process, log:
        url = f"http://127.0.0.1:{settings.recommend_port}"
        try:
            with httpx.Client(base_url=url, headers=ADMIN, timeout=10) as client:
                if wait:
                    wait_until(lambda: is_ready(client))
                yield RecommendService(process, client, settings)
        finally:
            process.terminate()
            process.wait(40)


def _slate(client: httpx.Client, user: str, **more: Any) -> dict[str, Any]:
    answer = client.get("/recommend", params={"user_id": user, "session_id": user, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def _is_worker(one: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(one.cmdline())
    except psutil.Error:
        return False


# ---- every process -----------------------------------------------------------------------------------------


@dataclass
class RealInstallation:
    """Every process, with Redis and an embedded broker. `http`: the recommend service with an admin's key."""

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
        return _slate(self.http, user, n=5, **more)

    def event(self, number: str, slate: Mapping[str, Any], user: str, **more: Any) -> dict[str, Any]:
        """A click on the first item of a slate."""
        item, token = slate["items"][0]["item_id"], slate["recommendation_id"]
        event = {"event_id": number, "type": "click", "item_id": item, "user_id": user, "session_id": user}
        return {**event, "recommendation_id": token, **more}

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
        """Address by process, as Prometheus finds them."""
        addresses = {}
        for file in (self.settings.home / "metrics").glob("*.json"):
            [group] = json.loads(file.read_text())
            addresses[group["labels"]["process"]] = group["targets"][0]
        return addresses

    def scrape(self, *processes: str) -> dict[str, Samples]:
        """The present samples of these processes (none named: of all)."""
        wanted = {name: at for name, at in self.targets().items() if name in (processes or PROCESSES)}
        return {name: parse_samples(httpx.get(f"http://{at}/metrics").text) for name, at in wanted.items()}

    def log(self, process: str) -> list[dict[str, Any]]:
        """Lines of a process's log."""
        text = (self.settings.home / f"{process}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@contextmanager
def running_installation(home: Path) -> Iterator[RealInstallation]:
    """Every process, from the moment on that all expose metrics and the service is ready."""
    with ExitStack() as stack:
        redis, broker = stack.enter_context(EmbeddedRedis()), stack.enter_context(EmbeddedBroker(4))
        ports = {name: free_port() for name in ("recommend_port", "console_port", "shop_port")}
        servers = {"redis_url": redis.url, "kafka_bootstrap": broker.bootstrap, "storefront_key": STOREFRONT}
        settings = settings_of(home, **ports, **servers, **EVERYTHING_FAST)
        install(settings)
        url = f"http://127.0.0.1:{settings.recommend_port}"
        http = stack.enter_context(httpx.Client(base_url=url, headers=ADMIN, timeout=30))
        running = RealInstallation(settings, redis, broker, http)
        stack.callback(running.stop)
        one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
        for name, command in PROCESSES.items():
            running.servers[name] = Server(
                [RINGSIDE, *command], home / f"{name}.log", {**environment(settings), **one_thread}
            )
        wait_until(lambda: running.targets().keys() >= PROCESSES.keys() and _serves(running), within_s=200)
        yield running


def _serves(running: RealInstallation) -> bool:
    dead = {name: server.exit_code() for name, server in running.servers.items() if not server.alive()}
    assert not dead, {name: (running.settings.home / f"{name}.log").read_text()[-2_000:] for name in dead}
    return is_ready(running.http)
