"""ItemOverlay in memory."""

import threading
from collections.abc import Sequence

from services.errors import StalePositionError
from services.messages.events import ItemChanged
from services.ports.catalogue import OverlayPosition


class MemoryItemOverlay:
    """See `services.ports.ItemOverlay`."""

    def __init__(self) -> None:
        self._changes: dict[str, ItemChanged] = {}
        self._position: OverlayPosition | None = None
        self._lock = threading.Lock()

    def position(self) -> OverlayPosition | None:
        """See ItemOverlay."""
        return self._position

    def changes(self) -> tuple[OverlayPosition | None, list[ItemChanged]]:
        """See ItemOverlay."""
        with self._lock:
            return self._position, list(self._changes.values())

    def apply(
        self, fetched_from: OverlayPosition | None, moved_to: OverlayPosition, changes: Sequence[ItemChanged]
    ) -> None:
        """See ItemOverlay."""
        with self._lock:
            if self._position != fetched_from:
                raise StalePositionError(f"the item overlay is no longer at position {fetched_from}")
            for change in changes:
                self._changes.pop(change.key, None)
                self._changes[change.key] = change
            self._position = moved_to
