"""What a replica keeps in memory, brought up to date by blocking calls that run in a thread: shelf,
models, champion."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from models.recommender import Catalogue
from services.errors import RingsideError, UnavailableError
from services.messages.events import ItemChanged
from services.ports.catalogue import CatalogueProvenance, ItemOverlay, OverlayPosition
from services.ports.training import DataStore, ModelStore
from services.recommend.snapshot.catalogue_index import EMPTY, Shelf, popularity_of, stock
from services.recommend.snapshot.item_changes import standing
from services.recommend.snapshot.model_runner import Fitted, fit_in
from services.recommend.snapshot.snapshot import Champion
from services.runtime.atomic_write import write_atomically

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
        self._changes: list[ItemChanged] = []
        self.shelf: Shelf = stock(EMPTY, self._counts)

    def look(self) -> Shelf:
        """The shelf as it is now; the same object while nothing has changed."""
        self._load(self._data.current() or "")
        imported = self._data.catalogue_provenance(self._version) if self._version else CatalogueProvenance()
        laid = self._look_at_changes()
        known = (self.shelf.data_version, self.shelf.imported, self.shelf.laid)
        if (self._version, imported, laid) != known:
            self.shelf = stock(
                self._catalogue,
                self._counts,
                data_version=self._version,
                changes=standing(self._changes, imported),
                imported=imported,
                laid=laid,
            )
            log.info("catalogue: %d items, data %s, changes to %s", len(self.shelf), self._version, laid)
        return self.shelf

    def _load(self, version: str) -> None:
        if version in ("", self._version):
            return
        dataset = self._data.load(version)
        self._catalogue = dataset.catalogue
        self._counts = popularity_of(dataset.interactions, len(dataset.catalogue))
        self._version = version

    def _look_at_changes(self) -> OverlayPosition | None:
        """How far the changes that we know go. Without Redis, and while one that was emptied is laid anew,
        those known stay: an item that was taken out must not come back for a moment."""
        known = self.shelf.laid
        try:
            if not _further(self._overlay.position(), known):
                return known
            laid, changes = self._overlay.changes()
        except UnavailableError:
            return known
        if not _further(laid, known):  # emptied in between
            return known
        self._changes = changes
        return laid


def _further(laid: OverlayPosition | None, known: OverlayPosition | None) -> bool:
    """Whether the overlay says more than what is known: more of the same log, or another log."""
    if laid is None or known is None:
        return laid is not None
    return laid.log != known.log or laid.offset > known.offset


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
        mutate = [version for version in self.fitted if version not in wanted]
        for version in mutate[:-KEEP_RETIRED]:
            self.fitted = {name: fitted for name, fitted in self.fitted.items() if name != version}
        return len(mutate) > KEEP_RETIRED


class ChampionFile:
    """The last champion that this machine served, so that it can start without Redis and Kafka."""

    def __init__(self, path: Path):
        self._path = path
        self._known: Champion | None = None
        self._problem = ""  # that was told

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
        """Remember. A full or read-only disk is told once and must not end what still works."""
        if champion == self._known:
            return
        try:
            write_atomically(self._path, msgspec.json.encode(champion))
        except OSError as error:
            if str(error) != self._problem:
                log.warning("the champion is not remembered: %s", error)
            self._problem = str(error)
            return
        self._known, self._problem = champion, ""
