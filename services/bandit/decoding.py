"""Bytes to messages; what can't be read goes to `dead-letters` with its bytes, its reason and its origin."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from services import events
from services.bandit.counting import Fed
from services.errors import BadMessageError, UnavailableError
from services.ports import EventProducer, Record

logger = logging.getLogger(__name__)

KIND = {events.EXPOSURES: events.Exposure, events.EVENTS: events.Event}
_MORE_DEADLINE_S = 5.0


class Decoder:
    """Decodes records, and knows which dead letters the broker still has to acknowledge."""

    def __init__(self, producer: EventProducer):
        self._producer = producer
        self._unacknowledged: list[Future[Record]] = []

    def decode(self, records: Iterable[Record], is_counted: Callable[[str, int], bool]) -> list[Fed]:
        """(offset, append_ms, message) of every readable record. A bad one that was passed over and
        counted before, and is only read again, was buried then."""
        fed: list[Fed] = []
        for record in records:
            try:
                message = events.decode(KIND[record.topic], record.value)
            except BadMessageError as error:
                if not is_counted(record.topic, record.offset):
                    self._bury(record, str(error))
                continue
            fed.append((record.offset, record.append_ms, message))
        return fed

    def acknowledged(self) -> None:
        """Wait until every dead letter is safe: only then may positions pass the records they came from.
        Raises UnavailableError."""
        for future in self._unacknowledged:
            try:
                future.result(_MORE_DEADLINE_S)
            except (FutureTimeoutError, CancelledError) as error:
                raise UnavailableError(
                    "dead-letters", f"no acknowledgement in {_MORE_DEADLINE_S:g} s"
                ) from error
        self._unacknowledged.clear()

    def _bury(self, record: Record, reason: str) -> None:
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        logger.warning("%s is passed over: %s", origin, reason)
        headers = (("reason", reason.encode()), ("origin", origin.encode()), ("reader", b"bandit"))
        key = None if record.key is None else record.key.decode(errors="replace")
        self._unacknowledged.append(self._producer.send(events.DEAD_LETTERS, key, record.value, headers))
