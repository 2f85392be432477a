"""The embedded broker: librdkafka's own mock cluster, from the confluent-kafka wheel, in a child process.

It speaks the real protocol over TCP and keeps everything in memory: about 5 MB a partition, then the oldest
records vanish; no topic settings, no look-up by time, one member a group. For windows of seconds: the first
minute, the demo, tests without Java. A topic named `ringside-log-<uuid>` is its identity, so a restarted
broker is known to be another log. `confluent_kafka` only exposes a cluster with default topics, so the C
functions are called by name.
"""

import argparse
import contextlib
import ctypes
import signal
import sys
import uuid
from collections.abc import Iterator

from services.adapters.server import Server
from services.adapters.topics import LOG_ID_TOPIC, TOPICS, topic_partitions
from services.errors import ConfigurationError, UnavailableError
from services.settings import Settings

LONGEST_WAIT_S = 60.0
_PRODUCER = 0


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


class EmbeddedBroker:
    """A running embedded broker; `bootstrap` is its address, for `Settings.kafka_bootstrap`."""

    def __init__(self, partitions: int = 4):
        self.partitions = partitions
        self.server = Server([sys.executable, "-m", "services.adapters.embedded_broker", str(partitions)])
        self.bootstrap = self.server.read_line()
        if not self.bootstrap:
            self.server.stop()
            raise UnavailableError("embedded broker", "it did not start; its reason is on stderr")

    def stop(self) -> None:
        """Stop; idempotent."""
        self.server.stop()

    def __enter__(self) -> "EmbeddedBroker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def mock_cluster(partitions: int, log_id: str) -> Iterator[str]:
    """A cluster of one broker in this process with Ringside's topics; yields its bootstrap address."""
    rdkafka = _rdkafka()
    handle = rdkafka.rd_kafka_new(_PRODUCER, _quiet_configuration(rdkafka), None, 0)
    cluster = rdkafka.rd_kafka_mock_cluster_new(handle, 1)
    if not cluster:
        raise UnavailableError("embedded broker", "librdkafka could not start its mock cluster")
    try:
        for topic in TOPICS:
            rdkafka.rd_kafka_mock_topic_create(
                cluster, topic.encode(), topic_partitions(topic, partitions), 1
            )
        rdkafka.rd_kafka_mock_topic_create(cluster, f"{LOG_ID_TOPIC}{log_id}".encode(), 1, 1)
        yield rdkafka.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    finally:
        rdkafka.rd_kafka_mock_cluster_destroy(cluster)
        rdkafka.rd_kafka_destroy(handle)


def _quiet_configuration(rdkafka: ctypes.CDLL) -> int:
    configuration = rdkafka.rd_kafka_conf_new()
    rdkafka.rd_kafka_conf_set(configuration, b"log_level", b"0", None, 0)
    return int(configuration)


def _rdkafka() -> ctypes.CDLL:
    """The C library, found through the extension module that links it; pointers need their types declared."""
    from confluent_kafka import cimpl

    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (ctypes.c_int, [pointer, text, text, text, size]),
        "rd_kafka_new": (pointer, [ctypes.c_int, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, ctypes.c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (ctypes.c_int, [pointer, text, ctypes.c_int, ctypes.c_int]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def main() -> None:
    """Run a broker until SIGTERM; the first line on stdout is its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("partitions", type=int)
    partitions = parser.parse_args().partitions
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(
        signal.SIG_BLOCK, wanted
    )  # before librdkafka's threads start: they inherit the mask
    with mock_cluster(partitions, uuid.uuid4().hex) as bootstrap:
        sys.stdout.write(f"{bootstrap}\n")
        sys.stdout.flush()
        signal.sigwait(wanted)


if __name__ == "__main__":
    main()
