"""Read the features of one user and the unit's pin in a single round trip to Feast's Redis.

The reader knows Feast's own layout (services.adapters.feast.redis_layout) and applies the ttl of each view,
which Feast's Redis does not. Redis 6.2 has no `SET NX GET`, so a pin is written by `SET NX PX` and read by
`GET` in the same pipeline.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from sys import intern

from cachetools import LRUCache

from services.adapters.feast import redis_layout as layout
from services.adapters.redis import keys
from services.adapters.redis.async_client import AsyncRedisClient, pack
from services.adapters.redis.pin_store import decode_pin, encode_pin
from services.ports.features import UserRow
from services.ports.pins import Pin
from services.runtime.clock import wall_ms
from services.settings import Settings

_ACTIVITY = ("item_ids", "item_at", "item_types")
_FIELDS = (
    *(layout.feature_field(layout.USER_ACTIVITY, name) for name in _ACTIVITY),
    layout.timestamp_field(layout.USER_ACTIVITY),
    *(layout.feature_field(layout.USER_PROFILE, name) for name in layout.PROFILE_FEATURES),
    layout.timestamp_field(layout.USER_PROFILE),
)
_DECODED_ROWS = 10_000  # kept, about 4 kB each


@dataclass(frozen=True, slots=True)
class _Decoded:
    """The bytes that Redis returned and the row decoded from them, before any ttl."""

    values: list[bytes | None]
    row: UserRow


class FeastOnlineReader:
    """See `services.ports.OnlineReader`. `clock` (ms since the epoch) decides what is older than its ttl."""

    def __init__(self, settings: Settings, clock: Callable[[], int] = wall_ms):
        self._client = AsyncRedisClient(settings.redis_url, settings.redis_deadline_ms / 1_000)
        self._clock = clock
        self._activity_ttl_ms = settings.activity_ttl_s * 1_000
        self._profile_ttl_ms = settings.profile_ttl_s * 1_000
        self._pins_complete = 1  # result of the last read with a proposal
        self._decoded: LRUCache[str, _Decoded] = LRUCache(_DECODED_ROWS)

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """See OnlineReader."""
        now_ms = self._clock()  # before the read, so that the row is exact as of now
        packed = pack("HMGET", layout.entity_key("user_id", user), *_FIELDS)
        if unit_key is None:
            values = (await self._client.request(packed, 1))[0]
            return self._row(user, values, now_ms), None, False
        get_pin = pack("GET", keys.pin(unit_key))
        if proposal is None:
            values, stored = await self._client.request(packed + get_pin, 2)
            return self._row(user, values, now_ms), _stored_pin(stored), False
        is_complete = pack("EXISTS", keys.pins_complete(unit_key.partition("|")[0]))
        if not self._pins_complete:  # pins are being restored, so write none that counting would ignore
            values, self._pins_complete = await self._client.request(packed + is_complete, 2)
            return self._row(user, values, now_ms), None, False
        set_pin = _set_pin(unit_key, proposal, ttl_s, "NX")
        values, written, stored, self._pins_complete = await self._client.request(
            packed + set_pin + get_pin + is_complete, 4
        )
        row = self._row(user, values, now_ms)
        return (row, _stored_pin(stored), written is not None) if self._pins_complete else (row, None, False)

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """See OnlineReader."""
        await self._client.request(_set_pin(unit_key, pin, ttl_s), 1)

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._client.close()

    def _row(self, user: str, values: list[bytes | None], now_ms: int) -> UserRow:
        """The row in `values`. Equal bytes of the same user give the same object, decoded once."""
        decoded = self._decoded.get(user)
        if decoded is None or decoded.values != values:
            decoded = self._decoded[user] = _Decoded(values, _decode(values))
        row = decoded.row
        if row.activity_at and row.activity_at < now_ms - self._activity_ttl_ms:
            row = replace(row, recent_items=(), recent_at=(), recent_types=(), activity_at=0)
        if row.profile_at and row.profile_at < now_ms - self._profile_ttl_ms:
            row = replace(row, profile={}, profile_at=0)
        return row


def _decode(values: list[bytes | None]) -> UserRow:
    """The row in the answer to HMGET of `_FIELDS`."""
    activity_at, profile_at = layout.timestamp_ms(values[3]), layout.timestamp_ms(values[-1])
    ids, at, types = values[:3] if activity_at else (None, None, None)
    return UserRow(
        recent_items=tuple(map(intern, layout.texts(ids))),  # thousands of rows name the same items
        recent_at=layout.integers(at),
        recent_types=tuple(map(intern, layout.texts(types))),
        activity_at=activity_at,
        profile=_profile(values[4:-1]) if profile_at else {},
        profile_at=profile_at,
    )


def _profile(values: list[bytes | None]) -> dict[str, float]:
    numbers = zip(layout.PROFILE_FEATURES, map(layout.number, values), strict=True)
    return {name: value for name, value in numbers if value is not None}


def _set_pin(unit_key: str, pin: Pin, ttl_s: float, *condition: str) -> bytes:
    return pack("SET", keys.pin(unit_key), encode_pin(pin), "PX", max(1, round(ttl_s * 1_000)), *condition)


def _stored_pin(stored: bytes | None) -> Pin | None:
    return None if stored is None else decode_pin(stored)
