"""EventProducer over librdkafka: idempotent, behind bounded queues, on threads of its own.

There are two queues, each with a thread and a connection, because records need different deadlines. A caller
waits for the acknowledgement of an event or a decision, whereas an exposure may reach the log as long as it
counts.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from services.adapters.kafka.producer_queue import ProducerQueue
from services.messages.events import ACTIVITY, DEAD_LETTERS, EXPOSURES
from services.ports.event_log import Record
from services.settings import Settings

BACKGROUND_TOPICS = frozenset({EXPOSURES, ACTIVITY, DEAD_LETTERS})  # no caller waits for these records
LINGER_S = (
    0.05  # of background records: fewer, larger requests; at 1,400 records a second half the CPU of 5 ms
)


class KafkaEventProducer:
    """EventProducer to the configured broker. It starts without a broker and connects when there is one."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._queues: dict[bool, ProducerQueue] = {}
        self._lock = threading.Lock()

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """See EventProducer. The deadline is `broker_ack_deadline_ms`; `lateness_s` for BACKGROUND_TOPICS.

        A record whose future failed may be in the log nevertheless, because a broker that hung cannot be
        asked.
        """
        return self._queue(topic in BACKGROUND_TOPICS).submit(topic, key, value, headers)

    def flush(self, timeout_s: float) -> bool:
        """See EventProducer."""
        end = time.monotonic() + timeout_s
        return all(queue.flush(end - time.monotonic()) for queue in list(self._queues.values()))

    def close(self, timeout_s: float = 5.0) -> None:
        """See EventProducer. Records that are left fail with UnavailableError. Idempotent."""
        end = time.monotonic() + timeout_s
        for queue in list(self._queues.values()):
            queue.close(max(0.0, end - time.monotonic()))

    def _queue(self, background: bool) -> ProducerQueue:
        with self._lock:
            queue = self._queues.get(background)
            if queue is None:
                ack_s = self._settings.broker_ack_deadline_ms / 1_000
                timeout_s = max(ack_s, self._settings.lateness_s) if background else ack_s
                queue = ProducerQueue(self._settings, timeout_s, LINGER_S if background else 0.0)
                self._queues[background] = queue
            return queue
