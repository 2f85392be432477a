"""Hot reload: background tasks look for new state, models and items, and swap one immutable `Serving` for
the next.

Nothing blocks the event loop: what reads Redis or disk runs in two threads, one for state and heartbeats
(must stay prompt), one for data and models (may take seconds). A request keeps the view it started with.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from experiments.lifecycle.fold import Experiment
from services.errors import UnavailableError
from services.ports.state import Heartbeat
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.snapshot.catalogue_index import Shelf
from services.recommend.snapshot.model_runner import Placed, place
from services.recommend.snapshot.snapshot import Alone, Champion, Serving, wanted_versions
from services.recommend.snapshot.sources import ChampionFile, ModelKeeper, ShelfKeeper

log = logging.getLogger(__name__)

SWITCH_EVERY_S = 0.25
FILL_WITHIN_S = 30.0
T = TypeVar("T")


class Loaded:
    """Keeps `serving` up to date. `start` and `stop` on the event loop; `look` makes one pass of
    everything."""

    def __init__(self, deps: Deps, metrics: Metrics):
        self._deps = deps
        self._metrics = metrics
        self._settings = deps.settings
        self._shelves = ShelfKeeper(deps.data, deps.overlay)
        self._models = ModelKeeper(deps.models, lambda: deps.clock_ms() / 1_000)
        self._champion_file = ChampionFile(deps.settings.home / "recommend" / "champion.json")
        self._state_thread = ThreadPoolExecutor(1, "state")
        self._stock_thread = ThreadPoolExecutor(1, "stock")
        self._tasks: list[asyncio.Task[None]] = []
        self._seen_s = float("-inf")  # when the experiment state was last read: cut off until then
        self._beat_s = float("-inf")
        self._switched_off = False
        self.serving = Serving(self._shelves.shelf)

    @property
    def status(self) -> str:
        """Ready once slates can be made, which takes items; loading before."""
        return "ready" if len(self.serving.shelf) > 0 else "loading"

    async def start(self) -> None:
        """Know the champion, the switch and the state, then keep looking for changes."""
        remembered = await self._on(self._state_thread, self._champion_file.read)
        self._swap(remembered=remembered)
        self._look_switch()
        await self._look_state()
        await self._fill()
        self._tasks = [
            asyncio.create_task(self._repeat(self._look_state, self._settings.refresh_s)),
            asyncio.create_task(self._repeat(self._look_stock, self._settings.refresh_s)),
            asyncio.create_task(self._repeat(self._look_switch_async, SWITCH_EVERY_S)),
        ]

    async def stop(self) -> None:
        """End the tasks and the threads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._state_thread.shutdown(wait=False, cancel_futures=True)
        self._stock_thread.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """One pass: switch, state, items, every model that is wanted, and a heartbeat that says so."""
        self._look_switch()
        await self._look_state()
        while await self._look_stock():
            pass
        await self._on(self._state_thread, self._beat)

    async def _fill(self) -> None:
        """Take up items and models before the first request: among other replicas a new one must not answer
        worse than they do. What takes longer, or fails, is taken up later."""
        try:
            async with asyncio.timeout(FILL_WITHIN_S):
                while await self._look_stock():
                    pass
        except Exception:
            log.exception("not everything is loaded yet")

    # ---- one pass each -----------------------------------------------------------------------------------

    def _look_switch(self) -> None:
        """One stat of a local file, a few microseconds: no thread needed."""
        self._switched_off = self._settings.kill_switch_path.exists()
        self._swap()

    async def _look_switch_async(self) -> None:
        self._look_switch()

    async def _look_state(self) -> None:
        self._metrics.turned(self._deps.replica, self._deps.clock_ms(), len(asyncio.all_tasks()))
        state = await self._on(self._state_thread, self._read_state)
        known = self.serving.state
        newer = state is not None and (known is None or state.revision > known.revision)
        self._swap(state=state if newer else None)
        if newer or time.monotonic() - self._beat_s >= self._settings.heartbeat_s:
            await self._on(self._state_thread, self._beat)

    async def _look_stock(self) -> bool:
        """Whether anything was taken up."""
        serving = self.serving
        wanted = wanted_versions(serving.state, serving.remembered)
        shelf, models = await self._on(self._stock_thread, lambda: self._read_stock(wanted))
        changed = shelf is not serving.shelf or models.keys() != serving.models.keys()
        if changed:
            self._swap(shelf=shelf, models=models)
            gc.freeze()  # what was loaded stays: the collector need not walk it again and again
            await self._on(self._state_thread, self._beat)
        return changed

    # ---- in threads --------------------------------------------------------------------------------------

    def _read_state(self) -> Experiment | None:
        try:
            state = self._deps.state.get(self._settings.experiments.default)
            if state is None and self.serving.state is not None:
                self._deps.state.put(
                    self.serving.state
                )  # the cache was lost; only a newer state replaces ours
        except UnavailableError as error:
            log.debug("no experiment state: %s", error)
            return None
        self._seen_s = time.monotonic()
        return state

    def _read_stock(self, wanted: list[str]) -> tuple[Shelf, dict[str, Placed]]:
        shelf = self._shelves.look()
        self._models.look(wanted)
        known = self.serving.models
        models = {
            version: known[version]
            if version in known and known[version].shelf is shelf
            else place(fitted, shelf)
            for version, fitted in self._models.fitted.items()
        }
        return shelf, models

    def _beat(self) -> None:
        """Report what is served now; remember the champion once it is loaded."""
        serving = self.serving
        champion = serving.champion
        if champion is not None and champion.model_version in serving.models:
            self._champion_file.write(champion)
        revision = serving.state.revision if serving.state is not None else 0
        age_s = time.monotonic() - self._seen_s
        self._metrics.state(self._deps.replica, revision, len(serving.models), age_s)
        shown = int(serving.shelf.live.sum())
        self._metrics.shelf(self._deps.replica, shown, serving.alone is not None)
        beat = Heartbeat(
            replica=self._deps.replica,
            revision=revision,
            champion=champion.arm if champion is not None else "",
            loaded=tuple(serving.models),
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
        shelf: Shelf | None = None,
        models: dict[str, Placed] | None = None,
        state: Experiment | None = None,
        remembered: Champion | None = None,
    ) -> None:
        """Replace what is served, in one assignment, on the event loop's thread; parts left None stay."""
        old = self.serving
        self.serving = Serving(
            shelf=shelf if shelf is not None else old.shelf,
            models=models if models is not None else old.models,
            state=state or old.state,
            remembered=remembered or old.remembered,
            alone=self._alone(),
        )

    def _alone(self) -> Alone | None:
        if self._switched_off:
            return "champion_only"
        cut_off = time.monotonic() - self._seen_s > self._settings.state_cutoff_s
        return "cut_off" if cut_off else None

    async def _repeat(self, look: Callable[[], Awaitable[object]], every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await look()
            except Exception:
                log.exception("a look for changes failed; the next one follows")

    async def _on(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
