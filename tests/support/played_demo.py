"""Plays `ringside demo --headless` and keeps what is left of it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOR_S = 230.0  # at most; the story usually ends earlier
SHUTDOWN_S = 30.0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """A demo that is over: exit code, what it printed, its report and its home."""

    code: int
    printed: str
    report: dict[str, Any]
    home: Path


def play_demo(folder: Path) -> DemoResult:
    """Play it with everything below `folder`, on the real data if RINGSIDE_DATA_DIR names it."""
    home, report = folder / "home", folder / "report.json"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RINGSIDE_")}
    if named := os.environ.get("RINGSIDE_DATA_DIR"):
        kept["RINGSIDE_DATA_DIR"] = named
    command = [str(Path(sys.executable).with_name("ringside")), "demo", "--headless"]
    ended = subprocess.run(
        [*command, "--for", str(FOR_S), "--report", str(report)],
        env={**kept, "RINGSIDE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FOR_S + SHUTDOWN_S,
        check=False,
    )
    assert report.exists(), ended.stdout
    return DemoResult(ended.returncode, ended.stdout, json.loads(report.read_text()), home)
