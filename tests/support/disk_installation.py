"""A small installation on disk, and `ringside recommend` over it as a real process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from models.algorithms.popularity import Popularity
from services import bootstrap
from services.data_import.app import Order, import_data
from services.local_servers.process import free_port
from services.settings import Settings
from support.small_shop import KEYS, SIGNING
from support.waiting import ready, until

RINGSIDE = str(Path(sys.executable).with_name("ringside"))
STOREFRONT = KEYS["storefront"][0]
ADMIN = {"X-API-Key": KEYS["admin"][0]}
FAST = {"refresh_s": 0.1, "heartbeat_s": 0.2, "window_s": 5, "lateness_s": 5}


def installed(home: Path) -> str:
    """The synthetic shop and one model below `home`; the model's version."""
    settings = Settings(home=home)
    import_data(settings, Order("synthetic"), datetime.now(UTC))
    data = bootstrap.data_store(settings).load()
    now_s = time.time()
    model = Popularity.fit(data.interactions, data.catalogue, now_s=now_s)
    store = bootstrap.model_store(settings)
    saved = store.save(
        model, data_version=data.version, window=(0.0, now_s), metrics={}, now_ms=round(now_s * 1_000)
    )
    return saved.model_version


def settings_of(home: Path, **changes: Any) -> Settings:
    """Of a service on a free port; Redis and broker are dead unless named."""
    dead = {"redis_url": f"redis://127.0.0.1:{free_port()}/0", "kafka_bootstrap": f"127.0.0.1:{free_port()}"}
    pairs = ",".join(pair for _, pair in KEYS.values())
    keys = {"keys": pairs, "signing_key": SIGNING, "recommend_port": free_port()}
    return Settings(home=home, **{**keys, **dead, **FAST, **changes})


def environment(settings: Settings) -> dict[str, str]:
    """What a process needs to have these settings."""
    named = {f"RINGSIDE_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    return {**os.environ, **named}


@dataclass
class Service:
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
        params = {"user_id": user, "session_id": user, "n": 3, **more}
        answer = self.client.get("/recommend", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def start_experiment(self, model_version: str) -> None:
        """An experiment with this champion, and wait until it serves."""
        body = {"model_version": model_version, "arm": "first"}
        assert self.client.post("/experiments/storefront/start", json=body).status_code == 200
        until(lambda: self.slate()["arm"] == "first" and self.slate()["degraded"] is None)


def _is_worker(one: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(one.cmdline())
    except psutil.Error:
        return False


@contextmanager
def serving(settings: Settings, wait: bool = True) -> Iterator[Service]:
    """The process, from the moment it is ready; ended in the end."""
    command = [RINGSIDE, "recommend"]
    log = (settings.home / "recommend.log").open("ab")
    with subprocess.Popen(command, env=environment(settings), stderr=log) as process, log:
        url = f"http://127.0.0.1:{settings.recommend_port}"
        try:
            with httpx.Client(base_url=url, headers=ADMIN, timeout=10) as client:
                service = Service(process, client, settings)
                if wait:
                    until(lambda: ready(client))
                yield service
        finally:
            process.terminate()
            process.wait(40)
