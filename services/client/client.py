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
from dataclasses import dataclass, field, replace
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


class ShopperFields(TypedDict, total=False):
    """Who is shopping: a known user, a session, or both."""

    user_id: str
    session_id: str


class FilterFields(TypedDict, total=False):
    """Restrictions on the items of a slate."""

    exclude: Sequence[str]
    category: Sequence[str]
    price_min: float
    price_max: float


class PopularFields(FilterFields, total=False):
    """Fields of /popular."""

    n: int
    metadata: bool


class RerankFields(ShopperFields, total=False):
    """Fields of /rerank, apart from the items. `staff`: the slate is served and marked, but never counted."""

    n: int
    metadata: bool
    placement: str
    arm: str
    staff: bool


class SlateFields(RerankFields, FilterFields, total=False):
    """Fields of /similar."""


class RecommendFields(SlateFields, total=False):
    """Fields of /recommend. `context`: items in the cart or on the page."""

    context: Sequence[str]


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
        return replace(self, headers={**self.headers, "User-Agent": user_agent})


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


def _post(path: str, body: object, *, repeatable: bool = True) -> Request:
    content = json.dumps(body, separators=(",", ":")).encode()
    return Request("POST", path, content, {"Content-Type": "application/json"}, repeatable)


def _query(fields: Mapping[str, object]) -> str:
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in fields.items()}
    return f"?{urlencode(texts, doseq=True)}" if texts else ""


# ---- replies -----------------------------------------------------------------------------------------------


class CallError(Exception):
    """A request without a successful reply. `reply` is None if there was none at all. `reason`: a short name
    of the cause, which is the status or the type of the error."""

    def __init__(self, problem: str, reason: str, reply: httpx.Response | None = None):
        super().__init__(problem)
        self.reason, self.reply = reason, reply


def _refused(problem: str, reply: httpx.Response) -> CallError:
    return CallError(f"{problem}: {reply.status_code} {_text(reply)}", str(reply.status_code), reply)


def _text(reply: httpx.Response) -> str:
    """The beginning of the body, for logs."""
    return reply.content[:300].decode(errors="replace")


def _object(reply: httpx.Response) -> Json | None:
    """The JSON object in the body; None if it is something else, as a proxy's page is."""
    try:
        value = json.loads(reply.content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


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
    def parse(cls, reply: httpx.Response) -> "Slate":
        """The slate in a reply. Raises CallError if there is none."""
        try:
            answer = reply.json()
            names = ("recommendation_id", "experiment", "arm", "model_version", "degraded")
            items = tuple(_item(index, row) for index, row in enumerate(answer["items"]))
            return cls(items, **{name: answer.get(name) for name in names})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _refused(f"the reply is not a slate ({error!r})", reply) from error


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


class _Calls:
    """What both clients do apart from the exchange itself: replicas in turn, headers, errors, warnings."""

    def __init__(self, urls: str | Sequence[str], key: str):
        self.urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        self._key, self._calls = key, 0
        self._warned_s: dict[str, float] = {}

    def _url(self, request: Request) -> str:
        self._calls += 1
        return self.urls[self._calls % len(self.urls)] + request.path

    def _headers(self, request: Request) -> dict[bytes, bytes]:
        """Headers as bytes: a browser's name may hold any byte, as Latin-1."""
        headers = {"X-API-Key": self._key, **request.headers}
        return {name.encode(): value.encode("latin-1", "replace") for name, value in headers.items()}

    def _warn(self, error: CallError) -> None:
        """Log why there is no slate: each reason once in `WARN_EVERY_S`."""
        now_s = time.monotonic()
        if now_s - self._warned_s.get(error.reason, -WARN_EVERY_S) >= WARN_EVERY_S:
            self._warned_s[error.reason] = now_s
            log.warning("no slate: %s", error)


def _successful(request: Request, reply: httpx.Response) -> httpx.Response:
    if not reply.is_success:
        raise _refused(str(request), reply)
    return reply


def _may_repeat(request: Request, error: httpx.RequestError) -> bool:
    """A timeout is final, because a page must not wait twice; other errors may be those of a connection that
    the server had closed."""
    return request.repeatable and not isinstance(error, httpx.TimeoutException)


def _unanswered(request: Request, error: httpx.RequestError) -> CallError:
    reason = type(error).__name__
    return CallError(f"{request}: {reason} {error}".rstrip(), reason)


# ---- the synchronous client --------------------------------------------------------------------------------


class OutboxFullError(Exception):
    """Too many events wait for delivery, because Ringside has not accepted any for a long time."""


class Client(_Calls):
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
        super().__init__(urls, key)
        self._http = http or httpx.Client(timeout=timeout_s)
        self._waiting: deque[Json] = deque()
        self._outbox = outbox

    def recommend(self, **fields: Unpack[RecommendFields]) -> Slate | None:
        """Items for a shopper; None if there is no slate. The log has the reason, for example a wrong key."""
        return self.slate(recommend_request(**fields))

    def similar(self, item_id: str, **fields: Unpack[SlateFields]) -> Slate | None:
        """Items similar to one item; None as for `recommend`."""
        return self.slate(similar_request(item_id, **fields))

    def popular(self, **fields: Unpack[PopularFields]) -> Slate | None:
        """Items that are popular now; None as for `recommend`."""
        return self.slate(popular_request(**fields))

    def rerank(self, items: Sequence[str], **fields: Unpack[RerankFields]) -> Slate | None:
        """Given items, ordered for a shopper; None as for `recommend`."""
        return self.slate(rerank_request(items, **fields))

    def experiment(self, name: str) -> Json:
        """The state of an experiment; needs an analyst's or admin's key. Raises CallError."""
        return self._object(Request("GET", _experiment(name)))

    def decisions(self, name: str, after_revision: int = 0) -> list[Json]:
        """At most 1,000 decisions after a revision, oldest first; needs an analyst's or admin's key. Raises
        CallError."""
        path = f"{_experiment(name)}/decisions?after_revision={after_revision}"
        return list(self._object(Request("GET", path))["decisions"])

    def command(self, name: str, command: Command, **body: object) -> Json:
        """Send a command to an experiment; returns its new state. Needs an admin's key. Raises CallError,
        with the reason in its text if the command is refused."""
        return self._object(_post(f"{_experiment(name)}/{command}", body, repeatable=False))

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
            if reply.status_code == 413 and len(batch) > 1:  # long ids: fewer events at once
                size = len(batch) // 2
                continue
            rejected = _rejected(reply, batch)
            if rejected is None:
                log.warning("events wait in the outbox: %d %s", reply.status_code, _text(reply))
                return _pause_s(reply)
            for event in rejected:
                log.error("event rejected: %s", event)
            for _ in batch:
                self._waiting.popleft()
        return 0.0

    def deliver_until(self, stopped: Event, every_s: float = 0.5) -> None:
        """Deliver repeatedly until `stopped` is set, then a last time."""
        pause_s = 0.0
        while not stopped.wait(pause_s or every_s):
            pause_s = self.deliver()
        self.deliver()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, request: Request) -> httpx.Response:
        """Send any request. Raises CallError unless the reply is a success."""
        return _successful(request, self._reply(request))

    def slate(self, request: Request) -> Slate | None:
        """The slate that a request returns; None as for `recommend`."""
        try:
            return Slate.parse(self.send(request))
        except CallError as error:
            self._warn(error)
            return None

    def _object(self, request: Request) -> Json:
        reply = self.send(request)
        value = _object(reply)
        if value is None:
            raise _refused(f"{request}: the reply is not a JSON object", reply)
        return value

    def _reply(self, request: Request, *, repeat: bool = True) -> httpx.Response:
        url, headers = self._url(request), self._headers(request)
        try:
            return self._http.request(request.method, url, content=request.body, headers=headers)
        except httpx.RequestError as error:
            if repeat and _may_repeat(request, error):
                return self._reply(request, repeat=False)
            raise _unanswered(request, error) from error


def _experiment(name: str) -> str:
    return f"/experiments/{quote(name, safe='')}"


def _rejected(reply: httpx.Response, batch: list[Json]) -> list[Json] | None:
    """Events of `batch` that Ringside will never accept; None if the reply does not settle that."""
    if reply.status_code == 413:
        return batch  # of one event
    if reply.status_code not in (202, 400, 422):
        return None
    answer = _object(reply) or {}
    if "rejected" in answer:
        return list(answer["rejected"])
    return batch if "error" in answer else None


def _pause_s(reply: httpx.Response) -> float:
    retry_after = reply.headers.get("retry-after", "")
    return min(float(retry_after), LONGEST_WAIT_S) if retry_after.isdigit() else WAIT_S


# ---- the asynchronous client -------------------------------------------------------------------------------


class AsyncHttp(Protocol):
    """The part of `httpx.AsyncClient` that `AsyncClient` uses."""

    async def request(
        self, method: str, url: str, *, content: bytes | None, headers: dict[bytes, bytes]
    ) -> httpx.Response:
        """The reply, whatever its status. Raises httpx.RequestError without one."""

    async def aclose(self) -> None:
        """Close the connections."""


class AsyncClient(_Calls):
    """Asynchronous client without an outbox. urls: of one or several replicas, which take turns; http: your
    own httpx client, or another one with its interface."""

    def __init__(self, urls: str | Sequence[str], key: str, http: AsyncHttp | None = None):
        super().__init__(urls, key)
        self._http = http or httpx.AsyncClient(timeout=3.0)

    async def slate(self, request: Request) -> Slate | None:
        """The slate that a request returns; None if there is none. The log has the reason."""
        try:
            return Slate.parse(await self.send(request))
        except CallError as error:
            self._warn(error)
            return None

    async def send(self, request: Request) -> httpx.Response:
        """Send any request. Raises CallError unless the reply is a success."""
        return _successful(request, await self._reply(request))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _reply(self, request: Request, *, repeat: bool = True) -> httpx.Response:
        url, headers = self._url(request), self._headers(request)
        try:
            return await self._http.request(request.method, url, content=request.body, headers=headers)
        except httpx.RequestError as error:
            if repeat and _may_repeat(request, error):
                return await self._reply(request, repeat=False)
            raise _unanswered(request, error) from error
