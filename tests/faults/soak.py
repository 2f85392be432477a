"""`make soak`: ten minutes of moderate load, and what the service holds meanwhile: nothing may grow.

`python tests/faults/soak.py [seconds] [requests a second]`; exit status 1 when something grew.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.real_installation import STOREFRONT, RecommendService, install, serving, settings_of  # noqa: E402

from services.client.client import Client  # noqa: E402
from services.local_servers.embedded_kafka import EmbeddedBroker  # noqa: E402
from services.local_servers.redis import EmbeddedRedis  # noqa: E402
from services.settings import Settings  # noqa: E402

CONNECTIONS = 64
SAMPLES = 20
USERS = 20_000  # more than any memory of users holds
# Threads: those of the models start when they are first needed.
GROWTH = {"rss_mib": 20.0, "fds": 4, "threads": 8, "tasks": 4}


def sample(service: RecommendService, began_s: float) -> dict[str, float]:
    """What the process holds now."""
    process = psutil.Process(service.process.pid)
    text = service.client.get("/metrics").text
    tasks = [line for line in text.splitlines() if line.startswith("ringside_event_loop_tasks{")]
    return {
        "at_s": round(time.monotonic() - began_s),
        "rss_mib": round(process.memory_info().rss / 2**20, 1),
        "fds": process.num_fds(),
        "threads": process.num_threads(),
        "tasks": float(tasks[0].rsplit(" ", 1)[1]) if tasks else 0.0,
    }


def reporting(service: RecommendService, stopped: threading.Event) -> None:
    """A storefront that records events all the time."""
    shop = Client(f"http://127.0.0.1:{service.port}", STOREFRONT)
    delivering = threading.Thread(target=shop.deliver_until, args=(stopped,))
    delivering.start()
    while not stopped.wait(0.05):
        slate = shop.recommend(session_id=f"e{time.monotonic_ns()}", n=3)
        if slate is not None:
            token = slate.recommendation_id
            shop.record("click", slate.items[0].item_id, recommendation_id=token)
    delivering.join()
    shop.close()


def soaked(service: RecommendService, seconds: float, rate: float) -> dict[str, Any]:
    """Samples over time, and what the generator saw."""
    paths = [f"/recommend?user_id=u{at}&session_id=s{at}&n=10" for at in range(USERS)]
    order = {"port": service.port, "key": STOREFRONT, "paths": paths, "rate": rate, "warm_s": 2}
    stopped, began_s = threading.Event(), time.monotonic()
    reporter = threading.Thread(target=reporting, args=(service, stopped))
    reporter.start()
    command = [sys.executable, str(ROOT / "tests" / "support" / "open_loop.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdin is not None
        generator.stdin.write(json.dumps({**order, "connections": CONNECTIONS, "seconds": seconds}))
        generator.stdin.close()
        samples = []
        while generator.poll() is None:
            time.sleep(seconds / SAMPLES)
            samples.append(sample(service, began_s))
            print(samples[-1], flush=True)
        assert generator.stdout is not None
        seen = json.loads(generator.stdout.read())
    stopped.set()
    reporter.join()
    return {"samples": samples, "seen": seen}


def grown(samples: list[dict[str, float]]) -> dict[str, float]:
    """What the last third holds at least beyond the first (a leak raises the least, a busy moment does not);
    the first two samples, of a warming process, and the last, without load, left out."""
    samples = samples[2:-1]
    third = len(samples) // 3

    def least(part: list[dict[str, float]], name: str) -> float:
        return min(row[name] for row in part)

    return {name: least(samples[-third:], name) - least(samples[:third], name) for name in GROWTH}


def main(seconds: float = 600.0, rate: float = 300.0) -> int:
    """Exit status."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis() as redis,
        EmbeddedBroker(Settings().kafka_partitions) as broker,
    ):
        home = Path(folder)
        model = install(Settings(home=home))
        settings = settings_of(home, redis_url=redis.url, kafka_bootstrap=broker.bootstrap)
        with serving(settings) as service:
            service.start_experiment(model)
            found = soaked(service, seconds, rate)
    found["grown"] = grown(found["samples"])
    results = ROOT / "bench-results"
    results.mkdir(exist_ok=True)
    (results / "soak.json").write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps({"grown": found["grown"], "seen": found["seen"]}, indent=1))
    return int(any(found["grown"][name] > most for name, most in GROWTH.items()))


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
