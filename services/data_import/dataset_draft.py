"""What a source turns into, before times are shifted and tables are written."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from services.data_import.cleaning_rules import Applied

LINES = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("kind", pa.string()),
        ("quantity", pa.float32()),
        ("price", pa.float32()),
        ("order_id", pa.string()),
    ]
)
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("price", pa.float32()),
        ("description", pa.string()),
        ("stock", pa.int32()),
        ("hidden", pa.bool_()),
        ("first_seen", pa.timestamp("us", "UTC")),
    ]
)


@dataclass(frozen=True, slots=True)
class Draft:
    """Clean interactions of one source and its catalogue.

    lines: LINES, and `description` where there is no `catalogue`; catalogue: ITEMS (`first_seen` may be
    null), or None if the items are to be derived from the lines that are kept for training. fields: of the
    catalogue, those that the source says; the others are defaults. as_of: when the catalogue was true.
    """

    lines: pa.Table
    catalogue: pa.Table | None
    source: str
    licence: str
    citation: str
    rules: tuple[Applied, ...]
    fields: frozenset[str]
    as_of: datetime
