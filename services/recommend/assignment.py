"""Assign an arm to a visitor: which units are excluded, which unit a request belongs to, and whether its pin
still holds. Pure."""

from dataclasses import dataclass

from experiments.allocation.assignment import assign, assignment_id, unit_id, unit_lifetime_ms
from services.messages.events import Excluded
from services.ports.pins import Pin
from services.recommend.slate_request import SlateRequest
from services.recommend.snapshot.snapshot import ServedExperiment

NO_ARM = "none"  # arm of slates made when no arm is known at all


@dataclass(frozen=True, slots=True)
class Assignment:
    """The arm of a slate, as its exposure records it. `replacement`: a pin that must replace the unit's."""

    unit: str
    unit_at: int
    first: bool
    arm: str
    weights_version: int
    propensity: float
    excluded: Excluded | None = None
    replacement: Pin | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The unit of a request and the pin that it gets unless it has one.

    pin_key: where that pin is kept; None if it is not, because the unit is this request or does not count.
    """

    unit: str
    pin: Pin
    pin_key: str | None
    ttl_s: float
    excluded: Excluded | None = None


def propose(experiment: ServedExperiment, request: SlateRequest) -> Proposal:
    """Draw the arm of the request's unit under the current weights; an excluded visitor gets the champion."""
    visitor, now_ms = request.visitor, request.received_ms
    excluded = visitor.excluded or _excluded(experiment)
    state = experiment.state
    if excluded is not None or state is None:
        arm = visitor.forced_arm or champion_arm(experiment)
        version = state.weights.version if state is not None else 0
        return Proposal(f"r:{request.slate_id}", Pin(version, arm, 0.0, now_ms), None, 0.0, excluded)
    unit = unit_id(state.rules.unit, request.routing_key, visitor.session_id, now_ms, request.slate_id)
    arm, propensity = assign(state.salt, state.name, assignment_id(unit, now_ms), state.weights.shares)
    pinned = state.rules.unit != "request" and visitor.key is not None
    pin_key = f"{state.name}|{unit}" if pinned else None
    ttl_s = unit_lifetime_ms(state.rules.unit, now_ms) / 1_000
    return Proposal(unit, Pin(state.weights.version, arm, propensity, now_ms), pin_key, ttl_s)


def _excluded(experiment: ServedExperiment) -> Excluded | None:
    if experiment.counting:
        return None
    known = experiment.state is not None or experiment.champion_only is not None
    return "champion_only" if known else "no_experiment"


def resolve(
    experiment: ServedExperiment, proposal: Proposal, stored: Pin | None, *, written: bool
) -> Assignment:
    """The assignment after the pin was read: the stored pin, unless its arm may no longer serve.

    written: whether the read stored the proposed pin.

    A unit whose arm may no longer serve goes to the champion and keeps a pin with propensity 0, which marks
    units that no longer count. Counting them for the champion would add units that were never drawn for it.
    """
    if proposal.excluded is not None:
        pin = proposal.pin
        return Assignment(
            proposal.unit, pin.unit_at, False, pin.arm, pin.weights_version, 0.0, proposal.excluded
        )
    pin = stored or proposal.pin
    first = written or stored is None
    if experiment.keeps(pin):
        excluded: Excluded | None = "overridden" if pin.propensity == 0.0 else None
        return Assignment(
            proposal.unit, pin.unit_at, first, pin.arm, pin.weights_version, pin.propensity, excluded
        )
    return _overridden(experiment, proposal, pin)


def _overridden(experiment: ServedExperiment, proposal: Proposal, pin: Pin) -> Assignment:
    arm = champion_arm(experiment)
    replacement = Pin(proposal.pin.weights_version, arm, 0.0, pin.unit_at)
    return Assignment(
        proposal.unit, pin.unit_at, False, arm, replacement.weights_version, 0.0, "overridden", replacement
    )


def without_pin(experiment: ServedExperiment, proposal: Proposal) -> Assignment:
    """The assignment if the pin could not be read: the champion answers, and the slate is excluded,
    whichever arm was drawn.

    A unit that keeps no pin (`pin_key` None) loses nothing but its features, and counts.
    """
    if proposal.pin_key is None:
        return resolve(experiment, proposal, None, written=False)
    pin = proposal.pin
    arm = champion_arm(experiment)
    return Assignment(proposal.unit, pin.unit_at, False, arm, pin.weights_version, 0.0, "pin_unreachable")


def champion_arm(experiment: ServedExperiment) -> str:
    """Arm of the champion; NO_ARM if none is known."""
    champion = experiment.champion
    return champion.arm if champion is not None else NO_ARM
