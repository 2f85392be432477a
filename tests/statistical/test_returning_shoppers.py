"""Shoppers who return each day, each with a rate of clicks of their own: the race still keeps its error."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.small_shop import SmallShop

from experiments.allocation.assignment import DAY_MS
from experiments.inference.click_race import log_evidence, log_stakes, rollback_hypothesis
from services.recommend import assignment
from services.recommend.assignment import propose
from services.recommend.slate_request import SlateRequest, Visitor
from services.recommend.snapshot.snapshot import ServedExperiment
from tests.statistical.test_click_race import allowed

RUNS, SHOPPERS, DAYS = 300, 300, 60
ALPHA = 0.05


def rolled_back(tmp_path: Path, seed: int) -> float:
    """Share of runs in which one of two equal arms is rolled back. Shoppers have no session id, which makes
    each of their days a unit; only successes matter to the race."""
    rng, side = np.random.default_rng(seed), rollback_hypothesis(0.0)
    state = SmallShop(tmp_path).race(0.5)
    fired = 0
    for run in range(RUNS):
        experiment = ServedExperiment("storefront", replace(state, salt=f"salt {run}"))
        rates = rng.beta(0.05, 0.95, SHOPPERS)
        won = np.zeros((2, DAYS))
        for day, shopper in np.argwhere(rng.random((DAYS, SHOPPERS)) < rates):
            request = SlateRequest(
                visitor=Visitor(f"u{shopper}", None),
                slate_id="q",
                received_ms=int(day) * DAY_MS,
                n=1,
                placement="home",
            )
            pin = propose(experiment, request).pin
            won[int(pin.arm == "other"), day] += 1
        champion, challenger = won.cumsum(axis=1)
        evidence = log_evidence(log_stakes(challenger, champion, 0.5, 0.5, side))
        fired += bool((evidence >= -math.log(ALPHA)).any())
    return fired / RUNS


def test_a_daily_returning_shopper_does_not_bias_the_race(tmp_path: Path) -> None:
    assert rolled_back(tmp_path, seed=1) <= allowed(ALPHA, RUNS)


def test_one_draw_for_all_days_fails_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "assignment_id", lambda unit, first_ms: unit)
    assert rolled_back(tmp_path, seed=1) > 3 * ALPHA
