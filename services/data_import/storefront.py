"""Any storefront's own data: a catalogue and interactions, each as CSV, Parquet, xlsx or zip.

catalogue: item_id, title; optional: category, price, description, stock (-1: not tracked), hidden,
first_seen.
interactions: user_id, item_id, at; optional: kind (view, click, add_to_cart, purchase; default purchase),
quantity (default 1), price (default the catalogue's), order_id.
Times are ISO 8601 (without a zone: UTC), or seconds or milliseconds since the epoch. Other columns are
ignored.
"""

from pathlib import Path

import duckdb

from services.data_import import schemas
from services.data_import.cleaning_rules import Rule, clean
from services.data_import.dataset_draft import ITEMS, LINES, Draft
from services.data_import.readers import KINDS, read, written
from services.errors import BadInputError
from services.messages.events import ITEM_FIELDS

CATALOGUE = {
    "item_id": "VARCHAR",
    "title": "VARCHAR",
    "category": "VARCHAR",
    "price": "DOUBLE",
    "description": "VARCHAR",
    "stock": "DOUBLE",
    "hidden": "BOOLEAN",
    "first_seen": "TIMESTAMPTZ",
}
INTERACTIONS = {
    "user_id": "VARCHAR",
    "item_id": "VARCHAR",
    "at": "TIMESTAMPTZ",
    "kind": "VARCHAR",
    "quantity": "DOUBLE",
    "price": "DOUBLE",
    "order_id": "VARCHAR",
}
LONGEST_DESCRIPTION = 1_000  # characters kept: arrays of text are as wide as their longest entry

_EVERY_COLUMN = ", ".join(f'"{name}"' for name in INTERACTIONS)
RULES = (
    Rule(
        "duplicate",
        "the same line again",
        f"row_number() OVER (PARTITION BY {_EVERY_COLUMN} ORDER BY row) > 1",
    ),
    Rule("unknown_item", "not in the catalogue, so it can't be shown", "NOT known"),
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


def find(folder: Path) -> tuple[Path, Path]:
    """(catalogue, interactions) in `folder`: `items.*` and `interactions.*`. Raises BadInputError naming
    the missing one."""
    found = []
    for stem in ("items", "interactions"):
        paths = [
            folder / f"{stem}{kind}" for kind in (*KINDS, ".zip") if (folder / f"{stem}{kind}").is_file()
        ]
        if not paths:
            raise BadInputError("source", f"{folder} has no {stem}.csv, .parquet, .xlsx or .zip")
        found.append(paths[0])
    return found[0], found[1]


def draft(catalogue_path: Path, interactions_path: Path, source: str, licence: str) -> Draft:
    """Both files, checked. Raises RefusedFileError naming column, row and rule."""
    catalogue = read(catalogue_path, CATALOGUE, frozenset(CATALOGUE) - {"item_id", "title"})
    schemas.check(catalogue, schemas.CATALOGUE, catalogue_path.name)
    raw = read(interactions_path, INTERACTIONS, frozenset(INTERACTIONS) - {"user_id", "item_id", "at"})
    schemas.check(raw, schemas.INTERACTIONS, interactions_path.name)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("catalogue", catalogue)
        connection.register("raw", raw)
        judged = connection.sql(
            "SELECT *, item_id IN (SELECT item_id FROM catalogue) AS known FROM raw"
        ).to_arrow_table()
        kept, rules = clean(judged, RULES)
        connection.register("lines", kept)
        lines = connection.sql(_LINES).to_arrow_table().cast(LINES)
        items = connection.sql(_ITEMS).to_arrow_table().cast(ITEMS)
    fields = frozenset(name for name in ITEM_FIELDS if catalogue[name].null_count < len(catalogue))
    return Draft(lines, items, source, licence, "", tuple(rules), fields, written(catalogue_path))
