"""OnlineReader: the features of one user and the unit's pin in a single round trip to Feast's Redis.

It reads Feast's own layout (services.adapters.feast.redis_layout) and applies each view's ttl, which Feast's
Redis does not. Redis 6.2 has no `SET NX GET`, so the pin is `SET NX PX` and `GET` in the same pipeline.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from sys import intern

import msgspec

from services.adapters.feast import redis_layout as layout
from services.adapters.redis.async_client import AsyncRedisClient, pack
from services.adapters.redis.pin_keys import complete_key, encoded, pin_key
from services.ports.features import UserRow
from services.ports.pins import Pin
from services.runtime.clock import wall_ms
from services.runtime.lru import Recent
from services.settings import Settings

_ACTIVITY = ("item_ids", "item_at", "item_types")
_FIELDS = (
    *(layout.feature_field(layout.USER_ACTIVITY, name) for name in _ACTIVITY),
    layout.timestamp_field(layout.USER_ACTIVITY),
    *(layout.feature_field(layout.USER_PROFILE, name) for name in layout.PROFILE_FEATURES),
    layout.timestamp_field(layout.USER_PROFILE),
)
_decode_pin = msgspec.json.Decoder(tuple[int, str, float, int])
_REMEMBERED = 10_000  # users whose decoded row is kept, about 4 kB each


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What Redis answered, byte by byte, and the row that it says, whatever its age."""

    values: list[bytes | None]
    row: UserRow


class FeastOnlineReader:
    """See `services.ports.OnlineReader`. `clock` (ms since the epoch) decides what is older than its ttl."""

    def __init__(self, settings: Settings, clock: Callable[[], int] = wall_ms):
        self._lane = AsyncRedisClient(settings.redis_url, settings.redis_deadline_ms / 1_000)
        self._clock = clock
        self._activity_ttl_ms = settings.activity_ttl_s * 1_000
        self._profile_ttl_ms = settings.profile_ttl_s * 1_000
        self._whole = 1  # whether no pin was missing when we last looked
        self._decoded: Recent[str, _Decoded] = Recent(_REMEMBERED)

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """Row of `user`, the unit's pin (first writer wins) and whether ours was written. Raises
        UnavailableError at its deadline."""
        now_ms = self._clock()  # before the read, as of which the row is then exact
        packed = pack(("HMGET", layout.entity_key("user_id", user), *_FIELDS))
        if unit_key is None:
            values = (await self._lane.request(packed, 1))[0]
            return self._row(user, values, now_ms), None, False
        if proposal is None:
            values, stored = await self._lane.request(packed + pack(("GET", pin_key(unit_key))), 2)
            return self._row(user, values, now_ms), _unpinned(stored), False
        pinning = _set_pin(unit_key, proposal, ttl_s, "NX") + pack(("GET", pin_key(unit_key)))
        vouching = pack(("EXISTS", complete_key(unit_key)))
        if not self._whole:  # pins are being put back: leave no more that nobody counts
            values, self._whole = await self._lane.request(packed + vouching, 2)
            return self._row(user, values, now_ms), None, False
        values, written, stored, self._whole = await self._lane.request(packed + pinning + vouching, 4)
        row = self._row(user, values, now_ms)
        return (row, _unpinned(stored), written is not None) if self._whole else (row, None, False)

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """Overwrite a pin whose arm no longer serves. Raises UnavailableError at its deadline."""
        await self._lane.request(_set_pin(unit_key, pin, ttl_s), 1)

    def close(self) -> None:
        """Hang up; idempotent."""
        self._lane.close()

    def _row(self, user: str, values: list[bytes | None], now_ms: int) -> UserRow:
        """Decode, unless these very bytes were decoded before: then it is the same object."""
        known = self._decoded.get(user)
        if known is None or known.values != values:
            known = _Decoded(values, _decode(values))
            self._decoded.put(user, known)
        row = known.row
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
        recent_items=tuple(map(intern, layout.texts(ids))),  # the same few items in thousands of rows
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
    return pack(("SET", pin_key(unit_key), encoded(pin), "PX", max(1, round(ttl_s * 1_000)), *condition))


def _unpinned(stored: bytes | None) -> Pin | None:
    return None if stored is None else Pin(*_decode_pin.decode(stored))
