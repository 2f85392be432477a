"""What the story acts with: steps that the viewer sees, commands that are run, challengers that enter,
waits that end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.demo.api import Api
from services.demo.installation import HEAVY, Site
from services.demo.profile import Profile
from services.demo.state import Board, Step
from services.demo.supervisor import Children, Spec, run_step
from services.errors import UnavailableError
from services.ports.training import ModelStore

CHAMPION, BETTER, TEXT, BROKEN = "popularity", "als", "text", "broken"
ALGORITHM = {CHAMPION: "popularity", BETTER: "als", TEXT: "content", BROKEN: "reversed_popularity"}
MOVED = 0.6  # share at which everybody agrees that traffic moved
ENOUGH = 200  # requests, or sessions, from which something is concluded
LOOK_S = 0.1


class StoppedError(Exception):
    """The viewer ended the demo."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """`now`: seconds since the demo began; `stop` is set when it shall end."""

    site: Site
    profile: Profile
    board: Board
    children: Children
    api: Api
    models: ModelStore
    now: Callable[[], float]
    stop: threading.Event

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step on the board, from now until the block ends."""
        step = Step(title, self.now())
        with self.board.lock:
            self.board.steps.append(step)
        yield step
        step.ended_s = self.now()

    def tell(self, notice: str) -> None:
        """Put a notice on the board."""
        with self.board.lock:
            self.board.notices.append((self.now(), notice))

    def run(self, spec: Spec, step: Step) -> None:
        """Run a command, its newest line of output as the step's note. Raises UnavailableError if it
        fails."""

        def note(line: str) -> None:
            step.note = line

        run_step(spec, self.stop, note)
        step.note = ""
        self.check_stop()

    def wait(self, happened: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait until `happened()`. Raises UnavailableError naming `what`, or StoppedError."""
        end = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > end:
                raise UnavailableError("the story", f"{what} did not happen within {timeout_s:g} s")
            self.stop.wait(LOOK_S)
            self.check_stop()

    def check_stop(self) -> None:
        """Raise StoppedError if the demo shall end."""
        if self.stop.is_set():
            raise StoppedError

    def await_ready(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait for a child."""
        self.children.await_ready(name, timeout_s, self.stop)
        self.check_stop()

    def fitting(self, arm: str, nice: int = HEAVY) -> Spec:
        """The command that fits the model of `arm`."""
        return self.site.step(f"fit-{arm}", "models", "fit", ALGORITHM[arm], nice=nice)

    def fit(self, arm: str, title: str, nice: int = HEAVY) -> None:
        """Fit the model of `arm` to its end."""
        with self.step(title) as step:
            self.run(self.fitting(arm, nice), step)

    def version(self, arm: str) -> str:
        """Newest model version of the algorithm of `arm`."""
        found = [name for name in self.models.versions() if name.startswith(f"{ALGORITHM[arm]}-")]
        if not found:
            raise UnavailableError("models", f"fitting {ALGORITHM[arm]} left no artifact")
        return found[-1]

    def enter(self, arm: str, reason: str) -> None:
        """Enter a challenger; it gets weight at the next look, once every replica has it loaded."""
        with self.step(f"Challenger {arm} enters"):
            self.api.enter(arm, self.version(arm), reason)
            self.board.facts[f"entered_{arm}_s"] = round(self.now(), 1)
            self.wait(lambda: self.board.weight(arm) > 0, 90.0, f"weight for {arm}")
            self.wait(lambda: self.board.served(arm) > 0, 60.0, f"a slate of {arm}")

    def leader(self) -> str:
        """The arm whose first slates are worth most, by the world's truth."""
        truth = self.board.truth()
        worth = {arm: row["mean"] for arm, row in truth.items() if row["n"] >= ENOUGH and arm in ALGORITHM}
        return max(worth, key=lambda arm: worth[arm]) if worth else CHAMPION

    def leads(self, newest: str) -> bool:
        """Whether `newest` is known well enough, and the leader has most of the traffic."""
        known = self.board.truth().get(newest, {"n": 0})["n"] >= ENOUGH
        return known and self.board.weight(self.leader()) > MOVED
