"""The queries that serving would have made at a time, from point-in-time rows of Feast's `user_activity`.

Models are fitted on interactions and evaluated on the queries of serving. If the offline store has a row of
the user as of the cut, the query is that row. If not (before Ringside was installed), it is the user's last
interactions, from which the first row would have been backfilled. Users whose
latest interaction is older than the TTL of rows are left out, because serving has no row of them and every
model would get the same empty query.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.evaluation.offline import Case
from models.evaluation.splits import TimeSplit
from models.recommender import KINDS, Catalogue, Query
from services.ports.features import FeatureStore

VIEW = "user_activity"
FEATURES = ("item_ids", "item_at", "item_types")


def with_served_queries(
    users: list[Case],
    split: TimeSplit,
    catalogue: Catalogue,
    features: FeatureStore,
    ttl_s: float = float("inf"),
) -> list[Case]:
    """The cases with the queries of serving at the cut, without users whose row was older than `ttl_s`.

    Feast is queried (and imported) only if its history has a row of one of the users before the cut.
    """
    served = _with_feast_rows(users, split, catalogue, features)
    return [case for case in served if float(case.query.recent_at.max()) >= split.cut_s - ttl_s]


def _with_feast_rows(
    users: list[Case], split: TimeSplit, catalogue: Catalogue, features: FeatureStore
) -> list[Case]:
    if not features.applied():
        return users
    names = split.train.users
    recorded = _users_with_rows(features, split.cut_s)
    known = [case for case in users if str(names[case.user]) in recorded]
    if not known:
        return users
    cut_ms = int(split.cut_s * 1_000)
    keys = [str(names[case.user]) for case in known]
    rows = features.rows_as_of(VIEW, FEATURES, keys, [cut_ms] * len(keys)).to_dict("records")
    index_of = {item: index for index, item in enumerate(catalogue.items.tolist())}
    queries = {case.user: query_of(row, index_of, split.cut_s) for case, row in zip(known, rows, strict=True)}
    return [replace(case, query=queries.get(case.user) or case.query) for case in users]


def query_of(row: Mapping[str, Any], index_of: Mapping[str, int], now_s: float) -> Query | None:
    """The query of a row (FEATURES); None if the row is null or none of its items is in the catalogue.

    index_of: index of each item id of the catalogue.
    """
    if not isinstance(row["item_ids"], list | tuple | np.ndarray):  # null: no row, or one past its TTL
        return None
    triples = zip(row["item_ids"], row["item_at"], row["item_types"], strict=True)
    known = [
        (index_of[item], at / 1_000, KINDS.index(kind)) for item, at, kind in triples if item in index_of
    ]
    if not known:
        return None
    items, at_s, kinds = zip(*known, strict=True)
    return Query(np.array(items, np.int32), np.array(at_s, np.float64), np.array(kinds, np.uint8), now_s)


def _users_with_rows(features: FeatureStore, cut_s: float) -> set[str]:
    """Users with a row whose timestamp is not after the cut."""
    history = features.history(VIEW, ["user_id", "event_timestamp"])
    early = pc.less_equal(history["event_timestamp"], pa.scalar(int(cut_s * 1e6), pa.timestamp("us", "UTC")))
    return set(history["user_id"].filter(early).to_pylist())
