"""All that a storefront's server needs to call Ringside: slates that never stop a page, events that are never
lost. This file needs httpx and nothing else of Ringside: copy it beside your code, or import it.

    shop = Client("http://localhost:8080", key="…")
    slate = shop.recommend(user_id="17850", session_id="s1", n=5)  # None: show something of your own
    shop.record("click", "22423", session_id="s1", recommendation_id=slate["recommendation_id"])
    shop.deliver_until(stopped)  # in a thread of its own
"""

import logging
import time
import uuid
from collections import deque
from itertools import islice
from threading import Event
from typing import Any

import httpx

log = logging.getLogger(__name__)

BATCH = 200  # events in a request
WAIT_S = 1.0  # between two tries, unless Retry-After says otherwise
LONGEST_WAIT_S = 30.0
TELL_EVERY_S = 60.0  # of each reason why there is no slate: pages are shown more often than logs are read


class OutboxFullError(Exception):
    """More events wait for delivery than may: Ringside has not taken any for long."""


class Client:
    """Calls one Ringside at `url`. `record` and `recommend` from any thread, `deliver` from one.

    `outbox`: events that may wait; they live in this process, so keep them on disk if yours may die. `http`:
    the client that calls, one of our own by default.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = 3.0,
        outbox: int = 100_000,
        http: httpx.Client | None = None,
    ):
        self._http = http or httpx.Client(base_url=url, timeout=timeout_s)
        self._headers = {"X-API-Key": key}
        self._waiting: deque[dict[str, Any]] = deque()
        self._outbox = outbox
        self._told_s: dict[str, float] = {}

    def recommend(self, **fields: Any) -> dict[str, Any] | None:
        """The answer of POST /recommend; None when there is none: a page is never kept waiting twice.

        Why there is none is logged, each reason once in `TELL_EVERY_S`: a wrong key, a misspelt field.
        """
        for _ in range(2):  # a kept connection may be gone: once more, on a new one
            try:
                answer = self._http.post("/recommend", json=fields, headers=self._headers)
            except httpx.RequestError as error:
                self._tell(type(error).__name__, str(error))
                if isinstance(error, httpx.TimeoutException):
                    return None
                continue
            told = _told(answer) if answer.status_code == 200 else None
            if told is not None:
                return told
            self._tell(str(answer.status_code), answer.text[:300])
            return None
        return None

    def _tell(self, reason: str, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s.get(reason, -TELL_EVERY_S) >= TELL_EVERY_S:
            self._told_s[reason] = now_s
            log.warning("no slate: %s %s", reason, text)

    def record(self, kind: str, item_id: str, **fields: Any) -> str:
        """Put an event into the outbox; its id. Raises OutboxFullError."""
        if len(self._waiting) >= self._outbox:
            raise OutboxFullError(f"the outbox is full: {self._outbox} events wait for delivery")
        event_id = uuid.uuid4().hex  # the same at every try: Ringside counts it once
        ts = time.time_ns() // 1_000_000
        self._waiting.append({"event_id": event_id, "type": kind, "item_id": item_id, "ts": ts, **fields})
        return event_id

    @property
    def undelivered(self) -> int:
        """Events that still wait."""
        return len(self._waiting)

    def deliver(self) -> float:
        """Send what waits. 0 when nothing is left, else the seconds to wait before the next call.

        An event leaves the outbox only when Ringside has it (202), or says itself that it is wrong. A proxy's
        page, a wrong address or key: it waits."""
        size = BATCH
        while self._waiting:
            batch = list(islice(self._waiting, size))
            try:
                answer = self._http.post("/events", json=batch, headers=self._headers)
            except httpx.RequestError as error:
                log.warning("events wait: %r", error)
                return WAIT_S
            if answer.status_code == 413 and len(batch) > 1:  # large ids: fewer at once
                size = len(batch) // 2
                continue
            refused = _refused(answer, batch)
            if refused is None:
                log.warning("events wait: %d %s", answer.status_code, answer.text[:200])
                return _pause_s(answer)
            for event in refused:
                log.error("an event is refused: %s", event)
            for _ in batch:
                self._waiting.popleft()
        return 0.0

    def deliver_until(self, stopped: Event, every_s: float = 0.5) -> None:
        """Deliver again and again; what is left when `stopped` is set gets one more try."""
        pause_s = 0.0
        while not stopped.wait(pause_s or every_s):
            pause_s = self.deliver()
        self.deliver()

    def close(self) -> None:
        """Hang up."""
        self._http.close()


def _refused(answer: httpx.Response, batch: list[dict[str, Any]]) -> list[Any] | None:
    """Those of `batch` that won't ever be taken; None if Ringside has not settled it."""
    if answer.status_code == 413:
        return batch  # of one event
    if answer.status_code not in (202, 400, 422):
        return None
    told = _told(answer) or {}
    if "rejected" in told:
        return list(told["rejected"])
    return batch if "error" in told else None


def _told(answer: httpx.Response) -> dict[str, Any] | None:
    """What Ringside says; None for somebody else's page."""
    try:
        told = answer.json()
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _pause_s(answer: httpx.Response) -> float:
    said = answer.headers.get("retry-after", "")
    return min(float(said), LONGEST_WAIT_S) if said.isdigit() else WAIT_S
