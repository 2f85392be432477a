"""Commands on experiments: each is one decision, appended to the log by whoever's key it was."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib.metadata import version
from typing import Any, TypeVar

from experiments import commands
from experiments.commands import Origin
from experiments.experiment import Decision, Experiment, Rules
from services.commanding import decide, installation_rules
from services.errors import BadInputError, UnavailableError
from services.recommend.deps import Deps
from services.recommend.failures import NotFoundError
from services.settings import Settings

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

    async def states(self) -> Mapping[str, Experiment]:
        """Every experiment; from the cache (this installation's only) while the log can't be read."""
        try:
            return await self._on_thread(self._deps.decisions.catch_up)
        except UnavailableError:
            name = self._deps.settings.experiment
            cached = await self._on_thread(lambda: self._deps.state.get(name))
            return {name: cached} if cached is not None else {}

    async def state(self, experiment: str) -> Experiment:
        """One experiment. Raises NotFoundError."""
        return existing(await self.states(), experiment)

    async def history(self, experiment: str, after_revision: int) -> list[Decision]:
        """Decisions that count, oldest first. Raises NotFoundError, UnavailableError."""
        await self.state(experiment)
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
        existing(self._deps.decisions.catch_up(), experiment)
        return decide(self._deps.decisions, experiment, build)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def existing(states: Mapping[str, Experiment], experiment: str) -> Experiment:
    """The state of an experiment. Raises NotFoundError."""
    if experiment not in states:
        raise NotFoundError("experiment", f"no experiment {experiment!r}")
    return states[experiment]


def rules_from(settings: Settings, said: Mapping[str, Any], base: Rules | None = None) -> Rules:
    """Rules of `base` (None: this installation's) with `said` in them. Raises BadInputError naming the
    field."""
    known = {field.name for field in fields(Rules)}
    if unknown := sorted(set(said) - known):
        raise BadInputError(f"rules.{unknown[0]}", f"unknown; known are {', '.join(sorted(known))}")
    try:
        return replace(base or installation_rules(settings), **said)
    except (TypeError, ValueError) as error:
        field, _, problem = str(error).partition(": ")
        raise BadInputError(field if problem else "rules", problem or str(error)) from error
