"""The synthetic shop as a source: it needs no file, and its true click rates are known."""

from datetime import datetime

import numpy as np
import pyarrow as pa

from experiments.simulation.history import history
from experiments.simulation.synthetic_shop import synthetic_shop
from models.recommender import KINDS
from services.data_import.dataset_draft import INTERACTIONS, ITEMS, DatasetDraft
from services.messages.events import ITEM_FIELDS

WEEKS = 8


def draft(seed: int, end_s: float, as_of: datetime) -> DatasetDraft:
    """Generate eight weeks of browsing that end at `end_s` (s since the epoch).

    Equal arguments give equal data; see experiments.simulation.synthetic_shop.
    """
    shop = synthetic_shop(seed=seed)
    past = history(shop, end_s=end_s, weeks=WEEKS)
    at = pa.array(np.round(past.at * 1e6).astype(np.int64), pa.timestamp("us", "UTC"))
    n, products = len(at), shop.products
    interactions = pa.table(
        {
            "user_id": pa.array(shop.users[past.user], pa.string()),
            "item_id": pa.array(products.items[past.item], pa.string()),
            "at": at,
            "kind": pa.array(np.array(KINDS)[past.kind], pa.string()),
            "quantity": past.quantity,
            "price": past.price,
            "order_id": pa.nulls(n, pa.string()),
        },
        schema=INTERACTIONS,
    )
    count = len(products.items)
    opened = int((end_s - WEEKS * 7 * 86_400) * 1e6)
    items = pa.table(
        {
            "item_id": pa.array(products.items, pa.string()),
            "title": pa.array(products.title, pa.string()),
            "category": pa.array(products.category, pa.string()),
            "price": products.price,
            "description": pa.array(products.description, pa.string()),
            "stock": np.full(count, -1, np.int32),
            "hidden": np.zeros(count, np.bool_),
            "first_seen": pa.array([opened] * count, pa.timestamp("us", "UTC")),
        },
        schema=ITEMS,
    )
    source = f"synthetic shop, seed {seed}"
    return DatasetDraft(interactions, items, source, "Apache-2.0", "", (), frozenset(ITEM_FIELDS), as_of)
