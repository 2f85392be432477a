"""Moving a data set in time, and keeping its last part for shoppers who do what really happened next."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from services.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Timeline:
    """Lines up to the split (all without one), lines after it, and the seconds that were added to every
    time."""

    lines: pa.Table
    holdout: pa.Table | None
    shift_s: float


def arrange(lines: pa.Table, *, split: datetime | None, rebase: datetime | None) -> Timeline:
    """Split at `split` (original time), then shift so that the split, else the last line, happens at
    `rebase`.

    lines: ordered, with `at` (timestamp, UTC). Raises BadInputError if the split leaves a side empty.
    """
    first, last = lines["at"][0].as_py(), lines["at"][-1].as_py()
    if split is not None and not first < split <= last:
        raise BadInputError(
            "split", f"{split.isoformat()} is not within {first.isoformat()} and {last.isoformat()}"
        )
    shift = timedelta(0) if rebase is None else rebase - (split or last)
    before = lines if split is None else lines.filter(pc.less(lines["at"], pa.scalar(split)))
    after = None if split is None else lines.filter(pc.greater_equal(lines["at"], pa.scalar(split)))
    held_out = None if after is None else shifted(after, "at", shift)
    return Timeline(shifted(before, "at", shift), held_out, shift.total_seconds())


def shifted(table: pa.Table, column: str, shift: timedelta) -> pa.Table:
    """`table` with `shift` added to one timestamp column; nulls stay."""
    index = table.column_names.index(column)
    moved = pc.add(table[column], pa.scalar(shift, pa.duration("us")))
    return table.set_column(index, table.schema.field(index), moved)
