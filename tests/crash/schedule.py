"""What goes wrong when: a seeded list of faults. Pure."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["bandit", "decider", "activity", "lake", "trainer", "recommend"]
KINDS: tuple[Kind, ...] = ("bandit", "decider", "activity", "lake", "trainer", "recommend")
Shock = Literal["redis emptied", "broker killed"]
EVERY_SHOCK: tuple[Shock, ...] = ("redis emptied", "broker killed")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Not before `at_s`: kill or hang one process of `kind`. `victim`: which, a share of those there are.

    `instant`: share of the instants of this kind at which it is killed (or hangs: at the one that is worst),
    None: from outside, now. `for_s`: until it is started again, or how long it hangs.
    """

    at_s: float
    kind: Kind
    what: Literal["kill", "hang"] = "kill"
    victim: float = 0.0
    instant: float | None = None
    for_s: float = 0.5


@dataclass(frozen=True, slots=True, order=True)
class Blow:
    """Not before `at_s`: Redis forgets everything, or the broker dies for `for_s` and starts again."""

    at_s: float
    what: Shock
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. `kills`: by kind; `hangs`: processes stopped for `hang_s`, longer than `session_s`, by kind;
    `shocks`: to the servers that all of them use; `span_s`: over which the faults are spread (they wait for
    each other, so it may take longer); `lateness_s`: what comes later than that, on a busy machine, is
    counted as late, on both sides."""

    name: str
    unit: Literal["request", "session", "user_day"]
    partitions: int
    seed: int
    kills: Mapping[Kind, int]
    hangs: Mapping[Kind, int] = field(default_factory=dict)
    shocks: Mapping[Shock, int] = field(default_factory=dict)
    span_s: float = 100.0
    session_s: float = 3.0
    hang_s: float = 7.0
    arrivals_per_s: float = 4.0
    members: int = 2  # of every kind but the trainer
    window_s: float = 15.0
    lateness_s: float = 5.0
    versions: int = 10  # weights versions that some unit must live through


KILLS: Mapping[Kind, int] = {
    "bandit": 8,
    "decider": 8,
    "activity": 5,
    "lake": 6,
    "trainer": 4,
    "recommend": 8,
}
HANGS: Mapping[Kind, int] = {"bandit": 3, "decider": 1, "lake": 1, "activity": 1}
SHOCKS: Mapping[Shock, int] = {"redis emptied": 2, "broker killed": 1}
FULL = tuple(
    Scenario(f"{unit}-{partitions}", unit, partitions, seed, KILLS, HANGS, SHOCKS)
    for seed, (unit, partitions) in enumerate(
        ((unit, partitions) for partitions in (4, 32) for unit in ("request", "session", "user_day")), start=1
    )
)
# The default session of a broker that is not ours to configure is at least 6 s.
SHORT = Scenario(
    "short",
    "session",
    4,
    seed=7,
    kills=dict.fromkeys(KINDS, 1),
    hangs={"bandit": 1},
    shocks={"redis emptied": 1},
    span_s=10.0,
    session_s=6.0,
    hang_s=8.0,
    window_s=5.0,
    lateness_s=3.0,
    versions=2,
)


def schedule(scenario: Scenario) -> list[Fault]:
    """In order of time; half of the kills and most of the hangs at an instant between two writes, the others
    at any moment."""
    rng = random.Random(scenario.seed)
    faults = [
        Fault(
            at_s=rng.uniform(0, scenario.span_s),
            kind=kind,
            victim=rng.random(),
            instant=rng.random() if number % 2 == 0 else None,
            for_s=rng.uniform(0, 1.5),
        )
        for kind, kills in scenario.kills.items()
        for number in range(kills)
    ]
    hangs = [
        Fault(
            at_s=rng.uniform(0, scenario.span_s),
            kind=kind,
            what="hang",
            victim=rng.random(),
            instant=rng.random() if number % 3 < 2 else None,
            for_s=scenario.hang_s,
        )
        for kind, count in scenario.hangs.items()
        for number in range(count)
    ]
    return sorted(faults + hangs, key=lambda fault: fault.at_s)


def blows(scenario: Scenario) -> list[Blow]:
    """In order of time, none in the first fifth: there is something to lose by then."""
    rng = random.Random(scenario.seed + 500)
    return sorted(
        Blow(rng.uniform(0.2, 1.0) * scenario.span_s, what, rng.uniform(0, 3.0))
        for what, count in scenario.shocks.items()
        for _ in range(count)
    )
