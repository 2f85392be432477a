"""Observer of the demo: reads decisions, the simulator's summary and starting pages into the state, twice a
second."""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from experiments.lifecycle.decisions import Decision
from services.client.client import CallError, Client
from services.demo.installation import DemoInstallation, responds
from services.demo.state import DemoState
from services.messages.events import decode

EVERY_S = 0.5


def observe(state: DemoState, installation: DemoInstallation, stop: threading.Event) -> None:
    """Keep the state up to date until `stop`. What cannot be read is read again in the next round."""
    experiment = installation.settings().experiment
    with closing(installation.client("admin")) as admin:
        while not stop.wait(EVERY_S):
            poll_pages(state, installation.liveness_urls, responds)
            poll_decisions(state, admin, experiment)
            poll_shoppers(state, installation.home / "shoppers.json")


def poll_pages(state: DemoState, pages: Mapping[str, str], responds: Callable[[str], bool]) -> None:
    """Record which pages (name → URL) have begun to respond."""
    for name, url in pages.items():
        if name not in state.responding and responds(url):
            with state.lock:
                state.responding.add(name)


def poll_decisions(state: DemoState, admin: Client, experiment: str) -> None:
    """Read the decisions after the newest known one."""
    try:
        rows = admin.decisions(experiment, state.revision())
        decisions = [decode(Decision, msgspec.json.encode(row)) for row in rows]
        if decisions:
            state.add_decisions(decisions)
            newest = admin.experiment(experiment)
            with state.lock:
                state.experiment = newest
    except CallError:
        return  # there is no experiment yet, or the replica is busy


def poll_shoppers(state: DemoState, summary: Path) -> None:
    """Read the simulator's summary if it is newer than the known one."""
    try:
        newest = json.loads(summary.read_text())
    except (OSError, ValueError):
        return
    if newest.get("elapsed_s") != state.shoppers.get("elapsed_s"):
        state.set_shoppers(newest)
