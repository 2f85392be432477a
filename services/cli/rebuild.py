"""`ringside rebuild`: everything that Redis holds, again from what is durable.

Workers do the same by themselves, each its own part, when they find Redis empty. The command is for whoever
wants to see it happen, or to do it before the workers start; it may run beside them.
"""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from models.recommender import ProgressCallback
from services import bootstrap
from services.activity import app as activity
from services.bandit.attribution import app as attribution
from services.bandit.decider import app as decider
from services.errors import RingsideError
from services.recommend import catalogue_sync
from services.runtime.progress import show_progress
from services.settings import Settings

Part = Callable[[Settings, ProgressCallback], str]
PARTS: Mapping[str, Part] = {
    "experiments, from decisions": decider.rebuild,
    "sums, from exposures and events": attribution.rebuild,
    "pins, from exposures": attribution.rebuild_pins,
    "live catalogue, from items": catalogue_sync.rebuild,
    "features, from histories and events": activity.rebuild,
}


def run(settings: Settings, console: Console | None = None) -> int:
    """Rebuild part by part, whatever becomes of the others; the number of parts that failed."""
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
