"""Pins: the assignments that units keep."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pin:
    """The assignment that a unit keeps."""

    weights_version: int
    arm: str
    propensity: float
    unit_at: int  # ms; received_at of the unit's first exposure


class PinStore(Protocol):
    """Pins as whoever puts them back sees them. All methods raise UnavailableError."""

    def restored_partitions(self) -> frozenset[int]:
        """Partitions whose pins were put back since Redis was empty."""

    def begin_restore(self, partitions: Iterable[int]) -> None:
        """From now on pins of these partitions are put back through this object."""

    def restore(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """Set pins by unit key, each for so many ms; what is there is overwritten."""

    def mark_restored(self, partition: int) -> bool:
        """All pins of a partition's units are there; False, and nothing is marked, if Redis lost its data
        after `begin`, and so what was put back."""

    def mark_complete(self, experiments: Iterable[str], partitions: int) -> bool:
        """No pin of these experiments is missing: whoever has none is new. False, and nothing is said, if
        fewer than so many partitions are restored at this very moment."""
