"""Locks on rows of users in Redis: one key for each user, with an expiry."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property

import redis

from services.adapters.redis import keys
from services.adapters.redis.client import RedisStore, connect
from services.errors import UnavailableError
from services.settings import Settings

LOCK_MS = 5_000  # expiry of a lock whose process died; a push takes 3-60 ms
TIMEOUT_S = 2.0  # of one command


class RedisRowLocks(RedisStore):
    """The part `lock_rows` of ports.ActivityStore."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._holder = secrets.token_hex(8)

    @cached_property
    def _redis(self) -> redis.Redis:
        return connect(self._settings, TIMEOUT_S, text=False)  # Feast's rows are bytes

    @contextmanager
    def lock_rows(self, users: Sequence[str]) -> Iterator[frozenset[str]]:
        """See ActivityStore. A lock that this object acquired by a call without an answer is acquired
        again."""
        locks = {user: keys.row_lock(user) for user in users}
        results = (
            self._run_script("acquire_locks", list(locks.values()), [self._holder, LOCK_MS]) if locks else []
        )
        locked = [user for user, acquired in zip(locks, results, strict=True) if acquired]
        held = [locks[user] for user in locked]
        try:
            yield frozenset(locked)
        except Exception:
            with suppress(UnavailableError):
                self._release(held)
            raise
        if self._release(held) < len(held):
            raise UnavailableError("rows of users", f"writing them took longer than {LOCK_MS / 1e3:g} s")

    def _release(self, locks: list[str]) -> int:
        return int(self._run_script("release_locks", locks, [self._holder])) if locks else 0
