"""A bounded queue in front of librdkafka, with a deadline for every record.

The producer of kafka-python runs in Python threads. Next to a busy event loop it took a fifth of the
throughput and doubled the slowest answers, because a thread that waits for the interpreter lock may stop the
loop for a switch interval (infra/adr/0006). librdkafka has threads and buffers of its own.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from services.errors import BadMessageError, ConfigurationError, RingsideError, UnavailableError
from services.messages.topics import TOPICS, topic_partitions
from services.ports.event_log import Record
from services.runtime.clock import wall_ms
from services.settings import Settings

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_MS = 10_000  # after which a request is sent again; idempotence keeps one copy
MAX_RECORD_BYTES = 1_048_576
STEP_S = 0.1  # longest wait of the thread, and so the precision of deadlines
FULL_S = 0.005  # wait of the thread while the buffers of librdkafka are full
RECHECK_S = 1.0  # between two checks whether a topic was recreated with the right number of partitions
MAX_METADATA_S = 1.0  # of a request for the topics; until a broker answers, deadlines are as imprecise
LOG_AFTER_S = 1.0  # a problem is logged if it lasts longer; connecting takes less
SETTLED_KEPT = 1_000  # settled entries that may stay behind an unsettled one, beyond as many as are unsettled


@dataclass(slots=True, eq=False)
class _Entry:
    future: "Future[Record]"
    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, str | bytes | None]]  # as the client types them
    sent_ms: int
    deadline: float  # time.monotonic()


class ProducerQueue:
    """Records with the same deadline. Each waits until its topic is checked, then goes to librdkafka, then is
    settled.

    timeout_s: time after which a record's future fails; linger_s: how long librdkafka may gather records.
    """

    def __init__(self, settings: Settings, timeout_s: float, linger_s: float):
        self._settings = settings
        self._timeout_s = timeout_s
        self._linger_s = linger_s
        self._queue_lock = threading.Lock()
        self._waiting: dict[str, deque[_Entry]] = {}  # by topic, so that a missing topic delays no other
        self._deadlines: deque[_Entry] = deque()  # ascending; settled entries are dropped from the left
        self._unsettled = 0
        self._count_lock = threading.Lock()
        self._idle = threading.Condition(self._count_lock)
        self._checked: frozenset[str] = frozenset()
        self._rejected: dict[str, ConfigurationError] = {}  # topics with a wrong number of partitions
        self._metadata_timeout_s = STEP_S
        self._check_at = 0.0  # time.monotonic() of the next check of the topics
        self._closing = False
        self._fatal = False
        self._problem = ""
        self._problem_since = 0.0
        self._problem_logged = False
        self._client = self._connect()
        self._thread = threading.Thread(target=self._run, name="ringside-producer", daemon=True)
        self._thread.start()

    def submit(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> "Future[Record]":
        """Queue a record; see EventProducer.send."""
        future: Future[Record] = Future()
        future.set_running_or_notify_cancel()  # a record that may be sent already cannot be cancelled
        raw = key.encode() if isinstance(key, str) else key
        now_ms, deadline = wall_ms(), time.monotonic() + self._timeout_s
        entry = _Entry(future, topic, raw, value, list(headers), now_ms, deadline)
        with self._queue_lock:
            if topic in self._rejected:  # at once, so that a slate can still say that it does not count
                future.set_exception(self._rejected[topic])
                return future
            if self._closing or self._unsettled >= self._settings.producer_queue:
                why = "the producer is closed" if self._closing else f"{self._unsettled} records are waiting"
                future.set_exception(UnavailableError("broker", f"{why}. {self._problem}".rstrip()))
                return future
            with self._count_lock:
                self._unsettled += 1
            self._deadlines.append(entry)
            if topic in self._waiting or topic not in self._checked or not self._produce(entry):
                self._waiting.setdefault(topic, deque()).append(entry)
        return future

    def flush(self, timeout_s: float) -> bool:
        """See EventProducer.flush."""
        with self._idle:
            return self._idle.wait_for(lambda: self._unsettled == 0, max(0.0, timeout_s))

    def close(self, timeout_s: float) -> None:
        """Flush, stop the thread, and fail the records that are left."""
        self.flush(timeout_s)
        with self._queue_lock:
            self._closing = True
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 (the thread must survive any error of its client)
                self._report(error)
                time.sleep(STEP_S)
        self._expire(everything=True)
        self._client.purge()
        self._client.poll(0)

    def _step(self) -> None:
        full = self._waiting and time.monotonic() >= self._check_at
        self._client.poll(FULL_S if full else STEP_S)  # settles records
        if time.monotonic() >= self._check_at and not self._all_checked():
            self._check_topics()
        with self._queue_lock:
            for topic in list(self._waiting):
                self._produce_waiting(topic)
        if self._fatal:
            self._replace_client()
        self._expire()

    def _all_checked(self) -> bool:
        with self._queue_lock:
            return bool(self._checked) and not self._rejected and self._waiting.keys() <= self._checked

    def _check_topics(self) -> None:
        """Find the topics that exist with the right number of partitions; fail the records of wrong ones."""
        try:
            described = self._client.list_topics(timeout=self._metadata_timeout_s).topics
        except KafkaException as error:  # no broker yet: records wait until their deadlines
            self._report(error.args[0])
            # The broker may only be slow.
            self._metadata_timeout_s = min(MAX_METADATA_S, 2 * self._metadata_timeout_s)
            return
        self._metadata_timeout_s = STEP_S
        existing = {topic: len(described[topic].partitions) for topic in TOPICS if topic in described}
        wanted = {topic: topic_partitions(topic, self._settings.kafka_partitions) for topic in existing}
        with self._queue_lock:
            self._checked = frozenset(topic for topic in existing if existing[topic] == wanted[topic])
            self._reject(
                {t: _wrong_partitions(t, existing[t], wanted[t]) for t in existing.keys() - self._checked}
            )
            missing = self._waiting.keys() - existing.keys()
        if missing:
            self._report(UnavailableError("broker", f"there is no topic {min(missing)}"))
            self._check_at = time.monotonic() + STEP_S

    def _reject(self, wrong: dict[str, ConfigurationError]) -> None:
        """Fail the waiting and future records of these topics; each topic is logged once."""
        for topic in wrong.keys() - self._rejected.keys():
            log.error("%s; nothing is written to it", wrong[topic])
        self._rejected = wrong
        if wrong:
            self._check_at = time.monotonic() + RECHECK_S
        for topic in self._waiting.keys() & wrong.keys():
            for entry in self._waiting[topic]:
                self._settle(entry, wrong[topic])

    def _produce_waiting(self, topic: str) -> None:
        """Give the waiting records of `topic` to librdkafka, in order, while it has room.

        Failed records are dropped, so that the queue does not grow while the topic or the broker is missing.
        """
        queue = self._waiting[topic]
        while queue and (queue[0].future.done() or (topic in self._checked and self._produce(queue[0]))):
            queue.popleft()
        if not queue:
            del self._waiting[topic]

    def _produce(self, entry: _Entry) -> bool:
        """Give a record to librdkafka; False if its buffers are full. The caller has `_queue_lock`."""
        partition: dict[str, Any] = {} if entry.key is not None else {"partition": 0}
        try:
            self._client.produce(
                entry.topic,
                entry.value,
                entry.key,
                headers=entry.headers or None,
                timestamp=entry.sent_ms,
                on_delivery=partial(self._delivered, entry),
                **partition,
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._failed(entry, error.args[0])
        return True

    def _connect(self) -> Producer:
        deadline_ms = round(self._timeout_s * 1_000)
        timeout_ms = min(deadline_ms, REQUEST_TIMEOUT_MS)
        return Producer(
            {
                "bootstrap.servers": self._settings.kafka_bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2",  # services.messages.topics.partition_of
                "linger.ms": round(self._linger_s * 1_000),
                "delivery.timeout.ms": deadline_ms,
                "request.timeout.ms": timeout_ms,
                "socket.timeout.ms": timeout_ms,
                "message.max.bytes": MAX_RECORD_BYTES,
                "queue.buffering.max.messages": max(self._settings.producer_queue, 1),
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "retry.backoff.ms": 50,
                "retry.backoff.max.ms": 500,
                "log_level": 0,  # problems are logged once, by _report
                "error_cb": self._report,
            }
        )

    def _replace_client(self) -> None:
        """Make a new client with a new producer id; a fatal error ended the idempotence of the old one."""
        with self._queue_lock:
            old, self._client, self._fatal = self._client, self._connect(), False
            self._checked = frozenset()
        old.purge()
        old.poll(0)  # fails the records that it still had

    def _delivered(self, entry: _Entry, error: KafkaError | None, where: Any) -> None:
        if error is not None:
            self._failed(entry, error)
            return
        by_broker = self._settings.kafka_mode == "kafka"  # the embedded broker has no append time
        append_ms = where.timestamp()[1] if by_broker else entry.sent_ms
        self._settle(entry, Record(entry.topic, where.partition(), where.offset(), append_ms, entry.key, b""))
        if self._problem_logged:
            log.warning("broker %s acknowledges again", self._settings.kafka_bootstrap)
        self._problem, self._problem_logged = "", False

    def _failed(self, entry: _Entry, error: KafkaError) -> None:
        self._fatal = self._fatal or error.fatal()
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            size = f"a record of {len(entry.value)} bytes is larger than the broker takes"
            self._settle(entry, BadMessageError(f"{entry.topic}: {size}", "too-large"))
            return
        self._report(error)
        self._settle(entry, UnavailableError("broker", f"{entry.topic} not acknowledged: {error.str()}"))

    def _expire(self, everything: bool = False) -> None:
        now = time.monotonic()
        with self._queue_lock:
            if len(self._deadlines) > 2 * self._unsettled + SETTLED_KEPT:  # behind an unsettled entry
                self._deadlines = deque(entry for entry in self._deadlines if not entry.future.done())
        queue = self._deadlines
        while queue and (everything or queue[0].future.done() or queue[0].deadline <= now):
            late = UnavailableError("broker", f"no acknowledgement in time. {self._problem}".rstrip())
            self._settle(queue.popleft(), late)

    def _settle(self, entry: _Entry, outcome: Record | RingsideError) -> None:
        try:
            if isinstance(outcome, Record):
                entry.future.set_result(outcome)
            else:
                entry.future.set_exception(outcome)
        except InvalidStateError:  # it failed at its deadline
            return
        with self._count_lock:
            self._unsettled -= 1
            if self._unsettled == 0:
                self._idle.notify_all()

    def _report(self, error: Exception | KafkaError) -> None:
        now = time.monotonic()
        self._problem_since = self._problem_since if self._problem else now
        self._problem = str(error)
        if not self._problem_logged and now - self._problem_since > LOG_AFTER_S:
            log.warning("broker %s: %s", self._settings.kafka_bootstrap, error)
            self._problem_logged = True


def _wrong_partitions(topic: str, count: int, wanted: int) -> ConfigurationError:
    return ConfigurationError(f"kafka_partitions: topic {topic} has {count} partitions, not {wanted}")
