"""`ringside demo`: the whole loop on this machine with embedded servers, under one supervisor.

The story runs in a thread and acts over HTTP; another thread observes; the main thread supervises the
processes and shows what happens. However the demo ends, everything it started is stopped: shoppers first,
then services, then the broker and Redis."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from services import bootstrap
from services.demo.installation import DemoInstallation, empty_home, new_installation
from services.demo.observer import observe
from services.demo.profile import Profile
from services.demo.report import report as make_report
from services.demo.state import DemoState
from services.demo.story import STOPPED, Story
from services.demo.supervisor import Supervisor
from services.demo.terminal_ui import TerminalUi
from services.errors import ConfigurationError, RingsideError
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.redis import EmbeddedRedis
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.settings import Settings

REAL_DATA = "online?retail?ii.*"  # under any of its published names: parquet, xlsx, zip, csv
SPLIT = datetime(2011, 11, 11, tzinfo=UTC)  # holds out the last four weeks, in which shoppers click
SUPERVISE_S = 0.25


def run(settings: Settings, *, headless: bool, for_s: float, report: Path | None) -> int:
    """Run the demo. Returns the exit code: headless, 0 only if every check of the story holds."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    console, stop, profile = Console(), stop_on_signal(), Profile()
    state, began_s = DemoState(began_ms=wall_ms()), time.monotonic()
    ui = TerminalUi(state, console, profile.differences(Settings()))
    with ExitStack() as stack:
        installation = stack.enter_context(servers(settings, profile))
        supervisor = Supervisor(notify=lambda text: state.notices.append((time.monotonic() - began_s, text)))
        stack.callback(supervisor.stop_all)
        stack.callback(supervisor.stop, "simulate")  # first, so that no shopper sees the services stop
        ui.addresses = installation.addresses
        story = Story(
            installation=installation,
            profile=profile,
            state=state,
            supervisor=supervisor,
            admin=stack.enter_context(closing(installation.client("admin"))),
            storefront=stack.enter_context(closing(installation.client("storefront"))),
            models=bootstrap.model_store(installation.settings()),
            source=source(settings),
            data=bootstrap.data_store(installation.settings()),
            now=lambda: time.monotonic() - began_s,
            stop=stop,
            deadline_s=for_s if headless else float("inf"),
        )
        story.run_in_thread()
        stack.callback(stop.set)
        threading.Thread(
            target=observe, args=(state, installation, stop), name="observer", daemon=True
        ).start()
        show(ui, story, console, headless=headless)
        result = make_report(state, installation.replica_urls, story.now(), story.failure)
    return conclude(result, story, console, headless=headless, path=report)


@contextmanager
def servers(settings: Settings, profile: Profile) -> Iterator[DemoInstallation]:
    """An installation over an embedded Redis and broker and an empty folder."""
    home = empty_home(settings.home / "demo")
    with EmbeddedRedis() as redis, EmbeddedBroker() as broker:
        yield new_installation(settings, profile, redis, broker, home)


def real_file(folder: Path) -> Path:
    """Online Retail II in a folder, as published or as Parquet. Raises ConfigurationError without one."""
    matches = sorted(path for path in folder.glob("*") if fnmatch(path.name.lower(), REAL_DATA))
    if not matches:
        raise ConfigurationError(
            f"RINGSIDE_DATA_DIR: no online_retail_ii (.parquet, .xlsx, .zip or .csv) in {folder}; "
            "unset it for the synthetic shop"
        )
    return matches[0]


def source(settings: Settings) -> list[str]:
    """Arguments of `ringside data import`: the synthetic shop, or the real file if RINGSIDE_DATA_DIR is set,
    moved in time so that its training data end today."""
    if settings.data_dir is None:
        return ["synthetic"]
    file = real_file(settings.data_dir)
    now = datetime.now(UTC) - timedelta(seconds=1)
    split = SPLIT.date().isoformat()
    return [str(file), "--split", split, "--rebase", now.isoformat(timespec="seconds")]


def show(ui: TerminalUi, story: Story, console: Console, *, headless: bool) -> None:
    """Supervise the processes and refresh the screen: until Ctrl-C, or headless until the story or its time
    is over."""
    live = not headless and console.is_terminal
    ui.print_addresses()
    with Live(ui, console=console, refresh_per_second=4, screen=False) if live else ExitStack():
        while not story.stop.wait(SUPERVISE_S) and _supervised(story):
            ui.finished = story.over.is_set() and not headless
            if not live:
                ui.print_news()
            if headless and (story.over.is_set() or story.now() > story.deadline_s):
                break
            if story.over.is_set() and story.failure is not None:
                break
    console.print("stopping …", highlight=False)
    if headless and not story.over.is_set():
        story.failed(f"the time ran out during the step: {story.state.steps[-1].title}")


def _supervised(story: Story) -> bool:
    """Restart what crashed; False if a process keeps crashing."""
    try:
        story.supervisor.check()
    except RingsideError as error:
        story.failed(str(error))
        return False
    return True


def conclude(
    result: dict[str, Any], story: Story, console: Console, *, headless: bool, path: Path | None
) -> int:
    """Write the report, print the checks, and choose the exit code."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1))
    if not headless:
        if story.failure in (None, STOPPED):
            return 0
        console.print(f"The demo failed: {story.failure}", style="red", markup=False)
        return 1
    for check in result["checks"]:
        mark = "passed" if check["holds"] else "FAILED"
        line = f"{mark} {check['check']}: {check['seen']}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if story.failure:
        console.print(f"FAILED the story broke off: {story.failure}", soft_wrap=True, markup=False)
    return 0 if result["happened"] else 1
