"""Story of the demo: popularity serves, a better model wins the traffic, a broken one is rolled back.

It reads from top to bottom and waits for facts in the state: a decision in the log, a weight, a count of what
shoppers saw. A wait that takes too long raises UnavailableError with what did not happen.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from services.client.client import CallError
from services.demo.actions import (
    BETTER,
    BROKEN,
    CHAMPION,
    MIN_SAMPLE,
    MOST_TRAFFIC,
    TEXT,
    Actions,
    StoppedError,
)
from services.demo.supervisor import ProcessSpec, run_command
from services.errors import RingsideError, UnavailableError
from services.ports.training import DataStore

SETTLE_S = 70.0  # time in which a new challenger gets its share of the traffic
STOPPED = "the viewer stopped the demo"
SHOP_USERS = 6  # users that the sample shop offers


@dataclass(slots=True, kw_only=True)
class Story(Actions):
    """The story. source: arguments of `ringside data import`; deadline_s: when it must be over; failure: why
    it broke off; over: set when it has ended either way; background: runs feature commands; fitting: fits
    models one after another, so that shoppers keep enough of two cores.
    """

    source: list[str]
    data: DataStore
    deadline_s: float = float("inf")
    text_ready: threading.Event = field(default_factory=threading.Event)
    failure: str | None = None
    over: threading.Event = field(default_factory=threading.Event)
    background: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "background"))
    fitting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "fitting"))

    def run_in_thread(self) -> None:
        """Play the story in a thread."""
        threading.Thread(target=self._run, name="story", daemon=True).start()

    def failed(self, reason: str) -> None:
        """Record a failure; the first one is kept."""
        self.failure = self.failure or reason

    def _run(self) -> None:
        try:
            self.play()
        except StoppedError:
            self.failed(STOPPED)
        except (RingsideError, CallError, OSError) as error:
            self.failed(str(error))
        except BaseException as error:
            self.failed(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.over.set()

    def play(self) -> None:
        """From empty folders to three models that compete, with a broken one rolled back in between."""
        registered = self.background.submit(self.register_features)
        self.import_data()
        registered.result()
        loaded = self.background.submit(self.load_features)
        self.serve_popularity()
        better = self.fitting.submit(self.fit, BETTER, "Fitting ALS at low priority")
        broken = self.fitting.submit(self.fit, BROKEN, "Fitting a broken challenger")
        self.fitting.submit(self.embed_texts)
        loaded.result()
        self.start_processes()
        better.result()
        self.await_ready("activity", 120.0)  # a personal model needs the shoppers' recent activity
        self.enter(BETTER, "A personal model, for taste instead of popularity.")
        self.await_traffic_shift()
        broken.result()
        self.enter(BROKEN, "Popularity in reverse: valid slates of unwanted items.")
        self.await_rollback()
        self.enter_text()

    # ---- opening

    def register_features(self) -> None:
        """Register the feature definitions in Feast, which needs no data."""
        with self.step("Registering features") as step:
            self.run(self.installation.command("features", "features", "apply"), step)

    def import_data(self) -> None:
        """Import a data version while the first replica starts."""
        with self.step(f"Importing {self.source[0]}") as step:
            self.supervisor.add(self.installation.replica(0))
            self.run(self.installation.command("import", "data", "import", *self.source, nice=0), step)

    def load_features(self) -> None:
        """Compute user profiles and item statistics, and load them into the online store."""
        with self.step("Loading features online") as step:
            self.run(self.installation.command("materialize", "features", "materialize"), step)

    def serve_popularity(self) -> None:
        """Serve the first champion; ends with the first complete slate."""
        self.fit(CHAMPION, "Fitting popularity", nice=0)
        with self.step("First slate") as step:
            self.await_ready("recommend-1")
            version = self.newest_version(CHAMPION)
            self.admin.command(self.experiment, "start", arm=CHAMPION, model_version=version)
            self.wait(self._serves_complete_slate, 30.0, "slate that is not degraded")
            self.state.facts["first_slate_s"] = round(self.now(), 1)
            step.note = f"complete after {self.now():.1f} s"

    def start_processes(self) -> None:
        """Start workers, pages, the second replica and the shoppers."""
        installation, add = self.installation, self.supervisor.add
        with self.step("Starting workers, pages and the second replica"):
            others = range(1, self.profile.replicas)
            for index in others:
                add(installation.replica(index))
            for name in ("attribution", "decider", "activity"):
                add(installation.worker(name))
            add(installation.page("shop", installation.shop_port, SHOP_USERS=",".join(self.shop_users())))
            add(installation.page("console", installation.console_port))
            for name in [f"recommend-{index + 1}" for index in others] + ["shop", "console"]:
                self.await_ready(name)
        with self.step("Shoppers arrive"):
            add(self.simulator())
            self.wait(lambda: self.state.sessions() > 0, 30.0, "session of a simulated shopper")
            for name in ("lake", "training"):
                add(installation.process(name))

    def simulator(self) -> ProcessSpec:
        """The simulator, which has only a storefront's key."""
        rate, summary = str(self.profile.sessions_per_s), str(self.installation.home / "shoppers.json")
        return self.installation.process("simulate", "--sessions", rate, "--summary", summary)

    def shop_users(self) -> list[str]:
        """Users with a history that the sample shop offers: regulars, not the few most active."""
        users = self.data.table("users").sort_by([("interactions", "descending")])
        regulars = users["user_id"].slice(users.num_rows // 4, SHOP_USERS)
        return [str(user) for user in regulars.to_pylist()]

    # ---- the better model

    def await_traffic_shift(self) -> None:
        """Wait until the arm with the truly best slates has most of the traffic."""
        with self.step("Traffic moves to the better model") as step:
            what = f"better model with more than {MOST_TRAFFIC:.0%} of the traffic"
            self.wait(lambda: self.best_arm_leads(BETTER), 120.0, what)
            self.state.facts["moved_s"] = round(self.now(), 1)
            step.note = self._leader_note()

    # ---- the broken model

    def await_rollback(self) -> None:
        """Wait for the rollback, its confirmation, and enough slates of every replica afterwards."""
        with self.step("The click race rolls it back") as step:
            rollback = self.wait(
                lambda: self.state.newest("rollback", BROKEN), 120.0, "rollback of the broken challenger"
            )
            step.note = rollback.reason
        with self.step("Every replica stops serving it") as step:
            confirmation = self.wait(
                lambda: self.state.confirmation(rollback.revision), 60.0, "confirmation by all replicas"
            )
            since_s = confirmation.received_at / 1e3 + 1.0
            what = f"{MIN_SAMPLE} slates of every replica after the rollback"
            self.wait(lambda: self._fewest_slates(since_s) >= MIN_SAMPLE, 60.0, what)
            step.note = f"{self.slates_of(BROKEN, since_s)} of its slates since"

    def _fewest_slates(self, since_s: float) -> int:
        served = self.state.served(self.installation.replica_urls, BROKEN, since_s)
        return min(row["answers"] for row in served.values())

    # ---- the text model

    def embed_texts(self) -> None:
        """Embed titles and descriptions at the lowest priority. Nothing else depends on it."""
        try:
            run_command(self.fit_command(TEXT, nice=19), self.stop, self._show_text_progress)
        except UnavailableError as error:
            self.state.facts["text_error"] = str(error)
            with self.state.lock:
                self.state.notices.append((self.now(), f"no text model: {error}"))
        self.text_ready.set()

    def enter_text(self) -> None:
        """Enter the text model when it is ready, if enough time is left."""
        with self.step("Embedding texts at low priority") as step:
            latest_s = self.deadline_s - SETTLE_S
            self.wait(lambda: self.text_ready.is_set() or self.now() > latest_s, 900.0, "text model")
            if not self.text_ready.is_set():
                step.note = "not ready in time, so it does not enter"
        if self.text_ready.is_set() and "text_error" not in self.state.facts:
            self.enter(TEXT, "A model of titles and descriptions.")
            with self.step("Three models compete") as step:
                settle_s = 900.0 if self.deadline_s == float("inf") else self.deadline_s - self.now()
                self.wait(lambda: self.best_arm_leads(TEXT), settle_s, "arm with most of the traffic")
                step.note = self._leader_note()

    def _leader_note(self) -> str:
        leader = self.best_arm()
        return f"{leader} has {self.state.weight(leader):.0%}"

    def _show_text_progress(self, line: str) -> None:
        with self.state.lock:
            for step in self.state.steps:
                if step.title.startswith("Embedding texts") and step.ended_s is None:
                    step.note = line

    def _serves_complete_slate(self) -> bool:
        slate = self.storefront.recommend(session_id=f"demo-{self.now():.3f}", staff=True)
        return slate is not None and bool(slate.items) and slate.degraded is None
