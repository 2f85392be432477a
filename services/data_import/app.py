"""`ringside data import`: a file, a storefront's own data or the synthetic shop becomes a new data version.

An import either succeeds or changes nothing on disk.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from services import bootstrap
from services.data_import import online_retail, storefront, synthetic
from services.data_import.dataset_draft import INTERACTIONS, DatasetDraft
from services.data_import.download import without_secrets
from services.data_import.source_file import local_file
from services.data_import.timeline import Timeline, shifted, split_and_shift
from services.errors import BadInputError
from services.ports.training import DataFacts, DataManifest
from services.runtime.arrow_sql import query
from services.settings import Settings

SYNTHETIC = "synthetic"
Step = Callable[[str], None]

_USERS = """
SELECT user_id, min("at") AS first_seen, max("at") AS last_seen, count(*)::BIGINT AS interactions
FROM lines GROUP BY user_id ORDER BY user_id
"""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A request to import a data set.

    source: path or URL of Online Retail II, or of a catalogue (then with `interactions`), a folder with
    `items.*` and `interactions.*`, or "synthetic". split, rebase: see services.data_import.timeline.arrange.
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
    settings: Settings, request: ImportRequest, now: datetime, on_step: Step = lambda step: None
) -> DataManifest:
    """Import a data set, make it current, and return its manifest.

    Raises BadInputError; then nothing has changed on disk.
    """
    on_step("reading and cleaning")
    draft = _draft(request, now, settings.import_max_bytes)
    if draft.interactions.num_rows == 0:
        raise BadInputError(request.source, "no interaction is left after cleaning")
    on_step("creating the catalogue")
    rebase = None if request.source == SYNTHETIC else request.rebase
    timeline = split_and_shift(draft.interactions, split=request.split, rebase=rebase)
    tables = _tables(draft, timeline)
    on_step("writing")
    store = bootstrap.data_store(settings)
    version = store.write(tables, _facts(draft, timeline, request, now))
    return store.manifest(version)


def _draft(request: ImportRequest, now: datetime, max_bytes: int) -> DatasetDraft:
    if request.source == SYNTHETIC:
        return synthetic.draft(request.seed, (request.rebase or now).timestamp(), now)
    source = without_secrets(request.source)
    if Path(request.source).is_dir():
        items, interactions = storefront.files_in(Path(request.source))
        return storefront.draft(items, interactions, source, request.licence)
    with ExitStack() as stack:
        path = stack.enter_context(local_file(request.source, max_bytes))
        if request.interactions is None:
            return online_retail.draft(path, source)
        interactions = stack.enter_context(local_file(request.interactions, max_bytes))
        return storefront.draft(path, interactions, source, request.licence)


def _tables(draft: DatasetDraft, timeline: Timeline) -> dict[str, pa.Table]:
    if draft.items is None:
        items = online_retail.items_of(timeline.interactions)
    else:
        items = shifted(draft.items, "first_seen", timedelta(seconds=timeline.shift_s))
    users = query(_USERS, {"lines": timeline.interactions})
    interactions = timeline.interactions.select(INTERACTIONS.names)
    tables = {"items": items, "users": users, "interactions": interactions}
    if timeline.holdout is not None:
        tables["holdout"] = timeline.holdout.select(INTERACTIONS.names)
    return tables


def _facts(draft: DatasetDraft, timeline: Timeline, request: ImportRequest, now: datetime) -> DataFacts:
    at = timeline.interactions["at"]
    return {
        "created_at": now.isoformat(),
        "source": draft.source,
        "licence": draft.licence,
        "citation": draft.citation,
        "window": [at[0].as_py().isoformat(), at[-1].as_py().isoformat()],
        "split": request.split.isoformat() if request.split else None,
        "shift_s": timeline.shift_s,
        "catalogue": {
            "as_of": min(request.as_of or draft.as_of, now).isoformat(),
            "fields": sorted(draft.fields),
        },
        "rules": list(draft.rules),
    }


def parse_time(field: str, text: str | None) -> datetime | None:
    """Parse an ISO 8601 time (without a zone: UTC). Raises BadInputError naming `field`."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(field, f"{text!r} is not an ISO 8601 time such as 2011-11-01T00:00Z") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def run(settings: Settings, request: ImportRequest) -> None:
    """Import with progress on the terminal, then print the data version."""
    console, now, started = Console(), datetime.now(UTC), time.perf_counter()
    with console.status("starting") as status:
        manifest = import_data(settings, request, now, lambda step: status.update(f"{step} …"))
    show(settings, manifest["version"])
    console.print(f"imported in {time.perf_counter() - started:.1f} s and made current")


def show(settings: Settings, version: str | None = None) -> None:
    """Print a data version (None: the current one): source, window, counts, rows dropped by each rule."""
    console, manifest = Console(), bootstrap.data_store(settings).manifest(version)
    facts = Table(title=f"data version {manifest['version']}", show_header=False)
    for name, value in _rows(manifest).items():
        if value:
            facts.add_row(name, value)
    console.print(facts)
    rules = Table("rule", "why", "rows dropped", "rows left", title="cleaning")
    for rule in manifest["rules"]:
        rules.add_row(rule["name"], rule["why"], f"{rule['dropped']:,}", f"{rule['left']:,}")
    if manifest["rules"]:
        console.print(rules)


def _rows(manifest: DataManifest) -> dict[str, str]:
    catalogue = manifest.get("catalogue")  # versions imported by older releases have none
    return {
        "source": manifest["source"],
        "licence": manifest["licence"],
        "cite": manifest["citation"],
        "catalogue": f"as of {catalogue['as_of']}, with {', '.join(catalogue['fields'])}"
        if catalogue
        else "",
        "window": " to ".join(manifest["window"]),
        "shifted by": f"{manifest['shift_s']:.0f} s",
        "holds": ", ".join(f"{count:,} {name}" for name, count in manifest["counts"].items()),
    }
