"""ActivityStore in memory: the double of Feast's online store for the activity worker."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from services.errors import StalePositionError, UnavailableError
from services.messages.events import ActivityRow


class MemoryActivityStore:
    """See `services.ports.ActivityStore`. `rows`, `pushes` and `saved` are there for tests to read."""

    def __init__(self) -> None:
        self.rows: dict[str, ActivityRow] = {}
        self.pushes: list[list[ActivityRow]] = []
        self.saved: dict[str, dict[tuple[str, int], int]] = {}
        self._holders: dict[str, object] = {}

    @contextmanager
    def lock_rows(self, users: Sequence[str]) -> Iterator[frozenset[str]]:
        """See ActivityStore."""
        holder = object()
        locked = frozenset(user for user in users if self._holders.setdefault(user, holder) is holder)
        try:
            yield locked
        finally:
            held = [user for user in locked if self._holders.get(user) is holder]
            for user in held:
                del self._holders[user]
        if len(held) < len(locked):
            raise UnavailableError("rows of users", "writing them took too long")

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """See ActivityStore."""
        return {user: self.rows[user] for user in users if user in self.rows}

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """See ActivityStore."""
        self.pushes.append(list(rows))
        for row in rows:
            before = self.rows.get(row.user_id)
            if before is None or row.received_at > before.received_at:
                self.rows[row.user_id] = row

    def warm_up(self) -> None:
        """See ActivityStore."""

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """See ActivityStore."""
        return dict(self.saved.get(log_id, {}))

    def initialize_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """See ActivityStore."""
        self.saved.setdefault(log_id, {}).update(positions)

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """See ActivityStore."""
        if not positions.keys() <= self.saved.get(log_id, {}).keys():
            raise StalePositionError("the positions of the activity worker are gone")
        self.saved.setdefault(log_id, {}).update(positions)
