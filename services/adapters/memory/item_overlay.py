"""ItemOverlay in memory."""

import threading
from collections.abc import Sequence

from services.adapters.memory.failing import Failing
from services.errors import StalePositionError
from services.messages.events import ItemChanged
from services.ports.catalogue import OverlayPosition


class MemoryItemOverlay(Failing):
    """ItemOverlay: the newest change of each key, in the order of the log."""

    def __init__(self) -> None:
        self._said: dict[str, ItemChanged] = {}
        self._place: OverlayPosition | None = None
        self._lock = threading.Lock()

    def position(self) -> OverlayPosition | None:
        """How far the log has been laid."""
        self._check()
        return self._place

    def changes(self) -> tuple[OverlayPosition | None, list[ItemChanged]]:
        """The place and the newest change of each key."""
        self._check()
        with self._lock:
            return self._place, list(self._said.values())

    def apply(
        self, fetched_from: OverlayPosition | None, moved_to: OverlayPosition, changes: Sequence[ItemChanged]
    ) -> None:
        """Keep the newest of each key and move, if the place is `fetched_from`."""
        self._check()
        with self._lock:
            if self._place != fetched_from:
                raise StalePositionError(f"the live catalogue no longer stands at {fetched_from}")
            for change in changes:
                self._said.pop(change.key, None)
                self._said[change.key] = change
            self._place = moved_to

    def forget(self) -> None:
        """Lose everything, as an emptied Redis does."""
        with self._lock:
            self._said, self._place = {}, None
