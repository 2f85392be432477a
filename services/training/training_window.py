"""The latest window: the current data version, continued by what shoppers did since."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.recommender import Interactions
from services.ports.lake import EventHistory, PastEvents
from services.ports.training import Dataset, DataStore


def latest(data: DataStore, history: EventHistory) -> Dataset:
    """The current data version with the events that came after it. Raises ConfigurationError without data."""
    dataset = data.load()
    at = dataset.interactions.at
    return continued(dataset, history.since(int(at[-1] * 1_000) if len(at) else 0))


def continued(dataset: Dataset, events: PastEvents) -> Dataset:
    """`dataset` followed by `events` (all later than it). Events of items outside the catalogue are left
    out; a user seen for the first time joins `users` at its end. An event says one piece at the catalogue's
    price."""
    past, catalogue = dataset.interactions, dataset.catalogue
    item = places(catalogue.items, events.item)
    known = item >= 0
    item, who = item[known], events.user[known]
    newcomers = np.setdiff1d(who, past.users)
    users = np.concatenate([past.users, newcomers])
    longer = Interactions(
        user=np.concatenate([past.user, places(users, who)]),
        item=np.concatenate([past.item, item]),
        at=np.concatenate([past.at, events.at[known]]),
        quantity=np.concatenate([past.quantity, np.ones(len(item), np.float32)]),
        price=np.concatenate([past.price, catalogue.price[item]]),
        kind=np.concatenate([past.kind, events.kind[known]]),
        users=users,
    )
    return replace(dataset, interactions=longer)


def places(vocabulary: NDArray[np.str_], names: NDArray[np.str_]) -> NDArray[np.int32]:
    """Index of each name in `vocabulary` (distinct, any order), int32 [n]; −1 where it is missing."""
    if not len(vocabulary):
        return np.full(len(names), -1, np.int32)
    order = np.argsort(vocabulary, kind="stable")
    found = np.minimum(np.searchsorted(vocabulary, names, sorter=order), len(vocabulary) - 1)
    candidate = order[found]
    return np.where(vocabulary[candidate] == names, candidate, -1).astype(np.int32)
