"""The common form of every source: cleaned tables, before times are shifted and a data version is written."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from services.ports.training import RuleFacts

INTERACTIONS = pa.schema(
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
class DatasetDraft:
    """The cleaned tables of one source.

    interactions: columns of INTERACTIONS, ordered by time; with `description` too if `items` is None.
    items: columns of ITEMS (`first_seen` may be null); None if the items are to be derived from the
    interactions that are kept for training. fields: columns of the catalogue that the source provides; the
    others hold defaults. as_of: when the catalogue was true.
    """

    interactions: pa.Table
    items: pa.Table | None
    source: str
    licence: str
    citation: str
    rules: tuple[RuleFacts, ...]
    fields: frozenset[str]
    as_of: datetime
