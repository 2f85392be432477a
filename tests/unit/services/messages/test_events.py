"""Bytes that anybody may have put on a topic: each is a message or a BadMessageError, nothing else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.lifecycle.decisions import Decision
from services.errors import BadMessageError
from services.lake.tables import table
from services.messages import events
from services.ports.event_log import Record
from services.recommend.api.items import ItemChange
from services.recommend.schemas import EventIn

NOW_MS = 1_800_000_000_000
TABLES = [events.Exposure, events.Event, events.ItemChanged, events.ActivityRow, Decision]
ATTRIBUTION = {
    "recommendation_id": "r", "experiment": "x", "routing_key": "u", "unit": "s:u:-", "unit_at": NOW_MS,
    "exposed_at": NOW_MS, "arm": "a", "weights_version": 1, "propensity": 0.5, "position": 0,
}  # fmt: skip
EVENT = {"received_at": NOW_MS, "event_id": "e", "type": "click", "item_id": "i", "attribution": ATTRIBUTION}
DECISION = {
    "experiment": "x", "revision": 1, "kind": "allocate", "received_at": NOW_MS, "author": "a", "rule": "r",
    "reason": "", "weights_version": 1, "weights": {}, "positions": {}, "sums_digest": "", "evidence": {},
    "detail": {}, "code_version": "",
}  # fmt: skip


def record(topic: str, message: dict[str, Any]) -> Record:
    return Record(topic, 0, 7, NOW_MS, b"u", msgspec.json.encode(message))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("raw", [b"", b"null", b"[" * 60_000, b'{"a":' * 60_000, b'{"v":1e999}', b"\xff"])
def test_rubbish_is_a_bad_message(kind: type, raw: bytes) -> None:
    with pytest.raises(BadMessageError):
        events.decode(kind, raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_message(raw: bytes) -> None:
    for kind in TABLES:
        with pytest.raises(BadMessageError):
            events.decode(kind, raw)


@pytest.mark.parametrize("field", ["received_at", "ts", "attribution.unit_at", "attribution.position"])
@pytest.mark.parametrize("number", [2**64 - 1, 2**63, 2**53 + 1, -(2**63)])
def test_a_number_that_no_column_holds_is_named(field: str, number: int) -> None:
    path, _, name = field.rpartition(".")
    message = EVENT | {path: ATTRIBUTION | {name: number}} if path else EVENT | {name: number}
    with pytest.raises(BadMessageError, match=name):
        events.decode(events.Event, msgspec.json.encode(message))


def test_a_decision_with_out_of_range_numbers_is_bad() -> None:
    broken = record("decisions", DECISION | {"revision": 2**64 - 1})
    rows, bad = table("decisions", [record("decisions", DECISION), broken])
    assert (rows.num_rows, [found for found, _ in bad]) == (1, [broken])


@pytest.mark.parametrize("arm", ["", "a|b", "a b", "a\n", "é", "x" * 65])
def test_an_invalid_arm_name_is_never_counted(arm: str) -> None:
    message = EVENT | {"attribution": ATTRIBUTION | {"arm": arm}}
    with pytest.raises(BadMessageError, match="arm"):
        events.decode(events.Event, msgspec.json.encode(message))


@pytest.mark.parametrize("field", ["event_id", "item_id", "user_id", "session_id"])
def test_an_id_is_as_long_as_the_api_takes_it(field: str) -> None:
    """On the topic as in a request: 200 characters, whatever they are."""
    said = {"event_id": "e", "type": "click", "item_id": "i", "user_id": "u", "session_id": "s"}
    longest = said | {field: "\U0001f4a1" * 200}
    for kind, message in ((EventIn, longest), (events.Event, longest | {"received_at": NOW_MS})):
        assert getattr(msgspec.json.decode(msgspec.json.encode(message), type=kind), field) == longest[field]
    for wrong in ("", "i" * 201):
        message = msgspec.json.encode(said | {field: wrong, "received_at": NOW_MS})
        with pytest.raises(BadMessageError, match=field):
            events.decode(events.Event, message)


def test_an_item_change_has_the_bounds_of_the_api() -> None:
    api = ItemChange.model_json_schema()["properties"]
    wire = msgspec.json.schema(events.ItemChanged)["$defs"]["ItemChanged"]["properties"]
    assert {name: bounds(wire[name]) for name in api} == {name: bounds(said) for name, said in api.items()}
    assert sum(map(len, map(bounds, api.values()))) == 9


def bounds(field: dict[str, Any]) -> dict[str, int]:
    """What a JSON schema says about length and size; a maximum is the same whether it is excluded or not."""
    told = next((part for part in field.get("anyOf", ()) if part["type"] != "null"), field)
    found = {name: told[name] for name in ("minLength", "maxLength", "minimum", "maximum") if name in told}
    return found | ({"maximum": told["exclusiveMaximum"] - 1} if "exclusiveMaximum" in told else {})


@pytest.mark.parametrize("item", ["a\n", "a\0", "\x7f", "\n"])
def test_an_item_that_the_api_refuses_is_no_change(item: str) -> None:
    with pytest.raises(BadMessageError, match="item_id"):
        events.decode(events.ItemChanged, msgspec.json.encode({"received_at": NOW_MS, "item_id": item}))


ROW = {
    "received_at": NOW_MS, "user_id": "u", "item_ids": ["a", "b"], "item_at": [NOW_MS, NOW_MS],
    "item_types": ["click", "view"], "event_ids": ["e1", "e2"],
}  # fmt: skip


@pytest.mark.parametrize("field", ["item_ids", "item_at", "item_types", "event_ids"])
@pytest.mark.parametrize("many", [0, 1, 3])
def test_a_row_with_unequal_lists_is_a_bad_record(field: str, many: int) -> None:
    broken = record("activity-rows", ROW | {field: (ROW[field] * 2)[:many]})  # type: ignore[operator]
    rows, bad = table("activity-rows", [record("activity-rows", ROW), broken])
    assert (rows.num_rows, [(found, error.code) for found, error in bad]) == (1, [(broken, "schema")])
    assert "differ in length" in str(bad[0][1])
