"""Hot reload: background tasks poll for new state, models and items, and replace one immutable `Snapshot` by
the next.

Nothing blocks the event loop. Two threads read Redis and disk: one for state and heartbeats, which must stay
prompt, one for data and models, which may take seconds. A request keeps the snapshot it started with.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from experiments.lifecycle.state import Experiment
from services.errors import UnavailableError
from services.ports.state import Heartbeat
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.snapshot.catalogue_index import CatalogueIndex
from services.recommend.snapshot.model_runner import BoundModel, bind
from services.recommend.snapshot.snapshot import Champion, ChampionOnly, ServedExperiment, Snapshot
from services.recommend.snapshot.sources import CatalogueSource, ChampionFile, ModelSource

log = logging.getLogger(__name__)

KILL_SWITCH_EVERY_S = 0.25
FIRST_LOAD_S = 30.0
T = TypeVar("T")


class SnapshotRefresher:
    """Keeps `snapshot` up to date. Call `start`, `stop` and `refresh` on the event loop."""

    def __init__(self, deps: Deps, metrics: Metrics):
        self._deps = deps
        self._metrics = metrics
        self._settings = deps.settings
        self._catalogue = CatalogueSource(deps.data, deps.overlay)
        self._models = ModelSource(deps.models, lambda: deps.clock_ms() / 1_000)
        self._state_thread = ThreadPoolExecutor(1, "state")
        self._load_thread = ThreadPoolExecutor(1, "load")
        self._tasks: list[asyncio.Task[None]] = []
        self._state_read_s = float("-inf")  # monotonic; cut off until the first read
        self._beat_s = float("-inf")
        self._killed = False
        table = deps.settings.experiments
        self._champion_files = {
            name: ChampionFile(deps.settings.home / "recommend" / _champion_file(name, table.default))
            for name in table.names()
        }
        experiments = {name: ServedExperiment(name) for name in table.names()}
        self.snapshot = Snapshot(self._catalogue.index, table, experiments)

    @property
    def status(self) -> str:
        """`ready` once slates can be made, which takes items; `loading` before."""
        return "ready" if len(self.snapshot.catalogue) > 0 else "loading"

    async def start(self) -> None:
        """Read champions, kill switch and state, load items and models, then keep polling for changes."""
        self._swap(remembered=await self._on(self._state_thread, self._read_champions))
        await self._poll_kill_switch()
        await self._poll_state()
        await self._first_load()
        self._tasks = [
            asyncio.create_task(self._repeat(self._poll_state, self._settings.refresh_s)),
            asyncio.create_task(self._repeat(self._load, self._settings.refresh_s)),
            asyncio.create_task(self._repeat(self._poll_kill_switch, KILL_SWITCH_EVERY_S)),
        ]

    async def stop(self) -> None:
        """End the tasks and the threads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._state_thread.shutdown(wait=False, cancel_futures=True)
        self._load_thread.shutdown(wait=False, cancel_futures=True)

    async def refresh(self) -> None:
        """Refresh everything once: kill switch, state, items, every wanted model; then report a heartbeat."""
        await self._poll_kill_switch()
        await self._poll_state()
        while await self._load():
            pass
        await self._on(self._state_thread, self._beat)

    async def _first_load(self) -> None:
        """Load items and models before the first request, because a new replica must not answer worse than
        the others. What takes longer, or fails, is loaded later."""
        try:
            async with asyncio.timeout(FIRST_LOAD_S):
                while await self._load():
                    pass
        except Exception:
            log.exception("not everything is loaded yet; it is tried again in the background")

    # ---- one poll each -----------------------------------------------------------------------------------

    async def _poll_kill_switch(self) -> None:
        """One stat of a local file, a few microseconds: no thread needed."""
        self._killed = self._settings.kill_switch_path.exists()
        self._swap()

    async def _poll_state(self) -> None:
        self._metrics.turned(self._deps.clock_ms(), len(asyncio.all_tasks()))
        states = await self._on(self._state_thread, self._read_states)
        self._swap(states=states)
        if states or time.monotonic() - self._beat_s >= self._settings.heartbeat_s:
            await self._on(self._state_thread, self._beat)

    async def _load(self) -> bool:
        """Whether items or models changed."""
        snapshot = self.snapshot
        wanted = snapshot.wanted_versions()
        catalogue, models = await self._on(self._load_thread, lambda: self._read_items_and_models(wanted))
        changed = catalogue is not snapshot.catalogue or models.keys() != snapshot.models.keys()
        if changed:
            self._swap(catalogue=catalogue, models=models)
            gc.freeze()  # loaded objects stay, so the collector need not visit them again
            await self._on(self._state_thread, self._beat)
        return changed

    # ---- in threads --------------------------------------------------------------------------------------

    def _read_champions(self) -> dict[str, Champion]:
        champions = {name: file.read() for name, file in self._champion_files.items()}
        return {name: champion for name, champion in champions.items() if champion is not None}

    def _read_states(self) -> dict[str, Experiment]:
        """States that are newer than the known ones, by experiment."""
        newer: dict[str, Experiment] = {}
        try:
            for name, experiment in self.snapshot.experiments.items():
                state, known = self._deps.state.get(name), experiment.state
                if state is None and known is not None:  # the cache was emptied
                    self._deps.state.put(known)
                elif state is not None and (known is None or state.revision > known.revision):
                    newer[name] = state
        except UnavailableError as error:
            log.debug("no experiment state: %s", error)
        else:
            self._state_read_s = time.monotonic()
        return newer

    def _read_items_and_models(self, wanted: list[str]) -> tuple[CatalogueIndex, dict[str, BoundModel]]:
        catalogue = self._catalogue.refresh()
        self._models.refresh(wanted)
        bound = self.snapshot.models
        models = {
            version: bound[version]
            if version in bound and bound[version].catalogue is catalogue
            else bind(runner, catalogue)
            for version, runner in self._models.runners.items()
        }
        return catalogue, models

    def _beat(self) -> None:
        """Report what is served now; remember each champion once it is loaded."""
        snapshot = self.snapshot
        for name, file in self._champion_files.items():
            champion = snapshot.experiments[name].champion
            if champion is not None and champion.model_version in snapshot.models:
                file.write(champion)
        experiment = snapshot.default_experiment
        revision = experiment.state.revision if experiment.state is not None else 0
        age_s = time.monotonic() - self._state_read_s
        self._metrics.state(revision, len(snapshot.models), age_s)
        shown = int(snapshot.catalogue.live.sum())
        self._metrics.catalogue(shown, experiment.champion_only is not None)
        beat = Heartbeat(
            replica=self._deps.replica,
            revision=revision,
            champion=experiment.champion.arm if experiment.champion is not None else "",
            loaded=tuple(snapshot.models),
            at_ms=self._deps.clock_ms(),
        )
        try:
            self._deps.state.put_heartbeat(beat, 5 * self._settings.heartbeat_s)
        except UnavailableError as error:
            log.debug("no heartbeat: %s", error)
        self._beat_s = time.monotonic()

    # ---- the swap ----------------------------------------------------------------------------------------

    def _swap(
        self,
        *,
        catalogue: CatalogueIndex | None = None,
        models: dict[str, BoundModel] | None = None,
        states: Mapping[str, Experiment] | None = None,
        remembered: Mapping[str, Champion] | None = None,
    ) -> None:
        """Replace the snapshot in one assignment, on the event loop's thread; parts left None stay."""
        old = self.snapshot
        states, remembered, champion_only = states or {}, remembered or {}, self._champion_only()
        experiments = {
            name: replace(
                experiment,
                state=states.get(name, experiment.state),
                remembered=remembered.get(name, experiment.remembered),
                champion_only=champion_only,
            )
            for name, experiment in old.experiments.items()
        }
        self.snapshot = replace(
            old,
            catalogue=catalogue if catalogue is not None else old.catalogue,
            models=models if models is not None else old.models,
            experiments=experiments,
        )

    def _champion_only(self) -> ChampionOnly | None:
        if self._killed:
            return "champion_only"
        cut_off = time.monotonic() - self._state_read_s > self._settings.state_cutoff_s
        return "cut_off" if cut_off else None

    async def _repeat(self, poll: Callable[[], Awaitable[object]], every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await poll()
            except Exception:
                log.exception("polling for changes failed; the next poll follows")

    async def _on(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, call)


def _champion_file(experiment: str, default: str) -> str:
    """The default experiment keeps the name that this file had when there was one experiment."""
    return "champion.json" if experiment == default else f"champion-{experiment}.json"
