"""Decision records: the JSON messages of the topic `decisions`.

A record has the same outer fields whatever it decides. Its `kind` says which struct its `detail` is
(`DETAILS`); `evidence` holds the numbers that it was decided from. The record keeps the JSON of both as it
was written, so that a reader passes on fields that a later release added, and decodes it into typed values on
access. `upgrade` is the only place that knows what earlier releases wrote.

Records are validated because any client can write to the topic. `evidence` is validated where a record is
decoded, so that a record is unreadable for all readers or for none; `detail` where it is folded. Unknown
field names are allowed.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Literal, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from experiments.lifecycle.state import RULE_NAMES, Kind, Rules

LATEST_MS = 9_000_000_000_000  # the latest time that we accept, in the year 2255: in ns it still fits 64 bits
MAX_DEPTH = 32  # levels of nesting; our records have five
MAX_INT = 2**63 - 1

Int64 = Annotated[int, Meta(ge=-MAX_INT - 1, le=MAX_INT)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Millis = Annotated[int, Meta(ge=-LATEST_MS, le=LATEST_MS)]  # since the epoch, UTC; a little before it too
Positive = Annotated[float, Meta(gt=0)]

# ---- evidence ----------------------------------------------------------------------------------------------


class ArmEvidence(Struct, frozen=True, kw_only=True):
    """Numbers of one arm at a look. None: not in the record, or a number that JSON cannot hold (NaN, inf).

    `n` matured units, `s` of them with an outcome, `rate` s/n, `a` and `b` of the Beta posterior with its
    mean and central 95 % interval, `p_best` probability of being best, `weight` before the decision,
    `fallback` share of units that another arm answered.
    """

    n: Int64 | None = None
    s: Int64 | None = None
    rate: float | None = None
    a: float | None = None
    b: float | None = None
    posterior_mean: float | None = None
    low: float | None = None
    high: float | None = None
    p_best: float | None = None
    weight: float | None = None
    fallback: float | None = None


class RaceEvidence(Struct, frozen=True, kw_only=True):
    """Status of one click race at a look; `arm` is rolled back when `log_e` >= `log_threshold` (nats)."""

    arm: str
    against: str = ""
    index: Int64 | None = None
    from_version: Int64 | None = None
    alpha: float | None = None
    log_e: float | None = None
    log_threshold: Positive | None = None
    s_arm: Int64 | None = None
    s_against: Int64 | None = None
    n_arm: Int64 | None = None
    n_against: Int64 | None = None


class GateVerdict(Struct, frozen=True, kw_only=True):
    """Verdict of the offline gate on a new model. `candidate`, `champion`: its metric of either model."""

    passed: bool | None = None
    reason: str = ""
    candidate: float | None = None
    champion: float | None = None
    tolerance: float | None = None
    users: Int64 | None = None
    cut_s: float | None = None


class Evidence(Struct, frozen=True, kw_only=True):
    """Numbers that a decision was made from. A look writes all but `gate`; a command writes nothing.

    `watermark_ms`: units that matured before it are counted; `new_units`: units since the last update of the
    weights; `accounting`: counts of exposures and events by arm (experiments.counting.sums).
    """

    watermark_ms: Millis | None = None
    new_units: Int64 | None = None
    arms: dict[str, ArmEvidence] = {}
    races: list[RaceEvidence] = []
    accounting: dict[str, dict[str, Int64]] = {}
    gate: GateVerdict | UnsetType = UNSET


class GateEvidence(Struct, frozen=True, kw_only=True):
    """Evidence as training writes it: the verdict alone."""

    gate: GateVerdict


# ---- detail ------------------------------------------------------------------------------------------------


class Deployed(Struct, frozen=True):
    """An arm and its model version."""

    name: str
    model_version: str


class StartDetail(Struct, frozen=True, kw_only=True):
    """The first champion. `salt` makes the assignments of this experiment its own."""

    champion: Deployed
    rules: Rules
    salt: str


class EnterDetail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A new challenger. `answers`: revision of the retraining request that it settles."""

    arm: str
    model_version: str
    answers: int | None = None


class AllocateDetail(Struct, frozen=True, kw_only=True):
    """`updated`: the look was entitled to change the weights; `units`: matured units so far; `ramp`: new
    burn-in steps by arm."""

    updated: bool
    units: Count | None
    ramp: dict[str, Count]


class RollbackDetail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`version_out`, `version_in`: the model that leaves, and the one that gets its share; `restored`: the
    holdback that is champion again; `retrain`: why a new model is requested, empty if none is."""

    arm: str
    version_out: str | None
    version_in: str | None
    restored: str | None
    retrain: str = ""


class PromoteDetail(Struct, frozen=True, kw_only=True):
    """A challenger becomes champion. `version_out`: model of the champion before."""

    arm: str
    version_out: str | None
    version_in: str | None


class RetrainDetail(Struct, frozen=True, kw_only=True):
    """A request for a new model, because of `arm`."""

    reason: str
    arm: str


class AttemptDetail(Struct, frozen=True, kw_only=True):
    """Attempt `number` (from 1) at the request of revision `answers`."""

    answers: int
    number: int | None


class AnswerDetail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request of revision `answers` led to no challenger: the offline gate refused `model_version`, or
    `attempts` failed, the last one with `error`."""

    model_version: str | None = None
    attempts: int | None = None
    error: str | None = None
    answers: int
    outcome: Literal["refused", "failed"]


class HoldDetail(Struct, frozen=True, kw_only=True):
    """Why the sums can't be trusted, one sentence a cause."""

    causes: list[str]


class PauseDetail(Struct, frozen=True):
    """Nothing."""


class ResumeDetail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`accepts`: causes of the hold that it lifts, None: all; `rules`: new ones, if they change."""

    accepts: list[str] | None
    rules: Rules | None = None


class Dropped(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums that a recount drops: digest, positions, matured units, and counts by arm (`n`, `s` and its
    accounting). `unreadable`: why they could not be read."""

    digest: str | None = None
    positions: dict[str, Int64] | None = None
    units: Int64 | None = None
    arms: dict[str, dict[str, Int64]] | None = None
    unreadable: str | None = None


class RecountDetail(Struct, frozen=True, kw_only=True):
    """`from_ms`: 0 counts the whole log again, else only units first exposed at that time or later count."""

    from_ms: Millis
    dropped: Dropped


class UndoDetail(Struct, frozen=True, kw_only=True):
    """`reverts`: revision of the rollback or promotion that is undone."""

    reverts: int


class ConfirmDetail(Struct, frozen=True, kw_only=True):
    """Every live replica serves revision `confirms`, `seconds` after it was decided."""

    confirms: int
    replicas: list[str]
    seconds: float


class EndDetail(Struct, frozen=True):
    """Nothing."""


Detail = (
    StartDetail
    | EnterDetail
    | AllocateDetail
    | RollbackDetail
    | PromoteDetail
    | RetrainDetail
    | AttemptDetail
    | AnswerDetail
    | HoldDetail
    | PauseDetail
    | ResumeDetail
    | RecountDetail
    | UndoDetail
    | ConfirmDetail
    | EndDetail
)
DETAILS: Mapping[Kind, type[Detail]] = {  # by kind: "start" -> StartDetail
    shape.__name__.removesuffix("Detail").lower(): shape for shape in get_args(Detail)
}
_KINDS = {shape: kind for kind, shape in DETAILS.items()}
D = TypeVar("D", bound=Struct)


def kind_of(detail: Detail) -> Kind:
    """The kind of record that has this detail."""
    return _KINDS[type(detail)]


# Fields that records may omit, by kind, and the value that an omission means.
_OMITTED: Mapping[Kind, Mapping[str, object]] = {
    "allocate": {"updated": True, "units": None, "ramp": {}},
    "rollback": {"version_out": None, "version_in": None, "restored": None},
    "promote": {"version_out": None, "version_in": None},
    "attempt": {"number": None},
    "resume": {"accepts": None},  # earlier releases accepted every cause, also under a pause
    "recount": {"dropped": {}},
    "confirm": {"replicas": [], "seconds": 0.0},
}


def upgrade(kind: Kind, fields: Mapping[str, object]) -> dict[str, object]:
    """The detail of a record of any earlier release, in the shape of this one."""
    return {**_OMITTED.get(kind, {}), **fields}


# ---- the record --------------------------------------------------------------------------------------------


def to_raw_json(value: Struct | None) -> Raw:
    """The JSON of a detail or of evidence; of None an empty object."""
    return Raw(b"{}" if value is None else msgspec.json.encode(value))


class Decision(Struct, frozen=True, kw_only=True, dict=True):
    """One record of the `decisions` topic.

    `weights` and `weights_version` are the full vector in force after the record. `positions` maps
    "topic/partition" to the next offset not yet in the sums, `sums_digest` is sha256 over the canonical sums
    (experiments.counting.sums). `evidence_json` and `detail_json` are `evidence` and `detail` as written.

    Raises ValueError where a value can't be one of a decision, whatever the history: a time out of range,
    evidence of another shape, an integer beyond 64 bits, more than MAX_DEPTH levels of nesting.
    """

    experiment: str
    revision: int
    kind: Kind
    received_at: int  # ms since the epoch, UTC
    author: str  # "decider", "trainer", or the name of the key that commanded
    rule: str  # which rule fired, e.g. "click-race", "thompson", "burn-in", "command"
    reason: str  # one sentence for a person
    weights_version: int
    weights: Mapping[str, float]
    positions: Mapping[str, int] = {}
    sums_digest: str = ""
    evidence_json: Raw = msgspec.field(default=Raw(b"{}"), name="evidence")
    detail_json: Raw = msgspec.field(default=Raw(b"{}"), name="detail")
    code_version: str = ""
    v: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.received_at <= LATEST_MS:
            raise ValueError(f"received_at is not between 0 and {LATEST_MS}")
        _require_bounded("positions", self.positions.values())
        _decode_object("evidence", self.evidence_json)
        _decode_object("detail", self.detail_json)
        self.evidence  # noqa: B018 (decode it now: a record with malformed evidence is unreadable)

    @cached_property
    def evidence(self) -> Evidence:
        """Numbers that the decision was made from."""
        try:
            return _evidence.decode(self.evidence_json)
        except msgspec.ValidationError as error:
            raise _field_error("evidence", error) from error

    @cached_property
    def detail(self) -> Detail:
        """The fields that only this kind has. Raises ValueError naming the field that is malformed."""
        fields = upgrade(self.kind, _decode_object("detail", self.detail_json))
        rules = fields.get("rules")
        if isinstance(rules, dict) and (unknown := sorted(rules.keys() - RULE_NAMES)):
            raise ValueError(f"detail.rules.{unknown[0]} is not a rule")
        try:
            return msgspec.convert(fields, DETAILS[self.kind])
        except msgspec.ValidationError as error:
            raise _field_error("detail", error) from error

    def detail_of(self, shape: type[D]) -> D:
        """The detail of a record whose kind is known. Raises TypeError if it has another shape."""
        detail = self.detail
        if not isinstance(detail, shape):
            raise TypeError(f"{self.kind} has no {shape.__name__}")
        return detail


_evidence = msgspec.json.Decoder(Evidence)
_MISSING = re.compile(r"required field `(\w+)`")


def _field_error(name: str, error: msgspec.ValidationError) -> ValueError:
    """The error with the name of the field in front."""
    problem, _, path = str(error).partition(" - at `$")
    where = f"{name}{path.removesuffix('`')}"
    missing = _MISSING.search(problem)
    return ValueError(f"{where}.{missing[1]} is missing" if missing else f"{where}: {problem}")


def _decode_object(name: str, raw: Raw) -> dict[str, object]:
    fields = msgspec.json.decode(raw)
    if not isinstance(fields, dict):
        raise ValueError(f"{name} is not an object")
    _require_bounded(name, fields.values())
    return fields


def _require_bounded(name: str, parts: Iterable[object], levels: int = MAX_DEPTH) -> None:
    """Raise ValueError for values that a reader could not add, store or show: integers beyond 64 bits, and
    nesting deeper than `levels`."""
    if not levels:
        raise ValueError(f"{name} is nested more than {MAX_DEPTH} levels deep")
    for part in parts:
        if isinstance(part, dict):
            _require_bounded(name, part.values(), levels - 1)
        elif isinstance(part, list):
            _require_bounded(name, part, levels - 1)
        elif isinstance(part, int) and not -MAX_INT - 1 <= part <= MAX_INT:
            raise ValueError(f"{name} holds an integer beyond 64 bits")
