"""Messages as rows of Parquet: one schema a topic, the origin of each row beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from experiments.lifecycle.fold import Decision
from services.errors import BadMessageError
from services.messages import events
from services.ports.event_log import Record

_ORIGIN = [
    ("topic", pa.string()),
    ("partition", pa.int32()),
    ("offset", pa.int64()),
    ("append_ms", pa.int64()),
]
_TEXTS = pa.list_(pa.string())


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([*_ORIGIN, *columns.items()])


_TEXT, _MS, _REAL, _WHOLE, _YES = pa.string(), pa.int64(), pa.float64(), pa.int32(), pa.bool_()
EXPOSURES = _schema(
    received_at=_MS, recommendation_id=_TEXT, experiment=_TEXT, routing_key=_TEXT, unit=_TEXT, unit_at=_MS,
    first=_YES, arm=_TEXT, answered_by=_TEXT, model_version=_TEXT, weights_version=_WHOLE, propensity=_REAL,
    placement=_TEXT, items=_TEXTS, user_id=_TEXT, session_id=_TEXT, degraded=_TEXT, excluded=_TEXT,
    features_at=_MS,
)  # fmt: skip
_EVENT = {
    "received_at": _MS, "event_id": _TEXT, "type": _TEXT, "item_id": _TEXT, "user_id": _TEXT,
    "session_id": _TEXT, "value": _REAL, "ts": _MS,
}  # fmt: skip
_ATTRIBUTION = {
    "recommendation_id": _TEXT, "experiment": _TEXT, "routing_key": _TEXT, "unit": _TEXT, "unit_at": _MS,
    "exposed_at": _MS, "arm": _TEXT, "weights_version": _WHOLE, "propensity": _REAL, "position": _WHOLE,
}  # fmt: skip
EVENTS = _schema(**_EVENT, **_ATTRIBUTION)
DECISIONS = _schema(
    received_at=_MS, experiment=_TEXT, revision=_MS, kind=_TEXT, author=_TEXT, rule=_TEXT, reason=_TEXT,
    weights_version=_WHOLE, weights=_TEXT, positions=_TEXT, sums_digest=_TEXT, evidence=_TEXT, detail=_TEXT,
    code_version=_TEXT,
)  # fmt: skip
ACTIVITY = _schema(
    received_at=_MS, user_id=_TEXT, item_ids=_TEXTS, item_at=pa.list_(pa.int64()), item_types=_TEXTS,
    event_ids=_TEXTS,
)  # fmt: skip
ITEMS = _schema(
    received_at=_MS, item_id=_TEXT, title=_TEXT, category=_TEXT, price=_REAL, stock=_MS, hidden=_YES,
    description=_TEXT, deleted=_YES, author=_TEXT,
)  # fmt: skip
DEAD_LETTERS = _schema(received_at=_MS, value=pa.binary(), headers=_TEXT)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the records of a topic become rows; `row` raises BadMessageError."""

    schema: pa.Schema
    row: Callable[[Record], dict[str, Any]]


def _exposure(record: Record) -> dict[str, Any]:
    return msgspec.structs.asdict(events.decode(events.Exposure, record.value))


def _event(record: Record) -> dict[str, Any]:
    event = events.decode(events.Event, record.value)
    row = msgspec.structs.asdict(event)
    return row | (msgspec.structs.asdict(event.attribution) if event.attribution else {})


def _activity(record: Record) -> dict[str, Any]:
    return msgspec.structs.asdict(events.decode(events.ActivityRow, record.value))


def _decision(record: Record) -> dict[str, Any]:
    decision = events.decode(Decision, record.value)
    row = {name: getattr(decision, name) for name in DECISIONS.names if hasattr(decision, name)}
    nested = ("weights", "positions", "evidence", "detail")
    return row | {name: msgspec.json.encode(row[name]).decode() for name in nested}


def _item(record: Record) -> dict[str, Any]:
    return msgspec.structs.asdict(events.decode(events.ItemChanged, record.value))


def _letter(record: Record) -> dict[str, Any]:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return {
        "received_at": record.append_ms,
        "value": record.value,
        "headers": msgspec.json.encode(headers).decode(),
    }


KINDS: Mapping[str, Kind] = {
    events.EXPOSURES: Kind(EXPOSURES, _exposure),
    events.EVENTS: Kind(EVENTS, _event),
    events.DECISIONS: Kind(DECISIONS, _decision),
    events.ITEMS: Kind(ITEMS, _item),
    events.ACTIVITY: Kind(ACTIVITY, _activity),
    events.DEAD_LETTERS: Kind(DEAD_LETTERS, _letter),
}


Bad = list[tuple[Record, BadMessageError]]


def table(topic: str, records: Sequence[Record]) -> tuple[pa.Table, Bad]:
    """Rows of the records of one topic, in order, and the records that can't be read, with the reason."""
    kind = KINDS[topic]
    rows, bad = _rows(records, lambda record: kind.row(record) | _origin(record))
    try:
        return pa.Table.from_pylist(rows, kind.schema), bad
    except (pa.ArrowException, OverflowError, UnicodeError):
        # A number may be beyond what its column holds: such a row is bad, not the batch it came in.
        rows, bad = _rows(records, lambda record: _storable(kind, kind.row(record) | _origin(record)))
        return pa.Table.from_pylist(rows, kind.schema), bad


def _rows(
    records: Sequence[Record], row: Callable[[Record], dict[str, Any]]
) -> tuple[list[dict[str, Any]], Bad]:
    rows, bad = [], []
    for record in records:
        try:
            rows.append(row(record))
        except BadMessageError as error:
            bad.append((record, error))
    return rows, bad


def _storable(kind: Kind, row: dict[str, Any]) -> dict[str, Any]:
    try:
        pa.Table.from_pylist([row], kind.schema)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise BadMessageError(f"no column holds it: {error}", "not-storable") from error
    return row


def _origin(record: Record) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "append_ms": record.append_ms,
    }


def history(activity: pa.Table) -> pa.Table:
    """Rows of ACTIVITY as the offline source of the view `user_activity`: received_at is the event
    timestamp."""
    stamps = pc.cast(pc.multiply(activity["received_at"], 1_000), pa.timestamp("us", "UTC"))
    columns = ["user_id", "item_ids", "item_at", "item_types", "event_ids"]
    return activity.select(columns).append_column("event_timestamp", stamps)
