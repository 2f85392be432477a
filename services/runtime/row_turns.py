"""One writer a row at a time, whichever partitions its events lie in.

Records are keyed by the slate's routing key, rows by the user: who got a slate as a guest and clicks after
logging in has events in two partitions, perhaps of two workers, and `features materialize` writes rows too.
Each loads the row, adds what it has read and pushes; without a turn for each the later push would undo the
earlier one.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.errors import UnavailableError
from services.ports.features import RowLocks

TURNS = 600  # 6 s: longer than a process that was killed while it wrote keeps its users
PAUSE_S = 0.01  # longer than most pushes take
T = TypeVar("T")


def in_turns(locks: RowLocks, users: Sequence[str], write: Callable[[list[str]], list[T]]) -> list[T]:
    """What `write` (load to push) answers for those of `users` whom nobody else is writing, then for the
    others. Raises UnavailableError if some are being written all the time; then it was done for the rest."""
    done: list[T] = []
    left = list(users)
    for _ in range(TURNS):
        with locks.writing(left) as ours:
            done += write([user for user in left if user in ours]) if ours else []
        left = [user for user in left if user not in ours]
        if not left:
            return done
        time.sleep(PAUSE_S)
    raise UnavailableError("rows of users", f"another process is writing {len(left)} of them")
