"""`ringside rebuild`: restore everything that Redis holds from its durable sources.

Each worker restores its own part when it finds Redis empty. The command shows the progress, or does it before
the workers start; it may also run while they do.
"""

from collections.abc import Callable, Mapping
from contextlib import closing

from rich.console import Console
from rich.table import Table

from models.recommender import ProgressCallback
from services import bootstrap
from services.activity import app as activity
from services.bandit.attribution import app as attribution
from services.bandit.decider import app as decider
from services.errors import RingsideError
from services.recommend.catalogue_sync import ItemsFollower
from services.runtime.progress import show_progress
from services.settings import Settings

Part = Callable[[Settings, ProgressCallback], str]


def rebuild_catalogue(settings: Settings, progress: ProgressCallback) -> str:
    """Apply the live changes of items again, up to the present end of their log; a sentence on the result.
    Raises UnavailableError."""
    overlay = bootstrap.item_overlay(settings)
    with closing(bootstrap.consumer(settings)) as consumer:
        position = ItemsFollower(consumer, bootstrap.log_admin(settings), overlay).catch_up()
    progress(1, 1, "live catalogue")
    return f"changes of items applied up to offset {position.offset}"


PARTS: Mapping[str, Part] = {
    "experiments, from decisions": decider.rebuild,
    "sums, from exposures and events": attribution.rebuild,
    "pins, from exposures": attribution.rebuild_pins,
    "live catalogue, from items": rebuild_catalogue,
    "features, from histories and events": activity.rebuild,
}


def run(settings: Settings, console: Console | None = None) -> int:
    """Rebuild every part, even if another one fails; return the number of parts that failed."""
    bootstrap.configure_logging(settings, "rebuild")
    table, failed = Table("part", "result", title="Redis", title_justify="left"), 0
    for name, part in PARTS.items():
        try:
            with show_progress("rebuild") as progress:
                table.add_row(name, part(settings, progress))
        except (RingsideError, TimeoutError) as error:
            failed += 1
            table.add_row(name, f"[red]failed[/]: {error}")
    (console or Console()).print(table)
    return failed
