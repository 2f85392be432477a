"""OnlineReader: the features of one user and the unit's pin in a single round trip to Feast's Redis.

It reads Feast's own layout (services.adapters.feast_layout) and applies each view's ttl, which Feast's Redis
does not. Redis 6.2 has no `SET NX GET`, so the pin is `SET NX PX` and `GET` in the same pipeline.
"""

import time
from collections.abc import Callable

import msgspec

from services.adapters import feast_layout as layout
from services.adapters.redis_lane import RedisLane, pack
from services.ports import Pin, UserRow
from services.settings import Settings

_ACTIVITY = ("item_ids", "item_at", "item_types")
_FIELDS = (
    *(layout.feature_field(layout.USER_ACTIVITY, name) for name in _ACTIVITY),
    layout.timestamp_field(layout.USER_ACTIVITY),
    *(layout.feature_field(layout.USER_PROFILE, name) for name in layout.PROFILE_FEATURES),
    layout.timestamp_field(layout.USER_PROFILE),
)
_encode_pin = msgspec.json.Encoder()
_decode_pin = msgspec.json.Decoder(tuple[int, str, float, int])


def wall_ms() -> int:
    """Now, in ms since the epoch."""
    return time.time_ns() // 1_000_000


class FeastOnlineReader:
    """See `services.ports.OnlineReader`. `clock` (ms since the epoch) decides what is older than its ttl."""

    def __init__(self, settings: Settings, clock: Callable[[], int] = wall_ms):
        self._lane = RedisLane(settings.redis_url, settings.redis_deadline_ms / 1_000)
        self._clock = clock
        self._activity_ttl_ms = settings.activity_ttl_s * 1_000
        self._profile_ttl_ms = settings.profile_ttl_s * 1_000

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """Row of `user`, the unit's pin (first writer wins) and whether ours was written. Raises
        UnavailableError at its deadline."""
        now_ms = self._clock()  # before the read, as of which the row is then exact
        packed = pack(("HMGET", layout.entity_key("user_id", user), *_FIELDS))
        if unit_key is None:
            values = (await self._lane.request(packed, 1))[0]
            return self._row(values, now_ms), None, False
        if proposal is None:
            values, stored = await self._lane.request(packed + pack(("GET", _pin_key(unit_key))), 2)
            return self._row(values, now_ms), _unpinned(stored), False
        pinning = _set_pin(unit_key, proposal, ttl_s, "NX") + pack(("GET", _pin_key(unit_key)))
        values, written, stored = await self._lane.request(packed + pinning, 3)
        return self._row(values, now_ms), _unpinned(stored), written is not None

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """Overwrite a pin whose arm no longer serves. Raises UnavailableError at its deadline."""
        await self._lane.request(_set_pin(unit_key, pin, ttl_s), 1)

    def close(self) -> None:
        """Hang up; idempotent."""
        self._lane.close()

    def _row(self, values: list[bytes | None], now_ms: int) -> UserRow:
        activity_at = _fresh(layout.timestamp_ms(values[3]), now_ms - self._activity_ttl_ms)
        profile_at = _fresh(layout.timestamp_ms(values[-1]), now_ms - self._profile_ttl_ms)
        ids, at, types = values[:3] if activity_at else (None, None, None)
        return UserRow(
            recent_items=layout.texts(ids),
            recent_at=layout.integers(at),
            recent_types=layout.texts(types),
            activity_at=activity_at,
            profile=_profile(values[4:-1]) if profile_at else {},
            profile_at=profile_at,
        )


def _fresh(at_ms: int, oldest_ms: int) -> int:
    """The timestamp, or 0 if it is older than its view's ttl (Feast's point-in-time join keeps equality)."""
    return at_ms if at_ms >= oldest_ms else 0


def _profile(values: list[bytes | None]) -> dict[str, float]:
    numbers = zip(layout.PROFILE_FEATURES, map(layout.number, values), strict=True)
    return {name: value for name, value in numbers if value is not None}


def _pin_key(unit_key: str) -> str:
    return f"pin:{unit_key}"


def _set_pin(unit_key: str, pin: Pin, ttl_s: float, *condition: str) -> bytes:
    value = _encode_pin.encode((pin.weights_version, pin.arm, pin.propensity, pin.unit_at))
    return pack(("SET", _pin_key(unit_key), value, "PX", max(1, round(ttl_s * 1_000)), *condition))


def _unpinned(stored: bytes | None) -> Pin | None:
    return None if stored is None else Pin(*_decode_pin.decode(stored))
