"""Connection options and translation of errors, for every client of kafka-python."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka.errors import KafkaError

from services.errors import UnavailableError
from services.settings import Settings

# Version of the protocol. It is always set, because otherwise a client's constructor blocks until a broker
# answers.
API_VERSION = {"embedded": (2, 3), "kafka": (4, 0)}


def connection(settings: Settings) -> dict[str, Any]:
    """Options of every client. A client reconnects within a second after the broker's return."""
    return {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "api_version": API_VERSION[settings.kafka_mode],
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 500,
        "retry_backoff_ms": 50,
    }


@contextmanager
def kafka_errors(settings: Settings) -> Iterator[None]:
    """Translate errors of the client to UnavailableError."""
    try:
        yield
    except (KafkaError, OSError) as error:
        name, message = type(error).__name__, str(error)
        problem = message if message.startswith(name) else f"{name}: {message}"
        raise UnavailableError(f"broker {settings.kafka_bootstrap}", problem) from error
