"""Which shapes the free parts of a decision may have: what every reader of the log relies on.

Anybody can write to a topic. `evidence` is checked where a record becomes a Decision, so that it is one for
all readers or for none; `detail` where the record is folded, because its kind says what it needs. Names that
are not listed are free: another version may say more. Logs are long, so checks are plain.
"""

from collections.abc import Callable, Mapping
from typing import Any

LATEST_MS = 9_000_000_000_000  # of our clock, in the year 2255; in ns it still fits 64 bits
DEEPEST = 32  # levels of nesting; ours are five
_LARGEST = 2**63

Fits = Callable[[Any], bool]


def moment(value: Any) -> bool:
    """Milliseconds since the epoch that a calendar has, a little before it too."""
    return type(value) is int and abs(value) <= LATEST_MS


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _whole(value: Any) -> bool:
    return type(value) is int  # True is no number


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


# null: what JSON makes of a number that is none
def _whole_or_null(value: Any) -> bool:
    return value is None or type(value) is int


def _number_or_null(value: Any) -> bool:
    return value is None or isinstance(value, float) or type(value) is int


def _above_0_or_null(value: Any) -> bool:
    return value is None or ((isinstance(value, float) or type(value) is int) and value > 0)


def _moment_or_null(value: Any) -> bool:
    return value is None or moment(value)


def _each(fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _listed(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


def _of(table: Mapping[str, Fits], *needed: str) -> Fits:
    """A mapping with all that is `needed`, in which what the table names fits."""

    def fits(value: Any) -> bool:
        if not isinstance(value, dict) or not all(name in value for name in needed):
            return False
        return all(table[name](part) for name, part in value.items() if name in table)

    return fits


_ARM = dict.fromkeys(("n", "s"), _whole_or_null) | dict.fromkeys(
    ("rate", "a", "b", "posterior_mean", "low", "high", "p_best", "weight", "fallback"), _number_or_null
)
_RACE = {
    "arm": _text,
    "against": _text,
    "alpha": _number_or_null,
    "log_e": _number_or_null,
    "log_threshold": _above_0_or_null,
} | dict.fromkeys(("index", "from_version", "s_arm", "s_against", "n_arm", "n_against"), _whole_or_null)
EVIDENCE: Mapping[str, Fits] = {  # as experiments.decision_rules writes it
    "watermark_ms": _moment_or_null,
    "new_units": _whole_or_null,
    "arms": _each(_of(_ARM)),
    "races": _listed(_of(_RACE, "arm")),
    "accounting": _each(_each(_whole)),
}
_CHAMPION = {"name": _text, "model_version": _text}
_DROPPED = {"arms": _each(_each(_whole)), "units": _whole, "digest": _text, "unreadable": _text}
DETAIL: Mapping[str, Fits] = {  # as experiments.lifecycle.commands writes it
    "champion": _of(_CHAMPION, *_CHAMPION),
    "salt": _text,
    "arm": _text,
    "model_version": _text,
    "ramp": _each(_count),
    "units": _count,
    "version_out": _text_or_null,
    "version_in": _text_or_null,
    "retrain": _text_or_null,
    "reason": _text_or_null,
    "causes": _listed(_text),
    "accepts": _listed(_text),
    "from_ms": moment,
    "dropped": _of(_DROPPED),
}
_READ: Mapping[str, tuple[str, ...]] = {"retrain": ("arm", "reason")}  # by kind: what no effect asks for


def require_evidence(evidence: Mapping[str, Any]) -> None:
    """Raise ValueError naming what does not fit."""
    _require("evidence", EVIDENCE, evidence)


def require_detail(kind: str, detail: Mapping[str, Any]) -> None:
    """Raise ValueError naming what does not fit, or what readers of this kind miss."""
    _require("detail", DETAIL, detail)
    for name in _READ.get(kind, ()):
        if name not in detail:
            raise ValueError(f"detail.{name} is missing")


def _require(name: str, table: Mapping[str, Fits], found: Mapping[str, Any]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not an object")
    for part, value in found.items():
        if part in table and not table[part](value):
            raise ValueError(f"{name}.{part} is malformed")


def require_writable(name: str, value: Any, levels: int = DEEPEST) -> None:
    """Raise ValueError if somebody who read `value` could not add up, write or show it: numbers and nesting
    without end."""
    if not levels:
        raise ValueError(f"{name} is nested more than {DEEPEST} levels deep")
    for part in value.values() if isinstance(value, dict) else value:
        if type(part) is int:
            if not -_LARGEST <= part < _LARGEST:
                raise ValueError(f"{name} holds a number beyond 64 bits")
        elif isinstance(part, dict | list | tuple):
            require_writable(name, part, levels - 1)
