"""Memory of each process of one installation, under a little traffic."""

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from services.local_servers.process import free_port
from tests.benchmarks.installation import BenchmarkInstallation, resident_mib
from tests.benchmarks.serving import Effort, load

WORKERS = ("activity", "attribution", "decider", "lake", "training", "console", "shop")
SETTLE_S = 25.0  # Feast alone takes five seconds to import, several at once longer


def measure(
    installation: BenchmarkInstallation, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Resident MiB of each process and its children, once all are up and requests have been answered."""
    at = free_port()
    with ExitStack() as running:
        processes: dict[str, subprocess.Popen[bytes]] = {
            "recommend": running.enter_context(installation.recommend(at)),
            **{name: running.enter_context(installation.worker(name)) for name in WORKERS},
        }
        time.sleep(SETTLE_S)
        load(installation, at, 8, effort)
        ended = [name for name, process in processes.items() if process.poll() is not None]
        if ended:
            raise RuntimeError(f"ended while being measured: {', '.join(ended)}")
        found = {name: resident_mib(process) for name, process in processes.items()}
    for name, mib in found.items():
        say(f"{name:<10} {mib:6.0f} MiB")
    return {"resident_mib": found}
