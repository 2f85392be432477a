"""A storefront's own data as a source: a catalogue and interactions, each as CSV, Parquet, xlsx or zip.

Columns of the catalogue: item_id, title; optional: category, price, description, stock (-1: not tracked),
hidden, first_seen.
Columns of the interactions: user_id, item_id, at; optional: kind (view, click, add_to_cart, purchase; default
purchase), quantity (default 1), price (default: the catalogue's), order_id.
Times are ISO 8601 (without a zone: UTC), or seconds or milliseconds since the epoch. Other columns are
ignored.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from services.data_import import schemas
from services.data_import.cleaning_rules import Rule, clean
from services.data_import.dataset_draft import INTERACTIONS, ITEMS, DatasetDraft
from services.data_import.readers import read
from services.data_import.source_file import FORMATS, modified_at
from services.errors import BadInputError
from services.messages.events import ITEM_FIELDS
from services.runtime.arrow_sql import query

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.float32(): "DOUBLE",
    pa.int32(): "DOUBLE",  # checked to be whole after reading
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
}
CATALOGUE_COLUMNS = {field.name: _SQL_TYPES[field.type] for field in ITEMS}
INTERACTION_COLUMNS = {field.name: _SQL_TYPES[field.type] for field in INTERACTIONS}
LONGEST_DESCRIPTION = 1_000  # characters kept, because arrays of text are as wide as their longest entry

_EVERY_COLUMN = ", ".join(f'"{name}"' for name in INTERACTION_COLUMNS)
RULES = (
    Rule(
        "duplicate",
        "a repeated line",
        f"row_number() OVER (PARTITION BY {_EVERY_COLUMN} ORDER BY row) > 1",
    ),
    Rule("unknown_item", "the item is not in the catalogue, so it can't be shown", "NOT known"),
)
_ITEMS = f"""
SELECT item_id, title, coalesce(category, 'other') AS category, coalesce(price, 0) AS price,
       left(coalesce(description, title), {LONGEST_DESCRIPTION}) AS description, coalesce(stock, -1) AS stock,
       coalesce(hidden, false) AS hidden, coalesce(first_seen, first_line) AS first_seen
FROM catalogue LEFT JOIN (SELECT item_id, min("at") AS first_line FROM lines GROUP BY item_id) USING (item_id)
ORDER BY item_id
"""
_LINES = """
SELECT user_id, item_id, "at", coalesce(kind, 'purchase') AS kind, coalesce(lines.quantity, 1) AS quantity,
       coalesce(lines.price, catalogue.price, 0) AS price, order_id
FROM lines JOIN catalogue USING (item_id) ORDER BY "at", lines.row
"""


def files_in(folder: Path) -> tuple[Path, Path]:
    """Return the files `items.*` and `interactions.*` of `folder`. Raises BadInputError if one is missing."""
    return _file_in(folder, "items"), _file_in(folder, "interactions")


def _file_in(folder: Path, stem: str) -> Path:
    for suffix in (*FORMATS, ".zip"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise BadInputError("source", f"{folder} has no {stem}.csv, .parquet, .xlsx or .zip")


def draft(items_path: Path, interactions_path: Path, source: str, licence: str) -> DatasetDraft:
    """Read, check and clean both files. Raises BadInputError, FileValidationError."""
    optional = frozenset(CATALOGUE_COLUMNS) - {"item_id", "title"}
    catalogue = read(items_path, CATALOGUE_COLUMNS, optional)
    schemas.check(catalogue, schemas.CATALOGUE, items_path.name)
    optional = frozenset(INTERACTION_COLUMNS) - {"user_id", "item_id", "at"}
    raw = read(interactions_path, INTERACTION_COLUMNS, optional)
    schemas.check(raw, schemas.INTERACTIONS, interactions_path.name)
    to_clean = raw.append_column("known", pc.is_in(raw["item_id"], catalogue["item_id"]))
    kept, rules = clean(to_clean, RULES)
    tables = {"catalogue": catalogue, "lines": kept}
    interactions, items = query(_LINES, tables).cast(INTERACTIONS), query(_ITEMS, tables).cast(ITEMS)
    fields = frozenset(name for name in ITEM_FIELDS if catalogue[name].null_count < len(catalogue))
    as_of = modified_at(items_path)
    return DatasetDraft(interactions, items, source, licence, "", tuple(rules), fields, as_of)
