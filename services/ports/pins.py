"""Pins: the assignments that units keep."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pin:
    """The assignment that a unit keeps. `unit_at`: `received_at` of the unit's first exposure, ms."""

    weights_version: int
    arm: str
    propensity: float
    unit_at: int


class PinStore(Protocol):
    """Write access to pins, used to restore them after a loss. All methods raise UnavailableError."""

    def restored_partitions(self) -> frozenset[int]:
        """Partitions whose pins were restored since the store was last emptied."""

    def begin_restore(self, partitions: Iterable[int]) -> None:
        """Begin to restore the pins of these partitions with this object."""

    def restore(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """Write pins by unit key, each with its time to live in ms; overwrites existing ones."""

    def mark_restored(self, partition: int) -> bool:
        """Mark all pins of a partition as restored. Returns False and changes nothing if the store lost its
        data after `begin_restore`."""

    def mark_complete(self, experiments: Iterable[str], partitions: int) -> bool:
        """Mark the pins of these experiments as complete, so that a unit without a pin counts as new.

        Returns False and changes nothing unless `partitions` partitions are restored.
        """
