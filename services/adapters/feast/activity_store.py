"""Rows of `user_activity`: written by Feast's push, read from its Redis, with the positions in the log."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pandas as pd

from services.adapters.feast import redis_layout as layout
from services.adapters.feast.feature_store import open_store
from services.adapters.redis import keys
from services.adapters.redis.client import text_of
from services.adapters.redis.row_locks import RedisRowLocks
from services.errors import StalePositionError, UnavailableError
from services.messages.events import ActivityRow
from services.settings import Settings

logger = logging.getLogger(__name__)

_FIELDS = (
    *(layout.feature_field(layout.USER_ACTIVITY, name) for name in layout.ACTIVITY_FEATURES),
    layout.timestamp_field(layout.USER_ACTIVITY),
)
WARM_UP_PUSHES = 3  # the second one is already as fast as all later ones


class FeastActivityStore(RedisRowLocks):
    """See `services.ports.ActivityStore`. Making one imports Feast, which takes seconds."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._feast = open_store(settings)
        self._recent_items = settings.recent_items

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """See ActivityStore."""
        with self._errors(), self._redis.pipeline(transaction=False) as pipeline:
            for user in users:
                pipeline.hmget(layout.entity_key("user_id", user), *_FIELDS)
            rows = zip(users, pipeline.execute(), strict=True)
        return {user: _row(user, values) for user, values in rows if values[-1] is not None}

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """See ActivityStore.

        Feast's `push(to=ONLINE)` ends in the same call, but reads the whole registry again: 12-16 ms of CPU a
        batch instead of 5 (one row of 50 items; four views).
        """
        frame = pd.DataFrame(
            {
                "user_id": [row.user_id for row in rows],
                **{name: [getattr(row, name) for row in rows] for name in layout.ACTIVITY_FEATURES},
                "event_timestamp": pd.to_datetime([row.received_at for row in rows], unit="ms", utc=True),
            }
        )
        with self._errors(), self._view_registered():
            self._feast.write_to_online_store(layout.USER_ACTIVITY, df=frame)

    def warm_up(self) -> None:
        """Do everything that `load` and `push` do, without sending a command that writes.

        The first push of a process took 1.1-1.5 s next to the demo's other processes (imports, registry,
        connection), too long for a shopper's click.
        """
        n = self._recent_items
        row = ActivityRow(
            received_at=1,
            user_id="",
            item_ids=[""] * n,
            item_at=[1] * n,
            item_types=["view"] * n,
            event_ids=[""] * n,
        )
        self.load([row.user_id])
        with self._without_writes():
            for _ in range(WARM_UP_PUSHES):
                self.push([row])

    @contextmanager
    def _without_writes(self) -> Iterator[None]:
        """Make pipelines of Feast's own Redis client skip the commands that write."""
        online: Any = self._feast._get_provider().online_store  # only RedisOnlineStore has `_get_client`
        with self._errors():
            client = online._get_client(self._feast.config.online_store)
        pipeline = client.pipeline

        def reading_pipeline(*args: Any, **kwargs: Any) -> Any:
            pipe = pipeline(*args, **kwargs)
            pipe.hset = pipe.expire = lambda *_, **__: pipe
            return pipe

        client.pipeline = reading_pipeline
        try:
            yield
        finally:
            del client.pipeline

    @contextmanager
    def _view_registered(self) -> Iterator[None]:
        """Raise UnavailableError while the view is not registered, and read the registry again."""
        from feast.errors import FeatureViewNotFoundException

        try:
            yield
        except (FeatureViewNotFoundException, KeyError) as error:  # Feast 0.67 raises KeyError
            if layout.USER_ACTIVITY not in str(error):
                raise
            self._feast.refresh_registry()  # type: ignore[no-untyped-call]  # of Feast
            raise UnavailableError("Feast", f"{error}; run `ringside features apply`") from error

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """See ActivityStore."""
        with self._errors():
            stored = self._redis.hgetall(keys.activity_positions(log_id))
        pairs = ((text_of(name).rsplit("/", 1), int(offset)) for name, offset in stored.items())
        return {(topic, int(partition)): offset for (topic, partition), offset in pairs}

    def initialize_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """See ActivityStore."""
        flat = _flat(positions)
        if flat:
            with self._errors():
                self._redis.hset(keys.activity_positions(log_id), items=flat)

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """See ActivityStore; one script."""
        flat = _flat(positions)
        if flat and not self._run_script("update_existing", [keys.activity_positions(log_id)], flat):
            raise StalePositionError("Redis lost the positions of the activity worker")


def _flat(positions: Mapping[tuple[str, int], int]) -> list[str | int]:
    """Fields and values of the hash of positions, alternating."""
    return [
        part for (topic, partition), offset in positions.items() for part in (f"{topic}/{partition}", offset)
    ]


def _row(user: str, values: Sequence[bytes | None]) -> ActivityRow:
    """The row in the answer to HMGET of `_FIELDS`.

    An invalid row is read as an empty one with the same timestamp. The next row must be later than that,
    because Feast drops rows that are not later than the stored one.
    """
    item_ids, item_at, item_types, event_ids, timestamp = values
    received_at = layout.timestamp_ms(timestamp)
    fields = {
        "received_at": received_at,
        "user_id": user,
        "item_ids": layout.texts(item_ids),
        "item_at": layout.integers(item_at),
        "item_types": layout.texts(item_types),
        "event_ids": layout.texts(event_ids),
    }
    try:
        return msgspec.convert(fields, ActivityRow)
    except msgspec.ValidationError as error:
        logger.error("the online activity of %r is invalid and starts again empty: %s", user, error)
        return ActivityRow(
            received_at=received_at, user_id=user, item_ids=[], item_at=[], item_types=[], event_ids=[]
        )
