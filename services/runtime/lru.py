"""A bounded memory: the values put last, by key."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The `limit` values put last, by key."""

    def __init__(self, limit: int):
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def put(self, key: K, value: V) -> None:
        """Remember."""
        values = self._values
        values[key] = value
        values.move_to_end(key)
        if len(values) > self._limit:
            values.popitem(last=False)

    def get(self, key: K) -> V | None:
        """What was put, if it is still remembered."""
        return self._values.get(key)
