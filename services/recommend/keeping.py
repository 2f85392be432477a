"""What a replica keeps in memory, brought up to date by blocking calls that run in a thread: shelf,
models, champion."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from models.contract import Catalogue
from services.errors import RingsideError, UnavailableError
from services.ports import DataStore, ItemOverlay, ModelStore
from services.recommend.fitted import Fitted, fit_in
from services.recommend.serving import Champion
from services.recommend.shelf import EMPTY, Shelf, popularity_of, stock

log = logging.getLogger(__name__)

RETRY_S = 5.0  # before a model that failed to load is tried again
KEEP_RETIRED = 2  # models no longer wanted that stay in memory, because an undo may bring them back


class ShelfKeeper:
    """The shelf of the current data version with the live changes."""

    def __init__(self, data: DataStore, overlay: ItemOverlay):
        self._data = data
        self._overlay = overlay
        self._catalogue: Catalogue = EMPTY
        self._counts = np.empty(0, np.float32)
        self._version = ""
        self.shelf: Shelf = stock(EMPTY, self._counts)

    def look(self) -> Shelf:
        """The shelf as it is now; the same object while nothing has changed. Without Redis the known
        changes stay."""
        new_data = self._load(self._data.current() or "")
        revision = self._revision()
        if new_data or revision != self.shelf.overlay_revision:
            self.shelf = stock(
                self._catalogue,
                self._counts,
                data_version=self._version,
                changes=self._overlay.changes() if revision else {},
                overlay_revision=revision,
            )
            log.info("catalogue: %d items, data %s, changes %d", len(self.shelf), self._version, revision)
        return self.shelf

    def _load(self, version: str) -> bool:
        if version in ("", self._version):
            return False
        dataset = self._data.load(version)
        self._catalogue = dataset.catalogue
        self._counts = popularity_of(dataset.interactions, len(dataset.catalogue))
        self._version = version
        return True

    def _revision(self) -> int:
        try:
            return self._overlay.revision()
        except UnavailableError:
            return self.shelf.overlay_revision


class ModelKeeper:
    """Models in memory by version. A model that fails to load, or to answer when tried out, is not loaded: it
    gets no weight, because heartbeats don't list it."""

    def __init__(self, store: ModelStore, now_s: Callable[[], float]):
        self._store = store
        self._now_s = now_s
        self._retry_at: dict[str, float] = {}
        self.fitted: dict[str, Fitted] = {}

    def look(self, wanted: Sequence[str]) -> bool:
        """Load the first wanted version that is missing, forget what is no longer needed; whether anything
        changed."""
        now_s = self._now_s()
        missing = [version for version in wanted if version not in self.fitted]
        due = [version for version in missing if self._retry_at.get(version, now_s) <= now_s]
        loaded = self._load(due[0], now_s) if due else False
        return self._forget(wanted) or loaded

    def _load(self, version: str, now_s: float) -> bool:
        try:
            model, _ = self._store.load(version)
            fitted = fit_in(model, version, now_s)
        except Exception as error:
            self._retry_at[version] = now_s + RETRY_S
            log.error(
                "model %s is not loaded: %s", version, error, exc_info=not isinstance(error, RingsideError)
            )
            return False
        self._retry_at.pop(version, None)
        self.fitted = {**self.fitted, version: fitted}  # a new dict: the old one may be being read
        log.info("model %s loaded (%s)", version, "inline" if fitted.inline else "in threads")
        return True

    def _forget(self, wanted: Sequence[str]) -> bool:
        spare = [version for version in self.fitted if version not in wanted]
        for version in spare[:-KEEP_RETIRED]:
            self.fitted = {name: fitted for name, fitted in self.fitted.items() if name != version}
        return len(spare) > KEEP_RETIRED


class ChampionFile:
    """The last champion that this machine served, so that it can start without Redis and Kafka."""

    def __init__(self, path: Path):
        self._path = path
        self._known: Champion | None = None

    def read(self) -> Champion | None:
        """The remembered champion; None if there is none, or the file is damaged."""
        try:
            self._known = msgspec.json.decode(self._path.read_bytes(), type=Champion)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.error("%s is not readable: %s", self._path, error)
        return self._known

    def write(self, champion: Champion) -> None:
        """Remember; written beside and moved, so that a crash leaves the old one or the new one."""
        if champion == self._known:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(champion))
        beside.replace(self._path)
        self._known = champion
