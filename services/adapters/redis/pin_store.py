"""ports.PinStore on Redis; see services.adapters.redis.pin_keys for what lies where."""

import secrets
from collections.abc import Iterable, Mapping
from functools import cached_property

import redis

from services.adapters.redis.pin_keys import complete_key, encoded, pin_key
from services.adapters.redis.sum_store import connect, reaching, source
from services.ports.pins import Pin
from services.settings import Settings

RESTORED = "{pins}:restored"  # set of partitions whose pins were put back since Redis was empty
RESTORING_S = 86_400  # life of what a killed process had begun


class RedisPinStore:
    """ports.PinStore on Redis. Connects at first use."""

    def __init__(self, settings: Settings):
        self._settings = settings
        # set of partitions, gone if Redis is emptied
        self._restoring = f"{{pins}}:restoring:{secrets.token_hex(8)}"

    @cached_property
    def _redis(self) -> redis.Redis:
        return connect(self._settings)

    def restored_partitions(self) -> frozenset[int]:
        """One SMEMBERS."""
        with reaching(self._settings.redis_url):
            return frozenset(map(int, self._redis.smembers(RESTORED)))

    def begin_restore(self, partitions: Iterable[int]) -> None:
        """A set of this object alone: it goes with the pins that it puts back."""
        with reaching(self._settings.redis_url):
            self._redis.sadd(self._restoring, *partitions)
            self._redis.expire(self._restoring, RESTORING_S)

    def restore(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """One pipeline."""
        if not pins:
            return
        with reaching(self._settings.redis_url):
            pipeline = self._redis.pipeline(transaction=False)
            for unit_key, (pin, ttl_ms) in pins.items():
                pipeline.set(pin_key(unit_key), encoded(pin), px=ttl_ms)
            pipeline.execute()

    def mark_restored(self, partition: int) -> bool:
        """One SMOVE."""
        with reaching(self._settings.redis_url):
            return bool(self._redis.smove(self._restoring, RESTORED, str(partition)))

    def mark_complete(self, experiments: Iterable[str], partitions: int) -> bool:
        """One script looks and vouches."""
        keys = [RESTORED, *map(complete_key, experiments)]
        with reaching(self._settings.redis_url):
            return bool(self._vouch(keys=keys, args=[partitions]))

    @cached_property
    def _vouch(self) -> redis.commands.core.Script:
        return self._redis.register_script(source("mark_complete"))
