"""Time from a click to a changed slate: POST /events, the activity worker's push, the next /recommend."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from services.local_servers.process import free_port
from tests.benchmarks.installation import BenchmarkInstallation
from tests.benchmarks.serving import Effort

CLICKS = 200
PATIENCE_S = 3.0
PAUSE_S = 0.002  # between two looks at the slate: the resolution of what is measured


def measure(
    installation: BenchmarkInstallation, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Percentiles over users who each click one item that nobody recommended to them."""
    at = free_port()
    with installation.recommend(at), installation.worker("activity"), _client(installation, at) as client:
        _until_read(client, installation.users[-1])
        delays_ms = [_delay_ms(client, user) for user in installation.users[:CLICKS]]
    changed = [delay for delay in delays_ms if delay is not None]
    p50, p99 = np.percentile(changed, [50, 99])
    say(f"click to changed slate: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {len(changed)} of {CLICKS} changed")
    return {"clicks": CLICKS, "changed": len(changed), "p50_ms": p50, "p99_ms": p99, "max_ms": max(changed)}


def _client(installation: BenchmarkInstallation, at: int) -> httpx.Client:
    headers = {"X-API-Key": installation.keys["storefront"]}
    return httpx.Client(base_url=f"http://127.0.0.1:{at}", headers=headers, timeout=10)


def _until_read(client: httpx.Client, user: str) -> None:
    """The activity worker is up once a click changes something."""
    for _ in range(20):
        if _delay_ms(client, user) is not None:
            return
    raise TimeoutError("no click changed a slate; is the activity worker running?")


def _delay_ms(client: httpx.Client, user: str) -> float | None:
    """From sending the click to the first slate whose other items differ; None: none within the patience.

    The click is on the last of a hundred recommended items: known to the model, and new to the shopper."""
    clicked = _slate(client, user, 100)[-1]
    before = [item for item in _slate(client, user, 10) if item != clicked]
    click = {"event_id": uuid.uuid4().hex, "type": "click", "item_id": clicked, "user_id": user}
    start = time.perf_counter()
    client.post("/events", json=[click]).raise_for_status()
    while time.perf_counter() - start < PATIENCE_S:
        if [item for item in _slate(client, user, 10) if item != clicked] != before:
            return (time.perf_counter() - start) * 1e3
        time.sleep(PAUSE_S)
    return None


def _slate(client: httpx.Client, user: str, n: int) -> list[str]:
    answer = client.get("/recommend", params={"user_id": user, "session_id": "bench", "n": n})
    return [item["item_id"] for item in answer.json()["items"]]
