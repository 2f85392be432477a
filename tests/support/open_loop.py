"""An open-loop load generator: requests start when they are due, however long the answers take.

`python tests/faults/open_loop.py` reads an order from stdin, prints one JSON object. A latency runs from the
moment a request was due, so what waits for a free connection counts as waiting (no coordinated omission).
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from typing import Any

import numpy as np
import uvloop


class LoadConnection(asyncio.Protocol):
    """One kept connection, asking one request at a time."""

    def __init__(self, run: "LoadGenerator"):
        self._run = run
        self._buffer = b""
        self.due_s = self.sent_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._run.free(self)

    def ask(self, due_s: float) -> None:
        self.due_s, self.sent_s = due_s, time.perf_counter()
        self.transport.write(self._run.request())

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return
        at = data.find(b"content-length: ", 0, head) + 16
        if len(data) < head + 4 + int(data[at : data.index(b"\r", at)]):
            return
        self._buffer = b""
        self._run.answered(data, head, self)
        self._run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost += 1


class LoadGenerator:
    """`rate` requests a second for `seconds` over `connections`; only those due after `warm_s` are kept."""

    def __init__(self, order: dict[str, Any]):
        self._order = order
        self._requests = [
            f"GET {path} HTTP/1.1\r\nHost: t\r\nX-API-Key: {order['key']}\r\n\r\n".encode()
            for path in order["paths"]
        ]
        self._asked = 0
        self._idle: deque[LoadConnection] = deque()
        self._due: deque[float] = deque()
        self.lost = 0
        self._latencies: dict[bytes, list[float]] = {}  # from when a request was due
        self._served: dict[bytes, list[float]] = {}  # from when it was sent
        self._without_retry = 0
        self._degraded: Counter[bytes] = Counter()
        self.open = 0

    def request(self) -> bytes:
        self._asked += 1
        return self._requests[self._asked % len(self._requests)]

    def free(self, line: LoadConnection) -> None:
        self._idle.append(line)
        self._pair()

    def answered(self, data: bytes, head: int, line: LoadConnection) -> None:
        self.open -= 1
        if line.due_s < self._from_s:
            return
        status, now_s = data[9:12], time.perf_counter()
        self._latencies.setdefault(status, []).append(now_s - line.due_s)
        self._served.setdefault(status, []).append(now_s - line.sent_s)
        if status == b"200":
            self._degraded[data[data.rfind(b'"degraded":') + 11 :]] += 1
        elif b"retry-after" not in data[:head]:
            self._without_retry += 1

    def _pair(self) -> None:
        while self._idle and self._due:
            self._idle.popleft().ask(self._due.popleft())

    async def measure(self) -> dict[str, Any]:
        order = self._order
        loop = asyncio.get_running_loop()
        for _ in range(order["connections"]):
            await loop.create_connection(lambda: LoadConnection(self), "127.0.0.1", order["port"])
        start = time.perf_counter()
        self._from_s = start + order["warm_s"]
        total, count = order["rate"] * (order["warm_s"] + order["seconds"]), 0
        while count < total:
            await asyncio.sleep(0.002)
            due = min(total, (time.perf_counter() - start) * order["rate"])
            while count < due:
                self._due.append(start + count / order["rate"])
                self.open += 1
                count += 1
            self._pair()
        end = time.perf_counter() + order.get("patience_s", 10)
        while self.open and time.perf_counter() < end:
            await asyncio.sleep(0.01)
        return self._summary()

    def _summary(self) -> dict[str, Any]:
        def row(values: list[float]) -> dict[str, float]:
            ms = np.array(values) * 1e3
            found = {f"p{q}_ms": round(float(np.percentile(ms, q)), 1) for q in (50, 99)}
            return {"count": len(values), **found, "max_ms": round(float(ms.max()), 1)}

        return {
            "statuses": {status.decode(): row(values) for status, values in self._latencies.items()},
            "served": {status.decode(): row(values) for status, values in self._served.items()},
            "cpu_share": round(time.process_time() / (time.perf_counter() - self._from_s), 2),
            "without_retry_after": self._without_retry,
            "unanswered": self.open,
            "lost": self.lost,
            "degraded": {code.decode().strip('"}'): count for code, count in self._degraded.items()},
        }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(LoadGenerator(json.loads(sys.stdin.read())).measure())))
