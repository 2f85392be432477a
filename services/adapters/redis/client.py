"""What all stores on Redis share: the connection, the translation of errors, and the Lua scripts.

Scripts work from Redis 6.2 on.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.errors import UnavailableError
from services.settings import Settings


def connect(settings: Settings, timeout_s: float | None = None, *, text: bool = True) -> redis.Redis:
    """A client that gives up after `timeout_s` (default: `state_deadline_ms`); it connects at first use.

    `text`: answers are decoded to str. The client does not retry: redis-py's default turns 50 ms into 7 s.
    """
    timeout_s = settings.state_deadline_ms / 1_000 if timeout_s is None else timeout_s
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=text,
    )


@contextmanager
def redis_errors(settings: Settings) -> Iterator[None]:
    """Translate every error of redis-py to UnavailableError, without the credentials of the URL."""
    try:
        yield
    except redis.RedisError as error:
        address = settings.redis_url.rsplit("@", 1)[-1]
        raise UnavailableError(f"Redis at {address}", str(error) or type(error).__name__) from error


@cache
def script_source(name: str) -> str:
    """Source of a script in the folder `lua`."""
    return (files("services.adapters.redis") / "lua" / f"{name}.lua").read_text("utf-8")


def text_of(answer: bytes | str | None) -> str:
    """An answer of Redis as text; "" if there is none."""
    return answer.decode() if isinstance(answer, bytes) else answer or ""


class RedisStore:
    """Base class of stores on Redis. It connects at first use, so that a process starts without Redis."""

    def __init__(self, settings: Settings):
        self._settings = settings

    @cached_property
    def _redis(self) -> redis.Redis:
        return connect(self._settings)

    def _errors(self) -> AbstractContextManager[None]:
        return redis_errors(self._settings)

    def _run_script(self, name: str, keys: Sequence[str], arguments: Sequence[str | int] = ()) -> Any:
        with self._errors():
            return self._redis.register_script(script_source(name))(keys=keys, args=arguments)
