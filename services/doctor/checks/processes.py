"""Checks of the processes of this host, by their liveness files, and of all replicas, by their heartbeats."""

import math
import time
from collections.abc import Iterator

from services.doctor.check_result import CheckResult, fail, ok, warn
from services.doctor.installation import Installation
from services.errors import UnavailableError
from services.runtime.liveness import is_ringside, silence_s_by_process, unhealthy_reason
from services.settings import Settings

SILENT_S = 30.0
# One iteration of these loops is a whole materialization or fit.
LONG_STEPS_S = {"features": 1_800.0, "training": 3_600.0}
HTTP_PROCESSES = ("recommend", "console", "shop")  # these answer /health/ready themselves
MAX_REPLICA_DELAY_S = 10.0  # a replica that serves an older revision for longer has stopped following
ACTION = "start it, or delete its files in {home}/alive and {home}/metrics if it was stopped for good"


def processes(installation: Installation) -> Iterator[CheckResult]:
    """Check that every process of this host that was not stopped is running, responsive, ready and healthy.

    Other hosts and containers are left to a doctor that runs there: a container that is gone leaves a file
    with a host name that never returns.
    """
    settings = installation.settings
    known = silence_s_by_process(settings)
    for process, age_s in known.items():
        yield _process(settings, process, age_s)
    for process in HTTP_PROCESSES:  # it may run without a metrics file, or with another home
        if process not in known and is_ringside(settings.host, _port(settings, process)):
            yield _process(settings, process, 0.0)


def _process(settings: Settings, process: str, age_s: float) -> CheckResult:
    action = ACTION.format(home=settings.home.absolute())
    within_s = LONG_STEPS_S.get(process, SILENT_S)
    if age_s == math.inf:
        return fail("processes", f"{process}: it no longer runs, but it was not stopped cleanly", action)
    if age_s > within_s:
        return fail("processes", f"{process}: no sign of life for {_duration(age_s)}", action)
    if problem := unhealthy_reason(settings, process, within_s):
        message = problem if problem.startswith(process) else f"{process}: {problem}"
        return fail("processes", message, "see its log; restart it if it does not recover")
    return ok("processes", f"{process} is alive")


def _port(settings: Settings, process: str) -> int:
    return int(getattr(settings, f"{process}_port"))


def replicas(installation: Installation) -> Iterator[CheckResult]:
    """Check that replicas of recommend serve the started experiment at its newest revision."""
    experiment = installation.settings.experiments.default
    cache = installation.state_cache(installation.settings)
    try:
        state, heartbeats = cache.get(experiment), cache.heartbeats()
    except UnavailableError:
        return  # the check of Redis reports it
    if not heartbeats and state is not None:
        message = f"no replica of recommend sends heartbeats, so {experiment} is not served"
        yield fail("replicas", message, "start `ringside recommend`, or see its log")
    newest = (
        0 if state is None or time.time() < state.updated_ms / 1_000 + MAX_REPLICA_DELAY_S else state.revision
    )
    for heartbeat in heartbeats:
        message = f"{heartbeat.replica} serves revision {heartbeat.revision}"
        if heartbeat.revision >= newest:
            yield ok("replicas", message)
        else:
            action = "see its log: it does not follow the decisions"
            yield warn("replicas", f"{message}, the newest is {newest}", action)


def _duration(age_s: float) -> str:
    """Format a duration in its largest fitting unit.

    >>> _duration(39.4), _duration(7_200), _duration(400_000)
    ('39 s', '2.0 h', '4.6 days')
    """
    if age_s < 3_600:
        return f"{age_s:.0f} s"
    return f"{age_s / 3_600:.1f} h" if age_s < 86_400 else f"{age_s / 86_400:.1f} days"
