"""The tables of the lake: one schema for each topic, and the conversion of records to rows.

Every row begins with the position of its record (topic, partition, offset, append_ms).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import asdict

from experiments.lifecycle.decisions import Decision
from services.errors import BadMessageError
from services.messages import events
from services.ports.event_log import Record

_SOURCE = [
    ("topic", pa.string()),
    ("partition", pa.int32()),
    ("offset", pa.int64()),
    ("append_ms", pa.int64()),
]
_TEXTS = pa.list_(pa.string())


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([*_SOURCE, *columns.items()])


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


Value = str | int | float | bool | bytes | list[str] | list[int] | None
Row = dict[str, Value]  # by column of a schema; missing ones become null, other keys are ignored
Malformed = list[tuple[Record, BadMessageError]]


@dataclass(frozen=True, slots=True)
class TopicTable:
    """The schema of a topic's table and the conversion of a record, which raises BadMessageError."""

    schema: pa.Schema
    row: Callable[[Record], Row]


def _fields_of(kind: type[msgspec.Struct]) -> Callable[[Record], Row]:
    """Return the conversion for a message of which each field is a column."""
    return lambda record: asdict(events.decode(kind, record.value))


def _event(record: Record) -> Row:
    event = events.decode(events.Event, record.value)
    return asdict(event) | (asdict(event.attribution) if event.attribution else {})


def _decision(record: Record) -> Row:
    """The fields of a decision; those that hold objects as JSON."""
    decision = events.decode(Decision, record.value)
    return asdict(decision) | {
        "weights": _json(decision.weights),
        "positions": _json(decision.positions),
        "evidence": _json(decision.evidence_json),
        "detail": _json(decision.detail_json),
    }


def _dead_letter(record: Record) -> Row:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return {"received_at": record.append_ms, "value": record.value, "headers": _json(headers)}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


TABLES: Mapping[str, TopicTable] = {
    events.EXPOSURES: TopicTable(EXPOSURES, _fields_of(events.Exposure)),
    events.EVENTS: TopicTable(EVENTS, _event),
    events.DECISIONS: TopicTable(DECISIONS, _decision),
    events.ITEMS: TopicTable(ITEMS, _fields_of(events.ItemChanged)),
    events.ACTIVITY: TopicTable(ACTIVITY, _fields_of(events.ActivityRow)),
    events.DEAD_LETTERS: TopicTable(DEAD_LETTERS, _dead_letter),
}


def table(topic: str, records: Sequence[Record]) -> tuple[pa.Table, Malformed]:
    """Convert records of one topic to a table, in order.

    Returns the table, and the records that can't be decoded or stored, with the reason.
    """
    of_topic = TABLES[topic]
    rows, malformed = _rows(records, lambda record: _source(record) | of_topic.row(record))
    try:
        return pa.Table.from_pylist(rows, of_topic.schema), malformed
    except (pa.ArrowException, OverflowError, UnicodeError):
        # A value is out of range for its column. Convert the rows one by one: only that row is malformed.
        rows, malformed = _rows(
            records, lambda record: _storable(of_topic, _source(record) | of_topic.row(record))
        )
        return pa.Table.from_pylist(rows, of_topic.schema), malformed


def _rows(records: Sequence[Record], to_row: Callable[[Record], Row]) -> tuple[list[Row], Malformed]:
    rows: list[Row] = []
    malformed: Malformed = []
    for record in records:
        try:
            rows.append(to_row(record))
        except BadMessageError as error:
            malformed.append((record, error))
    return rows, malformed


def _storable(of_topic: TopicTable, row: Row) -> Row:
    try:
        pa.Table.from_pylist([row], of_topic.schema)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise BadMessageError(f"no column holds it: {error}", "not-storable") from error
    return row


def _source(record: Record) -> Row:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "append_ms": record.append_ms,
    }


def activity_history(activity: pa.Table) -> pa.Table:
    """Convert rows of ACTIVITY to the offline source of the view `user_activity`.

    The event timestamp of a row is its `received_at`.
    """
    stamps = pc.cast(pc.multiply(activity["received_at"], 1_000), pa.timestamp("us", "UTC"))
    columns = ["user_id", "item_ids", "item_at", "item_types", "event_ids"]
    return activity.select(columns).append_column("event_timestamp", stamps)
