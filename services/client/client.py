"""Client of Ringside's HTTP API, synchronous and asynchronous. This file needs httpx and nothing else of
Ringside, so you may copy it into your project or import it.

    client = Client("http://localhost:8080", key="…")
    slate = client.recommend(user_id="17850", session_id="s1", n=5)  # None: show items of your own choice
    client.record("click", "22423", session_id="s1", recommendation_id=slate.recommendation_id)
    client.deliver_until(stopped)  # in its own thread
"""

import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from typing import Any, Literal, Protocol, TypedDict, Unpack
from urllib.parse import quote, urlencode

import httpx

log = logging.getLogger(__name__)

BATCH = 200  # events in a request
WAIT_S = 1.0  # between two attempts, unless Retry-After says otherwise
LONGEST_WAIT_S = 30.0
WARN_EVERY_S = 60.0  # for each reason, because pages are shown more often than logs are read

Json = dict[str, Any]
Command = Literal["start", "enter", "promote", "rollback", "pause", "resume", "undo", "recount", "end"]


# ---- requests ----------------------------------------------------------------------------------------------


class PopularFields(TypedDict, total=False):
    """Fields of /popular."""

    n: int
    exclude: Sequence[str]
    category: Sequence[str]
    price_min: float
    price_max: float
    metadata: bool


class ShopperFields(TypedDict, total=False):
    """Who is shopping: a known user, a session, or both."""

    user_id: str
    session_id: str


class SlateFields(PopularFields, ShopperFields, total=False):
    """Fields of /similar. `staff`: the slate is served and marked, but never counted."""

    placement: str
    arm: str
    staff: bool


class RecommendFields(SlateFields, total=False):
    """Fields of /recommend. `context`: items in the cart or on the page."""

    context: Sequence[str]


class RerankFields(ShopperFields, total=False):
    """Fields of /rerank, apart from the items."""

    n: int
    placement: str
    metadata: bool
    arm: str
    staff: bool


class EventFields(ShopperFields, total=False):
    """Optional fields of an event."""

    recommendation_id: str | None
    value: float


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `path` includes the query; `repeatable`: sending it twice has the effect of sending
    it once."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"

    def of_browser(self, user_agent: str) -> "Request":
        """The same request in the name of a shopper's browser, so that Ringside recognises bots."""
        headers = {**self.headers, "User-Agent": user_agent}
        return Request(self.method, self.path, self.body, headers, self.repeatable)


def recommend_request(**fields: Unpack[RecommendFields]) -> Request:
    """Items for a shopper."""
    return _post("/recommend", fields)


def similar_request(item_id: str, **fields: Unpack[SlateFields]) -> Request:
    """Items similar to one item."""
    return Request("GET", f"/similar/{quote(item_id, safe='')}{_query(fields)}")


def popular_request(**fields: Unpack[PopularFields]) -> Request:
    """Items that are popular now, the same for every shopper."""
    return Request("GET", f"/popular{_query(fields)}")


def rerank_request(items: Sequence[str], **fields: Unpack[RerankFields]) -> Request:
    """Given items, ordered for a shopper."""
    return _post("/rerank", {"items": list(items), **fields})


def events_request(events: Iterable[Mapping[str, Any]]) -> Request:
    """Events; each carries its own id, so Ringside counts it once however often it is sent."""
    return _post("/events", list(events))


def command_request(experiment: str, command: Command, **body: object) -> Request:
    """A command to an experiment; needs an admin's key."""
    return _post(f"/experiments/{quote(experiment, safe='')}/{command}", body, repeatable=False)


def experiment_request(experiment: str) -> Request:
    """The state of an experiment; needs an analyst's or admin's key."""
    return Request("GET", f"/experiments/{quote(experiment, safe='')}")


def decisions_request(experiment: str, after_revision: int = 0) -> Request:
    """The decisions of an experiment after a revision; needs an analyst's or admin's key."""
    return Request(
        "GET", f"/experiments/{quote(experiment, safe='')}/decisions?after_revision={after_revision}"
    )


def _post(path: str, body: object, *, repeatable: bool = True) -> Request:
    content = json.dumps(body, separators=(",", ":")).encode()
    return Request("POST", path, content, {"Content-Type": "application/json"}, repeatable)


def _query(fields: Mapping[str, object]) -> str:
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in fields.items()}
    return f"?{urlencode(texts, doseq=True)}" if texts else ""


# ---- replies -----------------------------------------------------------------------------------------------


class CallError(Exception):
    """A request without a successful reply. `reply` is None if there was none at all; `retry`: a second
    attempt, over a new connection, may succeed."""

    def __init__(self, problem: str, reply: "Reply | None" = None, *, retry: bool = False):
        super().__init__(problem)
        self.reply, self.retry = reply, retry

    @property
    def reason(self) -> str:
        """A short name of the cause: the status, or the problem."""
        return str(self.reply.status) if self.reply else str(self)


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The beginning of the body, for logs."""
        return self.body[:300].decode(errors="replace")

    def json(self) -> Json | None:
        """The JSON object in the body; None if it is something else, as a proxy's page is."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def successful(self, request: Request) -> "Reply":
        """This reply. Raises CallError unless its status is 2xx."""
        if self.status // 100 != 2:
            raise CallError(f"{request}: {self.status} {self.text}", self)
        return self


@dataclass(frozen=True, slots=True)
class SlateItem:
    """One item of a slate. `position` counts from 0; title, category and price are None if unknown."""

    item_id: str
    position: int
    score: float = 0.0
    reason: str = ""
    title: str | None = None
    category: str | None = None
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Slate:
    """Recommended items, best first. Send `recommendation_id` back with events; None: events of this slate
    count for no arm. `degraded`: codes of what was missing when the slate was made; None: nothing."""

    items: tuple[SlateItem, ...] = ()
    recommendation_id: str | None = None
    experiment: str | None = None
    arm: str | None = None
    model_version: str | None = None
    degraded: str | None = None

    @classmethod
    def parse(cls, reply: Reply) -> "Slate":
        """The slate in a reply. Raises CallError if there is none."""
        answer = reply.json()
        try:
            if answer is None:
                raise TypeError("no JSON object")
            names = ("recommendation_id", "experiment", "arm", "model_version", "degraded")
            items = tuple(_item(index, row) for index, row in enumerate(answer["items"]))
            return cls(items, **{name: answer.get(name) for name in names})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CallError(f"the reply is not a slate ({error!r}): {reply.text}", reply) from error


def _item(index: int, row: Json) -> SlateItem:
    known = row.get("metadata") or {}
    price = known.get("price")
    return SlateItem(
        row["item_id"],
        int(row.get("position", index)),
        float(row.get("score") or 0.0),
        str(row.get("reason") or ""),
        known.get("title"),
        known.get("category"),
        None if price is None else float(price),
    )


class _MissingSlates:
    """Logs why there is no slate: each reason once in `WARN_EVERY_S`."""

    def __init__(self) -> None:
        self._warned_s: dict[str, float] = {}

    def warn(self, error: CallError) -> None:
        now_s = time.monotonic()
        if now_s - self._warned_s.get(error.reason, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned_s[error.reason] = now_s
            log.warning("no slate: %s", error)


def _urls(urls: str | Sequence[str]) -> list[str]:
    return [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]


def _unanswered(request: Request, error: httpx.RequestError) -> CallError:
    """A timeout is final, because a page must not wait twice; other errors may be those of a connection that
    the server had closed."""
    problem = f"{request}: {type(error).__name__} {error}".rstrip()
    return CallError(problem, retry=request.repeatable and not isinstance(error, httpx.TimeoutException))


def _encoded(key: str, request: Request) -> dict[bytes, bytes]:
    """Headers as bytes: a browser's name may hold any byte, as Latin-1."""
    headers = {"X-API-Key": key, **request.headers}
    return {name.encode(): value.encode("latin-1", "replace") for name, value in headers.items()}


# ---- the synchronous client --------------------------------------------------------------------------------


class OutboxFullError(Exception):
    """Too many events wait for delivery, because Ringside has not accepted any for a long time."""


class Client:
    """Synchronous client. `record` and slates may be called from any thread, `deliver` from one.

    urls: of one or several replicas, which take turns. outbox: how many events may wait for delivery; they
    are held in memory, so keep them on disk if your process may die. http: your own httpx client.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        key: str,
        *,
        timeout_s: float = 3.0,
        outbox: int = 100_000,
        http: httpx.Client | None = None,
    ):
        self._urls, self._key, self._calls = _urls(urls), key, 0
        self._http = http or httpx.Client(timeout=timeout_s)
        self._missing = _MissingSlates()
        self._waiting: deque[Json] = deque()
        self._outbox = outbox

    def recommend(self, **fields: Unpack[RecommendFields]) -> Slate | None:
        """Items for a shopper; None if there are none, and the log says why, say a wrong key."""
        return self._slate(recommend_request(**fields))

    def similar(self, item_id: str, **fields: Unpack[SlateFields]) -> Slate | None:
        """Items similar to one item; None as for `recommend`."""
        return self._slate(similar_request(item_id, **fields))

    def popular(self, **fields: Unpack[PopularFields]) -> Slate | None:
        """Items that are popular now; None as for `recommend`."""
        return self._slate(popular_request(**fields))

    def rerank(self, items: Sequence[str], **fields: Unpack[RerankFields]) -> Slate | None:
        """Given items, ordered for a shopper; None as for `recommend`."""
        return self._slate(rerank_request(items, **fields))

    def experiment(self, name: str) -> Json:
        """The state of an experiment. Raises CallError."""
        return self._object(experiment_request(name))

    def decisions(self, name: str, after_revision: int = 0) -> list[Json]:
        """At most 1,000 decisions after a revision, oldest first. Raises CallError."""
        return list(self._object(decisions_request(name, after_revision))["decisions"])

    def command(self, name: str, command: Command, **body: object) -> Json:
        """Send a command to an experiment; returns its new state. Raises CallError, with the reason in its
        text if the command is refused."""
        return self._object(command_request(name, command, **body))

    def ready(self) -> bool:
        """True if Ringside can serve slates now."""
        try:
            return self._reply(Request("GET", "/health/ready")).status == 200
        except CallError:
            return False

    def record(self, kind: str, item_id: str, **fields: Unpack[EventFields]) -> str:
        """Put an event into the outbox; returns its id. Raises OutboxFullError."""
        if len(self._waiting) >= self._outbox:
            raise OutboxFullError(f"the outbox is full: {self._outbox} events wait for delivery")
        event_id = uuid.uuid4().hex  # the same in every attempt, so Ringside counts the event once
        ts = time.time_ns() // 1_000_000
        self._waiting.append({"event_id": event_id, "type": kind, "item_id": item_id, "ts": ts, **fields})
        return event_id

    @property
    def undelivered(self) -> int:
        """Number of events in the outbox."""
        return len(self._waiting)

    def deliver(self) -> float:
        """Send the events in the outbox. Returns 0 if none is left, else the seconds to wait before the next
        call.

        An event leaves the outbox only if Ringside has stored it (202) or names it as invalid. After a
        proxy's error page, or with a wrong address or key, it stays."""
        size = BATCH
        while self._waiting:
            batch = list(islice(self._waiting, size))
            try:
                reply = self._reply(events_request(batch))
            except CallError as error:
                log.warning("events wait in the outbox: %s", error)
                return WAIT_S
            if reply.status == 413 and len(batch) > 1:  # long ids: fewer events at once
                size = len(batch) // 2
                continue
            rejected = _rejected(reply, batch)
            if rejected is None:
                log.warning("events wait in the outbox: %d %s", reply.status, reply.text)
                return _pause_s(reply)
            for event in rejected:
                log.error("event rejected: %s", event)
            for _ in batch:
                self._waiting.popleft()
        return 0.0

    def deliver_until(self, stopped: Event, every_s: float = 0.5) -> None:
        """Deliver repeatedly until `stopped` is set, then once more."""
        pause_s = 0.0
        while not stopped.wait(pause_s or every_s):
            pause_s = self.deliver()
        self.deliver()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, request: Request) -> Reply:
        """Send any request. Raises CallError unless the reply is a success."""
        return self._reply(request).successful(request)

    def _slate(self, request: Request) -> Slate | None:
        try:
            return Slate.parse(self.send(request))
        except CallError as error:
            self._missing.warn(error)
            return None

    def _object(self, request: Request) -> Json:
        reply = self.send(request)
        value = reply.json()
        if value is None:
            raise CallError(f"{request}: the reply is not a JSON object: {reply.text}", reply)
        return value

    def _reply(self, request: Request) -> Reply:
        try:
            return self._attempt(request)
        except CallError as error:
            if not error.retry:
                raise
        return self._attempt(request)

    def _attempt(self, request: Request) -> Reply:
        self._calls += 1
        url = self._urls[self._calls % len(self._urls)] + request.path
        try:
            response = self._http.request(
                request.method, url, content=request.body, headers=_encoded(self._key, request)
            )
        except httpx.RequestError as error:
            raise _unanswered(request, error) from error
        return Reply(response.status_code, response.headers, response.content)


def _rejected(reply: Reply, batch: list[Json]) -> list[Json] | None:
    """Events of `batch` that Ringside will never accept; None if the reply does not settle that."""
    if reply.status == 413:
        return batch  # of one event
    if reply.status not in (202, 400, 422):
        return None
    answer = reply.json() or {}
    if "rejected" in answer:
        return list(answer["rejected"])
    return batch if "error" in answer else None


def _pause_s(reply: Reply) -> float:
    retry_after = reply.headers.get("retry-after", "")
    return min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else WAIT_S


# ---- the asynchronous client -------------------------------------------------------------------------------


class Transport(Protocol):
    """Sends requests for `AsyncClient`."""

    async def send(self, url: str, key: str, request: Request) -> Reply:
        """The reply, whatever its status. `url`: of the replica. Raises CallError without a reply."""

    async def close(self) -> None:
        """Close the connections."""


class HttpxTransport:
    """Sends requests over httpx. `timeout`: seconds, or limits for each phase of a request."""

    def __init__(self, http: httpx.AsyncClient, timeout: float | httpx.Timeout = 3.0):
        self._http, self._timeout = http, timeout

    async def send(self, url: str, key: str, request: Request) -> Reply:
        """The reply, whatever its status. Raises CallError."""
        headers = _encoded(key, request)
        try:
            response = await self._http.request(
                request.method,
                url + request.path,
                content=request.body,
                headers=headers,
                timeout=self._timeout,
            )
        except httpx.RequestError as error:
            raise _unanswered(request, error) from error
        return Reply(response.status_code, response.headers, response.content)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class AsyncClient:
    """Asynchronous client without an outbox. urls: of one or several replicas, which take turns."""

    def __init__(self, urls: str | Sequence[str], key: str, transport: Transport | None = None):
        self._urls, self._key, self._calls = _urls(urls), key, 0
        self._transport = transport or HttpxTransport(httpx.AsyncClient())
        self._missing = _MissingSlates()

    @property
    def urls(self) -> list[str]:
        """The replicas."""
        return self._urls

    async def recommend(self, **fields: Unpack[RecommendFields]) -> Slate | None:
        """Items for a shopper; None if there are none, and the log says why."""
        return await self.slate(recommend_request(**fields))

    async def similar(self, item_id: str, **fields: Unpack[SlateFields]) -> Slate | None:
        """Items similar to one item; None as for `recommend`."""
        return await self.slate(similar_request(item_id, **fields))

    async def popular(self, **fields: Unpack[PopularFields]) -> Slate | None:
        """Items that are popular now; None as for `recommend`."""
        return await self.slate(popular_request(**fields))

    async def rerank(self, items: Sequence[str], **fields: Unpack[RerankFields]) -> Slate | None:
        """Given items, ordered for a shopper; None as for `recommend`."""
        return await self.slate(rerank_request(items, **fields))

    async def slate(self, request: Request) -> Slate | None:
        """The slate that a request returns; None as for `recommend`."""
        try:
            return Slate.parse(await self.send(request))
        except CallError as error:
            self._missing.warn(error)
            return None

    async def send(self, request: Request) -> Reply:
        """Send any request. Raises CallError unless the reply is a success."""
        try:
            reply = await self._attempt(request)
        except CallError as error:
            if not error.retry:
                raise
            reply = await self._attempt(request)
        return reply.successful(request)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def _attempt(self, request: Request) -> Reply:
        self._calls += 1
        return await self._transport.send(self._urls[self._calls % len(self._urls)], self._key, request)
