"""LogAdmin over kafka-python: topics, their settings, and the identity of the log."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient

from services.adapters.kafka.client import answering, connection
from services.errors import ConfigurationError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.messages.topics import LOG_ID_TOPIC, TOPICS, topic_configuration, topic_partitions
from services.settings import Settings

DEADLINE_MS = 10_000  # of one request; for finding the broker it is Settings.broker_ack_deadline_ms


LONGEST_WAIT_S = 60.0  # what the embedded broker keeps, about


class KafkaLogAdmin:
    """LogAdmin of the configured broker; connects anew for each call (they are few)."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def create_topics(self, partitions: int) -> list[str]:
        """Create what is missing; ConfigurationError if a topic has another number of partitions.

        The embedded broker makes its topics when it starts; there this only checks them.
        """
        with self._client() as client:
            there = _partitions(client.describe_topics())
            missing = [topic for topic in TOPICS if topic not in there]
            if missing:
                client.create_topics(_definitions(missing, partitions), wait_for_metadata=True)
        for topic in set(TOPICS) - set(missing):
            _check(topic, there[topic], topic_partitions(topic, partitions))
        return missing

    def check_partitions(self) -> None:
        """ConfigurationError if a topic that is there has another number of partitions than settings say.
        Raises UnavailableError."""
        with self._client() as client:
            there = _partitions(client.describe_topics(list(TOPICS)))
        for topic, count in there.items():
            _check(topic, count, topic_partitions(topic, self._settings.kafka_partitions))

    def delete_topics(self) -> None:
        """Delete Ringside's topics with everything in them, and wait until they are gone."""
        with self._client() as client:
            mine = [topic for topic in TOPICS if topic in client.list_topics()]
            if mine:
                client.delete_topics(mine)
            while any(topic in client.list_topics() for topic in mine):  # metadata lags behind the answer
                time.sleep(0.02)

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises UnavailableError, also when there is no such topic."""
        with self._client() as client:
            count = _partitions(client.describe_topics([topic])).get(topic, 0)
        if not count:
            raise UnavailableError(f"topic {topic}", "it does not exist; create it with `ringside topics`")
        return count

    def log_id(self, topics: Sequence[str] = (EXPOSURES, EVENTS)) -> str:
        """Embedded: the id in the name of the marker topic. Kafka: the ids of the cluster and of the topics,
        so that a topic that was deleted and made again is another log. Raises UnavailableError."""
        with self._client() as client:
            if self._settings.kafka_mode == "embedded":
                return _marker(client.list_topics())
            cluster = client.describe_cluster()["cluster_id"]
            found = client.describe_topics(list(topics))
        if any(topic["error_code"] for topic in found):
            raise UnavailableError(
                "broker", f"{' or '.join(topics)} does not exist; create them: `ringside topics`"
            )
        ids = {topic["name"]: topic["topic_id"] for topic in found}
        return "/".join([str(cluster), *(str(ids[topic]) for topic in topics)])

    @contextmanager
    def _client(self) -> Iterator[KafkaAdminClient]:
        with answering(self._settings):
            client = KafkaAdminClient(
                **connection(self._settings),
                request_timeout_ms=DEADLINE_MS,
                bootstrap_timeout_ms=self._settings.broker_ack_deadline_ms,
            )
            try:
                yield client
            finally:
                client.close()


def _partitions(described: Iterable[dict[str, Any]]) -> dict[str, int]:
    return {topic["name"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}


def _definitions(topics: list[str], partitions: int) -> dict[str, dict[str, Any]]:
    return {
        topic: {"num_partitions": topic_partitions(topic, partitions), "configs": topic_configuration(topic)}
        for topic in topics
    }


def _check(topic: str, has: int, wanted: int) -> None:
    if has != wanted:
        raise ConfigurationError(
            f"kafka_partitions: topic {topic} has {has} partitions, not {wanted}; that is fixed at creation. "
            f"Set RINGSIDE_KAFKA_PARTITIONS to what {EXPOSURES} and {EVENTS} have, or make the topics anew."
        )


def _marker(topics: Iterable[str]) -> str:
    for topic in topics:
        if topic.startswith(LOG_ID_TOPIC):
            return topic.removeprefix(LOG_ID_TOPIC)
    raise UnavailableError("embedded broker", "it names no log id; was it started by Ringside?")


def check_embedded_window(settings: Settings) -> None:
    """Raises ConfigurationError, saying what to do, when the embedded broker can't keep a whole window."""
    wait_s = settings.window_s + settings.lateness_s
    if settings.kafka_mode != "embedded" or wait_s <= LONGEST_WAIT_S:
        return
    raise ConfigurationError(
        f"window_s + lateness_s = {wait_s:g} s, but the embedded broker keeps about 5 MB a partition in "
        f"memory: exposures may be gone before they mature. Start Apache Kafka (`ringside kafka`, or `docker "
        f"compose up`) and set RINGSIDE_KAFKA_MODE=kafka and RINGSIDE_KAFKA_BOOTSTRAP; or, to try things "
        f"out, choose RINGSIDE_WINDOW_S and RINGSIDE_LATENESS_S with a sum of at most {LONGEST_WAIT_S:g} s."
    )
