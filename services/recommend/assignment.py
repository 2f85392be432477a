"""From a visitor to an arm: who is left out, which unit a request belongs to, and whether its pin holds.
Pure."""

from dataclasses import dataclass

from experiments.allocation.assignment import assign, draw_id, unit_id, unit_life_ms
from services.messages.events import Excluded
from services.ports.pins import Pin
from services.recommend.snapshot.snapshot import Serving

NOBODY = "none"  # arm of slates made when no arm is known at all


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks. `excluded`: why the slate may not count, decided before any assignment; `forced`: arm of a
    preview."""

    user_id: str | None
    session_id: str | None
    excluded: Excluded | None = None
    forced: str | None = None

    @property
    def key(self) -> str | None:
        """The routing key: user id, else session id."""
        return self.user_id or self.session_id


@dataclass(frozen=True, slots=True)
class Assigned:
    """The arm of a slate and what an exposure says about it. `overrides`: this pin must replace the
    unit's."""

    unit: str
    unit_at: int
    first: bool
    arm: str
    weights_version: int
    propensity: float
    excluded: Excluded | None = None
    overrides: Pin | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the one read of a request asks for: the unit with the pin it would get, and where that pin is kept
    (`pin_key` None: nowhere, because the unit is this request, or does not count)."""

    unit: str
    pin: Pin
    pin_key: str | None
    ttl_s: float
    excluded: Excluded | None = None


def propose(serving: Serving, visitor: Visitor, routing_key: str, now_ms: int, request_id: str) -> Proposal:
    """The arm that a unit would get under the weights in force; the champion for whoever is left out."""
    excluded = visitor.excluded or _left_out(serving)
    state = serving.state
    if excluded is not None or state is None:
        champion = serving.champion
        arm = visitor.forced or (champion.arm if champion is not None else NOBODY)
        version = state.weights.version if state is not None else 0
        return Proposal(f"r:{request_id}", Pin(version, arm, 0.0, now_ms), None, 0.0, excluded)
    unit = unit_id(state.rules.unit, routing_key, visitor.session_id, now_ms, request_id)
    arm, propensity = assign(state.salt, state.name, draw_id(unit, now_ms), state.weights.shares)
    pinned = state.rules.unit != "request" and visitor.key is not None
    pin_key = f"{state.name}|{unit}" if pinned else None
    ttl_s = unit_life_ms(state.rules.unit, now_ms) / 1_000
    return Proposal(unit, Pin(state.weights.version, arm, propensity, now_ms), pin_key, ttl_s)


def _left_out(serving: Serving) -> Excluded | None:
    if serving.counting:
        return None
    return "champion_only" if serving.state is not None or serving.alone is not None else "no_experiment"


def settle(serving: Serving, proposal: Proposal, stored: Pin | None, written: bool) -> Assigned:
    """The assignment that holds after the read: the stored pin, unless its arm may serve no more.

    An overridden unit goes to the champion and keeps a pin with propensity 0, the mark of units that no
    longer count: counting them for the champion would add units that were never drawn for it.
    """
    if proposal.excluded is not None:
        pin = proposal.pin
        return Assigned(
            proposal.unit, pin.unit_at, False, pin.arm, pin.weights_version, 0.0, proposal.excluded
        )
    pin = stored or proposal.pin
    first = written or stored is None
    if serving.keeps(pin):
        excluded: Excluded | None = "overridden" if pin.propensity == 0.0 else None
        return Assigned(
            proposal.unit, pin.unit_at, first, pin.arm, pin.weights_version, pin.propensity, excluded
        )
    return _overridden(serving, proposal, pin)


def _overridden(serving: Serving, proposal: Proposal, pin: Pin) -> Assigned:
    champion = serving.champion
    arm = champion.arm if champion is not None else NOBODY
    replacing = Pin(proposal.pin.weights_version, arm, 0.0, pin.unit_at)
    return Assigned(
        proposal.unit, pin.unit_at, False, arm, replacing.weights_version, 0.0, "overridden", replacing
    )


def unreachable(serving: Serving, proposal: Proposal) -> Assigned:
    """The pin could not be read: the champion answers, and the slate is left out for all arms alike.

    A unit without a pin (`pin_key` None) loses nothing but its features, and counts.
    """
    if proposal.pin_key is None:
        return settle(serving, proposal, None, written=False)
    champion = serving.champion
    arm = champion.arm if champion is not None else NOBODY
    pin = proposal.pin
    return Assigned(proposal.unit, pin.unit_at, False, arm, pin.weights_version, 0.0, "pin_unreachable")
