"""Commands on experiments: each is one decision, appended to the log by whoever's key it was."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from typing import TypeVar

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Deployed, Dropped, RecountDetail
from experiments.lifecycle.fold import Decision, Experiment, Rules
from services.control.decide import Known, UnknownExperimentError, decide, known, newest
from services.control.recount import Asked, Preview, RecountRefusedError
from services.errors import BadInputError
from services.recommend.deps import Deps
from services.web.problem import ConflictError, NotFoundError

T = TypeVar("T")
Build = Callable[[Experiment], Decision]


class Commanding:
    """Reads the log of decisions and appends to it, in a thread of its own, because the log's client belongs
    to one."""

    def __init__(self, deps: Deps):
        self._deps = deps
        self._thread = ThreadPoolExecutor(1, "decisions")
        self._looks = ThreadPoolExecutor(1, "recounts")  # a look into a long log may take seconds

    def provenance(self, author: str, reason: str) -> Provenance:
        """Who commands, now."""
        return Provenance(
            author=author, now_ms=self._deps.clock_ms(), reason=reason, code_version=version("ringside")
        )

    async def known(self) -> Known:
        """Every experiment; from the cache (this installation's only) while the log can't be read."""
        deps = self._deps
        return await self._on_thread(
            lambda: known(deps.decisions, deps.state, deps.settings.experiments.default)
        )

    async def history(self, experiment: str, after_revision: int) -> list[Decision]:
        """Decisions that count, oldest first, as far as they have been read. Raises UnavailableError."""
        return await self._on_thread(lambda: self._deps.decisions.history(experiment, after_revision))

    async def start(
        self, experiment: str, champion: Deployed, rules: Rules, provenance: Provenance
    ) -> Experiment:
        """Begin with a first champion."""
        self.require_model("model_version", champion.model_version)
        decision = commands.start(experiment, champion, rules, self._deps.new_id(), provenance)
        return await self._on_thread(lambda: self._deps.decisions.append(decision))

    async def command(self, experiment: str, build: Build) -> Experiment:
        """Append what `build` makes of the newest state; look again if somebody else was faster.

        Raises NotFoundError, IllegalTransition, UnavailableError.
        """
        return await self._on_thread(lambda: self._decide(experiment, build))

    async def preview(
        self, experiment: str, from_now: bool, provenance: Provenance
    ) -> tuple[Experiment, Preview]:
        """What a recount would drop, and of which state. Raises NotFoundError, IllegalTransition,
        UnavailableError."""
        state = await self._on_thread(lambda: self._newest(experiment))
        look = self._deps.recounting.preview
        return state, await self._looking(lambda: look(state, from_now, provenance))

    async def recount(
        self, experiment: str, asked: Asked, provenance: Provenance
    ) -> tuple[Experiment, Dropped]:
        """Drop the sums and count anew; the new state, and what was dropped. Raises ConflictError where the
        sums or the log are not what was asked for, NotFoundError, IllegalTransition, UnavailableError."""
        state = await self._on_thread(lambda: self._newest(experiment))
        order = self._deps.recounting.order
        try:
            build = await self._looking(lambda: order(state, asked, provenance))
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
        for threads in (self._thread, self._looks):
            threads.shutdown(wait=False, cancel_futures=True)

    def _decide(self, experiment: str, build: Build) -> Experiment:
        with _found():
            return decide(self._deps.decisions, experiment, build)

    def _newest(self, experiment: str) -> Experiment:
        with _found():
            return newest(self._deps.decisions, experiment)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _looking(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._looks, call)


@contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except UnknownExperimentError as error:
        raise NotFoundError(error.field, error.problem) from error


def existing(states: Mapping[str, Experiment], experiment: str) -> Experiment:
    """The state of an experiment. Raises NotFoundError."""
    if experiment not in states:
        raise NotFoundError("experiment", f"no experiment {experiment!r}")
    return states[experiment]
