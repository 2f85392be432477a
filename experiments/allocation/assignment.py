"""Which arm a unit gets: weighted rendezvous hashing on a stable 64-bit hash.

Every arm draws its own exponential time -ln(u)/w for the unit, and the earliest arm wins, with probability w
/ Σw. The draw of an arm does not depend on the other arms, so a changed weight moves units only to or from
that arm. Source: weighted rendezvous hashing (Schindelhauer & Schomaker 2005), in the exponential-race form.
"""

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Literal

UnitKind = Literal["request", "session", "user_day"]

DAY_MS = 86_400_000
_TWO_64 = 2.0**64


def unit_id(
    kind: UnitKind,
    routing_key: str,
    session_id: str | None,
    received_at_ms: int,
    request_id: str,
    epoch_s: int = 86_400,
) -> str:
    """Id of the unit that a request belongs to: "r:<request>", "s:<routing key>:<session>" or "u:<routing
    key>:<day>".

    >>> unit_id("user_day", "anna", None, 86_400_000 * 3 + 5, "q1")
    'u:anna:3'
    >>> unit_id("session", "anna", None, 0, "q1")
    's:anna:-'
    >>> unit_id("session", "a:b", "c", 0, "q1"), unit_id("session", "a", "b:c", 0, "q1")
    ('s:a%3Ab:c', 's:a:b:c')
    """
    match kind:
        case "request":
            return f"r:{request_id}"
        case "session":
            # escape colons of the key, so that ("a:b", "c") and ("a", "b:c") differ
            return f"s:{routing_key.replace('%', '%25').replace(':', '%3A')}:{session_id or '-'}"
        case "user_day":
            return f"u:{routing_key}:{received_at_ms // (1000 * epoch_s)}"
    raise ValueError(f"kind: {kind!r} is not one of request, session, user_day")


def unit_lifetime_ms(kind: UnitKind, first_ms: int) -> int:
    """How long a unit whose first request came at `first_ms` keeps its arm: a session for a day, a user's day
    to its end.

    >>> unit_lifetime_ms("user_day", 86_400_000 * 3 + 5)
    86399995
    """
    return DAY_MS - first_ms % DAY_MS if kind == "user_day" else DAY_MS


def assignment_id(unit: str, first_ms: int) -> str:
    """Id from which a unit's arm is drawn: the unit and the day of its first request.

    A session without an id, or with one that a cookie keeps for a year, is a new unit each day. One draw for
    all of them would give all of a shopper's days to one arm, although the click race assumes that units are
    independent (infra/adr/0016).

    >>> assignment_id("s:anna:-", 86_400_000 * 3 + 5)
    's:anna:-@3'
    """
    return f"{unit}@{first_ms // DAY_MS}"


def unit_hash(salt: str, experiment: str, unit: str) -> bytes:
    """64 bits that depend on nothing but these three: the same in every process, version and machine."""
    return blake2b(f"{salt}\0{experiment}\0{unit}".encode(), digest_size=8).digest()


def uniform(unit: bytes, arm: str) -> float:
    """The draw of `arm` for a unit's hash, uniform on (0, 1]."""
    drawn = blake2b(unit + arm.encode(), digest_size=8).digest()
    return (int.from_bytes(drawn, "big") + 0.5) / _TWO_64


def assign(salt: str, experiment: str, unit: str, weights: Mapping[str, float]) -> tuple[str, float]:
    """Arm of `unit` and its propensity, its share of `weights`. Raises ValueError if no arm has weight.

    >>> assign("salt", "storefront", "s:anna:1", {"als": 0.0, "popularity": 1.0})
    ('popularity', 1.0)
    """
    hashed = unit_hash(salt, experiment, unit)
    times = [(-math.log(uniform(hashed, arm)) / weight, arm) for arm, weight in weights.items() if weight > 0]
    if not times:
        raise ValueError(f"weights: no arm of experiment {experiment!r} has weight")
    _, arm = min(times)
    return arm, weights[arm] / math.fsum(weights.values())
