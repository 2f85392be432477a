"""One lane of the producer: librdkafka (its own threads and buffers) behind a bound, with a deadline for
every record.

kafka-python's producer runs in Python threads: beside a busy event loop it took a fifth of the throughput
and doubled the slowest answers, because a thread that wants the interpreter lock may hold the loop up for its
switch interval (infra/adr/0006).
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

REQUEST_TIMEOUT_MS = 10_000  # then a request is sent again; idempotence keeps one copy
LARGEST_BYTES = 1_048_576  # of a record
TURN_S = 0.1  # longest block of the thread, and so the precision of deadlines
FULL_S = 0.005  # block of the thread while librdkafka's buffers have no room for what waits here
REFUSED_ASK_S = 1.0  # between two looks whether a topic was made anew with the right number of partitions
LONGEST_ASK_S = 1.0  # for the topics; deadlines are as imprecise until a broker has answered once
TELL_AFTER_S = 1.0  # a connection being made is no news
SETTLED_KEPT = 1_000  # entries that may wait behind an open one, beyond as many as are open


@dataclass(slots=True, eq=False)
class _Entry:
    future: "Future[Record]"
    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    sent_ms: int
    deadline: float  # time.monotonic()


class ProducerQueue:
    """Records of one patience, in order of their topic: waiting here until it is known to be right →
    librdkafka → settled.

    `patience_s`: after this a record's future fails. `linger_s`: how long records may gather.
    """

    def __init__(self, settings: Settings, patience_s: float, linger_s: float):
        self._settings = settings
        self._patience_s = patience_s
        self._linger_s = linger_s
        self._sending = threading.Lock()
        self._waiting: dict[str, deque[_Entry]] = {}  # by topic: a missing one holds nobody else up
        self._deadlines: deque[_Entry] = deque()  # ascending; settled ones are dropped from the left
        self._open = 0
        self._counting = threading.Lock()
        self._idle = threading.Condition(self._counting)
        self._checked: frozenset[str] = frozenset()
        self._refused: dict[str, ConfigurationError] = {}  # topics that are not as everybody counts on
        self._asking_s = TURN_S
        self._ask_at = 0.0  # time.monotonic(): not before then again
        self._closing = False
        self._broken = False
        self._problem = ""
        self._problem_since = 0.0
        self._told = False
        self._client = self._connect()
        self._thread = threading.Thread(target=self._run, name="ringside-producer", daemon=True)
        self._thread.start()

    def submit(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> "Future[Record]":
        """Queue a record; never blocks."""
        future: Future[Record] = Future()
        future.set_running_or_notify_cancel()  # nobody else may cancel what may already be on its way
        raw = key.encode() if isinstance(key, str) else key
        now_ms, deadline = wall_ms(), time.monotonic() + self._patience_s
        entry = _Entry(future, topic, raw, value, list(headers), now_ms, deadline)
        with self._sending:
            if topic in self._refused:  # at once: a slate can still say that it does not count
                future.set_exception(self._refused[topic])
                return future
            if self._closing or self._open >= self._settings.producer_queue:
                why = "the producer is closed" if self._closing else f"{self._open} records are waiting"
                future.set_exception(UnavailableError("broker", f"{why}. {self._problem}".rstrip()))
                return future
            with self._counting:
                self._open += 1
            self._deadlines.append(entry)
            if topic in self._waiting or topic not in self._checked or not self._handed_over(entry):
                self._waiting.setdefault(topic, deque()).append(entry)
        return future

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued is settled."""
        with self._idle:
            return self._idle.wait_for(lambda: self._open == 0, max(0.0, timeout_s))

    def close(self, timeout_s: float) -> None:
        """Flush, stop the thread, fail what is left."""
        self.flush(timeout_s)
        with self._sending:
            self._closing = True
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 (a lane must outlive whatever its client does)
                self._note(error)
                time.sleep(TURN_S)
        self._expire(everything=True)
        self._client.purge()
        self._client.poll(0)

    def _turn(self) -> None:
        self._client.poll(FULL_S if self._waiting and time.monotonic() >= self._ask_at else TURN_S)  # settles
        if time.monotonic() >= self._ask_at and not self._all_checked():
            self._check_topics()
        with self._sending:
            for topic in list(self._waiting):
                self._hand_over(topic)
        if self._broken:
            self._replace_client()
        self._expire()

    def _all_checked(self) -> bool:
        with self._sending:
            return bool(self._checked) and not self._refused and self._waiting.keys() <= self._checked

    def _check_topics(self) -> None:
        """Which topics are there with the partitions that everybody counts on? What is for one that has
        others fails."""
        try:
            found = self._client.list_topics(timeout=self._asking_s).topics
        except KafkaException as error:  # no broker yet: all keep their places until their deadlines
            self._note(error.args[0])
            self._asking_s = min(LONGEST_ASK_S, 2 * self._asking_s)  # or one that is slow
            return
        self._asking_s = TURN_S
        there = {topic: len(found[topic].partitions) for topic in TOPICS if topic in found}
        wanted = {topic: topic_partitions(topic, self._settings.kafka_partitions) for topic in there}
        with self._sending:
            self._checked = frozenset(topic for topic in there if there[topic] == wanted[topic])
            self._refuse({t: _wrong_partitions(t, there[t], wanted[t]) for t in there.keys() - self._checked})
            missing = self._waiting.keys() - there.keys()
        if missing:
            self._note(UnavailableError("broker", f"there is no topic {min(missing)}"))
            self._ask_at = time.monotonic() + TURN_S

    def _refuse(self, wrong: dict[str, ConfigurationError]) -> None:
        """What waits for these topics, and what comes; each is said once for as long as it lasts."""
        for topic in wrong.keys() - self._refused.keys():
            log.error("%s; nothing is written to it", wrong[topic])
        self._refused = wrong
        if wrong:
            self._ask_at = time.monotonic() + REFUSED_ASK_S
        for topic in self._waiting.keys() & wrong.keys():
            for entry in self._waiting[topic]:
                self._settle(entry, wrong[topic])

    def _hand_over(self, topic: str) -> None:
        """What waits for `topic`, in order, as far as it may go and there is room. What has failed meanwhile
        is dropped: nothing gathers here while a topic or the broker is missing."""
        queue = self._waiting[topic]
        while queue and (queue[0].future.done() or (topic in self._checked and self._handed_over(queue[0]))):
            queue.popleft()
        if not queue:
            del self._waiting[topic]

    def _handed_over(self, entry: _Entry) -> bool:
        """Give a record to librdkafka; False if its buffers are full. Called by one thread at a time."""
        more: dict[str, Any] = {} if entry.key is not None else {"partition": 0}
        try:
            self._client.produce(
                entry.topic,
                entry.value,
                entry.key,
                headers=entry.headers or None,
                timestamp=entry.sent_ms,
                on_delivery=partial(self._delivered, entry),
                **more,
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._failed(entry, error.args[0])
        return True

    def _connect(self) -> Producer:
        patience_ms = round(self._patience_s * 1_000)
        timeout_ms = min(patience_ms, REQUEST_TIMEOUT_MS)
        return Producer(
            {
                "bootstrap.servers": self._settings.kafka_bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2",  # services.messages.topics.partition_of
                "linger.ms": round(self._linger_s * 1_000),
                "delivery.timeout.ms": patience_ms,
                "request.timeout.ms": timeout_ms,
                "socket.timeout.ms": timeout_ms,
                "message.max.bytes": LARGEST_BYTES,
                "queue.buffering.max.messages": max(self._settings.producer_queue, 1),
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "retry.backoff.ms": 50,
                "retry.backoff.max.ms": 500,
                "log_level": 0,  # what is wrong is told once, below
                "error_cb": self._note,
            }
        )

    def _replace_client(self) -> None:
        """After a fatal error a client's idempotence is lost for good; a new one gets a new producer id."""
        with self._sending:
            old, self._client, self._broken = self._client, self._connect(), False
            self._checked = frozenset()
        old.purge()
        old.poll(0)  # what it still held fails now

    def _delivered(self, entry: _Entry, error: KafkaError | None, where: Any) -> None:
        if error is not None:
            self._failed(entry, error)
            return
        by_broker = self._settings.kafka_mode == "kafka"  # the embedded broker has no append time
        append_ms = where.timestamp()[1] if by_broker else entry.sent_ms
        self._settle(entry, Record(entry.topic, where.partition(), where.offset(), append_ms, entry.key, b""))
        if self._told:
            log.warning("broker %s acknowledges again", self._settings.kafka_bootstrap)
        self._problem, self._told = "", False

    def _failed(self, entry: _Entry, error: KafkaError) -> None:
        self._broken = self._broken or error.fatal()
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            size = f"a record of {len(entry.value)} bytes is larger than the broker takes"
            self._settle(entry, BadMessageError(f"{entry.topic}: {size}", "too-large"))
            return
        self._note(error)
        self._settle(entry, UnavailableError("broker", f"{entry.topic} not acknowledged: {error.str()}"))

    def _expire(self, everything: bool = False) -> None:
        now = time.monotonic()
        with self._sending:
            if len(self._deadlines) > 2 * self._open + SETTLED_KEPT:  # those behind one that is stuck
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
        except InvalidStateError:  # its deadline was faster
            return
        with self._counting:
            self._open -= 1
            if self._open == 0:
                self._idle.notify_all()

    def _note(self, error: Exception | KafkaError) -> None:
        now = time.monotonic()
        self._problem_since = self._problem_since if self._problem else now
        self._problem = str(error)
        if not self._told and now - self._problem_since > TELL_AFTER_S:
            log.warning("broker %s: %s", self._settings.kafka_bootstrap, error)
            self._told = True


def _wrong_partitions(topic: str, there: int, wanted: int) -> ConfigurationError:
    return ConfigurationError(f"kafka_partitions: topic {topic} has {there} partitions, not {wanted}")
