"""What shoppers did since the last import, read from the Parquet lake."""

from datetime import datetime
from pathlib import Path

import numpy as np

from models.recommender import KINDS
from services.ports.lake import EventHistory, PastEvents

COLUMNS = ("event_id", "type", "item_id", "user_id", "session_id", "received_at")
QUERY = """
    SELECT coalesce(user_id, session_id) AS who, item_id, received_at, type
    FROM read_parquet($files, union_by_name := true)
    WHERE received_at > $after AND type IN $kinds AND coalesce(user_id, session_id) IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY received_at) = 1
    ORDER BY received_at, event_id
"""


HOUR_S = 3_600
SKEW_S = HOUR_S  # between the clock of who received an event and the broker's, by which folders are named


class LakeEventHistory(EventHistory):
    """Events in `<lake>/events/date=…/hour=…/*.parquet`; each event once, whatever the lake holds twice."""

    def __init__(self, lake: Path):
        self.folder = lake / "events"

    def since(self, after_ms: int) -> PastEvents:
        """Events received after `after_ms`, oldest first; impressions are not interactions and are left
        out."""
        files = sorted(
            str(path)
            for folder in self.folder.glob("date=*/hour=*")
            if _reaches(folder, after_ms)
            for path in folder.glob("*.parquet")
            if not path.name.startswith(".")
        )
        if not files:
            return PastEvents.none()
        import duckdb

        with duckdb.connect() as connection:
            given = {"files": files, "after": after_ms, "kinds": list(KINDS)}
            found = connection.execute(QUERY, given).fetchnumpy()
        place = {kind: index for index, kind in enumerate(KINDS)}
        return PastEvents(
            user=found["who"].astype(np.str_),
            item=found["item_id"].astype(np.str_),
            at=found["received_at"].astype(np.float64) / 1_000,
            kind=np.array([place[kind] for kind in found["type"]], np.uint8),
        )


def _reaches(folder: Path, after_ms: int) -> bool:
    """Whether a folder of an hour may hold something received after a moment; any other folder may."""
    try:
        hour = datetime.strptime(f"{folder.parent.name} {folder.name}+0000", "date=%Y-%m-%d hour=%H%z")
    except ValueError:
        return True
    return hour.timestamp() + HOUR_S + SKEW_S > after_ms / 1_000
