"""Installation of the demo: servers, ports, keys, folders, and the environment of every process."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from services.client.client import Client
from services.demo.profile import Profile
from services.demo.supervisor import ProcessSpec
from services.errors import ConfigurationError
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.process import free_port
from services.local_servers.redis import EmbeddedRedis
from services.runtime.liveness import unhealthy_reason
from services.settings import Settings
from services.web.api_keys import ROLES, Role, new_key, new_signing_key

MARKER = ".ringside-demo"
KEPT = ("embeddings",)  # of texts, cached by content, so they cannot become stale
WORKER_SILENT_S = 30.0
LOW_PRIORITY = 10  # niceness of commands that must not slow the shop down


@dataclass(frozen=True, slots=True)
class DemoInstallation:
    """One installation. replicas: ports of the recommend service; keys: by role."""

    home: Path
    env: Mapping[str, str]
    host: str
    replicas: tuple[int, ...]
    shop_port: int
    console_port: int
    keys: Mapping[Role, str]

    @property
    def replica_urls(self) -> list[str]:
        """URLs of the recommend service's replicas."""
        return [f"http://{self.host}:{port}" for port in self.replicas]

    @property
    def addresses(self) -> dict[str, str]:
        """Pages for the viewer. The key after # never leaves the browser."""
        console = f"http://{self.host}:{self.console_port}"
        return {
            "shop": f"http://{self.host}:{self.shop_port}/",
            "console": f"{console}/login#key={self.keys['admin']}",
            "docs": f"{self.replica_urls[0]}/docs",
        }

    @property
    def liveness_urls(self) -> dict[str, str]:
        """URL at which each page of `addresses` can be checked: it responds with 200 while the page does."""
        ports = {"shop": self.shop_port, "console": self.console_port, "docs": self.replicas[0]}
        return {name: f"http://{self.host}:{port}/health/live" for name, port in ports.items()}

    def settings(self) -> Settings:
        """The settings of the processes."""
        prefix = "RINGSIDE_"
        values = {
            name.removeprefix(prefix).lower(): v for name, v in self.env.items() if name.startswith(prefix)
        }
        return Settings.model_validate(values)

    def client(self, role: Role) -> Client:
        """A client of the first replica with this role's key."""
        return Client(self.replica_urls[0], self.keys[role], timeout_s=10.0)

    def process(self, name: str, *arguments: str, **changes: str) -> ProcessSpec:
        """`ringside <name> …` with its own log. `changes`: settings of this process alone."""
        return self._spec(name, (name, *arguments), changes)

    def worker(self, name: str) -> ProcessSpec:
        """A worker: ready when its loop runs, with imports done and stores connected."""
        settings = self.settings()
        return replace(
            self.process(name), ready=lambda: not unhealthy_reason(settings, name, WORKER_SILENT_S)
        )

    def replica(self, index: int) -> ProcessSpec:
        """A replica of the recommend service: ready when it can serve slates."""
        port, name = str(self.replicas[index]), f"recommend-{index + 1}"
        spec = self._spec(name, ("recommend",), {"RECOMMEND_PORT": port, "REPLICA": name})
        return _ready_at(spec, f"{self.replica_urls[index]}/health/ready")

    def page(self, name: str, port: int, **changes: str) -> ProcessSpec:
        """The shop or the console: ready when it responds."""
        return _ready_at(self.process(name, **changes), f"http://{self.host}:{port}/health/live")

    def command(self, name: str, *arguments: str, nice: int = LOW_PRIORITY) -> ProcessSpec:
        """A command that ends by itself."""
        return self._spec(name, arguments, {}, nice)

    def _spec(
        self, name: str, arguments: tuple[str, ...], changes: Mapping[str, str], nice: int = 0
    ) -> ProcessSpec:
        env = {**self.env, **{f"RINGSIDE_{key}": value for key, value in changes.items()}}
        command = [str(Path(sys.executable).with_name("ringside")), *arguments]
        return ProcessSpec(name, command, env, self.home / "logs" / f"{name}.log", nice=nice)


def new_installation(
    settings: Settings, profile: Profile, redis: EmbeddedRedis, broker: EmbeddedBroker, home: Path
) -> DemoInstallation:
    """Choose ports and keys, and build the environment."""
    ports = _free_ports(settings.host, profile.replicas + 2)
    replicas, (shop_port, console_port) = ports[: profile.replicas], ports[profile.replicas :]
    made = {role: new_key(role) for role in ROLES}
    keys: dict[Role, str] = {role: key for role, (key, _) in made.items()}
    values = {
        "HOME": str(home),
        "HOST": settings.host,
        "REDIS_URL": redis.url,
        "KAFKA_BOOTSTRAP": broker.bootstrap,
        "KAFKA_PARTITIONS": str(broker.partitions),
        "KEYS": ",".join(pair for _, pair in made.values()),
        "SIGNING_KEY": new_signing_key(),
        "STOREFRONT_KEY": keys["storefront"],
        "RECOMMEND_URL": ",".join(f"http://{settings.host}:{port}" for port in replicas),
        "RECOMMEND_PORT": str(replicas[0]),
        "SHOP_PORT": str(shop_port),
        "CONSOLE_PORT": str(console_port),
    }
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **one_thread, "PYTHONUNBUFFERED": "1", **profile.settings()}
    env |= {f"RINGSIDE_{name}": value for name, value in values.items()}
    return DemoInstallation(home, env, settings.host, tuple(replicas), shop_port, console_port, keys)


def empty_home(home: Path) -> Path:
    """An empty folder for the demo. Only a folder that an earlier demo made is emptied.

    Raises ConfigurationError for a folder with other contents.
    """
    marker = home / MARKER
    if home.exists() and not marker.exists() and any(home.iterdir()):
        raise ConfigurationError(
            f"RINGSIDE_HOME: {home} holds files that no demo made; set it to another folder"
        )
    home.mkdir(parents=True, exist_ok=True)
    for entry in home.iterdir():
        if entry.name in KEPT or entry == marker:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    marker.write_text("made by `ringside demo`, which empties this folder when it starts\n")
    (home / "logs").mkdir()
    return home.resolve()


def responds(url: str) -> bool:
    """True if `url` responds with 200 now."""
    try:
        return httpx.get(url, timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


def _ready_at(spec: ProcessSpec, url: str) -> ProcessSpec:
    return replace(spec, ready=lambda: responds(url))


def _free_ports(host: str, n: int) -> list[int]:
    ports: dict[int, None] = {}
    while len(ports) < n:
        ports[free_port(host)] = None
    return list(ports)
