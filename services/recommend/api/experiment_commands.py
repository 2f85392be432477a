"""Commands on experiments over HTTP: each appends one decision with the name of the caller's key."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TypeVar

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Decision, Deployed, Dropped, RecountDetail
from experiments.lifecycle.state import Experiment, Rules
from services.control.decide import ExperimentStates, decide, newest_state, read_states
from services.control.recount import Preview, RecountRefusedError, RecountRequest
from services.errors import BadInputError, NotFoundError
from services.recommend.deps import Deps
from services.web.problem import ConflictError

T = TypeVar("T")
Build = Callable[[Experiment], Decision]


class ExperimentCommands:
    """Asynchronous access to the log of decisions. The log has a thread of its own, because its client is not
    thread-safe; recounts have another one, because searching a long log takes seconds."""

    def __init__(self, deps: Deps):
        self._deps = deps
        self._log_thread = ThreadPoolExecutor(1, "decisions")
        self._recount_thread = ThreadPoolExecutor(1, "recounts")

    def provenance(self, author: str, reason: str) -> Provenance:
        """Provenance of a decision that `author` commands now."""
        return Provenance(
            author=author, now_ms=self._deps.clock_ms(), reason=reason, code_version=version("ringside")
        )

    async def states(self) -> ExperimentStates:
        """Every experiment; from the cache (this installation's only) while the log can't be read."""
        deps = self._deps
        default = deps.settings.experiments.default
        return await self._on_log(lambda: read_states(deps.decisions, deps.state, default))

    async def history(self, experiment: str, after_revision: int) -> list[Decision]:
        """Decisions that count, oldest first, as far as they have been read. Raises UnavailableError."""
        return await self._on_log(lambda: self._deps.decisions.history(experiment, after_revision))

    async def start(
        self, experiment: str, champion: Deployed, rules: Rules, provenance: Provenance
    ) -> Experiment:
        """Begin with a first champion."""
        self.require_model("model_version", champion.model_version)
        decision = commands.start(experiment, champion, rules, self._deps.new_id(), provenance)
        return await self._on_log(lambda: self._deps.decisions.append(decision))

    async def command(self, experiment: str, build: Build) -> Experiment:
        """Append the decision that `build` makes of the newest state; retry if another process decided first.

        Raises NotFoundError, IllegalTransition, UnavailableError.
        """
        return await self._on_log(lambda: decide(self._deps.decisions, experiment, build))

    async def preview(
        self, experiment: str, from_now: bool, provenance: Provenance
    ) -> tuple[Experiment, Preview]:
        """What a recount would drop, and the state. Raises NotFoundError, IllegalTransition,
        UnavailableError."""
        state = await self._on_log(lambda: newest_state(self._deps.decisions, experiment))
        preview = self._deps.recounting.preview
        return state, await self._on_recount(lambda: preview(state, from_now, provenance))

    async def recount(
        self, experiment: str, request: RecountRequest, provenance: Provenance
    ) -> tuple[Experiment, Dropped]:
        """Drop the sums and count again; the new state, and what was dropped.

        Raises ConflictError where sums or log are not those of the request, NotFoundError, IllegalTransition,
        UnavailableError.
        """
        state = await self._on_log(lambda: newest_state(self._deps.decisions, experiment))
        builder = self._deps.recounting.builder
        try:
            build = await self._on_recount(lambda: builder(state, request, provenance))
            after = await self.command(experiment, build)
        except RecountRefusedError as error:
            raise ConflictError(str(error)) from error
        [record, *_] = await self.history(experiment, after.revision - 1)
        return after, record.detail_of(RecountDetail).dropped

    def require_model(self, field: str, model_version: str) -> None:
        """Refuse a model version that has no artifact. Raises BadInputError."""
        if model_version not in self._deps.models.versions():
            raise BadInputError(field, f"no artifact of model version {model_version!r}")

    def close(self) -> None:
        """Stop the threads."""
        for thread in (self._log_thread, self._recount_thread):
            thread.shutdown(wait=False, cancel_futures=True)

    async def _on_log(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._log_thread, call)

    async def _on_recount(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._recount_thread, call)


def existing(states: Mapping[str, Experiment], experiment: str) -> Experiment:
    """The state of an experiment. Raises NotFoundError."""
    if experiment not in states:
        raise NotFoundError("experiment", f"no experiment {experiment!r}")
    return states[experiment]
