"""Processes of this host, by the signs of life that they leave; replicas everywhere, by their heartbeats."""

import math
import time
from collections.abc import Iterator

from services import bootstrap
from services.doctor.findings import Finding, fail, ok, warn
from services.errors import UnavailableError
from services.runtime.liveness import answers_as_ours, complaint, silent_s
from services.settings import Settings

SILENT_S = 30.0
LONG_TURNS = {"features": 1_800.0, "trainer": 3_600.0}  # a run, a fit: one turn of a loop
OVER_HTTP = ("recommend", "console", "shop")  # which tell themselves whether they are ready
BEHIND_S = 10.0  # a replica that serves an older revision for longer does not follow
TODO = "start it, or remove its files in {home}/alive and {home}/metrics if it was stopped for good"


def processes(settings: Settings) -> Iterator[Finding]:
    """Each one that was not told to stop is there, still turns, is ready, and has nothing to complain about.
    Those of other hosts and containers are their own doctor's business: a container that is gone leaves a
    file under a name that never comes again."""
    known = silent_s(settings)
    for process, age_s in known.items():
        yield _found(settings, process, age_s)
    for process in OVER_HTTP:  # it may have no place for metrics, or another home
        if process not in known and answers_as_ours(settings.host, _port(settings, process)):
            yield _found(settings, process, 0.0)


def _found(settings: Settings, process: str, age_s: float) -> Finding:
    todo = TODO.format(home=settings.home.absolute())
    within_s = LONG_TURNS.get(process, SILENT_S)
    if age_s == math.inf:
        return fail("processes", f"{process}: gone, and nobody told it to stop", todo)
    if age_s > within_s:
        return fail("processes", f"{process}: silent for {_spoken(age_s)}", todo)
    if wrong := complaint(settings, process, within_s):
        named = wrong if wrong.startswith(process) else f"{process}: {wrong}"
        return fail("processes", named, "see its log; if it does not get well, start it anew")
    return ok("processes", f"{process} is alive")


def _port(settings: Settings, process: str) -> int:
    return int(getattr(settings, f"{process}_port"))


def replicas(settings: Settings) -> Iterator[Finding]:
    """Somebody serves the experiment that was started, and follows its decisions."""
    cache = bootstrap.state_cache(settings)
    try:
        state, beats = cache.get(settings.experiment), cache.heartbeats()
    except UnavailableError:
        return  # the check of Redis told it
    if not beats and state is not None:
        said = f"no replica of recommend reports itself, so nobody serves {settings.experiment}"
        yield fail("replicas", said, "start `ringside recommend`, or see its log")
    fresh = state is None or time.time() < state.updated_ms / 1_000 + BEHIND_S
    for beat in beats:
        if fresh or beat.revision >= state.revision:
            yield ok("replicas", f"{beat.replica} serves revision {beat.revision}")
        else:
            said = f"{beat.replica} serves revision {beat.revision}, the newest is {state.revision}"
            yield warn("replicas", said, "see its log: it does not follow the decisions")


def _spoken(age_s: float) -> str:
    """In the unit that says it shortest.

    >>> _spoken(39.4), _spoken(7_200), _spoken(400_000)
    ('39 s', '2.0 h', '4.6 days')
    """
    if age_s < 3_600:
        return f"{age_s:.0f} s"
    return f"{age_s / 3_600:.1f} h" if age_s < 86_400 else f"{age_s / 86_400:.1f} days"
