"""The topic `dead-letters` as letters: what lies there, where it came from, and whether it was put back.

Anybody can write to a topic, so nothing of a record is believed: a letter without a readable origin is shown
as one. That a letter was put back is a record of the same topic (header `replayed`: its offset).
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from services.errors import UnavailableError
from services.messages.events import DEAD_LETTERS
from services.ports.event_log import EventConsumer, Record
from services.runtime.dead_letters import REPLAY_OF

PAIR = (DEAD_LETTERS, 0)
REPLAYED = "replayed"
POLL_S = 0.2
IDLE_S = 10.0  # without a record before the end: the broker is gone
DIGITS = 19  # of the largest offset
_ORIGIN = re.compile(rf"([^/]*)/([0-9]{{1,{DIGITS}}})/([0-9]{{1,{DIGITS}}})")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the buried record lay."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One letter. `cut`: size of a record that is not whole here, else 0; `replay_of`: the letter from which
    the buried record had been put back; `replayed_ms`: when this one, or a copy of it, was put back."""

    offset: int
    at_ms: int
    key: bytes | None
    value: bytes
    origin: Origin | None
    reason: str
    code: str
    reader: str
    cut: int = 0
    replay_of: int | None = None
    replayed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: of an origin topic, whose code or reason holds a text, at these offsets; empty: all."""

    topic: str = ""
    reason: str = ""
    offsets: frozenset[int] = frozenset()

    def __call__(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        of_topic = not self.topic or (letter.origin is not None and letter.origin.topic == self.topic)
        told = f"{letter.code} {letter.reason}".lower()
        at = not self.offsets or letter.offset in self.offsets
        return of_topic and at and self.reason.lower() in told


def letters(consumer: EventConsumer, newest: int) -> tuple[list[Letter], int]:
    """The letters among the `newest` records, oldest first, and how many records before them were not looked
    at. Raises UnavailableError."""
    start, end = consumer.bounds(*PAIR)
    first = max(start, end - newest)
    found: dict[int, Letter] = {}
    put_back: dict[int, int] = {}
    for record in _records(consumer, first, end):
        of = _number(_headers(record).get(REPLAYED))
        if of is not None:
            put_back[of] = record.append_ms
        else:
            found[record.offset] = letter_of(record)
    return list(_told_of_replays(found, put_back)), first - start


def letter_of(record: Record) -> Letter:
    """A record of the topic as a letter, whatever it is."""
    headers = _headers(record)

    def text(name: str) -> str:
        return headers.get(name, b"").decode(errors="replace")

    return Letter(
        offset=record.offset,
        at_ms=record.append_ms,
        key=record.key,
        value=record.value,
        origin=_origin(text("origin")),
        reason=text("reason"),
        code=text("code"),
        reader=text("reader"),
        cut=_number(headers.get("cut")) or 0,
        replay_of=_number(headers.get(REPLAY_OF)),
    )


def _told_of_replays(found: dict[int, Letter], put_back: dict[int, int]) -> Iterator[Letter]:
    """A record may have several letters (a worker died between letter and position): one put back is all."""
    by_origin = {found[offset].origin: at_ms for offset, at_ms in put_back.items() if offset in found}
    for offset, letter in found.items():
        at_ms = put_back.get(offset) or (letter.origin and by_origin.get(letter.origin))
        yield replace(letter, replayed_ms=at_ms) if at_ms else letter


def _records(consumer: EventConsumer, first: int, end: int) -> Iterable[Record]:
    consumer.assign({PAIR: first})
    heard = time.monotonic()
    while (at := consumer.positions().get(PAIR, first)) < end:
        records = consumer.poll(POLL_S)
        heard = time.monotonic() if records else heard
        yield from (record for record in records if record.offset < end)
        if time.monotonic() - heard > IDLE_S:
            raise UnavailableError(DEAD_LETTERS, f"nothing came after offset {at} for {IDLE_S:g} s")


def _headers(record: Record) -> dict[str, bytes]:
    return dict(record.headers)


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and len(text) <= DIGITS and text.isdigit() else None


def _origin(text: str) -> Origin | None:
    found = _ORIGIN.fullmatch(text)
    return Origin(found[1], int(found[2]), int(found[3])) if found else None
