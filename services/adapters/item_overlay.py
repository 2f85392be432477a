"""Redis: changes of the live catalogue since the imported data version, merged by item, under one growing
revision."""

from collections.abc import Iterable
from functools import cached_property
from importlib.resources import files

from services import events
from services.adapters.redis_state import Client, connect, reaching
from services.errors import UnavailableError
from services.events import ItemChanged
from services.settings import Settings

_REVISION = "{items}:revision"
_CHANGES = "{items}:changes"
_ATTEMPTS = 10


class RedisItemOverlay:
    """ports.ItemOverlay on Redis. Connects at first use, so that a process starts without it."""

    def __init__(self, settings: Settings):
        self._settings = settings

    @cached_property
    def _redis(self) -> Client:
        return connect(self._settings)

    def revision(self) -> int:
        """One GET: replicas ask several times a second."""
        with reaching(self._settings.redis_url):
            return int(self._redis.get(_REVISION) or 0)

    def changes(self) -> dict[str, ItemChanged]:
        """Merged change of each changed item."""
        with reaching(self._settings.redis_url):
            stored = self._redis.hgetall(_CHANGES)
        return {item: events.decode(ItemChanged, body.encode()) for item, body in stored.items()}

    def apply(self, changes: Iterable[ItemChanged]) -> int:
        """Merge in this process and store if the revision is still the one merged with; else merge again."""
        wanted = list(changes)
        for _ in range(_ATTEMPTS):
            revision = self._lay(wanted)
            if revision is not None:
                return revision
        raise UnavailableError(
            "Redis", f"the live catalogue changed during {_ATTEMPTS} attempts to change it"
        )

    def _lay(self, wanted: list[ItemChanged]) -> int | None:
        names = list(dict.fromkeys(change.item_id for change in wanted))
        if not names:
            return self.revision()
        with reaching(self._settings.redis_url):
            seen = int(self._redis.get(_REVISION) or 0)
            stored = self._redis.hmget(_CHANGES, names)
            merged = _merged(wanted, dict(zip(names, stored, strict=True)))
            rows = [part for item, change in merged.items() for part in (item, events.encode(change))]
            done = self._script(keys=[_REVISION, _CHANGES], args=[seen, seen + len(wanted), *rows])
        return seen + len(wanted) if done else None

    @cached_property
    def _script(self):
        source = (files("services.adapters") / "lua" / "lay_items.lua").read_text("utf-8")
        return self._redis.register_script(source)


def _merged(wanted: list[ItemChanged], stored: dict[str, str | None]) -> dict[str, ItemChanged]:
    """What each item's change becomes; read before the revision is checked, so a race only costs another
    attempt."""
    merged: dict[str, ItemChanged] = {}
    for change in wanted:
        body = stored[change.item_id]
        before = merged.get(change.item_id) or (events.decode(ItemChanged, body.encode()) if body else None)
        merged[change.item_id] = change if before is None else before.then(change)
    return merged
