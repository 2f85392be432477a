"""ActivityStore in memory: the double of Feast's online store as the activity worker sees it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from services.errors import StalePositionError, UnavailableError
from services.messages.events import ActivityRow


class MemoryActivityStore:
    """Like Feast's Redis it drops a row that is not later than the one it has. `down`: it answers nothing."""

    def __init__(self) -> None:
        self.rows: dict[str, ActivityRow] = {}
        self.pushes: list[list[ActivityRow]] = []
        self.saved: dict[str, dict[tuple[str, int], int]] = {}
        self.down = False
        self._writers: dict[str, object] = {}

    @contextmanager
    def lock_rows(self, users: Sequence[str]) -> Iterator[frozenset[str]]:
        """Those of `users` whom nobody else is writing now."""
        self._check()
        writer = object()
        ours = frozenset(user for user in users if self._writers.setdefault(user, writer) is writer)
        try:
            yield ours
        finally:
            held = [user for user in ours if self._writers.get(user) is writer]
            for user in held:
                del self._writers[user]
        if len(held) < len(ours):
            raise UnavailableError("rows of users", "writing them took too long")

    def expire(self) -> None:
        """As if everybody who is writing now had taken too long."""
        self._writers.clear()

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """Rows as they are online."""
        self._check()
        return {user: self.rows[user] for user in users if user in self.rows}

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """Make rows readable, those that are later than what is there."""
        self._check()
        self.pushes.append(list(rows))
        for row in rows:
            before = self.rows.get(row.user_id)
            if before is None or row.received_at > before.received_at:
                self.rows[row.user_id] = row

    def warm_up(self) -> None:
        """Nothing is cold in memory."""
        self._check()

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """Saved next offsets of a log."""
        self._check()
        return dict(self.saved.get(log_id, {}))

    def initialize_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember the first next offsets."""
        self._check()
        self.saved.setdefault(log_id, {}).update(positions)

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember next offsets of partitions that are known."""
        self._check()
        if not positions.keys() <= self.saved.get(log_id, {}).keys():
            raise StalePositionError("the positions of the activity worker are gone")
        self.saved.setdefault(log_id, {}).update(positions)

    def forget(self) -> None:
        """Lose everything, as an emptied Redis does."""
        self.rows.clear()
        self.saved.clear()
        self._writers.clear()

    def _check(self) -> None:
        if self.down:
            raise UnavailableError("Redis", "it is down")
