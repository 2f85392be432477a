"""`python -m tests.benchmarks`: measure, print a table, save JSON below bench-results/."""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import bandit_worker, freshness, materialising, memory, serving, world
from tests.benchmarks.installation import BenchmarkInstallation, prepared

RESULTS = Path("bench-results")


def counting(
    installation: BenchmarkInstallation, effort: serving.Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """The bandit worker against a bare consumer; it needs nothing of the installation."""
    runs = [bandit_worker.measure() for _ in range(effort.runs)]
    for run in runs:
        say(f"bandit worker: {run['worker_per_s']} records/s; bare consumer: {run['bare_per_s']}")
    return {"runs": runs}


SECTIONS = {
    "serving": serving.measure,
    "freshness": freshness.measure,
    "counting": counting,
    "materialising": materialising.measure,
    "memory": memory.measure,
    "world": world.measure,
}


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was before we began."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def table(found: dict[str, Any]) -> Table:
    """The serving numbers: median (lowest – highest of the runs)."""
    shown = Table(title="/recommend, median (lowest – highest) of the runs")
    for column in (
        "",
        "connections",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU µs",
        "failed",
        "degraded",
        "MiB",
    ):
        shown.add_column(column, justify="right" if column else "left")
    for name in serving.CONTENDERS:
        for connections, row in found[name]["by_connections"].items():
            cells = [
                _cell(row[number], digits)
                for number, digits in (("rps", 0), ("p50_ms", 2), ("p99_ms", 2), ("cpu_us", 0))
            ]
            memory = f"{found[name]['resident_mib']:.0f}"
            shown.add_row(name, connections, *cells, str(row["failed"]), str(row["degraded"]), memory)
    return shown


def _cell(number: dict[str, float], digits: int) -> str:
    return f"{number['median']:.{digits}f} ({number['low']:.{digits}f} – {number['high']:.{digits}f})"


def show_serving(found: dict[str, Any], console: Console) -> None:
    """The table, and how many times faster than the baselines."""
    console.print(table(found))
    for base in ("plain", "bare"):
        ratio = ", ".join(f"{value:.2f} at {count}" for count, value in found[f"ratio_to_{base}"].items())
        console.print(f"requests/s as a multiple of {base}: {ratio} connections")


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="sections (default: all)")
    parser.add_argument("--home", type=Path, help="keep data and models here (default: a temporary folder)")
    return parser.parse_args()


def run(at: BenchmarkInstallation, said: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Every section."""
    effort = serving.Effort(tuple(said.connections), said.runs, said.seconds)
    before = machine()
    chosen = said.only or list(SECTIONS)
    sections = {name: SECTIONS[name](at, effort, console.print) for name in chosen}
    return {"machine": before, "load_average_after": os.getloadavg(), "data": at.source, **sections}


def main() -> None:
    """Prepare the installation, measure, report."""
    said, console = arguments(), Console()
    with tempfile.TemporaryDirectory(prefix="ringside-bench-") as temporary:
        home = said.home or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with console.status("preparing data, model and features"), prepared(home) as at:
            console.print(f"prepared in {time.monotonic() - began:.0f} s: {at.source}, {len(at.users)} users")
            found = run(at, said, console)
    if "serving" in found:
        show_serving(found["serving"], console)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    console.print(f"saved to {path}")


if __name__ == "__main__":
    main()
