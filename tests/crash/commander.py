"""The person who runs the experiment meanwhile: enters, rolls back and undoes over HTTP, wants retraining."""

import contextlib
import random
import threading
import time
from typing import Any

import httpx

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from services import bootstrap
from services.control.decide import decide
from services.errors import BadInputError, UnavailableError
from tests.crash.installation import CrashInstallation

EVERY_S = 4.0
KEPT = 3  # live challengers
RULES = {"burn_in_units": 10, "burn_in_successes": 2, "pseudo_units": 5.0}  # weights move from the start


class Operator:
    """`start`, then `run` in a thread until `stop` is set. A command whose connection broke is looked up, not
    repeated."""

    def __init__(self, site: CrashInstallation):
        self._site = site
        self._rng = random.Random(site.scenario.seed + 77)
        self._http = httpx.Client(
            base_url=f"{site.url}/experiments/{site.settings.experiment}",
            headers={"X-API-Key": site.keys["admin"]},
            timeout=60,
        )
        self._log = bootstrap.decision_log(site.settings)
        self.stop = threading.Event()
        self.commands = 0
        self.retrainings = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """The first champion and two challengers."""
        self._send("start", model_version=self._site.models[0], arm="first", rules=RULES)
        for number, version in enumerate(self._site.models[1:], start=2):
            self._send("enter", model_version=version, arm=f"arm{number}")

    def run(self) -> None:
        """Until `stop`."""
        try:
            while not self.stop.wait(EVERY_S):
                with contextlib.suppress(UnavailableError):  # while the broker is away there is nothing to do
                    self._turn()
        except BaseException as error:  # noqa: BLE001 (told by whoever waits for us)
            self.error = error

    def history(self) -> list[Decision]:
        """Every decision so far, as far as the broker can be reached."""
        with contextlib.suppress(UnavailableError):
            self._log.catch_up()
        return self._log.history(self._site.settings.experiment)

    def _turn(self) -> None:
        state = self._log.catch_up()[self._site.settings.experiment]
        challengers = [arm.name for arm in state.live_arms() if arm.name != state.champion]
        if len(challengers) > KEPT:
            self._send("rollback", arm=self._rng.choice(challengers))
        elif state.reversals and self._rng.random() < 0.3:
            self._send("undo", revision=max(state.reversals))
        elif not state.retrain_pending:
            self._ask_for_a_model(state.champion)

    def _ask_for_a_model(self, arm: str) -> None:
        origin = commands.Provenance("crash-test", now_ms())
        try:
            decide(
                self._log,
                self._site.settings.experiment,
                lambda state: commands.retrain(state, arm, "the test wants a model", origin),
            )
        except (UnavailableError, BadInputError):
            return
        self.retrainings += 1

    def _send(self, command: str, **body: Any) -> None:
        try:
            response = self._http.post(f"/{command}", json=body)
        except httpx.TransportError:
            return
        if response.status_code not in (200, 409, 503):
            raise AssertionError(f"{command}: {response.status_code}: {response.text[:300]}")
        self.commands += response.status_code == 200


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
