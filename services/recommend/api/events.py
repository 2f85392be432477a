"""POST /events: rows in, each attributed by its recommendation id, into the log; an answer only after it
acknowledged."""

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from services.errors import BadInputError, UnavailableError
from services.messages.events import EVENTS, Attribution, Event, encode
from services.ports.event_log import Record
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.recommendation_id import Refusal, Tokens
from services.recommend.schemas import (
    MAX_EVENTS,
    EventIn,
    EventsAnswer,
    Rejection,
    Unattributed,
    bad_input,
    clock_problem,
)
from services.web.problem import MalformedBodyError

_rows = msgspec.json.Decoder(list[msgspec.Raw])
_row = msgspec.json.Decoder(EventIn)


@dataclass(frozen=True, slots=True)
class Rows:
    """A parsed request: good rows with their indices, and the bad ones by index."""

    good: list[tuple[int, EventIn]]
    rejected: list[Rejection]


def parse(body: bytes) -> Rows:
    """Rows of a JSON list. Raises MalformedBodyError (not JSON), BadInputError (not a list, too long, all
    rows bad)."""
    try:
        raw = _rows.decode(body)
    except msgspec.ValidationError as error:
        raise BadInputError("body", "must be a JSON list of events") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raw = _leniently(body, error)
    if len(raw) > MAX_EVENTS:
        raise BadInputError("body", f"{len(raw)} events; at most {MAX_EVENTS} in one request")
    return _checked(raw)


def _leniently(body: bytes, error: Exception) -> list[msgspec.Raw]:
    """Rows of a list in which some string is no text (a lone surrogate, which JSON.stringify lets through):
    only those rows are bad. Raises MalformedBodyError for the reader's `error` if it is no JSON at all."""
    try:
        rows = json.loads(body)
        if isinstance(rows, list):
            return [msgspec.Raw(json.dumps(row).encode()) for row in rows]
    except (ValueError, RecursionError):
        pass
    raise MalformedBodyError(str(error)) from error


def _checked(raw: Sequence[msgspec.Raw]) -> Rows:
    rows = Rows([], [])
    for index, row in enumerate(raw):
        try:
            rows.good.append((index, _decoded(row)))
        except BadInputError as bad:
            rows.rejected.append(Rejection(index=index, field=bad.field, problem=bad.problem))
    return rows


def _decoded(row: msgspec.Raw) -> EventIn:
    """One row. Raises BadInputError naming the field."""
    try:
        event = _row.decode(row)
    except msgspec.ValidationError as error:
        raise bad_input(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError("body", str(error)) from error
    if (problem := clock_problem(event.ts_ms)) is not None:
        raise BadInputError("ts", problem)
    return event


class Collecting:
    """Takes events for one experiment."""

    def __init__(self, deps: Deps, tokens: Tokens, metrics: Metrics):
        self._experiment = deps.settings.experiments.default
        self._producer = deps.producer
        self._ack_deadline_s = deps.settings.broker_ack_deadline_ms / 1_000
        self._clock_ms = deps.clock_ms
        self._tokens = tokens
        self._metrics = metrics

    async def collect(self, body: bytes) -> EventsAnswer:
        """Log the good rows and wait for the broker. Raises BadInputError, or UnavailableError: then
        nothing is promised, and the same rows may be sent again (`event_id` makes that harmless)."""
        rows = parse(body)
        self._metrics.events("refused", len(rows.rejected))
        now_ms = self._clock_ms()
        found = [self._attribution(row, now_ms) for _, row in rows.good]
        await self._log([_event(row, said, now_ms) for (_, row), said in zip(rows.good, found, strict=True)])
        self._metrics.events("acknowledged", len(found))
        refused = [
            Unattributed(index=index, reason=why)
            for (index, _), why in zip(rows.good, found, strict=True)
            if isinstance(why, Refusal)
        ]
        return EventsAnswer(
            accepted=len(found),
            attributed=sum(isinstance(said, Attribution) for said in found),
            unattributed=refused,
            rejected=rows.rejected,
        )

    def _attribution(self, row: EventIn, now_ms: int) -> Attribution | Refusal | None:
        """What the event counts for, why it counts for nothing, or None if it names no slate."""
        if not row.recommendation_id:
            return None
        found = self._tokens.attribute(row.recommendation_id, row.item_id, self._experiment, now_ms)
        if isinstance(found, Refusal):
            self._metrics.unattributed(found.value)
        return found

    async def _log(self, events: list[Event]) -> None:
        futures = [self._producer.send(EVENTS, event.key, encode(event)) for event in events]
        try:
            await acknowledged(futures, self._ack_deadline_s)
        except UnavailableError:
            self._metrics.events("unavailable", len(events))
            raise


async def acknowledged(futures: Sequence["Future[Record]"], deadline_s: float) -> None:
    """Wait until the broker has all records. Raises UnavailableError when one failed or the deadline passed.

    One wake-up of the event loop for the whole batch: `wrap_future` wakes it once a record, which takes three
    times as long for a hundred.
    """
    if not futures:
        return
    loop = asyncio.get_running_loop()
    all_done = asyncio.Event()
    left = len(futures)
    counting = threading.Lock()

    def landed(_: "Future[Record]") -> None:  # on whichever thread settles a record
        nonlocal left
        with counting:
            left -= 1
            last = left == 0
        if last:
            loop.call_soon_threadsafe(all_done.set)

    for future in futures:
        future.add_done_callback(landed)
    try:
        await asyncio.wait_for(all_done.wait(), deadline_s)
    except TimeoutError:
        raise UnavailableError("broker", f"no acknowledgement within {deadline_s * 1e3:.0f} ms") from None
    for future in futures:
        if (error := future.exception()) is not None:
            raise UnavailableError("broker", str(error)) from error


def _event(row: EventIn, found: Attribution | Refusal | None, now_ms: int) -> Event:
    return Event(
        received_at=now_ms,
        event_id=row.event_id,
        type=row.type,
        item_id=row.item_id,
        user_id=row.user_id,
        session_id=row.session_id,
        value=row.value,
        ts=row.ts_ms,
        attribution=found if isinstance(found, Attribution) else None,
    )
