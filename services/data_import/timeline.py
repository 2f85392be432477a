"""Shifting a data set in time, and holding out its last part for simulated shoppers to replay."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from services.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Timeline:
    """Interactions up to the split (all without a split), those after it, and the seconds added to times."""

    interactions: pa.Table
    holdout: pa.Table | None
    shift_s: float


def split_and_shift(interactions: pa.Table, *, split: datetime | None, rebase: datetime | None) -> Timeline:
    """Split at `split` (in original time), then shift all times so that the split happens at `rebase`.

    Without a split, the last interaction happens at `rebase`. interactions: ordered by `at` (timestamp, UTC).
    Raises BadInputError if the split leaves a side empty.
    """
    at = interactions["at"]
    first, last = at[0].as_py(), at[-1].as_py()
    if split is not None and not first < split <= last:
        raise BadInputError(
            "split", f"{split.isoformat()} must be after {first.isoformat()} and not after {last.isoformat()}"
        )
    shift = timedelta(0) if rebase is None else rebase - (split or last)
    moved = shifted(interactions, "at", shift)
    if split is None:
        return Timeline(moved, None, shift.total_seconds())
    is_before = pc.less(at, pa.scalar(split))
    after = moved.filter(pc.invert(is_before))
    return Timeline(moved.filter(is_before), after, shift.total_seconds())


def shifted(table: pa.Table, column: str, shift: timedelta) -> pa.Table:
    """Add `shift` to a timestamp column; nulls stay."""
    index = table.column_names.index(column)
    moved = pc.add(table[column], pa.scalar(shift, pa.duration("us")))
    return table.set_column(index, table.schema.field(index), moved)
