"""Which experiment decides the slates of which placement."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExperimentTable:
    """Experiment of each placement; `default` serves every placement without an entry.

    `default` is also the experiment of a command that names none.

    >>> table = ExperimentTable("storefront", {"email": "newsletter"})
    >>> table.of("email"), table.of("home"), table.names()
    ('newsletter', 'storefront', ('storefront', 'newsletter'))
    """

    default: str
    by_placement: Mapping[str, str] = field(default_factory=dict)

    def of(self, placement: str) -> str:
        """Experiment that decides the slates of this placement."""
        return self.by_placement.get(placement, self.default)

    def names(self) -> tuple[str, ...]:
        """Every experiment of the table once, the default first."""
        return tuple(dict.fromkeys((self.default, *self.by_placement.values())))
