"""A seeded decision history that looks like a day at the demo: 200 looks, ALS wins, a broken challenger
is rolled back.

Made with the builders of experiments.commands, so every record is one that the real log would accept.
Posterior
and race numbers follow statistics.md sections 2 and 3 over drawn counts.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import beta

from experiments import commands
from experiments.commands import Origin
from experiments.experiment import Decision, Experiment, Rules, apply
from services.adapters.memory import MemoryDecisionLog, MemoryStateCache
from services.ports import Heartbeat

START_MS = 1_790_000_000_000
LOOK_MS = 5_000
RATES = {"popularity": 0.052, "als": 0.081, "broken": 0.014}
RULES = Rules(window_s=6.0, lateness_s=2.0, look_every_s=5.0, min_new_units=50, stall_s=60.0)
Counts = dict[tuple[int, str], list[int]]  # (weights version, arm) -> [units, successes]


@dataclass
class Story:
    """Plays decisions one after another; `records` is the log."""

    rates: Mapping[str, float] = field(default_factory=lambda: dict(RATES))
    looks: int = 200
    units_per_look: int = 180
    seed: int = 11
    name: str = "storefront"
    champion: str = "popularity"
    challenger: str = "als"
    third: str = "broken"
    records: list[Decision] = field(default_factory=list)
    state: Experiment | None = None

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.counts: Counts = {}
        self.now_ms = START_MS

    def play(self) -> "Story":
        """The whole story."""
        self._add(
            commands.start(self.name, _arm(self.champion), RULES, "salt", self._origin("demo", "command"))
        )
        for look in range(self.looks):
            if look == 4:
                self._enter(self.challenger)
            if look == int(self.looks * 0.6):
                self._enter(self.third)
            self.look()
            self._roll_back_losers()
        return self

    def look(self) -> None:
        """One look of the decider: draw outcomes under the weights in force, then decide new ones."""
        self.now_ms += LOOK_MS
        self._draw()
        state = self.state
        assert state is not None
        evidence = self.evidence()
        shares = self._shares(evidence["arms"])
        origin = self._origin(
            "decider", "thompson", evidence, f"{_best(evidence['arms'])} has the best chance."
        )
        for arm, share in shares.items():
            evidence["arms"][arm]["weight"] = share
        self._add(
            commands.allocate(state, shares, {}, sum(a["n"] for a in evidence["arms"].values()), origin)
        )

    def evidence(self) -> dict:
        """Evidence of an `allocate` look, in the format that the decider writes."""
        state = self.state
        assert state is not None
        arms = {arm.name: self._posterior(arm.name) for arm in state.live_arms()}
        draws = {name: self.rng.beta(a["_a"], a["_b"], 4_000) for name, a in arms.items()}
        top = np.argmax(np.stack(list(draws.values())), axis=0)
        for index, numbers in enumerate(arms.values()):
            numbers["p_best"] = float(np.mean(top == index))
            numbers.pop("_a"), numbers.pop("_b")
        races = [self._race(race) for race in state.races if race.arm in arms]
        units = sum(a["n"] for a in arms.values())
        return {
            "watermark_ms": self.now_ms - 8_400, "new_units": min(units, self.units_per_look),
            "arms": arms, "races": races, "accounting": {name: _account(arms[name]) for name in arms},
        }  # fmt: skip

    def _enter(self, arm: str) -> None:
        assert self.state is not None
        self._add(
            commands.enter(self.state, arm, _arm(arm)["model_version"], self._origin("trainer", "command"))
        )

    def _roll_back_losers(self) -> None:
        assert self.state is not None
        for race in self.records[-1].evidence.get("races", ()):
            if race["log_e"] >= race["log_threshold"]:
                e = math.exp(race["log_e"])
                reason = f"{race['arm']} earns fewer clicks than {race['against']}: E = {e:.1f}."
                origin = self._origin("decider", "click-race", self.records[-1].evidence, reason)
                self._add(commands.rollback(self.state, race["arm"], origin))
                self.now_ms += 900
                who = self._origin("decider", "served")
                self._add(
                    commands.confirm(self.state, self.state.revision, ["replica-a", "replica-b"], 0.9, who)
                )

    def _draw(self) -> None:
        assert self.state is not None
        shares = self.state.weights.shares
        drawn = self.rng.multinomial(self.units_per_look, list(shares.values()))
        for (arm, _), n in zip(shares.items(), drawn, strict=True):
            cell = self.counts.setdefault((self.state.weights.version, arm), [0, 0])
            cell[0] += int(n)
            cell[1] += int(self.rng.binomial(n, self.rates[arm]))

    def _totals(self, arm: str, from_version: int = 0) -> tuple[int, int]:
        cells = [c for (version, name), c in self.counts.items() if name == arm and version >= from_version]
        return sum(c[0] for c in cells), sum(c[1] for c in cells)

    def _posterior(self, arm: str) -> dict:
        n, s = self._totals(arm)
        base_n, base_s = self._totals(self.champion)
        prior = (base_s + 1) / (base_n + 20)
        a, b = 20 * prior + s, 20 * (1 - prior) + n - s
        low, high = beta.ppf([0.025, 0.975], a, b)
        return {
            "n": n, "s": s, "rate": s / n if n else 0.0, "posterior_mean": a / (a + b), "low": float(low),
            "high": float(high), "p_best": 0.0, "weight": 0.0, "fallback": 0.004 if n else 0.0,
            "_a": a, "_b": b,
        }  # fmt: skip

    def _race(self, race) -> dict:
        assert self.state is not None
        n_arm, s_arm = self._totals(race.arm, race.from_version)
        n_against, s_against = self._totals(race.against, race.from_version)
        log_es = [self._log_e(race, r) for r in np.geomspace(0.30, 0.98, 14) * (1 - RULES.margin)]
        return {
            "arm": race.arm, "against": race.against, "index": race.index, "from_version": race.from_version,
            "alpha": race.alpha, "log_e": float(np.logaddexp.reduce(log_es) - math.log(14)),
            "log_threshold": -math.log(race.alpha), "s_arm": s_arm, "s_against": s_against,
            "n_arm": n_arm, "n_against": n_against,
        }  # fmt: skip

    def _log_e(self, race, r: float) -> float:
        assert self.state is not None
        total = 0.0
        for version, shares in self.state.versions.items():
            p_a, p_0 = shares.get(race.arm, 0.0), shares.get(race.against, 0.0)
            if version < race.from_version or not p_a or not p_0:
                continue
            q0, q = p_a * 0.97 / (p_a * 0.97 + p_0), p_a * r / (p_a * r + p_0)
            s_a, s_0 = (self.counts.get((version, name), [0, 0])[1] for name in (race.arm, race.against))
            total += s_a * math.log(q / q0) + s_0 * math.log((1 - q) / (1 - q0))
        return total

    def _shares(self, arms: Mapping[str, dict]) -> dict[str, float]:
        assert self.state is not None
        floor = 0.10 if len(arms) == 2 else 0.05
        before = self.state.weights.shares
        if len(arms) == 1:
            return dict(before)
        wanted = {a: floor + (1 - len(arms) * floor) * v["p_best"] for a, v in arms.items()}
        moved = {
            a: min(max(w, before[a] - 0.05), before[a] + 0.05)
            for a, w in wanted.items()
            if a != self.champion
        }
        scale = min(1.0, 0.8 / sum(moved.values()))
        moved = {a: w * scale for a, w in moved.items()}
        return {**moved, self.champion: 1.0 - sum(moved.values())}

    def _origin(self, author: str, rule: str, evidence: Mapping | None = None, reason: str = "") -> Origin:
        positions = {
            f"{topic}/{p}": 40 * len(self.records) + p for topic in ("exposures", "events") for p in range(4)
        }
        digest = hashlib.sha256(repr(sorted(self.counts.items())).encode()).hexdigest()
        looked = evidence is not None
        return Origin(
            author, self.now_ms, rule, reason, evidence or {}, positions if looked else {}, digest if
            looked else "",
            code_version="0.1.0",
        )  # fmt: skip

    def _add(self, decision: Decision) -> None:
        self.state = apply(self.state, decision)
        self.records.append(decision)


def _arm(name: str) -> dict[str, str]:
    return {
        "name": name,
        "model_version": f"{name[:40]}-20261123T140500-{hashlib.sha256(name.encode()).hexdigest()[:6]}",
    }


def _best(arms: Mapping[str, dict]) -> str:
    return max(arms, key=lambda name: arms[name]["p_best"])


def _account(arm: Mapping[str, float]) -> dict[str, int]:
    counted = int(arm["s"] * 1.2)
    return {"acknowledged": counted + 9, "counted": counted, "late": 2, "duplicate": 4, "unmatched": 3}


def log_of(story: Story, cache: MemoryStateCache | None = None) -> MemoryDecisionLog:
    """The story in an in-memory decision log."""
    log = MemoryDecisionLog(apply, cache)
    for record in story.records:
        log.append(record)
    return log


def beat(cache: MemoryStateCache, state: Experiment, replicas: int = 2) -> None:
    """Live replicas that serve what the log says."""
    loaded = tuple(arm.model_version for arm in state.live_arms())
    for index in range(replicas):
        name = f"replica-{chr(97 + index)}"
        cache.beat(
            Heartbeat(name, state.revision, state.champion, loaded, state.updated_ms + 700), ttl_s=3_600
        )
