"""ActivityStore: rows of `user_activity` through Feast's push, read back from its Redis, and where the log
stands."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import msgspec
import pandas as pd

from services.adapters.feast import redis_layout as layout
from services.adapters.feast.feature_store import answering, open_store
from services.adapters.redis.row_locks import RedisRowLocks
from services.adapters.redis.sum_store import source
from services.errors import StalePositionError, UnavailableError
from services.messages.events import ActivityRow
from services.settings import Settings

logger = logging.getLogger(__name__)

_FIELDS = (
    *(layout.feature_field(layout.USER_ACTIVITY, name) for name in layout.ACTIVITY_FEATURES),
    layout.timestamp_field(layout.USER_ACTIVITY),
)


WARMING = 3  # pushes; from the second on they take the time that all later ones take


class FeastActivityStore(RedisRowLocks):
    """See `services.ports.ActivityStore`. Opening it imports Feast (seconds)."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._feast = open_store(settings)
        self._recent_items = settings.recent_items

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """Rows as they are online, ttl or not; users without one are left out."""
        with answering(), self._redis.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hmget(layout.entity_key("user_id", user), *_FIELDS)
            found = zip(users, pipe.execute(), strict=True)
        return {user: _row(user, values) for user, values in found if values[-1] is not None}

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """Make rows readable; returns when they are. Raises UnavailableError: some may be, some not.

        `push(to=ONLINE)` ends in this same call, after reading the whole registry anew: 12-16 ms of CPU a
        batch instead of 5 (one row of 50 items; four views).
        """
        frame = pd.DataFrame(
            {
                "user_id": [row.user_id for row in rows],
                **{name: [getattr(row, name) for row in rows] for name in layout.ACTIVITY_FEATURES},
                "event_timestamp": pd.to_datetime([row.received_at for row in rows], unit="ms", utc=True),
            }
        )
        with answering(), self._registered():
            self._feast.write_to_online_store(layout.USER_ACTIVITY, df=frame)

    def warm_up(self) -> None:
        """Everything that `load` and `push` do, but for the write: not one writing command is sent.

        The first push of a process took 1.1-1.5 s beside the demo's other processes (imports, registry,
        connection); a shopper's click should not wait for that. Raises UnavailableError.
        """
        n = self._recent_items
        row = ActivityRow(
            received_at=1,
            user_id="",
            item_ids=[""] * n,
            item_at=[1] * n,
            item_types=[""] * n,
            event_ids=[""] * n,
        )
        self.load([row.user_id])
        with self._nothing_written():
            for _ in range(WARMING):
                self.push([row])

    @contextmanager
    def _nothing_written(self) -> Iterator[None]:
        """Pipelines of Feast's own client leave out what writes."""
        online = self._feast._get_provider().online_store
        with answering():
            client = online._get_client(self._feast.config.online_store)
        plain = client.pipeline

        def reading(*options: Any, **named: Any) -> Any:
            pipe = plain(*options, **named)
            pipe.hset = pipe.expire = lambda *_, **__: pipe
            return pipe

        client.pipeline = reading
        try:
            yield
        finally:
            del client.pipeline

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """A worker may start before views are registered: look again, and let the caller try later."""
        from feast.errors import FeatureViewNotFoundException

        try:
            yield
        except (FeatureViewNotFoundException, KeyError) as error:  # 0.67 means the one and raises the other
            if layout.USER_ACTIVITY not in str(error):
                raise
            self._feast.refresh_registry()
            raise UnavailableError("Feast", f"{error}; run `ringside features apply`") from error

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """Saved next offsets of the log `log_id`; empty if it is new to us."""
        with answering():
            saved = self._redis.hgetall(_positions_key(log_id))
        pairs = ((name.decode().rsplit("/", 1), int(offset)) for name, offset in saved.items())
        return {(topic, int(partition)): offset for (topic, partition), offset in pairs}

    def initialize_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember the first next offsets."""
        if positions:
            with answering():
                self._redis.hset(_positions_key(log_id), mapping=_named(positions))

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember next offsets of partitions that are known: one script."""
        flat = [part for pair in _named(positions).items() for part in pair]
        with answering():
            known = self._move(keys=[_positions_key(log_id)], args=flat)
        if not known:
            raise StalePositionError("Redis forgot where the activity worker stood")

    @cached_property
    def _move(self) -> Any:
        return self._redis.register_script(source("move_known"))


def _named(positions: Mapping[tuple[str, int], int]) -> dict[str, int]:
    return {f"{topic}/{partition}": offset for (topic, partition), offset in positions.items()}


def _positions_key(log_id: str) -> str:
    return f"activity:positions:{log_id}"


def _row(user: str, values: list[bytes | None]) -> ActivityRow:
    """Of a row that makes no sense only its timestamp, which the next one must pass: Feast drops what is not
    later than what it has."""
    item_ids, item_at, item_types, event_ids, stamp = values
    told = {
        "received_at": layout.timestamp_ms(stamp),
        "user_id": user,
        "item_ids": layout.texts(item_ids),
        "item_at": layout.integers(item_at),
        "item_types": layout.texts(item_types),
        "event_ids": layout.texts(event_ids),
    }
    try:
        return msgspec.convert(told, ActivityRow)
    except msgspec.ValidationError as error:
        logger.error("what is online of the activity of %r is made anew: %s", user, error)
        empty = {name: [] for name in layout.ACTIVITY_FEATURES}
        return ActivityRow(received_at=told["received_at"], user_id=user, **empty)
