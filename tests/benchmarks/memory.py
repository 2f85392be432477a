"""Memory of each process of one installation, under a little traffic."""

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.benchmarks.serving import Effort, load
from tests.benchmarks.stage import Stage, port, resident_mib

WORKERS = ("activity", "attribution", "decider", "lake", "training", "console", "shop")
SETTLE_S = 25.0  # Feast alone takes five seconds to import, several at once longer


def measure(stage: Stage, effort: Effort, say: Callable[[str], None]) -> dict[str, Any]:
    """Resident MiB of each process and its children, once all are up and requests have been answered."""
    at = port()
    with ExitStack() as running:
        processes: dict[str, subprocess.Popen[bytes]] = {
            "recommend": running.enter_context(stage.recommend(at)),
            **{name: running.enter_context(stage.worker(name)) for name in WORKERS},
        }
        time.sleep(SETTLE_S)
        load(stage, at, 8, effort)
        ended = [name for name, process in processes.items() if process.poll() is not None]
        if ended:
            raise RuntimeError(f"ended while being measured: {', '.join(ended)}")
        found = {name: resident_mib(process) for name, process in processes.items()}
    for name, mib in found.items():
        say(f"{name:<10} {mib:6.0f} MiB")
    return {"resident_mib": found}
