"""What every Kafka client of Ringside has in common: how it connects, and how its errors are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka.errors import KafkaError

from services.errors import UnavailableError
from services.settings import Settings

# The protocol spoken. Always set: without it a client's constructor blocks until a broker answers.
API_VERSION = {"embedded": (2, 3), "kafka": (4, 0)}


def connection(settings: Settings) -> dict[str, Any]:
    """Options of every client: where, which protocol, and back within a second of the broker's return."""
    return {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "api_version": API_VERSION[settings.kafka_mode],
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 500,
        "retry_backoff_ms": 50,
    }


@contextmanager
def answering(settings: Settings) -> Iterator[None]:
    """Turn what the client raises when the broker doesn't answer into UnavailableError."""
    try:
        yield
    except (KafkaError, OSError) as error:
        name, said = type(error).__name__, str(error)
        problem = said if said.startswith(name) else f"{name}: {said}"
        raise UnavailableError(f"broker {settings.kafka_bootstrap}", problem) from error
