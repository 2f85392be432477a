"""Records that wait until their topic is checked; librdkafka has its own queue and deadlines for the rest.

The producer of kafka-python runs in Python threads. Next to a busy event loop it took a fifth of the
throughput and doubled the slowest answers, because a thread that waits for the interpreter lock may stop the
loop for a switch interval (infra/adr/0006). librdkafka has threads and buffers of its own.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from services.errors import BadMessageError, ConfigurationError, UnavailableError
from services.messages.topics import TOPICS, topic_partitions
from services.ports.event_log import Record
from services.runtime.clock import wall_ms
from services.settings import Settings

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_MS = 10_000  # after which a request is sent again; idempotence keeps one copy
MAX_RECORD_BYTES = 1_048_576
STEP_S = 0.1  # longest wait of the thread
FLUSH_STEP_S = 0.005  # between two checks whether all records are settled
RECHECK_S = 1.0  # between two checks whether a topic was recreated with the right number of partitions
METADATA_S = 1.0  # longest wait for the list of topics, because a broker may be slow
LOG_AFTER_S = 1.0  # a problem is logged if it lasts longer; connecting takes less


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
    """Records with the same deadline. Each waits until its topic is checked, then goes to librdkafka.

    timeout_s: how long a record may wait for its topic, and then for its acknowledgement, before its future
    fails (librdkafka checks once a second); linger_s: how long librdkafka may gather records.
    """

    def __init__(self, settings: Settings, timeout_s: float, linger_s: float):
        self._settings = settings
        self._timeout_s = timeout_s
        self._linger_s = linger_s
        self._lock = threading.RLock()  # a future that fails may run a callback that sends
        self._unsettled = 0  # records whose futures are not done; len(client) also counts its error events
        self._waiting: dict[str, deque[_Entry]] = {}  # by topic, so that a missing topic delays no other
        self._checked: frozenset[str] = frozenset()
        self._rejected: dict[str, ConfigurationError] = {}  # topics with a wrong number of partitions
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
        with self._lock:
            count = self._unsettled
            self._unsettled += 1
            future.add_done_callback(self._settle)
            if topic in self._rejected:  # at once, so that a slate can still say that it does not count
                future.set_exception(self._rejected[topic])
            elif self._closing:
                self._fail(entry, "the producer is closed")
            elif count >= self._settings.producer_queue:
                self._fail(entry, f"{count} records are waiting")
            elif topic in self._checked and topic not in self._waiting:
                self._produce(entry)
            else:
                self._waiting.setdefault(topic, deque()).append(entry)
        return future

    def flush(self, timeout_s: float) -> bool:
        """See EventProducer.flush."""
        end = time.monotonic() + timeout_s
        while not (settled := self._is_settled()) and time.monotonic() < end:
            time.sleep(FLUSH_STEP_S)
        return settled

    def close(self, timeout_s: float) -> None:
        """Flush, stop the thread, and fail the records that are left."""
        self.flush(timeout_s)
        with self._lock:
            self._closing = True
        self._thread.join(2.0)

    def _is_settled(self) -> bool:
        with self._lock:
            return not self._unsettled

    def _settle(self, _: "Future[Record]") -> None:
        with self._lock:
            self._unsettled -= 1

    def _run(self) -> None:
        while not self._closing:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 (the thread must survive any error of its client)
                self._report(error)
                time.sleep(STEP_S)
        with self._lock:
            for topic in list(self._waiting):
                self._fail_waiting(topic, math.inf)
        _discard(self._client)

    def _step(self) -> None:
        self._client.poll(STEP_S)  # settles records
        if time.monotonic() >= self._check_at and not self._all_checked():
            self._check_topics()
        with self._lock:
            for topic in list(self._waiting):
                if topic in self._checked:
                    for entry in self._waiting.pop(topic):
                        self._produce(entry)
                else:
                    self._fail_waiting(topic, time.monotonic())
        if self._fatal:
            self._replace_client()

    def _all_checked(self) -> bool:
        with self._lock:
            return bool(self._checked) and not self._rejected and self._waiting.keys() <= self._checked

    def _check_topics(self) -> None:
        """Find the topics that exist with the right number of partitions; fail the records of wrong ones."""
        try:
            described = self._client.list_topics(timeout=METADATA_S).topics
        except KafkaException as error:  # no broker yet: records wait until their deadlines
            self._report(error.args[0])
            return
        existing = {topic: len(described[topic].partitions) for topic in TOPICS if topic in described}
        wanted = {topic: topic_partitions(topic, self._settings.kafka_partitions) for topic in existing}
        with self._lock:
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
            for entry in self._waiting.pop(topic):
                entry.future.set_exception(wrong[topic])

    def _fail_waiting(self, topic: str, now: float) -> None:
        """Fail the records of `topic` whose deadlines are before `now` (time.monotonic()), oldest first."""
        queue = self._waiting[topic]
        while queue and queue[0].deadline <= now:
            self._fail(queue.popleft(), "no acknowledgement in time")
        if not queue:
            del self._waiting[topic]

    def _produce(self, entry: _Entry) -> None:
        """Give a record to librdkafka. The caller has `_lock`."""
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
        except BufferError as error:
            self._fail(entry, str(error))
        except KafkaException as error:
            self._delivered(entry, error.args[0], None)

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
                "queue.buffering.max.messages": self._settings.producer_queue,
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
        with self._lock:
            old, self._client, self._fatal = self._client, self._connect(), False
            self._checked = frozenset()
        _discard(old)

    def _delivered(self, entry: _Entry, error: KafkaError | None, where: Any) -> None:
        if error is not None:
            self._fatal = self._fatal or error.fatal()
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                size = f"a record of {len(entry.value)} bytes is larger than the broker accepts"
                entry.future.set_exception(BadMessageError(f"{entry.topic}: {size}", "too-large"))
            else:
                self._report(error)
                self._fail(entry, f"{entry.topic} not acknowledged")
            return
        by_broker = self._settings.kafka_mode == "kafka"  # the embedded broker has no append time
        append_ms = where.timestamp()[1] if by_broker else entry.sent_ms
        entry.future.set_result(
            Record(entry.topic, where.partition(), where.offset(), append_ms, entry.key, b"")
        )
        if self._problem_logged:
            log.warning("broker %s acknowledges again", self._settings.kafka_bootstrap)
        self._problem, self._problem_logged = "", False

    def _fail(self, entry: _Entry, why: str) -> None:
        entry.future.set_exception(UnavailableError("broker", f"{why}. {self._problem}".rstrip()))

    def _report(self, error: Exception | KafkaError) -> None:
        now = time.monotonic()
        self._problem_since = self._problem_since if self._problem else now
        self._problem = str(error)
        if not self._problem_logged and now - self._problem_since > LOG_AFTER_S:
            log.warning("broker %s: %s", self._settings.kafka_bootstrap, error)
            self._problem_logged = True


def _discard(client: Producer) -> None:
    """Fail the records that `client` still has."""
    client.purge()
    client.flush(STEP_S)


def _wrong_partitions(topic: str, count: int, wanted: int) -> ConfigurationError:
    return ConfigurationError(f"kafka_partitions: topic {topic} has {count} partitions, not {wanted}")
