"""The training window: the current data version, continued by the events recorded since."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.recommender import Interactions
from services.ports.lake import EventHistory, PastEvents
from services.ports.training import Dataset, DataStore


def training_window(data: DataStore, history: EventHistory) -> Dataset:
    """The current data version and the events after it. Raises ConfigurationError without imported data."""
    dataset = data.load()
    at = dataset.interactions.at
    return extend_dataset(dataset, history.since(int(at[-1] * 1_000) if len(at) else 0))


def extend_dataset(dataset: Dataset, events: PastEvents) -> Dataset:
    """`dataset` followed by `events`, which are all later.

    Events of items outside the catalogue are left out. New users are appended to `users`. An event counts as
    one piece at the catalogue's price.
    """
    past, catalogue = dataset.interactions, dataset.catalogue
    item = indices(catalogue.items, events.item)
    known = item >= 0
    item, user = item[known], events.user[known]
    new_users = np.setdiff1d(user, past.users)
    users = np.concatenate([past.users, new_users])
    interactions = Interactions(
        user=np.concatenate([past.user, indices(users, user)]),
        item=np.concatenate([past.item, item]),
        at=np.concatenate([past.at, events.at[known]]),
        quantity=np.concatenate([past.quantity, np.ones(len(item), np.float32)]),
        price=np.concatenate([past.price, catalogue.price[item]]),
        kind=np.concatenate([past.kind, events.kind[known]]),
        users=users,
    )
    return replace(dataset, interactions=interactions)


def indices(vocabulary: NDArray[np.str_], names: NDArray[np.str_]) -> NDArray[np.int32]:
    """Index of each name in `vocabulary` (distinct, any order), int32 [n]; −1 where it is missing."""
    if not len(vocabulary):
        return np.full(len(names), -1, np.int32)
    order = np.argsort(vocabulary, kind="stable")
    place = np.minimum(np.searchsorted(vocabulary, names, sorter=order), len(vocabulary) - 1)
    candidate = order[place]
    return np.where(vocabulary[candidate] == names, candidate, -1).astype(np.int32)
