"""What may lie on a topic that nobody meant: bytes that are no message, and messages that make no sense."""

import json
from typing import Any

from traffic import click, exposure

from experiments.experiment import Decision
from services import events

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
WORSE: dict[str, dict[str, Any]] = {  # what a good message becomes
    "a newer version": {"v": 2},
    "a version that is no number": {"v": "one"},
    "a negative time": {"received_at": -1},
    "a time in nanoseconds": {"received_at": 1_700_000_000_000_000_000},
    "a time without end": {"received_at": 10**40},
    "no time": {"received_at": None},
    "a time as text": {"received_at": "2026-01-01"},
}


UNBOUNDED = (events.DECISIONS,)  # whole numbers in them have no bounds: the fold judges decisions


def worse(topic: str, message: object) -> dict[str, bytes]:
    """`message` with one field that makes it unreadable, by what is wrong with it."""
    said = json.loads(events.encode(message))
    return {
        name: json.dumps(said | change).encode()
        for name, change in WORSE.items()
        if topic not in UNBOUNDED or not isinstance(change.get("received_at"), int)
    }


def good(topic: str, at_ms: int) -> Any:
    """One good message of a topic."""
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


def unreadable(topic: str, at_ms: int) -> dict[str, bytes]:
    """Records of `topic` that no reader can take for a message, by what is wrong."""
    return NO_MESSAGE | worse(topic, good(topic, at_ms))


def senseless(at_ms: int) -> dict[str, list[tuple[str, object]]]:
    """Readable messages that tell of something impossible or odd, by what: (topic, message) in log order.
    All are of units of their own."""
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
