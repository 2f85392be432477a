"""The process of the embedded broker: librdkafka's own mock cluster, from the confluent-kafka wheel.

`confluent_kafka` only exposes a cluster with default topics, so the C functions are called by name. Few
modules are imported, so that a broker starts in a tenth of a second.
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
    """Connect repeatedly while the block runs: the cluster's thread sometimes misses a command until its
    poll of one second ends, and a connection wakes it."""
    host, port = address.split(":")
    done = threading.Event()

    def connect() -> None:
        while not done.wait(0.005):
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), 1.0).close()

    connecting = threading.Thread(target=connect, daemon=True)
    connecting.start()
    yield
    done.set()
    connecting.join()


def _quiet_configuration(rdkafka: ctypes.CDLL) -> int:
    configuration = rdkafka.rd_kafka_conf_new()
    rdkafka.rd_kafka_conf_set(configuration, b"log_level", b"0", None, 0)
    return int(configuration)


def _rdkafka() -> ctypes.CDLL:
    """The C library, through the extension module that links it, with the types of the functions called."""
    wheel = importlib.util.find_spec("confluent_kafka")
    assert wheel is not None  # a dependency
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


def _bound_socket(port: int) -> socket.socket:
    """A socket bound to `port`. Raises UnavailableError if another process has the port."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError as error:
        bound.close()
        raise UnavailableError("embedded broker", f"port {port}: {error.strerror}") from error
    return bound


@contextlib.contextmanager
def running_broker(partitions: int, port: int | None) -> Iterator[str]:
    """Run a broker with an empty log; yields its address.

    The mock cluster listens on a port that the system chooses; with `port`, a proxy there forwards to it.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_bound_socket(port)) if port else None
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
    arguments = parser.parse_args()
    stopping = {signal.SIGTERM, signal.SIGINT}
    # before librdkafka's threads start, because they inherit the mask
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        with running_broker(arguments.partitions, arguments.port) as bootstrap:
            sys.stdout.write(f"{bootstrap}\n")
            sys.stdout.flush()
            signal.sigwait(stopping)
    except UnavailableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
