"""An experiment is a fold over its decisions.

The log of decisions is the truth; the state is computed from it and from nothing else. The first record in
the log with revision n + 1 wins and later ones with that revision are void, so that a second decider or a
retried command does no harm.
"""

from collections.abc import Iterable
from dataclasses import replace

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import TABLE, IllegalTransition, install_weights, require, start


class VoidRevision(IllegalTransition):
    """The decision's revision isn't the next one: another process decided first, or it was applied before."""


def fold(decisions: Iterable[Decision], state: Experiment | None = None) -> Experiment | None:
    """State after `decisions` in log order, from `state` on. Void and illegal records change nothing."""
    owned = False
    for decision in decisions:
        try:
            state, owned = apply(state, decision, mutate=owned), True
        except IllegalTransition:
            continue
    return state


def apply(state: Experiment | None, decision: Decision, *, mutate: bool = False) -> Experiment:
    """State after one more decision.

    `mutate`: the caller owns `state` exclusively, so that its `versions` may be updated in place (copying
    them at each decision makes the fold of a log quadratic). Raises VoidRevision, or IllegalTransition with
    what is wrong; then `state` is unchanged.
    """
    expected = state.revision + 1 if state else 1
    if decision.revision != expected:
        raise VoidRevision(f"revision {decision.revision} is void, the next one is {expected}")
    try:
        stepped = _step(state, decision)
    except IllegalTransition:
        raise
    except ValueError as error:
        raise IllegalTransition(f"{decision.kind}: {error}") from error
    changed = install_weights(stepped, decision, mutate)
    return replace(changed, revision=decision.revision, updated_ms=decision.received_at)


def _step(state: Experiment | None, decision: Decision) -> Experiment:
    kind, name = decision.kind, decision.experiment
    if state is None:
        require(kind == "start", f"{kind} is not possible: {name} was never started")
        return start(decision)
    require(name == state.name, f"{name} is not {state.name}")
    step = TABLE.get(kind)
    if step is None or state.status not in step.allowed:
        raise IllegalTransition(f"{kind} is not possible while {name} is {state.status}")
    return step.effect(state, decision)
