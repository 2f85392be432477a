"""Shopper decisions a second of the synthetic shop, and its clicks from slates of ten."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.simulation.click_model import Visits, clicks
from experiments.simulation.synthetic_shop import synthetic_shop
from tests.benchmarks.installation import BenchmarkInstallation
from tests.benchmarks.serving import Effort

SHOPPERS = 200_000
NOW_S = 1_790_000_000.0


def measure(
    installation: BenchmarkInstallation, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Decisions a second, one per run; it needs nothing of the installation."""
    shop = synthetic_shop(seed=7, n_items=3_000, n_shoppers=2_000)
    rng = np.random.default_rng(1)
    sessions = rng.integers(2**63, size=SHOPPERS).astype(np.uint64)
    visits = Visits(shop.visitors(rng, SHOPPERS), sessions, NOW_S)
    slates = rng.integers(shop.n_items, size=(SHOPPERS, 10)).astype(np.int32)
    found = []
    for _ in range(effort.runs):
        began = time.perf_counter()
        clicks(shop, visits, slates)
        found.append(round(SHOPPERS / (time.perf_counter() - began)))
        say(f"world: {found[-1]:,} shopper decisions/s")
    return {"decisions_per_s": found}
