"""`ringside doctor`: run every check in turn and print one line each. The exit status is 1 if one fails."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO

import msgspec

from services import bootstrap
from services.doctor.check_result import CheckResult, fail
from services.doctor.checks import files, processes, settings, stores
from services.doctor.installation import Installation
from services.errors import RingsideError
from services.settings import Settings

Check = Callable[[Installation], Iterable[CheckResult]]

CHECKS: Mapping[str, Check] = {
    "window": settings.window,
    "keys": settings.secrets,
    "redis": stores.redis,
    "broker": stores.broker,
    "data": files.data,
    "features": files.features,
    "models": files.models,
    "disk": files.disk,
    "ports": settings.ports,
    "processes": processes.processes,
    "replicas": processes.replicas,
}


def run(*, as_json: bool, out: TextIO = sys.stdout) -> int:
    """Run the checks and print their results; return the exit status: 0, or 1 if a check fails."""
    results = []
    logging.disable(logging.CRITICAL)  # the checks report each problem; clients would log it again
    try:
        for result in check_all(os.environ):
            results.append(result)
            if not as_json:
                out.write(result.line() + "\n")
                out.flush()
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        out.write(msgspec.json.format(msgspec.json.encode(results), indent=1).decode() + "\n")
    return int(any(result.level == "fail" for result in results))


def check_all(environ: Mapping[str, str]) -> Iterator[CheckResult]:
    """Yield the results of all checks as they arrive; only those of the settings if a setting is invalid."""
    valid, results = settings.read(environ)
    yield from results
    if valid is None:
        return
    examined = installation(valid)
    for name, check in CHECKS.items():
        yield from _run_check(name, check, examined)


def installation(values: Settings) -> Installation:
    """Compose the installation that these settings describe."""
    return Installation(
        values,
        bootstrap.diagnostics(values),
        bootstrap.check_window,
        bootstrap.decision_log,
        bootstrap.state_cache,
        bootstrap.data_store,
        bootstrap.model_store,
    )


def _run_check(name: str, check: Check, examined: Installation) -> Iterator[CheckResult]:
    """Yield the results of one check; turn an exception into a failed result."""
    try:
        yield from check(examined)
    except (RingsideError, OSError) as error:
        yield fail(name, str(error), "fix the cause named here")
    except Exception as error:  # noqa: BLE001 (a bug in one check must not hide the others)
        yield fail(name, f"this check broke: {type(error).__name__}: {error}", "report this bug")
