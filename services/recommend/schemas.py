"""Schemas of storefront requests and responses: each struct both parses and describes itself in the OpenAPI
document.

msgspec decodes a request in 1-3 µs, where pydantic would take many times as long.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from services.errors import BadInputError
from services.messages.events import MAX_ID_LENGTH, EventType, Id
from services.recommend.recommendation_id import Refusal
from services.web.problem import MalformedBodyError, Problem, shortened

MAX_SLATE = 100
MAX_EXCLUDED = 1_000
MAX_LISTED = 100  # items of one list in a query, because servers and proxies cut long addresses off
MAX_CONTEXT = 100
MAX_EVENTS = 500
MAX_RERANK = 500
MAX_QUERY_BYTES = 65_536
# Length of the recommendation id of the longest slate: base64 of ids of up to four bytes a character, and ten
# more for user, session and unit. A lower limit would refuse clicks; bodies have a limit of their own.
MAX_TOKEN = (MAX_RERANK + 10) * (4 * MAX_ID_LENGTH + 3) * 4 // 3

Length = Annotated[int, Meta(ge=1, le=MAX_SLATE, description="How many items.")]
Excludes = Annotated[list[Id], Meta(max_length=MAX_EXCLUDED, description="Items that must not be shown.")]
_only = "Only items of these categories. A text with commas that is no category's name lists several."
Categories = Annotated[list[Id], Meta(max_length=50, description=_only)]
Price = Annotated[float, Meta(ge=0, le=1e9)]
User = Annotated[Id | None, Meta(description="The user; may be a new one.")]
Session = Annotated[Id | None, Meta(description="The visit; identifies a user without a user id.")]
Place = Annotated[Id, Meta(description="Where on the site the slate is shown.")]
Preview = Annotated[Id | None, Meta(description="Force this arm (admin keys only); never counted.")]
Staff = Annotated[bool, Meta(description="The user is staff: served, but never counted.")]


class SlateFilters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many items, and which."""

    n: Length = 10
    exclude: Excludes = []
    category: Categories = []
    price_min: Price | None = None
    price_max: Price | None = None
    metadata: Annotated[bool, Meta(description="Send title, category and price along.")] = True


class SlateFields(SlateFilters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a request for a visitor's slate."""

    user_id: User = None
    session_id: Session = None
    placement: Place = "home"
    arm: Preview = None
    staff: Staff = False


class RecommendRequest(SlateFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a slate. `context`: items in the cart or on the page; they guide the answer and are
    left out."""

    context: Annotated[list[Id], Meta(max_length=MAX_CONTEXT, description="Items in the cart.")] = []


class SimilarRequest(SlateFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for items like one item."""

    placement: Place = "item"


class PopularRequest(SlateFilters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for popular items; the same for every user, so no experiment is involved."""


class RerankRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A given list of items, to be put in the best order for a user."""

    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_RERANK, description="Items to order.")]
    user_id: User = None
    session_id: Session = None
    n: Annotated[int, Meta(ge=1, le=MAX_RERANK, description="Keep the best n; default: all.")] | None = None
    placement: Place = "search"
    metadata: bool = True
    arm: Preview = None
    staff: Staff = False


class SlateItem(Struct, frozen=True, kw_only=True, gc=False):
    """One item of a slate; `position` counts from 0. `metadata`: title, category, price."""

    item_id: str
    score: float
    position: int
    reason: str
    metadata: msgspec.Raw | UnsetType = UNSET


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """A slate. `degraded` is null, or comma-separated codes for what was missing when it was made:
    champion_only (the kill switch is on), cut_off (no experiment state, so the last champion serves),
    no_fresh_features, no_pins (they are being restored, so the champion serves),
    failed:, late:, resting: or not_loaded: with the arm of the model, cached_slate, popular, fewer_eligible,
    category_share (too few items of other categories are eligible, so one category exceeds its share),
    exposure_lost (the queue to the log is full, so the slate won't count).
    """

    recommendation_id: str | None
    items: list[SlateItem]
    experiment: str | None
    arm: str | None
    model_version: str | None
    degraded: str | None


# Wide bounds refuse wrong units only. A wrong clock passes, because `ts` is information only.
FIRST_MS = 946_684_800_000  # 2000-01-01
LAST_MS = 4_102_444_800_000  # 2100-01-01
_bounds = {"minimum": FIRST_MS, "maximum": LAST_MS}  # the parser accepts more, so that ts_problem can explain
Millis = Annotated[int, Meta(ge=0, le=2**53, extra_json_schema=_bounds)]
Timestamp = Annotated[datetime, Meta(tz=True)]


class EventIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One action of a user. `event_id` makes retries harmless; `ts` (ms since the epoch or RFC 3339, between
    2000 and 2100) is information only."""

    event_id: Id
    type: EventType
    item_id: Id
    user_id: Id | None = None
    session_id: Id | None = None
    recommendation_id: Annotated[str, Meta(max_length=MAX_TOKEN)] | None = None
    value: float | None = None
    ts: Millis | Timestamp | None = None

    @property
    def ts_ms(self) -> int | None:
        """`ts` in ms since the epoch."""
        return round(self.ts.timestamp() * 1_000) if isinstance(self.ts, datetime) else self.ts


def ts_problem(ts_ms: int | None) -> str | None:
    """Why `ts` is implausible, with the unit that was probably used; None if it is plausible."""
    if ts_ms is None or FIRST_MS <= ts_ms <= LAST_MS:
        return None
    units = {"seconds": ts_ms * 1_000, "microseconds": ts_ms // 1_000}
    unit = next((unit for unit, ms in units.items() if FIRST_MS <= ms <= LAST_MS), None)
    problem = f"looks like {unit}" if unit else "is not between 2000 and 2100"
    return f"{ts_ms} {problem}; send milliseconds since the epoch"


class Rejection(Struct, frozen=True, kw_only=True):
    """A row that was refused, by its index in the request."""

    index: int
    field: str
    problem: str


class Unattributed(Struct, frozen=True, kw_only=True):
    """An accepted event, by its index in the request, and why its recommendation_id does not count:
    forged (not signed here, or cut off), expired, foreign (another experiment's), not_in_slate (the item),
    not_counted (the slate was a preview, a bot's, staff's, or of no experiment)."""

    index: int
    reason: Refusal


class EventsAnswer(Struct, frozen=True, kw_only=True):
    """How many events the log has acknowledged, how many of them count for a slate, those whose
    recommendation_id does not count, and the refused rows."""

    accepted: int
    attributed: int
    unattributed: Annotated[list[Unattributed], Meta(max_length=MAX_EVENTS)]
    rejected: list[Rejection]


class EventsRefused(Struct, frozen=True, kw_only=True):
    """Every row was refused: what is wrong with each."""

    error: Problem
    rejected: list[Rejection] = []


S = TypeVar("S", bound=Struct)
_LISTS = ("exclude", "category", "context")
_CATEGORY = re.compile(r"(?:^|&)category=[^&]*")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_NAMED = re.compile(r"(?:required|unknown) field `([^`]+)`")


def bad_input(error: msgspec.ValidationError) -> BadInputError:
    """Translate a msgspec error into one that names the field as the sender wrote it."""
    text = str(error)
    problem, where = _PATH.sub("", text), _PATH.search(text)
    named = _NAMED.search(text)
    parts = [where.group(1) if where else "", named.group(1) if named else ""]
    return BadInputError(shortened(".".join(part for part in parts if part)) or "body", shortened(problem))


def from_query(kind: type[S], query: bytes) -> S:
    """Parse a query string. Lists are repeated or comma separated; an escaped comma belongs to a category's
    name. Raises BadInputError naming the field."""
    if len(query) > MAX_QUERY_BYTES:
        raise BadInputError("query", f"longer than {MAX_QUERY_BYTES} bytes; send it as POST")
    fields: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for name, value in _pairs(query.decode("latin-1")):
        if name == "key":  # the API key of sendBeacon
            continue
        if name in _LISTS:
            listed = lists.setdefault(name, [])
            listed.extend(_split(name, value))
            if len(listed) > MAX_LISTED:
                raise BadInputError(name, f"more than {MAX_LISTED} in a query; send them as POST")
        elif name in fields:
            raise BadInputError(name or "query", "given twice")
        else:
            fields[name] = value
    return from_fields(kind, {**fields, **lists} if lists else fields)


def _split(name: str, value: str) -> list[str]:
    """The items in one value of a list. `_pairs` has split categories at their plain commas. A value whose
    commas were all escaped is split here if it is too long for a name, else by CatalogueIndex.filtered unless
    it names a category."""
    if name == "category" and len(value) <= MAX_ID_LENGTH:
        return [value] if value else []
    return [part for part in value.split(",") if part]


def _pairs(query: str) -> Iterable[tuple[str, str]]:
    """Names and values of a query string. Without escapes a split equals parse_qsl in a fifth of the time.
    Raises BadInputError for escapes that are not UTF-8; replacing them would map many ids to one."""
    if "," in query:  # before escapes are decoded, because an escaped comma is part of a category's name
        query = _CATEGORY.sub(lambda match: match[0].replace(",", "&category="), query)
    if "%" in query or "+" in query:
        try:
            return parse_qsl(query, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError as error:
            raise BadInputError(_undecodable(query), "its %-escapes are not UTF-8") from error
    parts = (part.partition("=") for part in query.split("&") if part)
    return [(name, value) for name, _, value in parts]


def _undecodable(query: str) -> str:
    """The field whose escapes can't be decoded."""
    for part in query.split("&"):
        name, _, value = part.partition("=")
        try:
            name = unquote_plus(name, errors="strict")
            unquote_plus(value, errors="strict")
        except UnicodeDecodeError:
            return shortened(name) or "query"
    return "query"


def from_fields(kind: type[S], fields: Mapping[str, object]) -> S:
    """Convert text fields. Raises BadInputError naming the field."""
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise bad_input(error) from error


def from_body(kind: type[S], body: bytes) -> S:
    """Parse a JSON body. Raises BadInputError naming the field, or MalformedBodyError when it isn't JSON."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise bad_input(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBodyError(str(error)) from error
