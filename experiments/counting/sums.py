"""Mergeable sums over matured units: the only state of the statistics; everything else is a function of it.

In messages and in Redis sums are flat integers: "<weights version>|<arm>|<hour>|<n, s, f or c>" for units,
units with at least one outcome, units that another arm answered, and units credited by what their last
counted event says of itself; "acct|<arm>|<what>" for the accounting of exposures and events. `hour` =
received_at // 3,600,000. Sums of partitions, batches or hours merge by adding.

Three identities detect a wrong count. The two sides of each are counted independently:

- acknowledged events = counted + late + duplicate + unmatched (left: experiments.counting.audit; right: the
  join);
- exposed (first exposures) = n + late_exposures + duplicate_exposures (likewise), by arm;
- s = c in every cell whose hour is over: exposures say s, the events themselves say c. Until then c <= s.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

HOUR_MS = 3_600_000
ACCOUNT = "acct"
CATEGORIES = ("counted", "late", "duplicate", "unmatched")  # of acknowledged events; each is in one of them
NON_UNIT_EXPOSURES = ("late_exposures", "duplicate_exposures")  # first exposures that are not units
FIELDS = ("n", "s", "f", "c")

Cell = tuple[int, str, int]  # weights version, arm, hour


def cell_key(version: int, arm: str, hour: int) -> str:
    """The part of a key that names a cell.

    >>> cell_key(3, "als", 497_222)
    '3|als|497222'
    """
    return f"{version}|{arm}|{hour}"


def count_key(cell: str, what: str) -> str:
    """Key of one count (n, s, f or c) of a cell."""
    return f"{cell}|{what}"


def account_key(arm: str, what: str) -> str:
    """Key of one number of an arm's accounting.

    >>> account_key("als", "late")
    'acct|als|late'
    """
    return f"{ACCOUNT}|{arm}|{what}"


@dataclass(frozen=True, slots=True)
class Counts:
    """n: matured units; s: those with at least one outcome; f: those answered by another arm; c: those
    credited by their events. 0 <= s, f <= n; c <= s."""

    n: int = 0
    s: int = 0
    f: int = 0
    c: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.n + other.n, self.s + other.s, self.f + other.f, self.c + other.c)

    @property
    def rate(self) -> float:
        """s / n, 0 without units."""
        return self.s / self.n if self.n else 0.0

    @property
    def fallback(self) -> float:
        """f / n, 0 without units."""
        return self.f / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True)
class ExperimentSums:
    """Parsed sums of one experiment. `cells`: counts by (weights version, arm, hour); `accounts`: events by
    arm."""

    cells: Mapping[Cell, Counts] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, sums: Mapping[str, int]) -> "ExperimentSums":
        """Parse the flat format. Raises ValueError naming a malformed key."""
        cells: dict[Cell, Counts] = defaultdict(Counts)
        accounts: dict[str, dict[str, int]] = defaultdict(dict)
        for key, count in sums.items():
            parts = key.split("|")
            if len(parts) == 3 and parts[0] == ACCOUNT:
                accounts[parts[1]][parts[2]] = int(count)
            else:
                cell, what = _parse_cell(key, parts)
                cells[cell] += Counts(**{what: int(count)})
        return cls(dict(cells), dict(accounts))

    def flat(self) -> dict[str, int]:
        """Back to the flat format, without zeros, keys sorted."""
        return dict(sorted(self._items()))

    def _items(self) -> Iterator[tuple[str, int]]:
        for (version, arm, hour), counts in self.cells.items():
            for what in FIELDS:
                if count := getattr(counts, what):
                    yield count_key(cell_key(version, arm, hour), what), count
        for arm, account in self.accounts.items():
            yield from ((account_key(arm, what), count) for what, count in account.items() if count)

    def __add__(self, other: "ExperimentSums") -> "ExperimentSums":
        return ExperimentSums.parse(merge((self.flat(), other.flat())))

    def digest(self) -> str:
        """sha256 (hex) of the canonical flat sums: equal sums, equal digest."""
        return hashlib.sha256(json.dumps(self.flat(), separators=(",", ":")).encode()).hexdigest()

    def arm(self, name: str, from_version: int = 0) -> Counts:
        """Counts of an arm over weights versions >= `from_version`."""
        return sum(
            (c for (v, arm, _), c in self.cells.items() if arm == name and v >= from_version), Counts()
        )

    def by_version(self, name: str, from_version: int = 0) -> dict[int, Counts]:
        """Counts of an arm by weights version, oldest first."""
        return self._by(lambda cell: cell[0], name, from_version)

    def by_hour(self, name: str, from_version: int = 0) -> dict[int, Counts]:
        """Counts of an arm by hour, oldest first."""
        return self._by(lambda cell: cell[2], name, from_version)

    def _by(self, part: Callable[[Cell], int], name: str, from_version: int) -> dict[int, Counts]:
        grouped: dict[int, Counts] = defaultdict(Counts)
        for cell, counts in self.cells.items():
            version, arm, _ = cell
            if arm == name and version >= from_version:
                grouped[part(cell)] += counts
        return dict(sorted(grouped.items()))

    @property
    def units(self) -> int:
        """Matured units of all arms."""
        return sum(counts.n for counts in self.cells.values())

    @property
    def last_hour(self) -> int:
        """Latest hour that holds a unit, 0 without any: the common reference of discounting."""
        return max((hour for _, _, hour in self.cells), default=0)

    def discounted(self, name: str, half_life_s: float) -> tuple[float, float]:
        """(N, S) of an arm at the last hour, every older hour weighing g = 2^(-1 h / half-life) less than the
        next.

        Equals the recursion N <- g N + n, S <- g S + s hour by hour; all arms share the reference hour.
        """
        decay, last = 2.0 ** (-3_600.0 / half_life_s), self.last_hour
        weighted = [(decay ** (last - hour), c) for hour, c in self.by_hour(name).items()]
        return sum((g * c.n for g, c in weighted), 0.0), sum((g * c.s for g, c in weighted), 0.0)

    def gaps(self) -> dict[str, int]:
        """Arms whose events are not accounted for: acknowledged - (counted + late + duplicate + unmatched),
        where not 0."""
        return self._unaccounted("acknowledged", CATEGORIES, lambda _: 0)

    def exposure_gaps(self) -> dict[str, int]:
        """Arms whose exposures are not accounted for: exposed - (n + late_exposures + duplicate_exposures),
        where not 0."""
        return self._unaccounted("exposed", NON_UNIT_EXPOSURES, lambda arm: self.arm(arm).n)

    def _unaccounted(self, whole: str, parts: Iterable[str], more: Callable[[str], int]) -> dict[str, int]:
        gaps = {
            arm: account.get(whole, 0) - sum(account.get(part, 0) for part in parts) - more(arm)
            for arm, account in self.accounts.items()
        }
        return {arm: gap for arm, gap in sorted(gaps.items()) if gap}

    def uncredited(self, before_hour: int) -> list[Cell]:
        """Cells of hours before `before_hour` in which s and c differ."""
        return sorted(cell for cell, c in self.cells.items() if c.s != c.c and cell[2] < before_hour)

    def impossible(self) -> list[Cell]:
        """Cells that no correct count produces, so nothing can be computed from them: more successes or
        fallbacks than units, or a negative count."""
        return sorted(cell for cell, c in self.cells.items() if not (0 <= c.s <= c.n and 0 <= c.f <= c.n))

    def overcredited(self) -> list[Cell]:
        """Cells in which events credit more units than succeeded, or a negative number."""
        return sorted(cell for cell, c in self.cells.items() if not 0 <= c.c <= c.s)


def merge(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum of flat sums, key by key."""
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for key, count in part.items():
            total[key] += int(count)
    return dict(total)


def _parse_cell(key: str, parts: list[str]) -> tuple[Cell, str]:
    try:
        version, arm, hour, what = parts
        cell = (int(version), arm, int(hour))
    except ValueError as error:
        raise ValueError(f"sums: {key!r} is not '<version>|<arm>|<hour>|<n, s, f or c>'") from error
    if what not in FIELDS:
        raise ValueError(f"sums: {key!r} ends in {what!r}, expected one of {', '.join(FIELDS)}")
    return cell, what
