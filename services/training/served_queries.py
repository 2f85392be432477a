"""What serving would have read of a user at a moment: rows of `user_activity`, point-in-time through Feast.

Models are fitted on interactions; they are judged on the questions that serving asks. Where the offline
store has a row of the user as of the cut, that row is the question; where it has none (before Ringside was
there) the user's last interactions are, which is what the first row would have been seeded with. Whose
latest act is older than rows are served is left out: serving asks every model the same nothing.
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


def as_served(
    judged: list[Case],
    split: TimeSplit,
    catalogue: Catalogue,
    features: FeatureStore,
    ttl_s: float = float("inf"),
) -> list[Case]:
    """The cases with the queries that serving would have made at the cut, without those of users whose row
    would have been older than `ttl_s`. Feast is asked (and imported) only if the history has a row early
    enough of somebody who is judged."""
    served = _asked_of_feast(judged, split, catalogue, features)
    return [case for case in served if float(case.query.recent_at.max()) >= split.cut_s - ttl_s]


def _asked_of_feast(
    judged: list[Case], split: TimeSplit, catalogue: Catalogue, features: FeatureStore
) -> list[Case]:
    if not features.applied():
        return judged
    users = split.train.users
    told = _told_before(features, split.cut_s)
    asked = [case for case in judged if str(users[case.user]) in told]
    if not asked:
        return judged
    cut_ms = int(split.cut_s * 1_000)
    keys = [str(users[case.user]) for case in asked]
    rows = features.rows_as_of(VIEW, FEATURES, keys, [cut_ms] * len(keys)).to_dict("records")
    place = {item: index for index, item in enumerate(catalogue.items.tolist())}
    served = {case.user: query_of(row, place, split.cut_s) for case, row in zip(asked, rows, strict=True)}
    return [replace(case, query=served.get(case.user) or case.query) for case in judged]


def query_of(row: Mapping[str, Any], place: Mapping[str, int], now_s: float) -> Query | None:
    """A row of the view as the models see it; None if there was none, or no item of it is in the
    catalogue."""
    if not isinstance(row["item_ids"], list | tuple | np.ndarray):  # null: no row, or one past its ttl
        return None
    triples = zip(row["item_ids"], row["item_at"], row["item_types"], strict=True)
    known = [(place[item], at / 1_000, KINDS.index(kind)) for item, at, kind in triples if item in place]
    if not known:
        return None
    items, at_s, kinds = zip(*known, strict=True)
    return Query(np.array(items, np.int32), np.array(at_s, np.float64), np.array(kinds, np.uint8), now_s)


def _told_before(features: FeatureStore, cut_s: float) -> set[str]:
    """Users with a row whose timestamp is not after the cut."""
    history = features.history(VIEW, ["user_id", "event_timestamp"])
    early = pc.less_equal(history["event_timestamp"], pa.scalar(int(cut_s * 1e6), pa.timestamp("us", "UTC")))
    return set(history["user_id"].filter(early).to_pylist())
