"""Training reads each event of the lake once, oldest first."""

import pyarrow as pa
import pyarrow.parquet as pq

from models.recommender import KINDS
from services.adapters.files.lake_history import LakeEventHistory

ROWS = [
    ("e1", "click", "i1", "u1", None, 5_000),
    ("e2", "purchase", "i2", None, "s9", 4_000),
    ("e1", "click", "i1", "u1", None, 5_000),
    ("e3", "impression", "i3", "u1", None, 6_000),
    ("e4", "view", "i4", None, None, 6_500),
    ("e5", "view", "i5", "u1", "s1", 1_000),
]
NAMES = ("event_id", "type", "item_id", "user_id", "session_id", "received_at")


def write(lake, hour: str, rows: list[tuple], date: str = "2026-11-23", **more: list) -> None:
    folder = lake / "events" / f"date={date}" / f"hour={hour}"
    folder.mkdir(parents=True)
    columns = dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))
    text = {name: pa.array(columns[name], pa.string()) for name in NAMES[:-1]}
    pq.write_table(pa.table({**text, "received_at": columns["received_at"], **more}), folder / "part.parquet")


def test_later_events_come_once_in_order_with_routing_key(tmp_path):
    write(tmp_path, "10", ROWS[:3])
    write(tmp_path, "11", ROWS[2:], value=[1.0] * 4)  # a later file with a column more
    events = LakeEventHistory(tmp_path).since(1_000)
    assert events.user.tolist() == ["s9", "u1"]
    assert events.item.tolist() == ["i2", "i1"]
    assert events.at.tolist() == [4.0, 5.0]
    assert [KINDS[kind] for kind in events.kind.tolist()] == ["purchase", "click"]


def test_a_lake_without_events_or_none_at_all_is_empty(tmp_path):
    assert len(LakeEventHistory(tmp_path / "nothing").since(0).at) == 0
    write(tmp_path, "10", ROWS)
    empty = LakeEventHistory(tmp_path).since(10_000)
    assert (len(empty.user), len(empty.kind), empty.at.dtype) == (0, 0, float)


def test_files_of_hours_before_are_not_opened(tmp_path):
    """Training needs days, and the lake has years."""
    noon_ms = 1_795_435_200_000  # 2026-11-23 12:00 UTC
    for date, hour in (("2026-11-22", "12"), ("2026-11-23", "10"), ("2025-12-31", "23")):
        folder = tmp_path / "events" / f"date={date}" / f"hour={hour}"
        folder.mkdir(parents=True)
        (folder / "part.parquet").write_bytes(b"not to be read")
    rows = [("e1", "click", "i1", "u1", None, noon_ms + 1), ("e2", "click", "i1", "u1", None, noon_ms - 1)]
    write(tmp_path, "11", rows)  # the broker's clock is not ours
    write(tmp_path, "12", [("e3", "view", "i2", "u1", None, noon_ms + 2)])
    write(tmp_path, "00", [("e4", "view", "i3", "u1", None, noon_ms + 3)], date="2026-11-24")
    assert LakeEventHistory(tmp_path).since(noon_ms).item.tolist() == ["i1", "i2", "i3"]


def test_folders_that_the_lake_did_not_name_are_opened(tmp_path):
    write(tmp_path, "late", ROWS, date="some-day")
    assert len(LakeEventHistory(tmp_path).since(3_000).at) == 2
