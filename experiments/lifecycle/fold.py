"""An experiment is a fold over its decisions.

The log of decisions is the truth; the state is computed from it and from nothing else. The first record in
the log with revision n + 1 wins, later ones with that revision are void, so a second decider or a retried
command does no harm. Types live in `experiments.lifecycle.state`, what each kind of decision does in
`experiments.lifecycle.transitions`; this module is where to import them from.
"""

from collections.abc import Iterable
from dataclasses import replace

from experiments.lifecycle.record_schema import require_detail
from experiments.lifecycle.state import (
    Arm,
    Counting,
    Decision,
    Experiment,
    Kind,
    Race,
    Reversal,
    Role,
    Rules,
    Status,
    Unit,
    Weights,
    from_dict,
    to_dict,
)
from experiments.lifecycle.transitions import (
    LIFTED_BY_A_LOOK,
    TABLE,
    IllegalTransition,
    require,
    retraining_request,
    start,
    weigh,
)

__all__ = [
    "LIFTED_BY_A_LOOK",
    "Arm",
    "Counting",
    "Decision",
    "Experiment",
    "IllegalTransition",
    "Kind",
    "Race",
    "Reversal",
    "Role",
    "Rules",
    "Status",
    "Unit",
    "VoidRevision",
    "Weights",
    "apply",
    "fold",
    "from_dict",
    "retraining_request",
    "to_dict",
]


class VoidRevision(IllegalTransition):
    """The decision's revision isn't the next one: somebody else decided first, or it was already applied."""


def fold(decisions: Iterable[Decision], state: Experiment | None = None) -> Experiment | None:
    """State after `decisions` in log order, from `state` on. Void and impossible records change nothing."""
    ours = False
    for decision in decisions:
        try:
            state, ours = apply(state, decision, mutate=ours), True
        except IllegalTransition:
            continue
    return state


def apply(state: Experiment | None, decision: Decision, *, mutate: bool = False) -> Experiment:
    """State after one more decision. Raises VoidRevision, or IllegalTransition with what is wrong, and
    `state` is what it was.

    `spare`: nobody else holds `state`, and the caller drops it. Its `versions` then grow in place: copied at
    each decision, they make the fold of a log cost the square of its length.
    """
    expected = state.revision + 1 if state else 1
    if decision.revision != expected:
        raise VoidRevision(f"revision {decision.revision} is void, the next one is {expected}")
    try:
        stepped = _step(state, decision)  # first: where an effect refuses, it says why in a better sentence
        _require_detail(decision)
        changed = weigh(stepped, decision, mutate)
    except (LookupError, TypeError, AttributeError) as error:
        raise IllegalTransition(f"{decision.kind}: detail is malformed: {error!r}") from error
    return replace(changed, revision=decision.revision, updated_ms=decision.received_at)


def _step(state: Experiment | None, decision: Decision) -> Experiment:
    kind, name = decision.kind, decision.experiment
    if state is None:
        require(kind == "start", f"{kind} is not possible: {name} was never started")
        return start(decision)
    require(name == state.name, f"{name} is not {state.name}")
    step = TABLE.get(kind)
    possible = step is not None and state.status in step.allowed
    require(possible, f"{kind} is not possible while {name} is {state.status}")
    return step.effect(state, decision)


def _require_detail(decision: Decision) -> None:
    """What the effects took for granted, and whoever reads state and record will."""
    try:
        require_detail(decision.kind, decision.detail)
    except ValueError as error:
        raise IllegalTransition(f"{decision.kind}: {error}") from error
