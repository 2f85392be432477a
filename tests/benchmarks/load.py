"""The load generator: closed loops of GET requests over raw sockets, in a process of its own on one core.

`python -m tests.benchmarks.load '{"port": …, "paths": […], …}'` prints one JSON object. The client costs
about
15 µs a request, so it is not what is measured.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop


@dataclass
class Tally:
    """What all connections saw. latencies_s: of requests that began inside the measured span."""

    latencies_s: list[float]
    answered: int = 0  # in all, warming up included
    failed: int = 0
    degraded: int = 0


class Loop(asyncio.Protocol):
    """One connection that asks again as soon as it was answered, until `until_s` (perf_counter)."""

    def __init__(self, requests: Sequence[bytes], start: int, span_s: tuple[float, float], tally: Tally):
        self._requests = requests
        self._next = start
        self._from_s, self._until_s = span_s
        self._tally = tally
        self._buffer = b""
        self._asked_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Ask for the first time."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and ask again."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or len(self._buffer) < head + 4 + _length(self._buffer[:head]):
            return
        now_s = time.perf_counter()
        self._tally.answered += 1
        if self._asked_s >= self._from_s:
            self._tally.latencies_s.append(now_s - self._asked_s)
            self._tally.failed += self._buffer[9:12] != b"200"
            self._tally.degraded += b'"degraded":null' not in self._buffer
        self._buffer = b""
        if now_s < self._until_s:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The loop is over."""
        if not self.done.done():
            self.done.set_result(None)

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    raise ValueError("an answer without a length")


async def measure(
    port: int, requests: Sequence[bytes], connections: int, warm_s: float, seconds: float
) -> dict[str, Any]:
    """Requests a second and latencies in ms of `connections` loops."""
    begin = time.perf_counter() + warm_s
    tally = Tally([])
    loop = asyncio.get_running_loop()
    loops = []
    for index in range(connections):
        start = index * len(requests) // connections
        _, protocol = await loop.create_connection(
            lambda start=start: Loop(requests, start, (begin, begin + seconds), tally), "127.0.0.1", port
        )
        loops.append(protocol)
    await asyncio.gather(*(protocol.done for protocol in loops))
    latencies_ms = np.array(tally.latencies_s) * 1e3
    return {
        "rps": len(latencies_ms) / seconds,
        "p50_ms": float(np.percentile(latencies_ms, 50)),
        "p99_ms": float(np.percentile(latencies_ms, 99)),
        "max_ms": float(latencies_ms.max()),
        "answered": tally.answered,
        "failed": tally.failed,
        "degraded": tally.degraded,
    }


def request(path: str, key: str) -> bytes:
    """One GET as bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\n\r\n".encode()


def main() -> None:
    """Pin this process, run, print JSON."""
    order = json.loads(sys.stdin.read())
    os.sched_setaffinity(0, {order["core"]})
    requests = [request(path, order["key"]) for path in order["paths"]]
    run = measure(order["port"], requests, order["connections"], order["warm_s"], order["seconds"])
    print(json.dumps(uvloop.run(run)))


if __name__ == "__main__":
    main()
