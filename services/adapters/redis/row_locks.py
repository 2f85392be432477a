"""RowLocks in Redis: one key a user, with an end."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.adapters.feast.feature_store import REDIS_TIMEOUT_S, answering
from services.adapters.redis.sum_store import source
from services.errors import UnavailableError
from services.settings import Settings

WRITING_MS = 5_000  # after which others may write what a process that died was writing; a push takes 3-60 ms


class RedisRowLocks:
    """See `services.ports.RowLocks`."""

    def __init__(self, settings: Settings):
        timeouts = {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
        self._redis = redis.Redis.from_url(settings.redis_url, retry=Retry(NoBackoff(), 0), **timeouts)
        self._name = secrets.token_hex(8)

    @contextmanager
    def lock_rows(self, users: Sequence[str]) -> Iterator[frozenset[str]]:
        """One script takes, one gives back. What this object holds from a call that got no answer is its own
        again."""
        keys = {user: f"{{activity}}:writing:{user}" for user in users}
        with answering():
            taken = self._take(keys=list(keys.values()), args=[self._name, WRITING_MS]) if keys else []
        ours = [user for user, free in zip(keys, taken, strict=True) if free]
        try:
            yield frozenset(ours)
        except Exception:
            with suppress(UnavailableError):
                self._give_back([keys[user] for user in ours])
            raise
        if self._give_back([keys[user] for user in ours]) < len(ours):
            raise UnavailableError("rows of users", f"writing them took longer than {WRITING_MS / 1e3:g} s")

    def _give_back(self, keys: list[str]) -> int:
        with answering():
            return int(self._let_go(keys=keys, args=[self._name])) if keys else 0

    @cached_property
    def _take(self) -> Any:
        return self._redis.register_script(source("take_free"))

    @cached_property
    def _let_go(self) -> Any:
        return self._redis.register_script(source("let_go"))
