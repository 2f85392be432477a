"""ports.PinStore on Redis; see services.adapters.pin_layout for what lies where."""

from collections.abc import Iterable, Mapping
from functools import cached_property

import redis

from services.adapters.pin_layout import encoded, pin_key, vouch_key
from services.adapters.redis_state import connect, reaching
from services.ports import Pin
from services.settings import Settings

RESTORED = "pins:restored"  # set of partitions whose pins were put back since Redis was empty


class RedisPinStore:
    """ports.PinStore on Redis. Connects at first use."""

    def __init__(self, settings: Settings):
        self._settings = settings

    @cached_property
    def _redis(self) -> redis.Redis:
        return connect(self._settings)

    def restored(self) -> frozenset[int]:
        """One SMEMBERS."""
        with reaching(self._settings.redis_url):
            return frozenset(map(int, self._redis.smembers(RESTORED)))

    def put_back(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """One pipeline."""
        if not pins:
            return
        with reaching(self._settings.redis_url):
            pipeline = self._redis.pipeline(transaction=False)
            for unit_key, (pin, ttl_ms) in pins.items():
                pipeline.set(pin_key(unit_key), encoded(pin), px=ttl_ms)
            pipeline.execute()

    def mark_restored(self, partition: int) -> None:
        """Kept with the pins."""
        with reaching(self._settings.redis_url):
            self._redis.sadd(RESTORED, partition)

    def vouch(self, experiments: Iterable[str]) -> None:
        """One SET each; nothing if it is there."""
        with reaching(self._settings.redis_url):
            for experiment in experiments:
                self._redis.set(vouch_key(experiment), 1)
