"""`ringside doctor`: every check in turn, a line each. The exit code is 1 if something fails."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO

from services.doctor import on_files, on_processes, on_settings, on_stores
from services.doctor.findings import Finding, fail, plain
from services.errors import RingsideError
from services.settings import Settings

CHECKS: tuple[tuple[str, Callable[[Settings], Iterable[Finding] | Finding]], ...] = (
    ("window", on_settings.window),
    ("keys", on_settings.secrets),
    ("redis", on_stores.redis),
    ("broker", on_stores.broker),
    ("data", on_files.data),
    ("features", on_files.features),
    ("models", on_files.models),
    ("disk", on_files.disk),
    ("ports", on_settings.ports),
    ("processes", on_processes.processes),
    ("replicas", on_processes.replicas),
)


def run(*, as_json: bool, out: TextIO = sys.stdout) -> int:
    """Look, tell, and say by the exit code whether all works: 0, or 1."""
    findings = []
    logging.disable(logging.CRITICAL)  # what goes wrong is said once, by the checks
    try:
        for finding in examined(os.environ):
            findings.append(finding)
            if not as_json:
                out.write(finding.line() + "\n")
                out.flush()
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        out.write(json.dumps(plain(findings), indent=1) + "\n")
    return int(any(finding.level == "fail" for finding in findings))


def examined(environ: Mapping[str, str]) -> Iterator[Finding]:
    """All findings, each as soon as it is known."""
    settings, found = on_settings.read(environ)
    yield from found
    if settings is None:
        return
    for name, check in CHECKS:
        yield from _safely(name, check, settings)


def _safely(
    name: str, check: Callable[[Settings], Iterable[Finding] | Finding], settings: Settings
) -> Iterator[Finding]:
    """A check that breaks is a finding, too; the others go on."""
    try:
        found = check(settings)
        yield from [found] if isinstance(found, Finding) else found
    except (RingsideError, OSError) as error:
        yield fail(name, str(error), "mend what it names")
    except Exception as error:  # noqa: BLE001 (whatever it is, the person must be told)
        yield fail(name, f"this check broke: {type(error).__name__}: {error}", "report it")
