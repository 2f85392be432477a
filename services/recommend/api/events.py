"""POST /events: attribute each row by its recommendation id and log it; answer after the broker has
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
from services.recommend import schemas
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.recommendation_id import RecommendationIds, Refusal
from services.web.problem import MalformedBodyError

_rows_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_row_decoder = msgspec.json.Decoder(schemas.EventIn)


@dataclass(frozen=True, slots=True)
class Rows:
    """A parsed request: accepted rows with their indices, and the rejected ones by index."""

    accepted: list[tuple[int, schemas.EventIn]]
    rejected: list[schemas.Rejection]


def parse(body: bytes) -> Rows:
    """Rows of a JSON list. Raises MalformedBodyError (not JSON), BadInputError (not a list, too long, all
    rows bad)."""
    try:
        raw = _rows_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadInputError("body", "must be a JSON list of events") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raw = _decode_leniently(body, error)
    if len(raw) > schemas.MAX_EVENTS:
        raise BadInputError("body", f"{len(raw)} events; at most {schemas.MAX_EVENTS} in one request")
    return _checked(raw)


def _decode_leniently(body: bytes, error: Exception) -> list[msgspec.Raw]:
    """Rows of a list in which some string is not valid text (a lone surrogate, which JSON.stringify lets
    through), so that only those rows are rejected. Raises MalformedBodyError for the decoder's `error` if the
    body is not JSON at all."""
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
            rows.accepted.append((index, _decoded(row)))
        except BadInputError as bad:
            rows.rejected.append(schemas.Rejection(index=index, field=bad.field, problem=bad.problem))
    return rows


def _decoded(row: msgspec.Raw) -> schemas.EventIn:
    """One row. Raises BadInputError naming the field."""
    try:
        event = _row_decoder.decode(row)
    except msgspec.ValidationError as error:
        raise schemas.bad_input(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError("body", str(error)) from error
    if (problem := schemas.ts_problem(event.ts_ms)) is not None:
        raise BadInputError("ts", problem)
    return event


class EventCollector:
    """Logs events of every experiment that is served."""

    def __init__(self, deps: Deps, ids: RecommendationIds, metrics: Metrics):
        self._experiments = frozenset(deps.settings.experiments.names())
        self._producer = deps.producer
        self._ack_deadline_s = deps.settings.broker_ack_deadline_ms / 1_000
        self._clock_ms = deps.clock_ms
        self._ids = ids
        self._metrics = metrics

    async def collect(self, body: bytes) -> schemas.EventsAnswer:
        """Log the accepted rows and wait for the broker.

        Raises BadInputError, or UnavailableError: then the same rows may be sent again, because `event_id`
        makes repeats harmless.
        """
        rows = parse(body)
        self._metrics.events("refused", len(rows.rejected))
        now_ms = self._clock_ms()
        results = [self._attribute(row, now_ms) for _, row in rows.accepted]
        await self._log(
            [_event(row, result, now_ms) for (_, row), result in zip(rows.accepted, results, strict=True)]
        )
        self._metrics.events("acknowledged", len(results))
        return schemas.EventsAnswer(
            accepted=len(results),
            attributed=sum(isinstance(result, Attribution) for result in results),
            unattributed=[
                schemas.Unattributed(index=index, reason=result)
                for (index, _), result in zip(rows.accepted, results, strict=True)
                if isinstance(result, Refusal)
            ],
            rejected=rows.rejected,
        )

    def _attribute(self, row: schemas.EventIn, now_ms: int) -> Attribution | Refusal | None:
        """The slate that the event counts for, why it counts for none, or None if it names none."""
        if not row.recommendation_id:
            return None
        result = self._ids.attribute(row.recommendation_id, row.item_id, self._experiments, now_ms)
        if isinstance(result, Refusal):
            self._metrics.unattributed(result.value)
        return result

    async def _log(self, events: list[Event]) -> None:
        futures = [self._producer.send(EVENTS, event.key, encode(event)) for event in events]
        try:
            await acknowledged(futures, self._ack_deadline_s)
        except UnavailableError:
            self._metrics.events("unavailable", len(events))
            raise


async def acknowledged(futures: Sequence["Future[Record]"], deadline_s: float) -> None:
    """Wait until the broker has all records. Raises UnavailableError if one failed or the deadline passed.

    The event loop wakes up once for the whole batch. `wrap_future` wakes it once a record, which takes three
    times as long for a hundred records.
    """
    if not futures:
        return
    loop = asyncio.get_running_loop()
    all_done = asyncio.Event()
    pending = len(futures)
    lock = threading.Lock()

    def done(_: "Future[Record]") -> None:  # on the producer's thread, or on this one
        nonlocal pending
        with lock:
            pending -= 1
            last = pending == 0
        if last:
            loop.call_soon_threadsafe(all_done.set)

    for future in futures:
        future.add_done_callback(done)
    try:
        await asyncio.wait_for(all_done.wait(), deadline_s)
    except TimeoutError:
        raise UnavailableError("broker", f"no acknowledgement within {deadline_s * 1e3:.0f} ms") from None
    for future in futures:
        if (error := future.exception()) is not None:
            raise UnavailableError("broker", str(error)) from error


def _event(row: schemas.EventIn, result: Attribution | Refusal | None, now_ms: int) -> Event:
    return Event(
        received_at=now_ms,
        event_id=row.event_id,
        type=row.type,
        item_id=row.item_id,
        user_id=row.user_id,
        session_id=row.session_id,
        value=row.value,
        ts=row.ts_ms,
        attribution=result if isinstance(result, Attribution) else None,
    )
