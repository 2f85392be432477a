"""Commands on experiments: each is one decision, appended to the log by whoever's key it was."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TypeVar

from experiments import commands
from experiments.commands import Origin
from experiments.experiment import Decision, Experiment, Rules
from services.commanding import Known, UnknownExperimentError, decide, known
from services.errors import BadInputError
from services.recommend.deps import Deps
from services.recommend.failures import NotFoundError

T = TypeVar("T")
Build = Callable[[Experiment], Decision]


class Commanding:
    """Reads the log of decisions and appends to it, in a thread of its own, because the log's client is
    one."""

    def __init__(self, deps: Deps):
        self._deps = deps
        self._thread = ThreadPoolExecutor(1, "decisions")

    def origin(self, author: str, reason: str) -> Origin:
        """Who commands, now."""
        return Origin(
            author=author, now_ms=self._deps.clock_ms(), reason=reason, code_version=version("ringside")
        )

    async def known(self) -> Known:
        """Every experiment; from the cache (this installation's only) while the log can't be read."""
        deps = self._deps
        return await self._on_thread(lambda: known(deps.decisions, deps.state, deps.settings.experiment))

    async def history(self, experiment: str, after_revision: int) -> list[Decision]:
        """Decisions that count, oldest first, as far as they have been read. Raises UnavailableError."""
        return await self._on_thread(lambda: self._deps.decisions.history(experiment, after_revision))

    async def start(
        self, experiment: str, champion: Mapping[str, str], rules: Rules, origin: Origin
    ) -> Experiment:
        """Begin with a first champion."""
        self.require_model("model_version", champion["model_version"])
        decision = commands.start(experiment, champion, rules, self._deps.new_id(), origin)
        return await self._on_thread(lambda: self._deps.decisions.append(decision))

    async def command(self, experiment: str, build: Build) -> Experiment:
        """Append what `build` makes of the newest state; look again if somebody else was faster.

        Raises NotFoundError, IllegalTransition, UnavailableError.
        """
        return await self._on_thread(lambda: self._decide(experiment, build))

    def require_model(self, field: str, model_version: str) -> None:
        """Refuse a model version that has no artifact. Raises BadInputError."""
        if model_version not in self._deps.models.versions():
            raise BadInputError(field, f"no artifact of model version {model_version!r}")

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _decide(self, experiment: str, build: Build) -> Experiment:
        try:
            return decide(self._deps.decisions, experiment, build)
        except UnknownExperimentError as error:
            raise NotFoundError(error.field, error.problem) from error

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def existing(states: Mapping[str, Experiment], experiment: str) -> Experiment:
    """The state of an experiment. Raises NotFoundError."""
    if experiment not in states:
        raise NotFoundError("experiment", f"no experiment {experiment!r}")
    return states[experiment]
