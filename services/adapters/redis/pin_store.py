"""Pins in Redis: their stored form, and write access to restore them after a loss.

`/recommend` takes a missing pin for a new unit only while the experiment's pins are marked as complete. A
Redis that was emptied lost that mark too, so no unit is taken for a new one until
services.bandit.attribution.pin_recovery has restored the pins and set the mark again.
"""

import secrets
from collections.abc import Iterable, Mapping

import msgspec

from services.adapters.redis import keys
from services.adapters.redis.client import RedisStore
from services.ports.pins import Pin
from services.settings import Settings

RESTORING_S = 86_400  # expiry of the set of a process that was killed while it restored

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[int, str, float, int]).decode


def encode_pin(pin: Pin) -> bytes:
    """A pin as it is stored: a JSON array."""
    return _encode((pin.weights_version, pin.arm, pin.propensity, pin.unit_at))


def decode_pin(stored: bytes) -> Pin:
    """The pin that `encode_pin` stored."""
    return Pin(*_decode(stored))


class RedisPinStore(RedisStore):
    """ports.PinStore on Redis."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._restoring = keys.pins_restoring(secrets.token_hex(8))

    def restored_partitions(self) -> frozenset[int]:
        """See PinStore."""
        with self._errors():
            return frozenset(map(int, self._redis.smembers(keys.PINS_RESTORED)))

    def begin_restore(self, partitions: Iterable[int]) -> None:
        """Write a set that belongs to this object. If Redis loses the pins, it loses the set as well."""
        with self._errors():
            self._redis.sadd(self._restoring, *partitions)
            self._redis.expire(self._restoring, RESTORING_S)

    def restore(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """See PinStore."""
        with self._errors(), self._redis.pipeline(transaction=False) as pipeline:
            for unit_key, (pin, ttl_ms) in pins.items():
                pipeline.set(keys.pin(unit_key), encode_pin(pin), px=ttl_ms)
            pipeline.execute()

    def mark_restored(self, partition: int) -> bool:
        """See PinStore."""
        with self._errors():
            return bool(self._redis.smove(self._restoring, keys.PINS_RESTORED, str(partition)))

    def mark_complete(self, experiments: Iterable[str], partitions: int) -> bool:
        """See PinStore; one script checks and marks."""
        names = [keys.PINS_RESTORED, *map(keys.pins_complete, experiments)]
        return bool(self._run_script("mark_complete", names, [partitions]))
