"""Load what a replica keeps in memory: catalogue, models, champion. Calls block and run in a thread."""

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
from services.recommend.snapshot.catalogue_index import EMPTY, CatalogueIndex, build_index, popularity_of
from services.recommend.snapshot.item_changes import in_force
from services.recommend.snapshot.model_runner import ModelRunner, try_out
from services.recommend.snapshot.snapshot import Champion
from services.runtime.atomic_write import write_atomically

log = logging.getLogger(__name__)

RETRY_S = 5.0  # before a model that failed to load is tried again
KEEP_RETIRED = 2  # models no longer wanted that stay in memory, because an undo may bring them back


class CatalogueSource:
    """The catalogue of the current data version with the live changes applied."""

    def __init__(self, data: DataStore, overlay: ItemOverlay):
        self._data = data
        self._overlay = overlay
        self._catalogue: Catalogue = EMPTY
        self._counts = np.empty(0, np.float32)
        self._version = ""
        self._changes: list[ItemChanged] = []
        self.index: CatalogueIndex = build_index(EMPTY, self._counts)

    def refresh(self) -> CatalogueIndex:
        """The newest index; the same object if nothing has changed."""
        self._load(self._data.current() or "")
        imported = self._data.catalogue_provenance(self._version) if self._version else CatalogueProvenance()
        position = self._refresh_changes()
        indexed = (self.index.data_version, self.index.imported, self.index.position)
        if (self._version, imported, position) != indexed:
            self.index = build_index(
                self._catalogue,
                self._counts,
                data_version=self._version,
                changes=in_force(self._changes, imported),
                imported=imported,
                position=position,
            )
            log.info("catalogue: %d items, data %s, changes to %s", len(self.index), self._version, position)
        return self.index

    def _load(self, version: str) -> None:
        if version in ("", self._version):
            return
        dataset = self._data.load(version)
        self._catalogue = dataset.catalogue
        self._counts = popularity_of(dataset.interactions, len(dataset.catalogue))
        self._version = version

    def _refresh_changes(self) -> OverlayPosition | None:
        """Position in the log of the changes held here.

        Without Redis, and while an emptied one is filled again, the changes stay as they are, so that a
        deleted item does not come back for a moment.
        """
        held = self.index.position
        try:
            if not _newer(self._overlay.position(), held):
                return held
            position, changes = self._overlay.changes()
        except UnavailableError:
            return held
        if not _newer(position, held):  # emptied in between
            return held
        self._changes = changes
        return position


def _newer(position: OverlayPosition | None, held: OverlayPosition | None) -> bool:
    """Whether the overlay is ahead of the changes held: further in the same log, or in another log."""
    if position is None or held is None:
        return position is not None
    return position.log != held.log or position.offset > held.offset


class ModelSource:
    """Models in memory by version. A model that fails to load, or to answer when tried out, is left out:
    heartbeats don't list it, so it gets no weight."""

    def __init__(self, store: ModelStore, now_s: Callable[[], float]):
        self._store = store
        self._now_s = now_s
        self._retry_at_s: dict[str, float] = {}
        self.runners: dict[str, ModelRunner] = {}

    def refresh(self, wanted: Sequence[str]) -> None:
        """Load the first wanted version that is missing, and drop versions that are no longer needed."""
        now_s = self._now_s()
        missing = [version for version in wanted if version not in self.runners]
        due = [version for version in missing if self._retry_at_s.get(version, now_s) <= now_s]
        if due:
            self._load(due[0], now_s)
        self._drop_unneeded(wanted)

    def _load(self, version: str, now_s: float) -> None:
        try:
            model, _ = self._store.load(version)
            runner = try_out(model, version, now_s)
        except Exception as error:
            self._retry_at_s[version] = now_s + RETRY_S
            trace = not isinstance(error, RingsideError)
            log.error("model %s is not loaded: %s", version, error, exc_info=trace)
            return
        self._retry_at_s.pop(version, None)
        self.runners[version] = runner
        log.info("model %s loaded (%s)", version, "inline" if runner.inline else "in threads")

    def _drop_unneeded(self, wanted: Sequence[str]) -> None:
        retired = [version for version in self.runners if version not in wanted]
        for version in retired[:-KEEP_RETIRED]:
            del self.runners[version]


class ChampionFile:
    """The last champion that this machine served, so that it can start without Redis and Kafka."""

    def __init__(self, path: Path):
        self._path = path
        self._champion: Champion | None = None
        self._warned = ""

    def read(self) -> Champion | None:
        """The remembered champion; None if there is none, or the file is damaged."""
        try:
            self._champion = msgspec.json.decode(self._path.read_bytes(), type=Champion)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.error("%s is not readable: %s", self._path, error)
        return self._champion

    def write(self, champion: Champion) -> None:
        """Remember the champion. A full or read-only disk is reported once and must not stop the service."""
        if champion == self._champion:
            return
        try:
            write_atomically(self._path, msgspec.json.encode(champion))
        except OSError as error:
            if str(error) != self._warned:
                log.warning("the champion is not remembered: %s", error)
            self._warned = str(error)
            return
        self._champion, self._warned = champion, ""
