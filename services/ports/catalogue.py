"""Changes of the live catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.messages.events import ItemChanged


@dataclass(frozen=True, slots=True)
class OverlayPosition:
    """Everything of topic `items` before `offset` in the log `log` (services.ports.LogAdmin.log_id)."""

    log: str
    offset: int


class ItemOverlay(Protocol):
    """A copy of the topic `items` for those who serve: changes of the live catalogue. The log is the truth;
    what is lost here is laid anew from it."""

    def position(self) -> OverlayPosition | None:
        """How far the log has been laid; None: nothing is here, or it was lost. Raises UnavailableError."""

    def changes(self) -> tuple[OverlayPosition | None, list[ItemChanged]]:
        """The place and, as of it, the newest change of each key, in the order of the log. Raises
        UnavailableError."""

    def apply(
        self, fetched_from: OverlayPosition | None, moved_to: OverlayPosition, changes: Sequence[ItemChanged]
    ) -> None:
        """Keep the newest of each key and move, only if the place is `fetched_from`; else
        StalePositionError."""


@dataclass(frozen=True, slots=True)
class CatalogueProvenance:
    """What an imported catalogue knows: the fields that its file had, as of when (ms); 0: that is not
    known."""

    as_of_ms: int = 0
    fields: frozenset[str] = frozenset()
