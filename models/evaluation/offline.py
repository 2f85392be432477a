"""Evaluation of a fitted model on a time split, with the queries that serving would make at the cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import coverage, ndcg, recall
from models.evaluation.splits import TimeSplit
from models.recommender import ProgressCallback, Query, Recommender, no_progress

CUTOFFS = (10, 20)


@dataclass(frozen=True, slots=True)
class Case:
    """One user with interactions on both sides of the cut.

    query: the query of serving at the cut; seen: int32, distinct items of the user before the cut; later:
    int32, distinct items of the user after it; user: index into the interactions' users.
    """

    query: Query
    seen: NDArray[np.int32]
    later: NDArray[np.int32]
    user: int = -1

    def relevant(self, new_only: bool) -> NDArray[np.int32]:
        """Items that count as hits: `later`; with `new_only` those of them that the user had not seen."""
        return np.setdiff1d(self.later, self.seen, assume_unique=True) if new_only else self.later


def cases(split: TimeSplit, recent: int = 50) -> list[Case]:
    """A case per user with interactions on both sides of the cut; its query holds the last `recent` ones."""
    before, after = _rows_by_user(split.train.user), _rows_by_user(split.test.user)
    train, test = split.train, split.test
    result = []
    for user in sorted(before.keys() & after.keys()):
        rows = before[user][::-1][:recent]
        query = Query(train.item[rows], train.at[rows], train.kind[rows], split.cut_s)
        seen, later = np.unique(train.item[before[user]]), np.unique(test.item[after[user]])
        result.append(Case(query, seen, later, user))
    return result


def _rows_by_user(user: NDArray[np.int32]) -> dict[int, NDArray[np.intp]]:
    """Row numbers of each user, in order of time."""
    order = np.argsort(user, kind="stable")
    distinct, starts = np.unique(user[order], return_index=True)
    return dict(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True))


def evaluate(
    model: Recommender,
    users: Sequence[Case],
    *,
    new_only: bool,
    progress: ProgressCallback = no_progress,
) -> dict[str, float]:
    """recall@k, ndcg@k and coverage@k for k in KS, the number of users, and the standard error of recall@20.

    new_only: recommend and count only items that the user had not seen before the cut. Users without a
    relevant item are left out. Raises ValueError if no user is left.
    """
    users = [case for case in users if len(case.relevant(new_only))]
    deepest, n_items = max(CUTOFFS), len(model.items)
    rankings = np.full((len(users), deepest), -1, np.int32)
    hits = np.zeros(rankings.shape, bool)
    for row, case in enumerate(users):
        item = model.rank(case.query, deepest, allowed=_allowed(case, n_items, new_only)).item
        rankings[row, : len(item)] = item
        hits[row, : len(item)] = np.isin(item, case.relevant(new_only))
        progress(row + 1, len(users), f"evaluating {model.algorithm}")
    relevant = np.array([len(case.relevant(new_only)) for case in users])
    return _summary(hits, relevant, rankings, n_items)


def _allowed(case: Case, n_items: int, new_only: bool) -> NDArray[np.bool_] | None:
    if not new_only:
        return None
    allowed = np.ones(n_items, bool)
    allowed[case.seen] = False
    return allowed


def _summary(
    hits: NDArray[np.bool_], relevant: NDArray[np.integer], rankings: NDArray[np.int32], n_items: int
) -> dict[str, float]:
    if not len(relevant):
        raise ValueError("users: none has a relevant item after the cut, so nothing can be evaluated")
    summary = {f"recall@{k}": float(recall(hits, relevant, k).mean()) for k in CUTOFFS}
    summary |= {f"ndcg@{k}": float(ndcg(hits, relevant, k).mean()) for k in CUTOFFS}
    summary |= {f"coverage@{k}": coverage(rankings, n_items, k) for k in CUTOFFS}
    summary["recall@20_se"] = float(recall(hits, relevant, 20).std() / np.sqrt(len(relevant)))
    return summary | {"users": float(len(relevant))}
