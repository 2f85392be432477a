"""What every measurement needs: Redis, a broker, a data version, a fitted ALS, user rows in Feast, keys,
processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import numpy as np
import psutil
import pyarrow as pa
from support.real_installation import RINGSIDE, environment

from models.algorithms.als import Als
from models.recommender import Interactions
from services import bootstrap
from services.adapters.feast.schemas import SCHEMAS
from services.data_import.app import ImportRequest, import_data
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.process import free_port
from services.local_servers.redis import EmbeddedRedis
from services.settings import Settings
from services.web.api_keys import new_key

USERS = 2_000
RECENT = 50
ONLINE_RETAIL = "online_retail_ii.parquet"


@dataclass(frozen=True)
class BenchmarkInstallation:
    """A prepared installation. users: those with rows in Feast; keys: by role; source: of the data."""

    settings: Settings
    env: Mapping[str, str]
    folder: Path
    users: list[str]
    keys: Mapping[str, str]
    model_version: str
    source: str

    @contextmanager
    def process(self, command: list[str], port: int, ready: str) -> Iterator[subprocess.Popen[bytes]]:
        """A server process, from the moment it is ready; killed in the end."""
        with subprocess.Popen(command, env=dict(self.env)) as process:
            try:
                _wait(f"http://127.0.0.1:{port}{ready}", process)
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()

    @contextmanager
    def recommend(self, port: int, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
        """A replica of the recommend service, its experiment started."""
        more = {f"RINGSIDE_{name.upper()}": value for name, value in changes.items()}
        installation = BenchmarkInstallation(
            **{**vars(self), "env": {**self.env, "RINGSIDE_RECOMMEND_PORT": str(port), **more}}
        )
        with installation.process([RINGSIDE, "recommend"], port, "/health/ready") as process:
            self._start_experiment(port)
            yield process

    @contextmanager
    def baseline(self, kind: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
        """One of the baselines."""
        command = [sys.executable, "-m", "tests.benchmarks.baseline", kind, str(port), str(self.folder)]
        with self.process(command, port, "/recommend?user_id=a&session_id=b") as process:
            yield process

    @contextmanager
    def worker(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of Ringside that nobody calls."""
        with subprocess.Popen([RINGSIDE, name], env=dict(self.env)) as process:
            try:
                yield process
            finally:
                process.terminate()
                process.wait(20)

    def _start_experiment(self, port: int) -> None:
        headers = {"X-API-Key": self.keys["admin"]}
        said = {"model_version": self.model_version, "arm": "als"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as client:
            if not client.get("/experiments").json()["experiments"]:
                client.post("/experiments/storefront/start", json=said).raise_for_status()
            deadline = time.monotonic() + 30
            while self.model_version not in client.get("/health/ready").json()["models"]:
                if time.monotonic() > deadline:
                    raise TimeoutError("the model was not loaded within 30 s")
                time.sleep(0.1)


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer within {seconds:g} s")


@contextmanager
def prepared(home: Path) -> Iterator[BenchmarkInstallation]:
    """Prepare everything below `home`; Redis and the broker stop in the end."""
    made = {role: new_key(role) for role in ("storefront", "analyst", "admin")}
    with EmbeddedRedis() as redis, EmbeddedBroker(4) as broker:
        settings = Settings(
            home=home,
            redis_url=redis.url,
            kafka_bootstrap=broker.bootstrap,
            keys=",".join(pair for _, pair in made.values()),
            signing_key="a signing key for benchmarks only",
            window_s=30,
            console_port=free_port(),
            shop_port=free_port(),
            storefront_key=made["storefront"][0],
            lateness_s=10,
        )
        source = _import(settings)
        version, users = _fit(settings, home)
        keys = {role: key for role, (key, _) in made.items()}
        yield BenchmarkInstallation(settings, environment(settings), home, users, keys, version, source)


def _import(settings: Settings) -> str:
    """Online Retail II if RINGSIDE_DATA_DIR has it, else the synthetic shop; times shifted to end now."""
    now = datetime.now(UTC)
    real = Path(os.environ.get("RINGSIDE_DATA_DIR", "")) / ONLINE_RETAIL
    request = ImportRequest(
        str(real) if real.exists() else "synthetic", None, split=None, rebase=now, licence="", seed=0
    )
    import_data(settings, request, now)
    return "Online Retail II" if real.exists() else "synthetic shop"


def _fit(settings: Settings, folder: Path) -> tuple[str, list[str]]:
    """ALS into the model store; user rows into Feast; vectors and rows for the baselines."""
    dataset = bootstrap.data_store(settings).load()
    now_s = time.time()
    model = Als.fit(dataset.interactions, dataset.catalogue, now_s=now_s)
    window = (float(dataset.interactions.at.min()), now_s)
    saved = bootstrap.model_store(settings).save(
        model, data_version=dataset.version, window=window, metrics={}, now_ms=round(now_s * 1_000)
    )
    recent = _recent(dataset.interactions, dataset.catalogue.items)
    np.save(folder / "items.npy", model.items)
    np.save(folder / "vectors.npy", model.factors)
    (folder / "rows.json").write_bytes(msgspec.json.encode(recent))
    _push(settings, recent, round(now_s * 1_000))
    return saved.model_version, list(recent)


def _recent(interactions: Interactions, items: np.ndarray) -> dict[str, list[str]]:
    """The last items of the users who did the most, newest first."""
    counts = np.bincount(interactions.user, minlength=len(interactions.users))
    chosen = np.argsort(-counts, kind="stable")[:USERS]
    order = np.argsort(interactions.user, kind="stable")
    starts = np.searchsorted(interactions.user[order], chosen)
    ends = np.searchsorted(interactions.user[order], chosen, side="right")
    return {
        str(interactions.users[user]): items[interactions.item[order[start:end]]][::-1][:RECENT].tolist()
        for user, start, end in zip(chosen, starts, ends, strict=True)
    }


def _push(settings: Settings, recent: Mapping[str, list[str]], now_ms: int) -> None:
    store = bootstrap.feature_store(settings)
    store.apply()
    at = datetime.fromtimestamp(now_ms / 1_000, UTC)
    columns = {
        "user_id": list(recent),
        "item_ids": list(recent.values()),
        "item_at": [[now_ms - 60_000 * place for place in range(len(row))] for row in recent.values()],
        "item_types": [["view"] * len(row) for row in recent.values()],
        "event_ids": [[f"{user}-{place}" for place in range(len(row))] for user, row in recent.items()],
        "event_timestamp": [at] * len(recent),
    }
    schema = SCHEMAS["user_activity"]
    store.write_online(
        "user_activity", pa.table({name: columns[name] for name in schema.names}, schema=schema)
    )


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Processor time that a process has used, s."""
    used = psutil.Process(process.pid).cpu_times()
    return used.user + used.system


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    """Memory of a process and its children, MiB."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(member.memory_info().rss for member in family) / 2**20
