"""Actions of the demo's story: visible steps, commands, challengers that enter, waits with a timeout."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from services.client.client import Client
from services.demo.installation import LOW_PRIORITY, DemoInstallation
from services.demo.profile import Profile
from services.demo.state import DemoState, Step
from services.demo.supervisor import ProcessSpec, Supervisor, run_command
from services.errors import UnavailableError
from services.ports.training import ModelStore

CHAMPION, BETTER, TEXT, BROKEN = "popularity", "als", "text", "broken"
ALGORITHM = {CHAMPION: "popularity", BETTER: "als", TEXT: "content", BROKEN: "reversed_popularity"}
MOST_TRAFFIC = 0.6  # share above which an arm has most of the traffic
MIN_SAMPLE = 200  # requests or sessions that a conclusion needs
POLL_S = 0.1

T = TypeVar("T")


class StoppedError(Exception):
    """The viewer ended the demo."""


@dataclass(slots=True, kw_only=True)
class Actions:
    """What the story acts with. admin, storefront: clients of the first replica, with these roles' keys; now:
    seconds since the demo began; stop: set when the demo must end."""

    installation: DemoInstallation
    profile: Profile
    state: DemoState
    supervisor: Supervisor
    admin: Client
    storefront: Client
    models: ModelStore
    now: Callable[[], float]
    stop: threading.Event

    @property
    def experiment(self) -> str:
        """Name of the demo's experiment."""
        return self.installation.settings().experiment

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step that the viewer sees, until the block ends."""
        step = Step(title, self.now())
        with self.state.lock:
            self.state.steps.append(step)
        yield step
        step.ended_s = self.now()

    def run(self, spec: ProcessSpec, step: Step) -> None:
        """Run a command and show its newest line of output. Raises UnavailableError if it fails."""

        def show(line: str) -> None:
            step.note = line

        run_command(spec, self.stop, show)
        step.note = ""
        self.check_stop()

    def wait(self, happened: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """Wait until `happened()` is true and return it. Raises UnavailableError naming `what`, or
        StoppedError."""
        end = time.monotonic() + timeout_s
        while not (result := happened()):
            if time.monotonic() > end:
                raise UnavailableError("the story", f"no {what} within {timeout_s:g} s")
            self.stop.wait(POLL_S)
            self.check_stop()
        return result

    def check_stop(self) -> None:
        """Raise StoppedError if the demo must end."""
        if self.stop.is_set():
            raise StoppedError

    def await_ready(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait until a process is ready."""
        self.supervisor.await_ready(name, timeout_s, self.stop)
        self.check_stop()

    def fit_command(self, arm: str, nice: int = LOW_PRIORITY) -> ProcessSpec:
        """The command that fits the model of `arm`."""
        return self.installation.command(f"fit-{arm}", "models", "fit", ALGORITHM[arm], nice=nice)

    def fit(self, arm: str, title: str, nice: int = LOW_PRIORITY) -> None:
        """Fit the model of `arm`, as a step."""
        with self.step(title) as step:
            self.run(self.fit_command(arm, nice), step)

    def newest_version(self, arm: str) -> str:
        """Newest model version of the algorithm of `arm`."""
        versions = [name for name in self.models.versions() if name.startswith(f"{ALGORITHM[arm]}-")]
        if not versions:
            raise UnavailableError("models", f"fitting {ALGORITHM[arm]} wrote no artifact")
        return versions[-1]

    def enter(self, arm: str, reason: str) -> None:
        """Enter a challenger. It gets traffic at the next look, once every replica has loaded its model."""
        with self.step(f"Challenger {arm} enters"):
            version = self.newest_version(arm)
            self.admin.command(self.experiment, "enter", arm=arm, model_version=version, reason=reason)
            self.state.facts[f"entered_{arm}_s"] = round(self.now(), 1)
            self.wait(lambda: self.state.weight(arm) > 0, 90.0, f"traffic for {arm}")
            self.wait(lambda: self.slates_of(arm) > 0, 60.0, f"slate of {arm}")

    def slates_of(self, arm: str, since_s: float = 0.0) -> int:
        """Slates of `arm` that shoppers got since `since_s` (seconds since the epoch)."""
        served = self.state.served(self.installation.replica_urls, arm, since_s)
        return sum(row["of_arm"] for row in served.values())

    def best_arm(self) -> str:
        """The arm whose first slates have the highest true probability of a click."""
        values = {
            arm: row["mean"]
            for arm, row in self.state.slate_values().items()
            if row["n"] >= MIN_SAMPLE and arm in ALGORITHM
        }
        return max(values, key=lambda arm: values[arm]) if values else CHAMPION

    def best_arm_leads(self, newest: str) -> bool:
        """True if the slates of `newest` are known well enough and the best arm has most of the traffic."""
        values = self.state.slate_values()
        known = newest in values and values[newest]["n"] >= MIN_SAMPLE
        return known and self.state.weight(self.best_arm()) > MOST_TRAFFIC
