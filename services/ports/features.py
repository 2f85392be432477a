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
    """Online features of one user, as one read returned them.

    Lists begin with the most recent; `recent_at` is in ms. activity_at, profile_at: event timestamps of the
    two views in ms, 0 if the row is absent or older than its ttl.
    """

    recent_items: tuple[str, ...] = ()
    recent_at: tuple[int, ...] = ()
    recent_types: tuple[str, ...] = ()
    activity_at: int = 0
    profile: Mapping[str, float] = field(default_factory=dict)
    profile_at: int = 0


class OnlineReader(Protocol):
    """The only read of `/recommend`: features and pin in one round trip."""

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """Row of `user` (the routing key), the unit's pin, and whether `proposal` became that pin.

        The first pin written wins. Without `unit_key` only the row is read. A read with a proposal returns no
        pin and writes none while pins of the experiment may be missing. Raises UnavailableError at the
        deadline.
        """

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """Overwrite a pin whose arm is retired, rolled back or paused. Raises UnavailableError at the
        deadline."""


class ActivityStore(Protocol):
    """Write access to the view `user_activity`, and how far its writers have read the log.

    Several processes may write the same user, so each loads and pushes rows within `lock_rows`. All methods
    raise UnavailableError.
    """

    def lock_rows(self, users: Sequence[str]) -> AbstractContextManager[frozenset[str]]:
        """Lock the rows of those `users` that no other process has locked, and yield these users.

        Raises UnavailableError if a lock expired before the block ended; another process may have overwritten
        the rows, so load and push them again.
        """

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """Online rows, whatever their age; users without one are left out."""

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """Write rows and return when they are readable. A row that is not later than the stored one is
        dropped.

        After an UnavailableError some of the rows may be readable.
        """

    def warm_up(self) -> None:
        """Make the first push as fast as later ones; writes nothing."""

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """Saved next offsets in the log `log_id`; empty if none are saved."""

    def initialize_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Save the first next offsets of these partitions."""

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Save next offsets of partitions that have saved ones.

        Raises StalePositionError if one has none: the store was emptied, and the rows are lost too.
        """


class FeatureStore(Protocol):
    """Feast for all processes but `/recommend`: register views, keep history, load rows online, read the
    past."""

    def apply(self) -> None:
        """Register entities, views and services; idempotent."""

    def applied(self) -> bool:
        """Whether views are registered. Does not import Feast."""

    def open(self) -> None:
        """Import Feast (seconds) and open the registry, after `apply` if no view is registered."""

    def history(self, view: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """All rows of a view's offline history."""

    def append(self, view: str, rows: "pa.Table", name: str) -> None:
        """Write rows as the file `name` of a view's offline history; replaces a file of that name."""

    def extend(self, view: str, rows: "pa.Table", name: str) -> None:
        """Add rows to the file `name` of a view's offline history. Rows already in it change nothing."""

    def write_online(self, view: str, rows: "pa.Table") -> None:
        """Load rows online. A row that is not later than the stored one is dropped. Raises
        UnavailableError."""

    def materialize(self, views: Sequence[str], until: datetime) -> None:
        """Load online the latest rows up to `until` that earlier runs did not load. Raises
        UnavailableError."""

    def rows_as_of(
        self, view: str, features: Sequence[str], keys: Sequence[str], at_ms: Sequence[int]
    ) -> "pd.DataFrame":
        """Row of each key at its own time in ms, point-in-time and within the ttl; nulls if there was none.

        For a served vector that time is the row's timestamp (Exposure.features_at; 0: no row was served).
        """
