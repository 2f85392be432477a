"""The state of an experiment: rules, arms, weights, races. Frozen values.

`experiments.lifecycle.decisions` holds the records of decisions, `experiments.lifecycle.fold` folds them into
state, and `experiments.lifecycle.commands` makes the next one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import msgspec

Unit = Literal["request", "session", "user_day"]
Role = Literal["champion", "challenger", "holdback", "retired"]
Status = Literal["running", "paused", "held", "ended"]
Kind = Literal[
    "start",  # the experiment begins with a first champion
    "enter",  # a challenger joins at weight 0, until every live replica has loaded it
    "allocate",  # one look of the decider: a new weights version, or the same one
    "rollback",  # a challenger is retired, or after a bad promotion the holdback is champion again
    "promote",  # a challenger becomes champion, the old champion holdback at the floor
    "retrain",  # a request for a new model (a rollback may carry one too)
    "attempt",  # training begins to fit the requested model
    "answer",  # the request ends without a challenger: refused by the offline gate, or failed
    "hold",  # the sums can't be trusted: the last weights stay
    "pause",  # the champion serves alone, by command
    "resume",  # a pause or a hold ends, by command
    "recount",  # the sums are dropped and counted again: from the log, or from a time on
    "undo",  # a rollback or promotion is taken back
    "confirm",  # every live replica serves an earlier decision
    "end",  # the experiment is over
]

FIXED_RULES = ("unit", "outcome", "window_s", "lateness_s")  # rules that say what is counted: fixed for life

OUTCOMES = ("click", "add_to_cart", "purchase", "view", "impression")  # types of events
_MAX = 1e9  # 30 years in seconds: sums of milliseconds stay exact

_POSITIVE = (lambda x: 0 < x <= _MAX, "above 0 and at most 1e9")
_NOT_NEGATIVE = (lambda x: 0 <= x <= _MAX, "between 0 and 1e9")
_COUNT = (lambda x: isinstance(x, int) and 0 <= x <= _MAX, "a whole number between 0 and 1e9")
_SHARE = (lambda x: 0 <= x < 1, "in [0, 1)")
_PROPER = (lambda x: 0 < x < 1, "strictly between 0 and 1")
_LEVEL = (lambda x: 1e-12 <= x < 1, "at least 1e-12 and below 1")  # every race's share has a logarithm
_CONSTRAINTS = {
    "unit": (lambda x: x in get_args(Unit), f"one of {', '.join(get_args(Unit))}"),
    "outcome": (lambda x: x in OUTCOMES, f"one of {', '.join(OUTCOMES)}"),
    "window_s": _POSITIVE,
    "lateness_s": _NOT_NEGATIVE,
    "alpha": _LEVEL,
    "margin": _SHARE,
    "floor": _PROPER,
    "floor_many": _PROPER,
    "champion_floor": _PROPER,
    "cap": (lambda x: 0 < x <= 1, "in (0, 1]"),
    "ramp": (
        lambda r: r and all(0 < x < 1 for x in r) and list(r) == sorted(r),
        "rising shares between 0 and 1",
    ),
    "pseudo_units": _POSITIVE,
    "half_life_s": _POSITIVE,
    "look_every_s": _POSITIVE,
    "burn_in_units": _COUNT,
    "burn_in_successes": _COUNT,
    "min_new_units": _COUNT,
    "stall_s": _POSITIVE,
    "cool_down_s": _NOT_NEGATIVE,
    "fallback_limit": (lambda x: 0 < x <= 1, "in (0, 1]"),
}


def _satisfies(rule: Callable[[Any], Any], value: Any) -> bool:
    """Whether `value` satisfies `rule`. Booleans and values that can't be compared do not."""
    try:
        return not isinstance(value, bool) and bool(rule(value))
    except TypeError:
        return False


@dataclass(frozen=True, slots=True)
class Rules:
    """Parameters of the decisions on an experiment. Times in seconds; shares and rates in [0, 1]. Source:
    statistics.md 1-3, 7."""

    unit: Unit = "session"
    outcome: str = "click"
    window_s: float = 1_800.0
    lateness_s: float = 120.0
    alpha: float = 0.05
    margin: float = 0.03
    floor: float = 0.10  # with one challenger
    floor_many: float = 0.05  # with two or more (K >= 3 arms)
    champion_floor: float = 0.20
    cap: float = 0.20  # largest change of a weight in one update
    ramp: tuple[float, ...] = (0.05, 0.10, 0.25)
    burn_in_units: int = 100
    burn_in_successes: int = 20
    pseudo_units: float = 20.0
    half_life_s: float = 7 * 86_400.0
    look_every_s: float = 300.0
    min_new_units: int = 200
    stall_s: float = 900.0
    cool_down_s: float = 86_400.0  # after a rollback, before the next retraining request
    fallback_limit: float = 0.20  # hard limit: share of an arm's units that the champion had to answer

    def __post_init__(self) -> None:
        """Raise ValueError naming the field that is out of range."""
        if isinstance(self.ramp, list):
            object.__setattr__(self, "ramp", tuple(self.ramp))
        for name, (holds, expected) in _CONSTRAINTS.items():
            if not _satisfies(holds, getattr(self, name)):
                raise ValueError(f"rules.{name}: {getattr(self, name)!r} is not {expected}")


RULE_NAMES = frozenset(rule.name for rule in fields(Rules))


@dataclass(frozen=True, slots=True)
class Race:
    """A click race that is being run: `arm` is watched against `against`, with sums from `from_version` on.

    The i-th race of an experiment (`index`, from 1) takes α_i = α·6/(π² i²); a restart does not refill the
    budget.
    """

    arm: str
    against: str
    from_version: int
    index: int
    alpha: float


@dataclass(frozen=True, slots=True)
class Arm:
    """A deployed model version in an experiment."""

    name: str
    model_version: str
    role: Role
    entered_revision: int
    ramp_step: int = 0  # how many ramp updates it has had during burn-in
    since_version: int = 0  # weights version from which its burn-in counts (entry, or return by undo)


@dataclass(frozen=True, slots=True)
class Counting:
    """Which sums belong to this experiment: those of the latest recount (`generation`; 0: no recount yet).
    Units count if first exposed at `from_ms` or later, and records if appended at most the allowed lateness
    before; 0: the whole log."""

    generation: int = 0
    from_ms: int = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """An immutable vector of traffic shares; written before it is used. Sums to 1 over arms that serve."""

    version: int
    shares: Mapping[str, float]
    since_ms: int


@dataclass(frozen=True, slots=True)
class Reversal:
    """Data for `undo`: the roles that a rollback or promotion changed, before and after."""

    kind: Kind
    before: Mapping[str, Role]
    after: Mapping[str, Role]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """State after `revision` decisions. All of it follows from the log.

    `weights` is the vector in force; `versions` keeps every vector ever in force (evidence needs them);
    `champion` names the arm that serves when nothing else may.
    """

    name: str
    revision: int
    status: Status
    salt: str
    rules: Rules
    arms: Mapping[str, Arm]
    champion: str
    weights: Weights
    versions: Mapping[int, Mapping[str, float]]
    races: tuple[Race, ...] = ()
    races_started: int = 0
    started_ms: int = 0
    updated_ms: int = 0
    retrain_pending: bool = False
    retrain_at_ms: int = 0
    retrain_revision: int = 0  # of the latest request
    retrain_attempts: int = 0  # to fit what it asks for
    retrain_tried_ms: int = 0  # when the latest attempt began
    unconfirmed: tuple[int, ...] = ()  # revisions of role changes not yet confirmed as served
    reversals: Mapping[int, Reversal] = field(default_factory=dict)  # by revision: what can be undone
    held_by: str = ""  # rule of the present hold
    causes: tuple[str, ...] = ()  # of the present hold
    acknowledged: tuple[str, ...] = ()  # causes of earlier holds that a person has lifted by `resume`
    paused_version: int = 0  # weights version to go back to after a pause
    units_at_update: int = 0  # matured units when the weights were last updated
    counting: Counting = Counting()

    def live_arms(self) -> list[Arm]:
        """Arms that may serve: champion first, then challengers and holdback by order of entry."""
        order = {"champion": 0, "challenger": 1, "holdback": 1, "retired": 2}
        live = [arm for arm in self.arms.values() if arm.role != "retired"]
        return sorted(live, key=lambda arm: (order[arm.role], arm.entered_revision, arm.name))

    def holdback(self) -> Arm | None:
        """The previous champion, if it is still kept."""
        return next((arm for arm in self.arms.values() if arm.role == "holdback"), None)


def to_dict(state: Experiment) -> dict[str, Any]:
    """JSON-able form of a state. Integer keys become strings."""
    plain: dict[str, Any] = msgspec.to_builtins(state, str_keys=True)
    return plain
