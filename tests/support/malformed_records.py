"""Malformed records: bytes that are no message, and messages with invalid or impossible values."""

import json
from typing import Any

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from services.messages import events
from support.traffic import click, exposure

HOUR_MS = 3_600_000

NO_MESSAGE: dict[str, bytes] = {
    "nothing": b"",
    "no text": b"\xff\xfe\x00",
    "half a message": b'{"received_at": 17',
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "nesting without end": b"[" * 200_000,
    "objects without end": b'{"a":' * 50_000,
    "a lone surrogate": b'{"v": 1, "item_id": "\\ud800"}',
    "an empty object": b"{}",
    "many zeros": bytes(900_000),
}
INVALID: dict[str, dict[str, Any]] = {  # changes that make a good message malformed
    "a newer version": {"v": 2},
    "a version that is no number": {"v": "one"},
    "a negative time": {"received_at": -1},
    "a time in nanoseconds": {"received_at": 1_700_000_000_000_000_000},
    "a time without end": {"received_at": 10**40},
    "no time": {"received_at": None},
    "a time as text": {"received_at": "2026-01-01"},
}
INVALID_BY_TOPIC: dict[str, dict[str, dict[str, Any]]] = {  # more such changes, by topic
    events.EXPOSURES: {
        "an arm that parts the keys of sums": {"arm": "a|b"},
        "a version beyond all counting": {"weights_version": 2**31},
    },
    events.EVENTS: {
        "an item without end": {"item_id": "i" * 600_000},
        "an id without end": {"event_id": "e" * 201},
        "a shopper without end": {"user_id": "u" * 201},
        "a visit without end": {"session_id": "s" * 201},
        "no id": {"event_id": ""},
        "an unknown deed": {"type": "stare"},
    },
    events.DECISIONS: {
        "evidence that is a list": {"evidence": []},
        "arms that are a text": {"evidence": {"arms": "text"}},
        "a count that is a text": {"evidence": {"arms": {"a": {"n": "many"}}}},
        "races that are a number": {"evidence": {"races": 5}},
        "a race of nobody": {"evidence": {"races": [{"log_e": 1.0}]}},
        "a race to nowhere": {"evidence": {"races": [{"arm": "a", "log_e": 1.0, "log_threshold": 0}]}},
        "an account that is a text": {"evidence": {"accounting": {"a": {"counted": "x"}}}},
        "a watermark after time": {"evidence": {"watermark_ms": 10**17}},
        "a number without end": {"detail": {"number": 10**40}},
        "detail without end": {"detail": {"deep": json.loads("[" * 60 + "]" * 60)}},
    },
    events.ITEMS: {
        "stock that no shelf holds": {"stock": 3_000_000_000},
        "stock below nothing": {"stock": -2},
        "a price beyond money": {"price": 1e300},
        "a price that is paid to the buyer": {"price": -1.0},
        "a title without end": {"title": "t" * 501},
        "a category without end": {"category": "c" * 201},
        "a description without end": {"description": "d" * 10_001},
        "an item without end": {"item_id": "i" * 201},
        "an item that numpy cuts": {"item_id": "i\0"},
        "an item without a name": {"item_id": ""},
    },
    events.ACTIVITY: {
        "fewer events than items": {"event_ids": []},
        "more times than items": {"item_at": [1, 2]},
        "no item for all its times": {"item_ids": []},
        "a deed that leaves no trace": {"item_types": ["impression"]},
        "an unknown deed": {"item_types": ["stare"]},
        "an item before time": {"item_at": [-1]},
        "an item after time": {"item_at": [2**62]},
        "an item without end": {"item_ids": ["i" * 600_000]},
        "nobody": {"user_id": ""},
    },
}
HEADERS: tuple[tuple[str, bytes], ...] = (  # of dead letters that no worker wrote
    ("origin", b"events/0/" + b"9" * 5_000),
    ("origin", b"events/" + b"9" * 5_000 + b"/0"),
    ("cut", b"9" * 5_000),
    ("replay-of", b"9" * 5_000),
    ("replayed", b"9" * 5_000),
    ("reason", b"\xff" * 5_000),
)


def invalid(topic: str, message: object) -> dict[str, bytes]:
    """Copies of `message` with one invalid field, by the kind of error."""
    fields = json.loads(events.encode(message))
    return {
        name: json.dumps(fields | change).encode()
        for name, change in (INVALID | INVALID_BY_TOPIC.get(topic, {})).items()
    }


def valid_message(topic: str, at_ms: int) -> Any:
    """A valid message of a topic."""
    shown = exposure(1, at_ms)
    return {
        events.EXPOSURES: shown,
        events.EVENTS: click(shown, at_ms + 5, "e1"),
        events.DECISIONS: Decision(
            experiment="never", revision=1, kind="start", received_at=at_ms, author="anna", rule="command",
            reason="go", weights_version=1, weights={"a": 1.0},
        ),
        events.ITEMS: events.ItemChanged(received_at=at_ms, item_id="a", stock=3),
        events.ACTIVITY: events.ActivityRow(
            received_at=at_ms, user_id="ada", item_ids=["a"], item_at=[at_ms], item_types=["click"],
            event_ids=["e1"],
        ),
    }[topic]  # fmt: skip


def undecodable(topic: str, at_ms: int) -> dict[str, bytes]:
    """Malformed records of `topic`, by the kind of error."""
    return NO_MESSAGE | invalid(topic, valid_message(topic, at_ms))


def impossible_records(at_ms: int) -> dict[str, list[tuple[str, object]]]:
    """Valid exposures and events that are odd or impossible, by kind: (topic, message) in log order.

    Each kind has its own units.
    """
    shown = [exposure(1_000 + number, at_ms) for number in range(12)]
    early, late = at_ms - 5 * HOUR_MS, at_ms + 5 * HOUR_MS
    return {
        "a click before its exposure, in the log": [
            (events.EVENTS, click(shown[0], at_ms + 3, "r0")), (events.EXPOSURES, shown[0]),
        ],
        "a click before its exposure, by the clock": [
            (events.EXPOSURES, shown[1]), (events.EVENTS, click(shown[1], at_ms - 50, "r1")),
        ],
        "a click without an exposure": [(events.EVENTS, click(shown[2], at_ms + 3, "r2"))],
        "the same click thrice": [
            (events.EXPOSURES, shown[3]), *[(events.EVENTS, click(shown[3], at_ms + 3, "r3"))] * 3,
        ],
        "the same exposure thrice": [(events.EXPOSURES, shown[4])] * 3,
        "an exposure hours late": [(events.EXPOSURES, exposure(1_005, early))],
        "an exposure hours ahead": [(events.EXPOSURES, exposure(1_006, late))],
        "a click hours late": [
            (events.EXPOSURES, shown[7]), (events.EVENTS, click(shown[7], late, "r7")),
        ],
        "a click on something hours ahead": [
            (events.EVENTS, click(exposure(1_008, late), late, "r8")),
        ],
        "an experiment that never started": [
            (events.EXPOSURES, exposure(1_009, at_ms, experiment="never")),
            (events.EVENTS, click(exposure(1_009, at_ms, experiment="never"), at_ms, "r9")),
        ],
        "a click that is attributed to nothing": [
            (events.EVENTS, click(shown[10], at_ms, "r10", attribution=None, user_id="ada")),
        ],
        "the client's clock off by years": [
            (events.EXPOSURES, shown[11]), (events.EVENTS, click(shown[11], at_ms + 3, "r11", ts=-(2**52))),
        ],
    }  # fmt: skip


def odd_items(at_ms: int) -> dict[str, events.ItemChanged]:
    """Valid but odd changes of the catalogue, by kind. One item results from them."""
    odd: dict[str, dict[str, Any]] = {
        "an end of what never was": {"item_id": "ghost", "deleted": True},
        "a change that says nothing": {"item_id": "ghost"},
        "all that an item may be": {
            "item_id": "\U0001f4a1" * 200, "title": "\U0001f4a1" * 500, "category": "c" * 200, "price": 1e9,
            "stock": 2**31 - 1, "description": "d" * 10_000,
        },
        "the end of time": {"item_id": "ghost", "stock": -1, "received_at": events.LATEST_MS},
        "before time": {"item_id": "ghost", "price": 0.0, "received_at": 0},
    }  # fmt: skip
    return {name: events.ItemChanged(**({"received_at": at_ms} | fields)) for name, fields in odd.items()}


def odd_rows(at_ms: int) -> dict[str, events.ActivityRow]:
    """Valid but odd rows of activity, by kind."""

    def row(n: int, **fields: Any) -> events.ActivityRow:
        lists = {"item_ids": ["a"] * n, "item_at": [at_ms] * n, "item_types": ["click"] * n}
        values = {"received_at": at_ms, "user_id": "odd", **lists, "event_ids": ["e1"] * n} | fields
        return events.ActivityRow(**values)

    return {
        "nothing done": row(0),
        "the same event thrice": row(3),
        "more than anybody remembers": row(5_000),
        "the end of time": row(1, received_at=events.LATEST_MS, item_at=[events.LATEST_MS]),
        "before time": row(1, received_at=0, item_at=[0]),
    }


def illegal(state: Experiment, at_ms: int) -> dict[str, bytes]:
    """Decodable decisions that are illegal next in an experiment with two or more arms, by kind."""
    pause = commands.pause(state, commands.Provenance("anna", at_ms))
    fields = json.loads(events.encode(pause))
    champion = state.champion
    invalid: dict[str, dict[str, Any]] = {
        "weights beyond numbers": {"kind": "allocate", "weights": dict.fromkeys(state.arms, 1e308)},
        "weights of strangers": {"weights": {"stranger": 1.0}},
        "no weights": {"weights": {}},
        "a weights version beyond all counting": {"weights_version": 10**400},
        "an unknown kind of rules": {"kind": "resume", "detail": {"rules": {"alpha": "much"}}},
        "a step of the ramp that is a text": {"kind": "allocate", "detail": {"ramp": {champion: "two"}}},
        "a model that is a list": {"kind": "enter", "detail": {"arm": "late", "model_version": ["m"]}},
        "a retraining of nothing": {"kind": "retrain", "detail": {}},
        "an arm that is a list": {"kind": "rollback", "detail": {"arm": [champion]}},
        "an undoing of a list": {"kind": "undo", "detail": {"reverts": [1]}},
    }
    return {
        name: json.dumps(fields | change, separators=(",", ":")).encode() for name, change in invalid.items()
    }
