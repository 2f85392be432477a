"""/recommend against the two baselines, in one run: requests a second and latency at 1, 8 and 32
connections."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from services.local_servers.process import free_port
from tests.benchmarks.installation import BenchmarkInstallation, cpu_s, resident_mib

CONTENDERS = ("ringside", "plain", "bare")


@dataclass(frozen=True)
class Effort:
    """How much to measure. core: of the load generator."""

    connections: tuple[int, ...] = (1, 8, 32)
    runs: int = 3
    seconds: float = 5.0
    warm_s: float = 1.0
    core: int = 1


def measure(
    installation: BenchmarkInstallation, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """All contenders one after another, each alone on the machine; runs of one contender follow each
    other."""
    found: dict[str, Any] = {}
    for name in CONTENDERS:
        at = free_port()
        with contender(installation, name, at) as process:
            rows = {}
            for connections in effort.connections:
                runs = [run(installation, process, at, connections, effort) for _ in range(effort.runs)]
                row = rows[str(connections)] = {**summary(runs), "runs": runs}
                say(f"{name:<9} {connections:>2} connections: {row['rps']['median']:.0f} rps")
            found[name] = {"by_connections": rows, "resident_mib": resident_mib(process)}
    found["ratio_to_plain"] = ratios(found, "plain", effort)
    found["ratio_to_bare"] = ratios(found, "bare", effort)
    return found


def contender(
    installation: BenchmarkInstallation, name: str, at: int
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """The process of one contender."""
    return installation.recommend(at) if name == "ringside" else installation.baseline(name, at)


def run(
    installation: BenchmarkInstallation,
    process: subprocess.Popen[bytes],
    at: int,
    connections: int,
    effort: Effort,
) -> dict[str, Any]:
    """One run, with the processor time that the server spent on a request: the number that a busy machine
    disturbs least."""
    before = cpu_s(process)
    found = load(installation, at, connections, effort)
    return {**found, "cpu_us": (cpu_s(process) - before) / found["answered"] * 1e6}


def load(installation: BenchmarkInstallation, at: int, connections: int, effort: Effort) -> dict[str, Any]:
    """One run of the load generator."""
    order = {
        "port": at,
        "core": effort.core,
        "key": installation.keys["storefront"],
        "paths": [f"/recommend?user_id={user}&session_id=s-{user}&n=10" for user in installation.users],
        "connections": connections,
        "warm_s": effort.warm_s,
        "seconds": effort.seconds,
    }
    command = [sys.executable, "-m", "tests.benchmarks.load"]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and spread of each number over runs."""
    numbers = {name: [run[name] for run in runs] for name in ("rps", "p50_ms", "p99_ms", "cpu_us")}
    spread = {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in numbers.items()
    }
    return {
        **spread,
        "failed": sum(run["failed"] for run in runs),
        "degraded": sum(run["degraded"] for run in runs),
    }


def ratios(found: dict[str, Any], base: str, effort: Effort) -> dict[str, float]:
    """Requests a second over those of a baseline, by connections."""

    def rps(name: str, connections: int) -> float:
        return found[name]["by_connections"][str(connections)]["rps"]["median"]

    return {str(count): rps("ringside", count) / rps(base, count) for count in effort.connections}
