"""Judge a fitted model on a time split, asking it exactly what serving would ask at the moment of the cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import coverage, ndcg, recall
from models.evaluation.splits import TimeSplit
from models.recommender import Progress, Query, Recommender, silent

KS = (10, 20)


@dataclass(frozen=True, slots=True)
class Case:
    """One user of the test window with a history: the query at the cut, items known before, items chosen
    after. `user`: index in the interactions' users."""

    query: Query
    known: NDArray[np.int32]
    chosen: NDArray[np.int32]
    user: int = -1


def cases(split: TimeSplit, recent: int = 50) -> list[Case]:
    """A case for each user with interactions on both sides of the cut; the query holds the last `recent`
    ones."""
    before, after = _by_user(split.train.user), _by_user(split.test.user)
    train, test = split.train, split.test
    made = []
    for user in sorted(before.keys() & after.keys()):
        latest = before[user][::-1][:recent]
        query = Query(train.item[latest], train.at[latest], train.kind[latest], split.cut_s)
        made.append(Case(query, np.unique(train.item[before[user]]), np.unique(test.item[after[user]]), user))
    return made


def _by_user(user: NDArray[np.int32]) -> dict[int, NDArray[np.intp]]:
    """Rows of each user, in order of time."""
    order = np.argsort(user, kind="stable")
    distinct, starts = np.unique(user[order], return_index=True)
    return dict(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True))


def evaluate(
    model: Recommender, judged: Sequence[Case], *, new_only: bool, progress: Progress = silent
) -> Mapping[str, float]:
    """recall@k, ndcg@k and coverage@k for k in KS, the number of users, and the standard error of recall@20.

    new_only: only items that the user had not met before are shown and count; else all are.
    """
    judged = [case for case in judged if len(_relevant(case, new_only))]
    deepest, n_items = max(KS), len(model.items)
    lists = np.full((len(judged), deepest), -1, np.int32)
    hits = np.zeros(lists.shape, bool)
    for row, case in enumerate(judged):
        item = model.rank(case.query, deepest, allowed=_allowed(case, n_items, new_only)).item
        lists[row, : len(item)] = item
        hits[row, : len(item)] = np.isin(item, _relevant(case, new_only))
        progress(row + 1, len(judged), f"judging {model.algorithm}")
    relevant = np.array([len(_relevant(case, new_only)) for case in judged])
    return _summary(hits, relevant, lists, n_items)


def _relevant(case: Case, new_only: bool) -> NDArray[np.int32]:
    return np.setdiff1d(case.chosen, case.known, assume_unique=True) if new_only else case.chosen


def _allowed(case: Case, n_items: int, new_only: bool) -> NDArray[np.bool_] | None:
    if not new_only:
        return None
    allowed = np.ones(n_items, bool)
    allowed[case.known] = False
    return allowed


def _summary(
    hits: NDArray[np.bool_], relevant: NDArray[np.integer], lists: NDArray[np.int32], n_items: int
) -> dict[str, float]:
    if not len(relevant):
        raise ValueError("cases: no user has anything to judge by")
    found = {f"recall@{k}": float(recall(hits, relevant, k).mean()) for k in KS}
    found |= {f"ndcg@{k}": float(ndcg(hits, relevant, k).mean()) for k in KS}
    found |= {f"coverage@{k}": coverage(lists, n_items, k) for k in KS}
    found["recall@20_se"] = float(recall(hits, relevant, 20).std() / np.sqrt(len(relevant)))
    return found | {"users": float(len(relevant))}
