"""The loop closes in memory: clicks move the next slate, the traffic and, in the end, a bad model out."""

import asyncio
from pathlib import Path

import pytest
from support.synthetic_installation import SyntheticInstallation

from services.messages.events import EVENTS, EXPOSURES, Event, Exposure, decode

WATCHED_S = 400  # virtual seconds after which a wait is in vain
QUICK = {"window_s": 4.0, "lateness_s": 1.0, "look_every_s": 5.0}  # all other rules are the product's


@pytest.fixture
def site(tmp_path: Path) -> SyntheticInstallation:
    return SyntheticInstallation(tmp_path, seed=21, window_s=4.0, lateness_s=1.0)


async def until(site: SyntheticInstallation, happened) -> None:
    for _ in range(WATCHED_S):
        await site.step()
        if happened():
            return
    raise AssertionError(f"it did not happen in {WATCHED_S} s; weights are {dict(site.state.weights.shares)}")


def weight(site: SyntheticInstallation, arm: str) -> float:
    return site.state.weights.shares.get(arm, 0.0)


@pytest.mark.slow
def test_traffic_moves_to_the_better_model(site: SyntheticInstallation) -> None:
    async def story() -> None:
        site.open(**QUICK)
        await site.step()
        site.enter("als")
        await until(site, lambda: weight(site, "als") > 0.6)
        site.enter("broken")
        await until(site, lambda: site.state.arms["broken"].role == "retired")
        await until(site, lambda: not site.state.unconfirmed)

    asyncio.run(story())
    truth = site.measurements.summary()["truth"]
    assert truth["als"]["mean"] > truth["popularity"]["mean"] > 10 * truth["broken"]["mean"]
    rollback = next(d for d in site.log.history("storefront") if d.kind == "rollback")
    assert (rollback.rule, rollback.detail.arm) == ("click-race", "broken")
    assert not site.measurements.errors
    assert not site.measurements.degraded


def test_what_is_counted_is_what_shoppers_did(site: SyntheticInstallation) -> None:
    async def story() -> None:
        site.open(**QUICK)
        await site.step()
        site.enter("als")
        for _ in range(40):
            await site.step()
        for _ in range(10):  # nobody comes any more: everything matures
            site.now_ms += 1_000
            site.counting.step(0)

    asyncio.run(story())
    sums, _, _ = site.store.load_all("storefront", site.settings.kafka_partitions)
    n = sum(count for key, count in sums.items() if key.endswith("|n"))
    s = sum(count for key, count in sums.items() if key.endswith("|s"))
    assert n == site.sessions == sum(site.measurements.sessions.values())
    assert s == sum(site.measurements.clicked.values())
    accounts = {key: count for key, count in sums.items() if key.startswith("acct|")}
    assert all("late" not in key and "unmatched" not in key for key, count in accounts.items() if count)


def test_a_click_changes_the_next_slate_of_personal_models(site: SyntheticInstallation) -> None:
    async def story() -> tuple[list[list[str]], list[list[str]]]:
        site.open(**QUICK)
        site.enter("als")
        site.set_weights({"popularity": 0.5, "als": 0.5})
        for _ in range(20):
            await site.step()
        return slates_around_clicks(site)

    before, after = asyncio.run(story())
    assert len(before) > 20
    changed = sum(one != two for one, two in zip(before, after, strict=True))
    assert changed > 0.9 * len(before)


def slates_around_clicks(site: SyntheticInstallation) -> tuple[list[list[str]], list[list[str]]]:
    """Of sessions of als with a click: the other items of the slate that was clicked, and of the next one."""
    shown = [decode(Exposure, record.value) for record in site.broker.records(EXPOSURES)]
    clicks = [decode(Event, record.value) for record in site.broker.records(EVENTS)]
    clicked = {
        e.attribution.recommendation_id: e.item_id for e in clicks if e.type == "click" and e.attribution
    }
    by_unit: dict[str, list[Exposure]] = {}
    for slate in sorted(shown, key=lambda exposure: exposure.recommendation_id):
        if slate.placement == "home" and slate.arm == "als":
            by_unit.setdefault(slate.unit, []).append(slate)
    pairs = [
        (one, two)
        for slates in by_unit.values()
        for one, two in zip(slates, slates[1:], strict=False)
        if one.recommendation_id in clicked
    ]

    def others(slate: Exposure, item: str) -> list[str]:
        return [found for found in slate.items if found != item][: len(slate.items) - 1]

    items = [clicked[one.recommendation_id] for one, _ in pairs]
    return (
        [others(one, item) for (one, _), item in zip(pairs, items, strict=True)],
        [others(two, item) for (_, two), item in zip(pairs, items, strict=True)],
    )
