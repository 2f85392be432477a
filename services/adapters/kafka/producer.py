"""EventProducer over librdkafka: idempotent, behind a bounded queue, on its own threads.

There are two lanes, each with a thread and a connection, because not all records deserve the same patience:
somebody waits for the acknowledgement of an event or a decision, while an exposure may reach the log as long
as it counts.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from services.adapters.kafka.producer_queue import ProducerQueue
from services.messages.events import ACTIVITY, DEAD_LETTERS, EXPOSURES
from services.ports.event_log import Record
from services.settings import Settings

NOBODY_WAITS = frozenset({EXPOSURES, ACTIVITY, DEAD_LETTERS})
LINGER_S = 0.05  # of the patient lane: fewer, larger requests; at 1,400 records a second half the CPU of 5 ms


class KafkaEventProducer:
    """EventProducer to the configured broker. Starts without one and finds it when it comes (back)."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lanes: dict[bool, ProducerQueue] = {}
        self._lock = threading.Lock()

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """Queue a record. Its future fails with UnavailableError when the queue is full, or when the broker
        has not acknowledged within `broker_ack_deadline_ms` (exposures, activity rows, dead letters:
        `lateness_s`).

        A record whose future failed may still be in the log: a broker that hung can't be asked.
        """
        return self._lane(topic in NOBODY_WAITS).submit(topic, key, value, headers)

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is queued; False if that took longer."""
        end = time.monotonic() + timeout_s
        return all(lane.flush(end - time.monotonic()) for lane in list(self._lanes.values()))

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush and stop; what is left fails with UnavailableError. Idempotent."""
        end = time.monotonic() + timeout_s
        for lane in list(self._lanes.values()):
            lane.close(max(0.0, end - time.monotonic()))

    def _lane(self, patient: bool) -> "ProducerQueue":
        lane = self._lanes.get(patient)
        if lane is not None:
            return lane
        with self._lock:
            if patient not in self._lanes:
                prompt_s = self._settings.broker_ack_deadline_ms / 1_000
                patience_s = max(prompt_s, self._settings.lateness_s) if patient else prompt_s
                self._lanes[patient] = ProducerQueue(self._settings, patience_s, LINGER_S if patient else 0.0)
            return self._lanes[patient]
