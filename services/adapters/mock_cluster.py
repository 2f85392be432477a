"""The process of the embedded broker: librdkafka's own mock cluster, from the confluent-kafka wheel.

`confluent_kafka` only exposes a cluster with default topics, so the C functions are called by name. Little is
imported here: a broker should be up in a tenth of a second.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from services.adapters.topics import LOG_ID_TOPIC, TOPICS, topic_partitions
from services.errors import UnavailableError

_PRODUCER = 0


@contextlib.contextmanager
def mock_cluster(partitions: int, log_id: str) -> Iterator[str]:
    """A cluster of one broker in this process with Ringside's topics; yields its bootstrap address."""
    rdkafka = _rdkafka()
    handle = rdkafka.rd_kafka_new(_PRODUCER, _quiet_configuration(rdkafka), None, 0)
    cluster = rdkafka.rd_kafka_mock_cluster_new(handle, 1)
    if not cluster:
        raise UnavailableError("embedded broker", "librdkafka could not start its mock cluster")
    address = rdkafka.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    counts = {topic: topic_partitions(topic, partitions) for topic in TOPICS} | {f"{LOG_ID_TOPIC}{log_id}": 1}
    try:
        with _kept_awake(address):
            for topic, count in counts.items():
                rdkafka.rd_kafka_mock_topic_create(cluster, topic.encode(), count, 1)
        yield address
    finally:
        rdkafka.rd_kafka_mock_cluster_destroy(cluster)
        rdkafka.rd_kafka_destroy(handle)


@contextlib.contextmanager
def _kept_awake(address: str) -> Iterator[None]:
    """The cluster's thread now and then misses a command until its poll of a second ends; a connection wakes
    it."""
    host, port = address.split(":")
    done = threading.Event()

    def knock() -> None:
        while not done.wait(0.005):
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), 1.0).close()

    knocking = threading.Thread(target=knock, daemon=True)
    knocking.start()
    yield
    done.set()
    knocking.join()


def _quiet_configuration(rdkafka: ctypes.CDLL) -> int:
    configuration = rdkafka.rd_kafka_conf_new()
    rdkafka.rd_kafka_conf_set(configuration, b"log_level", b"0", None, 0)
    return int(configuration)


def _rdkafka() -> ctypes.CDLL:
    """The C library, reached through the extension module that links it; pointers need their types told."""
    wheel = importlib.util.find_spec("confluent_kafka")
    extensions = [
        path for folder in wheel.submodule_search_locations or [] for path in Path(folder).glob("cimpl*")
    ]
    library = ctypes.CDLL(str(extensions[0]))
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
