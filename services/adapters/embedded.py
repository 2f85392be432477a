"""Servers that come with Ringside's wheels, so that nothing else has to be installed for the first minute."""

from services.adapters.embedded_broker import EmbeddedBroker, check_embedded_window
from services.adapters.embedded_redis import EmbeddedRedis, redis_executable

__all__ = ["EmbeddedBroker", "EmbeddedRedis", "check_embedded_window", "redis_executable"]
