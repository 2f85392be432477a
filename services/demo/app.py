"""`ringside demo`: the whole loop on this machine, embedded, under one supervisor.

The story runs in a thread and acts through HTTP; another thread observes; this one keeps children alive and
shows what happens. Whatever ends the demo, everything it started is stopped: shoppers first, then services,
then the broker and Redis."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.live import Live

from services import bootstrap
from services.demo.actions import StoppedError
from services.demo.api import Api
from services.demo.installation import Site, found, fresh_home
from services.demo.observer import observe
from services.demo.profile import Profile
from services.demo.report import report as make_report
from services.demo.state import Board
from services.demo.story import Story
from services.demo.supervisor import Children
from services.demo.terminal_ui import Screen
from services.errors import ConfigurationError, RingsideError
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.redis import EmbeddedRedis
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.settings import Settings

REAL_DATA = "online?retail?ii.*"  # under any of the names it goes by: parquet, xlsx, zip, csv
SPLIT = datetime(2011, 11, 11, tzinfo=UTC)  # four weeks before the file ends: what shoppers will want
TEND_S = 0.25
STOPPED = "it was stopped"


@dataclass(slots=True)
class Playing:
    """How the story ended: `failure` says why it broke off; `over` is set when it has ended either way."""

    failure: str | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def failed(self, why: str) -> None:
        """The first reason is the one that is told."""
        self.failure = self.failure or why


def run(settings: Settings, *, headless: bool, for_s: float, report: Path | None) -> int:
    """Play the demo. Returns the exit code: 0 only if, headless, every claim of the story held."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    console, stop, profile = Console(), stop_on_signal(), Profile()
    board, began_s, began_ms = Board(), time.monotonic(), wall_ms()
    screen = Screen(board, console, profile.differences(Settings()))
    with ExitStack() as stack:
        site = stack.enter_context(servers(settings, profile))
        children = Children(tell=lambda text: board.notices.append((time.monotonic() - began_s, text)))
        stack.callback(children.stop_all)
        stack.callback(children.stop, "simulate")  # before the services, so that no shopper sees them go
        screen.addresses = site.addresses
        story = Story(
            site=site,
            profile=profile,
            board=board,
            children=children,
            api=stack.enter_context(Api.of(site)),
            models=bootstrap.model_store(site.settings()),
            source=source(settings),
            data=bootstrap.data_store(site.settings()),
            now=lambda: time.monotonic() - began_s,
            stop=stop,
            deadline_s=for_s if headless else float("inf"),
        )
        playing = play(story)
        stack.callback(stop.set)
        watch_in_thread(story, began_ms)
        show(screen, story, playing, console, headless=headless)
        result = make_report(board, site.origins, story.now(), playing.failure)
    return conclude(result, playing, console, headless=headless, path=report)


@contextmanager
def servers(settings: Settings, profile: Profile) -> Iterator[Site]:
    """Redis, the broker and an empty folder; stopped last."""
    home = fresh_home(settings.home / "demo")
    with EmbeddedRedis() as redis, EmbeddedBroker() as broker:
        yield found(settings, profile, redis, broker, home)


def real_file(folder: Path) -> Path:
    """Online Retail II in a folder, as published or as Parquet. Raises ConfigurationError without one."""
    found = sorted(path for path in folder.glob("*") if fnmatch(path.name.lower(), REAL_DATA))
    if not found:
        raise ConfigurationError(
            f"RINGSIDE_DATA_DIR: no online_retail_ii (.parquet, .xlsx, .zip or .csv) in {folder}; "
            "unset it for the synthetic shop"
        )
    return found[0]


def source(settings: Settings) -> list[str]:
    """Arguments of `ringside data import`: the real file, moved so that its last known day is today, if it
    is there; else the synthetic shop."""
    if settings.data_dir is None:
        return ["synthetic"]
    file = real_file(settings.data_dir)
    split, now = SPLIT.date().isoformat(), datetime.now(UTC) - timedelta(seconds=1)
    return [
        str(file),
        "--split",
        split,
        "--rebase",
        now.isoformat(timespec="seconds"),
    ]


def play(story: Story) -> Playing:
    """Play the story in a thread."""
    playing = Playing()

    def tell() -> None:
        try:
            story.play()
        except StoppedError:
            playing.failed(STOPPED)
        except (RingsideError, OSError) as error:
            playing.failed(str(error))
        except BaseException as error:
            playing.failed(f"{type(error).__name__}: {error}")
            raise
        finally:
            playing.over.set()

    threading.Thread(target=tell, name="story", daemon=True).start()
    return playing


def watch_in_thread(story: Story, began_ms: int) -> None:
    """Keep the board up to date, over a connection of its own."""
    summary = story.site.home / "shoppers.json"

    def watch() -> None:
        with Api.of(story.site) as api:
            observe(story.board, api, summary, story.site.pages, began_ms, story.stop)

    threading.Thread(target=watch, name="observer", daemon=True).start()


def show(screen: Screen, story: Story, playing: Playing, console: Console, *, headless: bool) -> None:
    """Keep children alive and the screen fresh until Ctrl-C; headless, until the story or its time is
    over."""
    live = not headless and console.is_terminal
    screen.print_addresses()
    with Live(screen, console=console, refresh_per_second=4, screen=False) if live else ExitStack():
        while not story.stop.wait(TEND_S) and _tended(story, playing):
            screen.told = playing.over.is_set() and not headless
            if not live:
                screen.print_news()
            if headless and (playing.over.is_set() or story.now() > story.deadline_s):
                break
            if playing.over.is_set() and playing.failure is not None:
                break
    console.print("ending …", highlight=False)
    if headless and not playing.over.is_set():
        playing.failed(f"time was over during: {story.board.steps[-1].title}")


def _tended(story: Story, playing: Playing) -> bool:
    """Whether all children live, or will again."""
    try:
        story.children.tend()
    except RingsideError as error:
        playing.failed(str(error))
        return False
    return True


def conclude(result: dict, playing: Playing, console: Console, *, headless: bool, path: Path | None) -> int:
    """Write the report, say what held, and choose the exit code."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1))
    if not headless:
        if playing.failure in (None, STOPPED):
            return 0
        console.print(f"The demo broke off: {playing.failure}", style="red", markup=False)
        return 1
    for claim in result["claims"]:
        mark = "held  " if claim["holds"] else "FAILED"
        console.print(
            f"{mark} {claim['claim']}: {claim['seen']}", highlight=False, soft_wrap=True, markup=False
        )
    if playing.failure:
        console.print(f"FAILED the story broke off: {playing.failure}", soft_wrap=True, markup=False)
    return 0 if result["happened"] else 1
