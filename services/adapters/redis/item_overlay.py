"""A copy of the topic `items` in Redis: the newest change of each key, and the position in the log.

One script changes all of it and compares the position first, so the copy agrees with the log however many
replicas apply changes.
"""

import logging
from collections.abc import Sequence

from services.adapters.redis import keys
from services.adapters.redis.client import RedisStore, text_of
from services.errors import BadMessageError, StalePositionError
from services.messages import events
from services.messages.events import ItemChanged
from services.ports.catalogue import OverlayPosition

logger = logging.getLogger(__name__)


class RedisItemOverlay(RedisStore):
    """ports.ItemOverlay on Redis."""

    def position(self) -> OverlayPosition | None:
        """See ItemOverlay. It is one GET, because replicas ask several times a second."""
        with self._errors():
            return _decode_position(text_of(self._redis.get(keys.OVERLAY_POSITION)))

    def changes(self) -> tuple[OverlayPosition | None, list[ItemChanged]]:
        """See ItemOverlay; one transaction."""
        with self._errors(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.get(keys.OVERLAY_POSITION)
            pipeline.hvals(keys.OVERLAY_CHANGES)
            position, rows = pipeline.execute()
        numbered = [(int(number), body) for number, _, body in (row.partition(" ") for row in rows)]
        decoded = (_decode_change(body) for _, body in sorted(numbered))
        return _decode_position(position), [change for change in decoded if change is not None]

    def apply(
        self, fetched_from: OverlayPosition | None, moved_to: OverlayPosition, changes: Sequence[ItemChanged]
    ) -> None:
        """See ItemOverlay."""
        rows = [part for change in changes for part in (change.key, events.encode(change).decode())]
        names = [keys.OVERLAY_POSITION, keys.OVERLAY_SEQUENCE, keys.OVERLAY_CHANGES]
        arguments = [_encode_position(fetched_from), _encode_position(moved_to), *rows]
        if not self._run_script("apply_items", names, arguments):
            raise StalePositionError(f"the item overlay is no longer at position {fetched_from}")


def _decode_change(body: str) -> ItemChanged | None:
    """None for a change that is invalid by now; an older version may have stored it."""
    try:
        return events.decode(ItemChanged, body.encode())
    except BadMessageError as error:
        logger.error("a stored change of an item is ignored: %s", error)
        return None


def _encode_position(position: OverlayPosition | None) -> str:
    return "" if position is None else f"{position.offset} {position.log}"


def _decode_position(stored: str | None) -> OverlayPosition | None:
    if not stored:
        return None
    offset, _, log = stored.partition(" ")
    return OverlayPosition(log, int(offset))
