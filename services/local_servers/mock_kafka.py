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

from services.errors import UnavailableError
from services.local_servers.tcp_proxy import forwarding
from services.messages.topics import LOG_ID_TOPIC, TOPICS, topic_partitions

HOST = "127.0.0.1"
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


def _fixed(port: int) -> socket.socket:
    """A socket bound to `port`. Raises UnavailableError if somebody else has it."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError as error:
        found.close()
        raise UnavailableError("embedded broker", f"port {port}: {error.strerror}") from error
    return found


@contextlib.contextmanager
def reachable(partitions: int, port: int | None) -> Iterator[str]:
    """A cluster with a fresh log; yields the address at which clients find it.

    The mock listens where the system lets it; with `port`, clients are served through a forwarder there.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_fixed(port)) if port else None
        address = stack.enter_context(mock_cluster(partitions, uuid.uuid4().hex))
        if listening is None:
            yield address
            return
        host, own = address.split(":")
        stack.enter_context(forwarding(listening, (host, int(own))))
        yield f"{HOST}:{port}"


def main() -> None:
    """Run a broker until SIGTERM; the first line on stdout is its address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("partitions", type=int)
    parser.add_argument("--port", type=int)
    said = parser.parse_args()
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(
        signal.SIG_BLOCK, wanted
    )  # before librdkafka's threads start: they inherit the mask
    try:
        with reachable(said.partitions, said.port) as bootstrap:
            sys.stdout.write(f"{bootstrap}\n")
            sys.stdout.flush()
            signal.sigwait(wanted)
    except UnavailableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
