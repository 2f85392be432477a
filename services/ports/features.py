"""Features: the online row of a user, recent activity, the feature store."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from services.messages.events import ActivityRow
from services.ports.pins import Pin

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class UserRow:
    """Online features of one user, as one read returned them. Lists are most recent first; `*_at` in ms.
    `activity_at` / `profile_at`: event timestamps of the two views, ms, 0 when absent or older than the
    ttl."""

    recent_items: tuple[str, ...] = ()
    recent_at: tuple[int, ...] = ()
    recent_types: tuple[str, ...] = ()
    activity_at: int = 0
    profile: Mapping[str, float] = field(default_factory=dict)
    profile_at: int = 0


class OnlineReader(Protocol):
    """The one read of /recommend: features and pin in a single round trip."""

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """Row of `user` (the routing key), the unit's pin (first writer wins: ours if there was none) and
        whether ours was written. `unit_key` None: features only. With a proposal, no pin comes back while
        pins of the experiment may be missing. Raises UnavailableError at its deadline."""

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """Overwrite a pin whose arm is retired, rolled back or paused (the only reasons)."""


class RowLocks(Protocol):
    """Who may write rows of `user_activity`: one at a time of each user's."""

    def lock_rows(self, users: Sequence[str]) -> AbstractContextManager[frozenset[str]]:
        """Those of `users` whom nobody else is writing now; while this lasts nobody else will. Raises
        UnavailableError, also at its end if it lasted so long (seconds) that others could write: then another
        one's push may have undone ours, so load and push again."""


class ActivityStore(RowLocks, Protocol):
    """The view `user_activity` as those who write it see it, and how far they have read the log. Several may
    write, and the same user: each loads and pushes within `writing`."""

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """Rows as they are online, ttl or not; users without one are left out. Raises UnavailableError."""

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """Make rows readable; returns when they are. A row that is not later than the one there is dropped.
        Raises UnavailableError: some may be readable, some not."""

    def warm_up(self) -> None:
        """Make the first push as quick as the others; writes nothing. Raises UnavailableError."""

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """Saved next offsets of the log `log_id`; empty if it is new to us. Raises UnavailableError."""

    def initialize_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember the first next offsets of these partitions. Raises UnavailableError."""

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember next offsets, if those of the same partitions are still there; else StalePositionError:
        Redis forgot them, and with them the rows. Raises UnavailableError."""


class FeatureStore(Protocol):
    """Feast as processes off the hot path use it: register, keep history, load online, look back."""

    def apply(self) -> None:
        """Register entities, views and services; idempotent."""

    def applied(self) -> bool:
        """Whether views are registered here; costs no import of Feast."""

    def open(self) -> None:
        """Import Feast (seconds) and open what is registered here, registering it first where nothing is."""

    def history(self, view: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """Every row of a view's offline history."""

    def append(self, view: str, rows: "pa.Table", name: str) -> None:
        """Add a file of rows to a view's offline history; the same name replaces it."""

    def extend(self, view: str, rows: "pa.Table", name: str) -> None:
        """Add rows to a file of a view's offline history; rows that it holds already change nothing."""

    def write_online(self, view: str, rows: "pa.Table") -> None:
        """Load rows online, but for those not later than the row there. Raises UnavailableError."""

    def materialize(self, views: Sequence[str], until: datetime) -> None:
        """Load the latest rows up to `until` that earlier runs did not. Raises UnavailableError."""

    def rows_as_of(
        self, view: str, features: Sequence[str], keys: Sequence[str], at_ms: Sequence[int]
    ) -> "pd.DataFrame":
        """Row of each key as it stood at its moment, point-in-time and ttl applied; nulls where there was
        none. For a served vector the moment is the row's own timestamp (Exposure.features_at; 0: none was
        served)."""
