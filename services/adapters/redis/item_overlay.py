"""Redis: a copy of the topic `items`, the newest change of each key, and how far the log has been laid.

Everything lies under one hash tag and changes in one script that compares the place first, so whoever lays,
however often, the copy is what the log says.
"""

import logging
from collections.abc import Sequence
from functools import cached_property

import redis

from services.adapters.redis.sum_store import connect, reaching, source
from services.errors import BadMessageError, StalePositionError
from services.messages import events
from services.messages.events import ItemChanged
from services.ports.catalogue import OverlayPosition
from services.settings import Settings

logger = logging.getLogger(__name__)

_PLACE, _SEQUENCE, _SAID = "{items}:place", "{items}:sequence", "{items}:said"


class RedisItemOverlay:
    """ports.ItemOverlay on Redis. Connects at first use, so that a process starts without it."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def position(self) -> OverlayPosition | None:
        """One GET: replicas ask several times a second."""
        with reaching(self._settings.redis_url):
            return _place(self._redis.get(_PLACE))

    def changes(self) -> tuple[OverlayPosition | None, list[ItemChanged]]:
        """Both as of one moment: a transaction."""
        with reaching(self._settings.redis_url), self._redis.pipeline(transaction=True) as pipe:
            pipe.get(_PLACE)
            pipe.hvals(_SAID)
            place, rows = pipe.execute()
        numbered = [(int(number), body) for number, _, body in (row.partition(" ") for row in rows)]
        found = (_change(body) for _, body in sorted(numbered))
        return _place(place), [change for change in found if change is not None]

    def apply(
        self, fetched_from: OverlayPosition | None, moved_to: OverlayPosition, changes: Sequence[ItemChanged]
    ) -> None:
        """One script: all of them, or StalePositionError."""
        rows = [part for change in changes for part in (change.key, events.encode(change))]
        with reaching(self._settings.redis_url):
            done = self._script(
                keys=[_PLACE, _SEQUENCE, _SAID], args=[_text(fetched_from), _text(moved_to), *rows]
            )
        if not done:
            raise StalePositionError(f"the live catalogue no longer stands at {fetched_from}")

    @cached_property
    def _redis(self) -> redis.Redis:
        return connect(self._settings)

    @cached_property
    def _script(self):
        return self._redis.register_script(source("apply_items"))


def _change(body: str) -> ItemChanged | None:
    """None if it makes no sense: what an older replica laid stays until Redis is emptied."""
    try:
        return events.decode(ItemChanged, body.encode())
    except BadMessageError as error:
        logger.error("a change that was laid over the catalogue does not count: %s", error)
        return None


def _text(place: OverlayPosition | None) -> str:
    return "" if place is None else f"{place.offset} {place.log}"


def _place(text: str | None) -> OverlayPosition | None:
    if not text:
        return None
    offset, _, log = text.partition(" ")
    return OverlayPosition(log, int(offset))
