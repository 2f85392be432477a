"""The story of the demo, in order: popularity serves, a better model wins the traffic, a broken one is
thrown out.

It reads top to bottom. Whatever it waits for is a fact on the board: a decision in the log, a weight, a
count of what shoppers saw. A wait that takes too long raises UnavailableError naming what did not happen.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.demo.api import Api
from services.demo.board import Board, Json, Step
from services.demo.children import Children, Spec, run_step
from services.demo.profile import Profile
from services.demo.site import Site
from services.errors import UnavailableError
from services.ports import ModelStore

CHAMPION, BETTER, TEXT, BROKEN = "popularity", "als", "text", "broken"
ALGORITHM = {CHAMPION: "popularity", BETTER: "als", TEXT: "content", BROKEN: "inverted"}
MOVED = 0.6  # share at which everybody agrees that traffic moved
SETTLE_S = 70.0  # what a new challenger needs to get its share, or not
ENOUGH = 200  # requests that must have been seen before and after a rollback
LOOK_S = 0.1


class StoppedError(Exception):
    """The viewer ended the demo."""


@dataclass(slots=True)
class Story:
    """Everything the story acts on. `source`: arguments of `ringside data import`; `now`: seconds since it
    began; `deadline_s`: when it must be over. `bench` fits models one after
    another, so that two cores are left something for shoppers."""

    site: Site
    profile: Profile
    board: Board
    children: Children
    api: Api
    models: ModelStore
    source: list[str]
    now: Callable[[], float]
    stop: threading.Event
    deadline_s: float = float("inf")
    text_ready: threading.Event = field(default_factory=threading.Event)
    beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "beside"))
    bench: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "bench"))

    def play(self) -> None:
        """From empty folders to a rolled back challenger and three models that compete."""
        registered = self.beside.submit(self.register_features)
        self.import_data()
        registered.result()
        loaded = self.beside.submit(self.load_features)
        self.serve_popularity()
        better = self.bench.submit(self.fit, BETTER, "Fitting ALS at low priority")
        broken = self.bench.submit(self.fit, BROKEN, "Fitting a broken challenger")
        self.bench.submit(self.embed_texts)
        loaded.result()
        self.open_the_loop()
        better.result()
        self.enter(BETTER, "Knows tastes, not only what is popular.")
        self.see_traffic_move()
        broken.result()
        self.enter(BROKEN, "Popularity upside down: valid slates that nobody wants.")
        self.see_it_rolled_back()
        self.enter_text()

    # ---- opening

    def import_data(self) -> None:
        """A data version; the first replica starts meanwhile."""
        with self.step(f"Importing {self.source[0]}") as step:
            self.children.add(self.site.replica(0))
            self.run(self.site.step("import", "data", "import", *self.source, nice=0), step)

    def serve_popularity(self) -> None:
        """The first champion; ends with the first whole slate."""
        self.fit(CHAMPION, "Fitting popularity", nice=0)
        with self.step("First slate") as step:
            self.children.await_ready("recommend-1", 60.0, self.stop)
            self.api.start(CHAMPION, self.version(CHAMPION))
            self.wait(self._first_slate, 30.0, "a slate that is not degraded")
            self.board.facts["first_slate_s"] = round(self.now(), 1)
            step.note = f"served whole after {self.now():.1f} s"

    def register_features(self) -> None:
        """Tell Feast what a feature is; it needs no data."""
        with self.step("Registering features") as step:
            self.run(self.site.step("features", "features", "apply"), step)

    def load_features(self) -> None:
        """Compute profiles and statistics, and load them online."""
        with self.step("Loading features online") as step:
            self.run(self.site.step("materialize", "features", "materialize"), step)

    def open_the_loop(self) -> None:
        """Workers, pages, the second replica, shoppers."""
        with self.step("Workers, pages, second replica"):
            replicas = range(1, self.profile.replicas)
            for index in replicas:
                self.children.add(self.site.replica(index))
            for name in ("bandit", "decider", "activity"):
                self.children.add(self.site.process(name))
            self.children.add(self.site.page("shop", self.site.shop_port))
            self.children.add(self.site.page("console", self.site.console_port))
            for name in [f"recommend-{index + 1}" for index in replicas] + ["shop", "console"]:
                self.children.await_ready(name, 60.0, self.stop)
        with self.step("Shoppers arrive"):
            self.children.add(self.shoppers())
            self.wait(lambda: self._sessions() > 0, 30.0, "a session of a simulated shopper")
            for name in ("lake", "trainer"):
                self.children.add(self.site.process(name))

    def shoppers(self) -> Spec:
        """The simulator, who only gets a storefront's key."""
        rate, summary = str(self.profile.sessions_per_s), str(self.site.home / "shoppers.json")
        return self.site.process("simulate", "--sessions", rate, "--summary", summary)

    # ---- the better model

    def see_traffic_move(self) -> None:
        """Wait until the arm that is better by the world's truth has most of the traffic."""
        with self.step("Traffic moves to the better model") as step:
            self.wait(self._moved, 120.0, f"a better model with more than {MOVED:g} of the traffic")
            self.board.facts["moved_s"] = round(self.now(), 1)
            step.note = f"{self.leader()} has {self.board.weight(self.leader()):.0%}"

    def leader(self) -> str:
        """The arm whose first slates are worth most, by the world's truth."""
        truth = self.board.shoppers.get("truth", {})
        worth = {arm: row["mean"] for arm, row in truth.items() if row["n"] >= ENOUGH and arm in ALGORITHM}
        return max(worth, key=lambda arm: worth[arm]) if worth else CHAMPION

    # ---- the broken model

    def see_it_rolled_back(self) -> None:
        """Wait for the click race, the confirmation, and enough requests without it on every replica."""
        with self.step("The click race takes it out") as step:
            self.wait(lambda: self.rollback() is not None, 120.0, "a rollback of the broken challenger")
            step.note = self.rollback()["reason"]
        with self.step("Every replica has stopped serving it") as step:
            self.wait(lambda: self.confirmation() is not None, 60.0, "a confirmation by all replicas")
            since_s = self.confirmation()["received_at"] / 1e3 + 1.0
            self.wait(
                lambda: self._answers_since(since_s) >= ENOUGH, 60.0, f"{ENOUGH} requests after the rollback"
            )
            step.note = f"{self._served_since(BROKEN, since_s)} answers of its own since"

    def rollback(self) -> Json | None:
        """The decision that took the broken challenger out."""
        return self.board.newest("rollback", BROKEN)

    def confirmation(self) -> Json | None:
        """The decision that says its retirement is served."""
        rollback = self.rollback()
        return None if rollback is None else self.board.confirmed(rollback["revision"])

    # ---- text

    def embed_texts(self) -> None:
        """Embed titles and descriptions at the lowest priority. Nothing else depends on it."""
        try:
            run_step(self.fitting(TEXT, nice=19), self.stop, self._text_progress)
        except UnavailableError as error:
            self.board.facts["text_error"] = str(error)
            self.tell(f"no text model: {error}")
        self.text_ready.set()

    def enter_text(self) -> None:
        """The text model enters when it is ready, if there is time left to see what becomes of it."""
        with self.step("Embedding texts at low priority") as step:
            latest_s = self.deadline_s - SETTLE_S
            self.wait(lambda: self.text_ready.is_set() or self.now() > latest_s, 600.0, "a text model")
            if not self.text_ready.is_set():
                step.note = "not ready in time: it stays out"
        if self.text_ready.is_set() and "text_error" not in self.board.facts:
            self.enter(TEXT, "Knows what products are called.")
            with self.step("Three models compete") as step:
                self.wait(
                    self._settled, max(SETTLE_S, self.deadline_s - self.now()), "traffic settling again"
                )
                step.note = f"{self.leader()} has {self.board.weight(self.leader()):.0%}"

    def _text_progress(self, line: str) -> None:
        with self.board.lock:
            for step in self.board.steps:
                if step.title.startswith("Embedding texts"):
                    step.note = line

    # ---- means

    def fitting(self, arm: str, nice: int = 10) -> Spec:
        """The command that fits the model of `arm`."""
        return self.site.step(f"fit-{arm}", "models", "fit", ALGORITHM[arm], nice=nice)

    def fit(self, arm: str, title: str, nice: int = 10) -> None:
        """Fit the model of `arm` to its end."""
        with self.step(title) as step:
            self.run(self.fitting(arm, nice), step)

    def enter(self, arm: str, reason: str) -> None:
        """Enter a challenger; it gets weight at the next look, once every replica has it loaded."""
        with self.step(f"Challenger {arm} enters"):
            self.api.enter(arm, self.version(arm), reason)
            self.board.facts[f"entered_{arm}_s"] = round(self.now(), 1)
            self.wait(lambda: self.board.weight(arm) > 0, 90.0, f"weight for {arm}")
            self.wait(lambda: self._served_since(arm, 0.0) > 0, 60.0, f"a slate of {arm}")

    def version(self, arm: str) -> str:
        """Newest model version of the algorithm of `arm`."""
        found = [name for name in self.models.versions() if name.startswith(f"{ALGORITHM[arm]}-")]
        if not found:
            raise UnavailableError("models", f"fitting {ALGORITHM[arm]} left no artifact")
        return found[-1]

    def run(self, spec: Spec, step: Step) -> None:
        """Run a command, its newest line of output as the step's note."""

        def note(line: str) -> None:
            step.note = line

        run_step(spec, self.stop, note)
        step.note = ""
        self._check_stop()

    def wait(self, happened: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait until `happened()`. Raises UnavailableError naming `what`, or StoppedError."""
        end = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > end:
                raise UnavailableError("the story", f"{what} did not happen within {timeout_s:g} s")
            self.stop.wait(LOOK_S)
            self._check_stop()

    def tell(self, notice: str) -> None:
        """Put a notice on the board."""
        with self.board.lock:
            self.board.notices.append((self.now(), notice))

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step on the board, from now until the block ends."""
        step = Step(title, self.now())
        with self.board.lock:
            self.board.steps.append(step)
        yield step
        step.ended_s = self.now()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError

    def _first_slate(self) -> bool:
        try:
            answer = self.api.recommend(f"demo-{self.now():.3f}")
        except UnavailableError:
            return False
        return bool(answer["items"]) and answer["degraded"] is None

    def _moved(self, newest: str = BETTER) -> bool:
        known = self.board.shoppers.get("truth", {}).get(newest, {"n": 0})["n"] >= ENOUGH
        return known and self.board.weight(self.leader()) > MOVED

    def _settled(self) -> bool:
        return self._moved(TEXT)

    def _sessions(self) -> int:
        return sum(row["sessions"] for row in self.board.shoppers.get("sessions", {}).values())

    def _served_since(self, arm: str, since_s: float) -> int:
        served = self.board.shoppers.get("served", [])
        return sum(n for second, _, name, n in served if second >= since_s and name == arm)

    def _answers_since(self, since_s: float) -> int:
        """Of the replica that answered least: enough must have been seen of each."""
        served = self.board.shoppers.get("served", [])
        counts = dict.fromkeys(self.site.origins, 0)
        for second, origin, _, n in served:
            counts[origin] += n if second >= since_s else 0
        return min(counts.values())
