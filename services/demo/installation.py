"""Where everything of one demo is: servers, ports, keys, folders, and the environment that every process
gets."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from services.demo.profile import Profile
from services.demo.supervisor import Spec, always
from services.errors import ConfigurationError
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.process import free_port
from services.local_servers.redis import EmbeddedRedis
from services.runtime.liveness import complaint
from services.settings import Settings
from services.web.api_keys import ROLES, new_key, new_signing_key

MARKER = ".ringside-demo"
KEPT = ("embeddings",)  # of texts, cached by content: they can not go stale
WORKER_SILENT_S = 30.0
HEAVY = 10  # niceness of what must not slow the shop down


@dataclass(frozen=True, slots=True)
class Site:
    """One demo installation. replicas: ports of the recommend service; keys: by role."""

    home: Path
    env: Mapping[str, str]
    host: str
    replicas: tuple[int, ...]
    shop_port: int
    console_port: int
    keys: Mapping[str, str]

    @property
    def origins(self) -> list[str]:
        """Of the recommend service's replicas."""
        return [f"http://{self.host}:{port}" for port in self.replicas]

    @property
    def addresses(self) -> dict[str, str]:
        """What a person opens. The key after # never leaves the browser."""
        console = f"http://{self.host}:{self.console_port}"
        return {
            "shop": f"http://{self.host}:{self.shop_port}/",
            "console": f"{console}/login#key={self.keys['admin']}",
            "docs": f"{self.origins[0]}/docs",
        }

    @property
    def pages(self) -> dict[str, str]:
        """Where to ask whether each of `addresses` answers already."""
        ports = {"shop": self.shop_port, "console": self.console_port, "docs": self.replicas[0]}
        return {name: f"http://{self.host}:{port}/health/live" for name, port in ports.items()}

    def settings(self) -> Settings:
        """As the processes see them."""
        values = {name.removeprefix("RINGSIDE_").lower(): v for name, v in self.env.items() if _ours(name)}
        return Settings(**values)

    def process(self, name: str, *arguments: str, **changes: str) -> Spec:
        """`ringside <name> …`, under its own log. `changes`: settings of this process alone."""
        return self._spec(name, (name, *arguments), changes)

    def worker(self, name: str) -> Spec:
        """A process without an address: ready at its first turn (imports done, stores warm)."""
        settings = self.settings()
        return replace(self.process(name), ready=lambda: not complaint(settings, name, WORKER_SILENT_S))

    def replica(self, index: int) -> Spec:
        """One replica of the recommend service."""
        port, name = str(self.replicas[index]), f"recommend-{index + 1}"
        spec = self._spec(name, ("recommend",), {"RECOMMEND_PORT": port, "REPLICA": name})
        return _with_health(spec, f"{self.origins[index]}/health/ready")

    def page(self, name: str, port: int, **changes: str) -> Spec:
        """The shop or the console: ready when it answers at all."""
        return _with_health(self.process(name, **changes), f"http://{self.host}:{port}/health/live")

    def step(self, name: str, *arguments: str, nice: int = HEAVY) -> Spec:
        """A command that does its work and ends."""
        return self._spec(name, arguments, {}, nice)

    def _spec(self, name: str, arguments: tuple[str, ...], changes: Mapping[str, str], nice: int = 0) -> Spec:
        env = {**self.env, **{f"RINGSIDE_{key}": value for key, value in changes.items()}}
        command = [str(Path(sys.executable).with_name("ringside")), *arguments]
        return Spec(name, command, env, self.home / "logs" / f"{name}.log", always, nice)


def found(
    settings: Settings, profile: Profile, redis: EmbeddedRedis, broker: EmbeddedBroker, home: Path
) -> Site:
    """Choose ports and keys, and write down the environment."""
    ports = _free_ports(settings.host, profile.replicas + 2)
    replicas, (shop_port, console_port) = ports[: profile.replicas], ports[profile.replicas :]
    made = {role: new_key(role) for role in ROLES}
    keys = {role: key for role, (key, _) in made.items()}
    ours = {
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
    env |= {f"RINGSIDE_{name}": value for name, value in ours.items()}
    return Site(home, env, settings.host, tuple(replicas), shop_port, console_port, keys)


def fresh_home(home: Path) -> Path:
    """An empty folder for this demo. Only a folder that an earlier demo made is emptied.

    Raises ConfigurationError for a folder with something else in it.
    """
    marker = home / MARKER
    if home.exists() and not marker.exists() and any(home.iterdir()):
        raise ConfigurationError(
            f"{home} holds something that no demo made; set RINGSIDE_HOME to another folder"
        )
    home.mkdir(parents=True, exist_ok=True)
    for entry in home.iterdir():
        if entry.name in KEPT or entry == marker:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    marker.write_text("made by `ringside demo`, which empties this folder when it starts\n")
    (home / "logs").mkdir()
    return home.resolve()


def answers(url: str) -> bool:
    """Whether `url` answers 200 now."""
    try:
        return httpx.get(url, timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


def _with_health(spec: Spec, url: str) -> Spec:
    return Spec(spec.name, spec.command, spec.env, spec.log, lambda: answers(url), spec.nice)


def _free_ports(host: str, n: int) -> list[int]:
    ports: dict[int, None] = {}
    while len(ports) < n:
        ports[free_port(host)] = None
    return list(ports)


def _ours(name: str) -> bool:
    return name.startswith("RINGSIDE_")
