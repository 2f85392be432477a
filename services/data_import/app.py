"""`ringside data import`: a file, a storefront's own data or the synthetic shop becomes one data version,
or nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from services import bootstrap
from services.data_import import online_retail, schemas, storefront, synthetic
from services.data_import.dataset_draft import LINES, Draft
from services.data_import.download import shown
from services.data_import.readers import local_file
from services.data_import.timeline import Timeline, arrange, shifted
from services.errors import BadInputError
from services.settings import Settings

SYNTHETIC = "synthetic"
Step = Callable[[str], None]

_USERS = """
SELECT user_id, min("at") AS first_seen, max("at") AS last_seen, count(*)::BIGINT AS interactions
FROM lines GROUP BY user_id ORDER BY user_id
"""


@dataclass(frozen=True, slots=True)
class Order:
    """What to import.

    source: path or URL of Online Retail II, or of a catalogue (with `interactions`), a folder with
    `items.*` and `interactions.*`, or "synthetic". split, rebase: see
    `services.data_import.timeline.arrange`.
    as_of: when the catalogue was true; None: when its file was written.
    """

    source: str
    interactions: str | None = None
    split: datetime | None = None
    rebase: datetime | None = None
    as_of: datetime | None = None
    licence: str = "the storefront's own"
    seed: int = 0


def import_data(
    settings: Settings, order: Order, now: datetime, on_step: Step = lambda step: None
) -> dict[str, Any]:
    """Import and make current; returns the manifest. Raises BadInputError; then nothing has changed on
    disk."""
    on_step("reading and cleaning")
    draft = _draft(order, now, settings.import_max_bytes)
    if draft.lines.num_rows == 0:
        raise BadInputError(order.source, "no interaction is left after cleaning")
    on_step("making the catalogue")
    timeline = arrange(
        draft.lines, split=order.split, rebase=None if order.source == SYNTHETIC else order.rebase
    )
    tables = _tables(draft, timeline)
    schemas.check(tables["items"], schemas.ITEMS_OUT, "items")
    schemas.check(tables["users"], schemas.USERS_OUT, "users")
    on_step("writing")
    store = bootstrap.data_store(settings)
    version = store.write(tables, _manifest(draft, timeline, order, now))
    return store.manifest(version)


def _draft(order: Order, now: datetime, most_bytes: int) -> Draft:
    if order.source == SYNTHETIC:
        return synthetic.draft(order.seed, (order.rebase or now).timestamp(), now)
    source = shown(order.source)
    if Path(order.source).is_dir():
        return storefront.draft(*storefront.find(Path(order.source)), source, order.licence)
    with ExitStack() as stack:
        path = stack.enter_context(local_file(order.source, most_bytes))
        if order.interactions is None:
            return online_retail.draft(path, source)
        interactions = stack.enter_context(local_file(order.interactions, most_bytes))
        return storefront.draft(path, interactions, source, order.licence)


def _tables(draft: Draft, timeline: Timeline) -> dict[str, pa.Table]:
    if draft.catalogue is None:
        items = online_retail.catalogue(timeline.lines)
    else:
        items = shifted(draft.catalogue, "first_seen", timedelta(seconds=timeline.shift_s))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("lines", timeline.lines)
        users = connection.sql(_USERS).to_arrow_table()
    tables = {"items": items, "users": users, "interactions": timeline.lines.select(LINES.names)}
    return tables if timeline.holdout is None else tables | {"holdout": timeline.holdout.select(LINES.names)}


def _manifest(draft: Draft, timeline: Timeline, order: Order, now: datetime) -> dict[str, Any]:
    at = timeline.lines["at"]
    return {
        "created_at": now.isoformat(),
        "source": draft.source,
        "licence": draft.licence,
        "citation": draft.citation,
        "window": [at[0].as_py().isoformat(), at[-1].as_py().isoformat()],
        "split": order.split.isoformat() if order.split else None,
        "shift_s": timeline.shift_s,
        "catalogue": {
            "as_of": min(order.as_of or draft.as_of, now).isoformat(),
            "fields": sorted(draft.fields),
        },
        "rules": [rule.to_json() for rule in draft.rules],
    }


def moment(field: str, text: str | None) -> datetime | None:
    """An ISO 8601 time (without a zone: UTC). Raises BadInputError naming `field`."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(field, f"{text!r} is not an ISO 8601 time such as 2011-11-01T00:00Z") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def run(settings: Settings, order: Order, console: Console | None = None) -> None:
    """Import with progress on the terminal and print what was imported."""
    console = console or Console()
    started = time.perf_counter()
    with _progress(console) as on_step:
        manifest = import_data(settings, order, datetime.now(UTC), on_step)
    show(settings, manifest["version"], console)
    console.print(f"imported in {time.perf_counter() - started:.1f} s and made current")


def show(settings: Settings, version: str | None = None, console: Console | None = None) -> None:
    """Print a data version (None: the current one): source, window, counts, what each rule dropped."""
    console = console or Console()
    manifest = bootstrap.data_store(settings).manifest(version)
    facts = Table(title=f"data version {manifest['version']}", show_header=False)
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest["counts"].items())
    window = " to ".join(manifest["window"])
    rows = {"source": manifest["source"], "licence": manifest["licence"], "cite": manifest["citation"]}
    if said := manifest.get("catalogue"):
        rows["catalogue"] = f"as of {said['as_of']}, says {', '.join(said['fields'])}"
    rows |= {"window": window, "shifted by": f"{manifest['shift_s']:.0f} s", "holds": counts}
    for name, value in rows.items():
        if value:
            facts.add_row(name, value)
    console.print(facts)
    rules = Table("rule", "why", "rows dropped", "rows left", title="cleaning")
    for rule in manifest["rules"]:
        rules.add_row(rule["name"], rule["why"], f"{rule['dropped']:,}", f"{rule['left']:,}")
    if manifest["rules"]:
        console.print(rules)


@contextmanager
def _progress(console: Console) -> Iterator[Step]:
    with console.status("starting") as status:
        yield lambda step: status.update(f"{step} …")
