"""Changes of the live catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.messages.events import ItemChanged


@dataclass(frozen=True, slots=True)
class OverlayPosition:
    """All records of topic `items` before `offset` in the log `log`
    (services.ports.event_log.LogAdmin.log_id)."""

    log: str
    offset: int


class ItemOverlay(Protocol):
    """A copy of the topic `items` that replicas read.

    The log is the source of truth: changes that are lost here are applied again from the log. All methods
    raise UnavailableError.
    """

    def position(self) -> OverlayPosition | None:
        """Position in the log up to which changes are applied; None if the copy is empty or was lost."""

    def changes(self) -> tuple[OverlayPosition | None, list[ItemChanged]]:
        """The position, and as of it the newest change of each key, in the order of the log."""

    def apply(
        self, fetched_from: OverlayPosition | None, moved_to: OverlayPosition, changes: Sequence[ItemChanged]
    ) -> None:
        """Keep the newest change of each key and move the position to `moved_to`.

        Raises StalePositionError, and changes nothing, unless the position is `fetched_from`.
        """


@dataclass(frozen=True, slots=True)
class CatalogueProvenance:
    """Time at which an imported catalogue was true, in ms (0: unknown), and the fields that its file
    provides."""

    as_of_ms: int = 0
    fields: frozenset[str] = frozenset()
