"""Interactions since the last import, read from the Parquet lake."""

from datetime import datetime
from pathlib import Path

import numpy as np

from models.recommender import KINDS
from services.ports.lake import EventHistory, PastEvents

COLUMNS = ("event_id", "type", "item_id", "user_id", "session_id", "received_at")
QUERY = """
    SELECT coalesce(user_id, session_id) AS routing_key, item_id, received_at, type
    FROM read_parquet($files, union_by_name := true)
    WHERE received_at > $after AND type IN $kinds AND coalesce(user_id, session_id) IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY received_at) = 1
    ORDER BY received_at, event_id
"""


HOUR_S = 3_600
SKEW_S = HOUR_S  # between the clocks of the receiving replica and of the broker, which names the folders


class LakeEventHistory(EventHistory):
    """Events in `<lake>/events/date=…/hour=…/*.parquet`, without the duplicates that the lake may have."""

    def __init__(self, lake: Path):
        self.folder = lake / "events"

    def since(self, after_ms: int) -> PastEvents:
        """See EventHistory. Impressions are left out, because they are no interactions."""
        files = sorted(
            str(path)
            for folder in self.folder.glob("date=*/hour=*")
            if _may_have_events(folder, after_ms)
            for path in folder.glob("*.parquet")
            if not path.name.startswith(".")
        )
        if not files:
            return PastEvents.none()
        import duckdb

        with duckdb.connect() as connection:
            parameters = {"files": files, "after": after_ms, "kinds": list(KINDS)}
            rows = connection.execute(QUERY, parameters).fetchnumpy()
        index_of = {kind: index for index, kind in enumerate(KINDS)}
        return PastEvents(
            user=rows["routing_key"].astype(np.str_),
            item=rows["item_id"].astype(np.str_),
            at=rows["received_at"].astype(np.float64) / 1_000,
            kind=np.array([index_of[kind] for kind in rows["type"]], np.uint8),
        )


def _may_have_events(folder: Path, after_ms: int) -> bool:
    """Whether the folder of an hour may have events received after `after_ms`; True for any other folder."""
    try:
        hour = datetime.strptime(f"{folder.parent.name} {folder.name}+0000", "date=%Y-%m-%d hour=%H%z")
    except ValueError:
        return True
    return hour.timestamp() + HOUR_S + SKEW_S > after_ms / 1_000
