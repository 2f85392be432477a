"""Messages on topics. A message is a frozen value with a JSON codec.

Every message carries `v` (schema version) and `received_at` (milliseconds since the epoch, UTC, stamped by
our own service): the only clock that rules use. `ts` is the client's clock and information only. JSON on the
wire.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from experiments.lifecycle.decisions import LATEST_MS
from services.errors import BadMessageError

EXPOSURES = "exposures"  # key: routing key; co-partitioned with EVENTS
EVENTS = "events"  # key: routing key of the attributed exposure, else user id, else session id
DECISIONS = (
    "decisions"  # one partition: the truth about experiments (experiments.lifecycle.decisions.Decision)
)
ITEMS = "items"  # one partition: changes of the live catalogue
ACTIVITY = "activity-rows"  # key: user id; rows as pushed to Feast, so that the lake can keep their history
DEAD_LETTERS = (
    "dead-letters"  # raw bytes in the value; reason and origin in headers: services.runtime.dead_letters
)

# champion_only: the experiment is paused, ended, switched off, unreachable; overridden: the arm was retired
Excluded = Literal[
    "preview", "bot", "staff", "pin_unreachable", "no_experiment", "champion_only", "overridden"
]
EventType = Literal["impression", "view", "click", "add_to_cart", "purchase"]
ActivityType = Literal["view", "click", "add_to_cart", "purchase"]  # leaves a trace in its user's row

Millis = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]  # of our clock
ClientMillis = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
NonNegativeInt32 = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
# "|" separates the parts of sum keys
ArmName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
MAX_ID_LENGTH = 200  # characters
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]  # as the HTTP API takes it
ItemId = Annotated[  # of the catalogue: numpy drops a NUL at the end, two ids would be one
    str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+\Z")
]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every wire message: a schema version and our own clock."""

    v: int = 1
    received_at: Millis  # ms since the epoch, UTC


class Exposure(Message, frozen=True, kw_only=True):
    """A slate shown to a unit.

    `arm` is the arm assigned; `answered_by` the arm whose model made the slate (the champion when the
    assigned one failed or was late). Only exposures with `first=True` and no `excluded` are units.
    """

    recommendation_id: str  # short id of the slate (uuid hex), not the signed token
    experiment: str
    routing_key: str
    unit: (
        str  # function of (routing key, session, day, request); see experiments.allocation.assignment.unit_id
    )
    unit_at: Millis  # received_at of the unit's first exposure, ms; equals received_at when first
    first: bool
    arm: ArmName
    answered_by: str
    model_version: str  # of answered_by
    weights_version: NonNegativeInt32
    propensity: float  # of `arm` under `weights_version`; 0 when excluded
    placement: str
    items: list[str]
    user_id: str | None = None
    session_id: str | None = None
    degraded: str | None = None
    excluded: Excluded | None = None
    features_at: Millis | None = None  # event timestamp of the user row that was read, ms


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a valid recommendation id: everything that is needed to count an event."""

    recommendation_id: str
    experiment: str
    routing_key: str
    unit: str
    unit_at: Millis  # ms
    exposed_at: Millis  # ms; received_at of the slate that was clicked
    arm: ArmName
    weights_version: NonNegativeInt32
    propensity: float
    position: NonNegativeInt32  # 0-based position of the item in the slate


class Event(Message, frozen=True, kw_only=True):
    """Something a shopper did. `attribution` is set only if the recommendation id was valid, its exposure
    counts, and the item stood in its slate."""

    event_id: Id
    type: EventType
    item_id: Id
    user_id: Id | None = None
    session_id: Id | None = None
    value: float | None = None
    ts: ClientMillis | None = None  # the client's clock, ms
    attribution: Attribution | None = None

    @property
    def key(self) -> str:
        """Routing key: the attributed exposure's, else user id, else session id, else event id."""
        if self.attribution is not None:
            return self.attribution.routing_key
        return self.user_id or self.session_id or self.event_id


ITEM_FIELDS = ("title", "category", "price", "stock", "hidden", "description")


class ItemChanged(Message, frozen=True, kw_only=True):
    """A change of one item in the live catalogue. `None` leaves a field as it is; `deleted` removes the
    item. The bounds are those of `/items`: arrays hold what is within them."""

    item_id: ItemId
    title: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    category: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    price: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    stock: Annotated[int, msgspec.Meta(ge=-1, lt=2**31)] | None = None
    hidden: bool | None = None
    description: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    deleted: bool = False
    author: str = ""

    @property
    def key(self) -> str:
        """Compaction key: item id and the set of changed fields. A later record with the same key overwrites
        the same fields, so compaction preserves the result of the fold."""
        changed = [name for name in ITEM_FIELDS if getattr(self, name) is not None]
        return f"{self.item_id}\n{'deleted' if self.deleted else ','.join(changed)}"

    def then(self, later: "ItemChanged") -> "ItemChanged":
        """This change followed by `later`. Fields that `later` leaves None stay; a deletion clears all."""
        if later.deleted or self.deleted:
            return later
        changed = {
            name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None
        }
        return msgspec.structs.replace(self, **changed)


class ActivityRow(Message, frozen=True, kw_only=True):
    """One row of the feature view `user_activity` as it was pushed; `received_at` is its event timestamp.
    Raises ValueError if its lists differ in length, because readers iterate over them in parallel."""

    user_id: Id
    item_ids: list[Id]  # most recent first, at most Settings.recent_items
    item_at: list[Millis]  # received_at of each, ms
    item_types: list[ActivityType]  # event type of each
    event_ids: list[Id]  # of each, for idempotence

    def __post_init__(self) -> None:
        lengths = [len(self.item_ids), len(self.item_at), len(self.item_types), len(self.event_ids)]
        if len(set(lengths)) > 1:
            raise ValueError(f"item_ids, item_at, item_types and event_ids differ in length: {lengths}")


M = TypeVar("M")  # a message, or another type that msgspec decodes, like Decision
_encoder = msgspec.json.Encoder()
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
SCHEMA_VERSION = 1


def encode(message: object) -> bytes:
    """Encode a message as JSON bytes."""
    return _encoder.encode(message)


def decode(kind: type[M], raw: bytes) -> M:
    """Decode `raw` as `kind`. Raises BadMessageError naming the field when bytes, types or version are
    wrong."""
    decoder: msgspec.json.Decoder[M] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    try:
        message: M = decoder.decode(raw)
    except msgspec.ValidationError as error:
        _check_version(kind, _version_in(raw))  # the version explains more than the field
        raise BadMessageError(f"not a {kind.__name__}: {error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessageError(f"not a {kind.__name__}: {error}", "not-json") from error
    _check_version(kind, getattr(message, "v", SCHEMA_VERSION))
    return message


def _version_in(raw: bytes) -> object:
    """The version in bytes that are no message of this schema."""
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return SCHEMA_VERSION
    return fields.get("v", SCHEMA_VERSION) if isinstance(fields, dict) else SCHEMA_VERSION


def _check_version(kind: type, version: object) -> None:
    if version != SCHEMA_VERSION:
        raise BadMessageError(
            f"{kind.__name__}.v: {version!r} is not supported; this release reads version {SCHEMA_VERSION}",
            "version",
        )
