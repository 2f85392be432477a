"""Exclusive writes of `user_activity` rows: each user's row has one writer at a time.

Row locks are needed although records are partitioned, because records are keyed by the routing key of the
slate and rows by the user. A user who gets a slate as a guest and clicks after logging in has events in two
partitions, perhaps of two workers, and `features materialize` writes rows too. Each of them loads the row,
adds its events and pushes it; without a lock the later push would undo the earlier one.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.errors import UnavailableError
from services.ports.features import ActivityStore

MAX_ATTEMPTS = 600  # 6 s: longer than the locks of a process that was killed while it wrote
PAUSE_S = 0.01  # longer than most pushes take
T = TypeVar("T")


def write_with_row_locks(
    store: ActivityStore, users: Sequence[str], write: Callable[[list[str]], list[T]]
) -> list[T]:
    """Call `write` (load, change and push) with users whose rows are locked, until all had their turn.

    Users that another process is writing are tried again. Returns what the calls of `write` returned,
    concatenated. Raises UnavailableError if some rows stay locked; the others were written.
    """
    results: list[T] = []
    waiting = list(users)
    for _ in range(MAX_ATTEMPTS):
        with store.lock_rows(waiting) as locked:
            results += write([user for user in waiting if user in locked]) if locked else []
        waiting = [user for user in waiting if user not in locked]
        if not waiting:
            return results
        time.sleep(PAUSE_S)
    raise UnavailableError("rows of users", f"another process is writing {len(waiting)} of them")
