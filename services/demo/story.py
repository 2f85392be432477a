"""The story of the demo, in order: popularity serves, a better model wins the traffic, a broken one is
thrown out.

It reads top to bottom. Whatever it waits for is a fact on the board: a decision in the log, a weight, a
count of what shoppers saw. A wait that takes too long raises UnavailableError naming what did not happen.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.demo.actions import BETTER, BROKEN, CHAMPION, ENOUGH, MOVED, TEXT, Stage
from services.demo.state import Json
from services.demo.supervisor import Spec, run_step
from services.errors import UnavailableError
from services.ports.training import DataStore

SETTLE_S = 70.0  # what a new challenger needs to get its share, or not
SHOP_USERS = 6  # users that the sample shop offers to slip into


def one_thread(name: str) -> ThreadPoolExecutor:
    """A thread that does one thing after another."""
    return ThreadPoolExecutor(1, name)


@dataclass(slots=True, kw_only=True)
class Story(Stage):
    """The plot. `source`: arguments of `ringside data import`; `deadline_s`: when it must be over.

    `bench` fits models one after another, so that two cores are left something for shoppers.
    """

    source: list[str]
    data: DataStore
    deadline_s: float = float("inf")
    text_ready: threading.Event = field(default_factory=threading.Event)
    beside: ThreadPoolExecutor = field(default_factory=lambda: one_thread("beside"))
    bench: ThreadPoolExecutor = field(default_factory=lambda: one_thread("bench"))

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
        self.await_ready("activity", 120.0)  # a personal model is no better than what it hears
        self.enter(BETTER, "Knows tastes, not only what is popular.")
        self.see_traffic_move()
        broken.result()
        self.enter(BROKEN, "Popularity upside down: valid slates that nobody wants.")
        self.see_it_rolled_back()
        self.enter_text()

    # ---- opening

    def register_features(self) -> None:
        """Tell Feast what a feature is; it needs no data."""
        with self.step("Registering features") as step:
            self.run(self.site.step("features", "features", "apply"), step)

    def import_data(self) -> None:
        """A data version; the first replica starts meanwhile."""
        with self.step(f"Importing {self.source[0]}") as step:
            self.children.add(self.site.replica(0))
            self.run(self.site.step("import", "data", "import", *self.source, nice=0), step)

    def load_features(self) -> None:
        """Compute profiles and statistics, and load them online."""
        with self.step("Loading features online") as step:
            self.run(self.site.step("materialize", "features", "materialize"), step)

    def serve_popularity(self) -> None:
        """The first champion; ends with the first whole slate."""
        self.fit(CHAMPION, "Fitting popularity", nice=0)
        with self.step("First slate") as step:
            self.await_ready("recommend-1")
            self.api.start(CHAMPION, self.version(CHAMPION))
            self.wait(self._first_slate, 30.0, "a slate that is not degraded")
            self.board.facts["first_slate_s"] = round(self.now(), 1)
            step.note = f"served whole after {self.now():.1f} s"

    def open_the_loop(self) -> None:
        """Workers, pages, the second replica, shoppers."""
        with self.step("Workers, pages, second replica"):
            others = range(1, self.profile.replicas)
            for index in others:
                self.children.add(self.site.replica(index))
            for name in ("attribution", "decider", "activity"):
                self.children.add(self.site.worker(name))
            self.children.add(
                self.site.page("shop", self.site.shop_port, SHOP_USERS=",".join(self.shop_users()))
            )
            self.children.add(self.site.page("console", self.site.console_port))
            for name in [f"recommend-{index + 1}" for index in others] + ["shop", "console"]:
                self.await_ready(name)
        with self.step("Shoppers arrive"):
            self.children.add(self.shoppers())
            self.wait(lambda: self.board.sessions() > 0, 30.0, "a session of a simulated shopper")
            for name in ("lake", "training"):
                self.children.add(self.site.process(name))

    def shoppers(self) -> Spec:
        """The simulator, who only gets a storefront's key."""
        rate, summary = str(self.profile.sessions_per_s), str(self.site.home / "shoppers.json")
        return self.site.process("simulate", "--sessions", rate, "--summary", summary)

    def shop_users(self) -> list[str]:
        """Users with a history, for the viewer to slip into."""
        users = self.data.table("users").sort_by([("interactions", "descending")])
        middle = users.num_rows // 4  # regulars, not the heaviest few
        return users["user_id"].slice(middle, SHOP_USERS).to_pylist()

    # ---- the better model

    def see_traffic_move(self) -> None:
        """Wait until the arm that is better by the world's truth has most of the traffic."""
        with self.step("Traffic moves to the better model") as step:
            self.wait(lambda: self.leads(BETTER), 120.0, f"a better model with over {MOVED:g} of the traffic")
            self.board.facts["moved_s"] = round(self.now(), 1)
            step.note = f"{self.leader()} has {self.board.weight(self.leader()):.0%}"

    # ---- the broken model

    def see_it_rolled_back(self) -> None:
        """Wait for the click race, the confirmation, and enough requests without it on every replica."""
        with self.step("The click race takes it out") as step:
            self.wait(lambda: self.rollback() is not None, 120.0, "a rollback of the broken challenger")
            step.note = self.rollback()["reason"]
        with self.step("Every replica has stopped serving it") as step:
            self.wait(lambda: self.confirmation() is not None, 60.0, "a confirmation by all replicas")
            since_s, origins = self.confirmation()["received_at"] / 1e3 + 1.0, self.site.origins
            seen = f"{ENOUGH} answers of every replica after the rollback"
            self.wait(lambda: self.board.answers(origins, since_s) >= ENOUGH, 60.0, seen)
            step.note = f"{self.board.served(BROKEN, since_s)} answers of its own since"

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
            self.wait(lambda: self.text_ready.is_set() or self.now() > latest_s, 900.0, "a text model")
            if not self.text_ready.is_set():
                step.note = "not ready in time: it stays out"
        if self.text_ready.is_set() and "text_error" not in self.board.facts:
            self.enter(TEXT, "Knows what products are called.")
            with self.step("Three models compete") as step:
                settle_s = 900.0 if self.deadline_s == float("inf") else self.deadline_s - self.now()
                self.wait(lambda: self.leads(TEXT), settle_s, "traffic settling again")
                step.note = f"{self.leader()} has {self.board.weight(self.leader()):.0%}"

    def _text_progress(self, line: str) -> None:
        with self.board.lock:
            for step in self.board.steps:
                if step.title.startswith("Embedding texts") and step.ended_s is None:
                    step.note = line

    def _first_slate(self) -> bool:
        try:
            answer = self.api.recommend(f"demo-{self.now():.3f}")
        except UnavailableError:
            return False
        return bool(answer["items"]) and answer["degraded"] is None
