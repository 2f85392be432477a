"""Reading the topic `dead-letters`: each dead letter, its source record, and whether it was replayed.

Any client can write to the topic, so a record is never trusted: one whose headers can't be parsed is still
returned, as a dead letter without a source. A replay is recorded on the same topic, by a record whose header
`replayed` is the offset of the dead letter.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from services.errors import UnavailableError
from services.messages.events import DEAD_LETTERS
from services.ports.event_log import EventConsumer, Record
from services.runtime.dead_letters import REPLAY_OF

PAIR = (DEAD_LETTERS, 0)
REPLAYED = "replayed"
POLL_S = 0.2
IDLE_S = 10.0  # without a record before the end of the topic, after which the broker counts as gone
DIGITS = 19  # of the largest offset
_SOURCE = re.compile(rf"[^/]*/[0-9]{{1,{DIGITS}}}/[0-9]{{1,{DIGITS}}}")
_JSON_NAMES = {"source": "origin", "key": "key_base64", "value": "value_base64"}


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, rename=_JSON_NAMES):
    """One dead letter. key, value: of the source record; `source`: topic/partition/offset of it; `cut`: its
    size if it was truncated, else 0; `replay_of`: the dead letter of which the source record was a replay;
    `replayed_ms`: when this dead letter, or another one of the same source record, was replayed.

    As JSON it is a line of `ringside dead-letters show --json`.
    """

    offset: int
    at_ms: int
    key: bytes | None
    value: bytes
    source: str | None
    reason: str
    code: str
    reader: str
    cut: int = 0
    replay_of: int | None = None
    replayed_ms: int | None = None

    @property
    def topic(self) -> str:
        """Topic of the source record; empty if that is unknown."""
        return (self.source or "").partition("/")[0]


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """A selection of dead letters. topic: of the source record; reason: text that code or reason contains;
    offsets: of the dead letters. What is empty selects all."""

    topic: str = ""
    reason: str = ""
    offsets: frozenset[int] = frozenset()

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether `letter` is selected."""
        by_topic = self.topic in ("", letter.topic)
        by_reason = self.reason.lower() in f"{letter.code} {letter.reason}".lower()
        return by_topic and by_reason and (not self.offsets or letter.offset in self.offsets)


def read_dead_letters(consumer: EventConsumer, newest: int) -> tuple[list[DeadLetter], int]:
    """Read the dead letters among the `newest` records of the topic, oldest first.

    Returns them with the number of older records that were not read. Raises UnavailableError.
    """
    start, end = consumer.bounds(*PAIR)
    first = max(start, end - newest)
    letters: dict[int, DeadLetter] = {}
    replayed: dict[int, int] = {}  # offset of a dead letter -> when it was replayed, ms
    for record in _records(consumer, first, end):
        of = _number(dict(record.headers).get(REPLAYED))
        if of is not None:
            replayed[of] = record.append_ms
        else:
            letters[record.offset] = parse(record)
    return list(_mark_replayed(letters, replayed)), first - start


def parse(record: Record) -> DeadLetter:
    """Parse any record of the topic; headers that are missing or malformed become empty values."""
    headers = dict(record.headers)

    def text(name: str) -> str:
        return headers.get(name, b"").decode(errors="replace")

    return DeadLetter(
        offset=record.offset,
        at_ms=record.append_ms,
        key=record.key,
        value=record.value,
        source=text("origin") if _SOURCE.fullmatch(text("origin")) else None,
        reason=text("reason"),
        code=text("code"),
        reader=text("reader"),
        cut=_number(headers.get("cut")) or 0,
        replay_of=_number(headers.get(REPLAY_OF)),
    )


def _mark_replayed(letters: dict[int, DeadLetter], replayed: dict[int, int]) -> Iterator[DeadLetter]:
    """Set `replayed_ms`. A record may have several dead letters, because a worker may crash after it sent one
    and before it stored its position; a replay of one of them counts for all."""
    by_source = {letters[offset].source: at_ms for offset, at_ms in replayed.items() if offset in letters}
    for offset, letter in letters.items():
        at_ms = replayed.get(offset) or (letter.source and by_source.get(letter.source))
        yield msgspec.structs.replace(letter, replayed_ms=at_ms) if at_ms else letter


def _records(consumer: EventConsumer, first: int, end: int) -> Iterator[Record]:
    consumer.assign({PAIR: first})
    progress_s = time.monotonic()
    while (at := consumer.positions().get(PAIR, first)) < end:
        records = consumer.poll(POLL_S)
        progress_s = time.monotonic() if records else progress_s
        yield from (record for record in records if record.offset < end)
        if time.monotonic() - progress_s > IDLE_S:
            raise UnavailableError(DEAD_LETTERS, f"nothing came after offset {at} for {IDLE_S:g} s")


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and len(text) <= DIGITS and text.isdigit() else None
