"""One lane of the producer: a bounded queue, a thread that feeds kafka-python, and a deadline for every
record.

kafka-python's `send` blocks without metadata and its buffer has no bound, so records wait here instead.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    UnknownProducerIdError,
)

from services.adapters.kafka_client import connection
from services.adapters.topics import partition_of, topic_partitions
from services.errors import BadMessageError, ConfigurationError, RingsideError, UnavailableError
from services.ports import Record
from services.settings import Settings

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_MS = 10_000  # then a request is sent again; idempotence keeps one copy
METADATA_WAIT_MS = 100  # longest block of the thread, and so the precision of deadlines
TELL_AFTER_S = 1.0  # a connection being made is no news
# After these the client's idempotence is lost for good; a new client gets a new producer id.
FATAL = (
    InvalidProducerEpochError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    UnknownProducerIdError,
)


@dataclass(slots=True, eq=False)
class _Entry:
    future: "Future[Record]"
    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    sent_ms: int
    deadline: float  # time.monotonic()


class Lane:
    """Records of one patience, in order: waiting here → handed to kafka-python → settled.

    `patience_s`: after this a record's future fails. `linger_s`: how long the thread lets records gather.
    """

    def __init__(self, settings: Settings, patience_s: float, linger_s: float):
        self._settings = settings
        self._patience_s = patience_s
        self._linger_s = linger_s
        self._waiting: deque[_Entry] = deque()
        self._sent: deque[_Entry] = deque()  # ascending deadlines; settled ones are dropped from the left
        self._open = 0
        self._changed = threading.Condition()
        self._closing = False
        self._problem = ""
        self._problem_since = 0.0
        self._told = False
        self._broken = False
        self._client: KafkaProducer | None = None
        self._thread = threading.Thread(target=self._run, name="ringside-producer", daemon=True)
        self._thread.start()

    def submit(
        self, topic: str, key: str | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> "Future[Record]":
        """Queue a record; never blocks."""
        future: Future[Record] = Future()
        future.set_running_or_notify_cancel()  # nobody else may cancel what may already be on its way
        raw = None if key is None else key.encode()
        partition = partition_of(raw, topic_partitions(topic, self._settings.kafka_partitions))
        deadline = time.monotonic() + self._patience_s
        now_ms = time.time_ns() // 1_000_000
        entry = _Entry(future, topic, partition, raw, value, list(headers), now_ms, deadline)
        with self._changed:
            if self._closing or self._open >= self._settings.producer_queue:
                why = "the producer is closed" if self._closing else f"{self._open} records are waiting"
                future.set_exception(UnavailableError("broker", f"{why}. {self._problem}".rstrip()))
                return future
            self._open += 1
            self._waiting.append(entry)
            if not self._linger_s or len(self._waiting) == 1:
                self._changed.notify_all()
        return future

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued is settled."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, max(0.0, timeout_s))

    def close(self, timeout_s: float) -> None:
        """Flush, stop the thread, fail what is left."""
        self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(2.0)

    def _run(self) -> None:
        while self._next():
            try:
                self._deliver_waiting()
            except Exception as error:  # noqa: BLE001 (a lane must outlive whatever its client does)
                self._note(error)
                self._broken = True
                time.sleep(METADATA_WAIT_MS / 1_000)
            self._expire()
            if self._broken:
                self._drop_client()
        self._expire(everything=True)
        self._drop_client()

    def _next(self) -> bool:
        """Wait for something to do; False once closed."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(METADATA_WAIT_MS / 1_000 if self._sent else None)
            if self._closing:
                return False
        if self._linger_s:
            time.sleep(self._linger_s)
        return True

    def _deliver_waiting(self) -> None:
        while self._waiting and not self._closing:
            entry = self._waiting[0]
            if entry.deadline <= time.monotonic():
                return
            try:
                delivery = self._hand_over(entry)
            except (
                KafkaTimeoutError
            ) as error:  # no metadata yet: the entry keeps its place until its deadline
                self._note(error)
                return
            except (MessageSizeTooLargeError, ConfigurationError) as error:
                self._waiting.popleft()
                self._settle(entry, _refusal(entry, error))
                continue
            self._sent.append(self._waiting.popleft())
            delivery.add_callback(self._acknowledged, entry).add_errback(self._failed, entry)

    def _hand_over(self, entry: _Entry) -> Any:
        client = self._connected()
        there = len(client.partitions_for(entry.topic))
        wanted = topic_partitions(entry.topic, self._settings.kafka_partitions)
        if there != wanted:
            raise ConfigurationError(
                f"kafka_partitions: topic {entry.topic} has {there} partitions, not {wanted}"
            )
        return client.send(
            entry.topic,
            value=entry.value,
            key=entry.key,
            headers=entry.headers,
            partition=entry.partition,
            timestamp_ms=entry.sent_ms,
        )

    def _connected(self) -> KafkaProducer:
        if self._client is None:
            patience_ms = round(self._patience_s * 1_000)
            self._client = KafkaProducer(
                **connection(self._settings),
                acks="all",
                enable_idempotence=True,
                max_block_ms=METADATA_WAIT_MS,
                delivery_timeout_ms=patience_ms,
                request_timeout_ms=min(patience_ms, REQUEST_TIMEOUT_MS),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        return self._client

    def _drop_client(self) -> None:
        """Let go of the client; it fails what it still holds at the latest when its patience ends."""
        client, self._client, self._broken = self._client, None, False
        if client is not None:
            closing = threading.Thread(target=client.close, args=(self._patience_s,), daemon=True)
            closing.start()

    def _acknowledged(self, entry: _Entry, where: Any) -> None:
        by_broker = self._settings.kafka_mode == "kafka"  # the embedded broker has no append time
        append_ms = where.timestamp if by_broker else entry.sent_ms
        self._settle(entry, Record(entry.topic, where.partition, where.offset, append_ms, entry.key, b""))
        if self._told:
            log.warning("broker %s acknowledges again", self._settings.kafka_bootstrap)
        self._problem, self._told = "", False

    def _failed(self, entry: _Entry, error: Exception) -> None:
        self._note(error)
        self._broken = self._broken or isinstance(error, FATAL)
        self._settle(entry, UnavailableError("broker", f"{entry.topic} not acknowledged: {error}"))

    def _expire(self, everything: bool = False) -> None:
        now = time.monotonic()
        for queue in (self._sent, self._waiting):
            while queue and (everything or queue[0].future.done() or queue[0].deadline <= now):
                entry = queue.popleft()
                self._settle(
                    entry, UnavailableError("broker", f"no acknowledgement in time. {self._problem}".rstrip())
                )

    def _settle(self, entry: _Entry, outcome: Record | RingsideError) -> None:
        try:
            if isinstance(outcome, Record):
                entry.future.set_result(outcome)
            else:
                entry.future.set_exception(outcome)
        except InvalidStateError:  # its deadline was faster
            return
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _note(self, error: Exception) -> None:
        now = time.monotonic()
        self._problem_since = self._problem_since if self._problem else now
        self._problem = str(error)
        if not self._told and now - self._problem_since > TELL_AFTER_S:
            log.warning("broker %s: %s", self._settings.kafka_bootstrap, error)
            self._told = True


def _refusal(entry: _Entry, error: Exception) -> RingsideError:
    if isinstance(error, RingsideError):
        return error
    return BadMessageError(
        f"{entry.topic}: a record of {len(entry.value)} bytes is larger than the broker takes"
    )
