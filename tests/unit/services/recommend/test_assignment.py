"""Which visitors are assigned, which are excluded, and when a pin holds."""

from collections import Counter
from pathlib import Path

import pytest
from support.small_shop import START_MS, SmallShop, ids

from experiments.allocation.assignment import DAY_MS, unit_lifetime_ms
from experiments.lifecycle import commands
from experiments.lifecycle.state import Rules
from services.experiment_table import ExperimentTable
from services.ports.pins import Pin
from services.recommend.assignment import propose, resolve
from services.recommend.slate_request import SlateRequest, Visitor
from services.recommend.snapshot.snapshot import ServedExperiment
from services.settings import Settings

GOOGLEBOT = {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path)


def test_only_a_units_first_slate_counts_and_pins_it(shop: SmallShop) -> None:
    shop.race(0.5)
    with shop.client() as call:
        first = call.slate(n=2)
        shop.now_ms += 60_000
        shop.set_weights(
            {"good": 0.0, "other": 1.0} if first["arm"] == "good" else {"good": 1.0, "other": 0.0}
        )
        call.refresh()
        again = call.slate(n=2)
    assert again["arm"] == first["arm"]
    one, two = shop.exposures()
    assert (one.first, two.first) == (True, False)
    assert (two.unit, two.unit_at, two.weights_version, two.propensity) == (
        one.unit,
        one.received_at,
        one.weights_version,
        0.5,
    )


def test_shares_follow_the_weights(shop: SmallShop) -> None:
    shop.race(0.25)
    with shop.client() as call:
        for visit in range(800):
            call.slate(user=f"u{visit}", n=1)
    units = [exposure for exposure in shop.exposures() if exposure.first]
    share = sum(unit.arm == "other" for unit in units) / len(units)
    assert len(units) == 800
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5
    assert {(unit.arm, unit.propensity) for unit in units} == {("good", 0.75), ("other", 0.25)}


def test_every_anonymous_request_is_a_unit_of_its_own(shop: SmallShop) -> None:
    shop.race(0.5)
    with shop.client() as call:
        for _ in range(3):
            call.slate(user=None, session=None, n=1)
    exposures = shop.exposures()
    assert len({exposure.unit for exposure in exposures}) == 3
    assert all(exposure.first and exposure.excluded is None for exposure in exposures)
    assert shop.reader.pins == {}


@pytest.mark.parametrize(
    ("unit", "prefix"), [("request", "r:"), ("session", "s:anna:s1"), ("user_day", "u:anna:")]
)
def test_units_follow_the_rules(shop: SmallShop, unit: str, prefix: str) -> None:
    shop.race(0.5, unit=unit)
    with shop.client() as call:
        call.slate(n=1)
        call.slate(n=1)
    exposures = shop.exposures()
    assert all(exposure.unit.startswith(prefix) for exposure in exposures)
    assert [exposure.first for exposure in exposures] == [True, unit == "request"]


@pytest.mark.parametrize("visitor", [Visitor("anna", None), Visitor(None, "a cookie of a year")])
def test_a_daily_returning_visitor_is_drawn_again_each_day(shop: SmallShop, visitor: Visitor) -> None:
    """And within a day keeps the arm, though the weights and the calendar's day change."""
    experiment = ServedExperiment("storefront", shop.race(0.5))

    def request(at_ms: int) -> SlateRequest:
        return SlateRequest(visitor=visitor, slate_id="q", received_ms=at_ms, n=1, placement="home")

    arms = Counter(propose(experiment, request(START_MS + day * DAY_MS)).pin.arm for day in range(200))
    assert arms.total() == 200
    assert abs(arms["other"] - 100) < 4 * 50**0.5
    stored = propose(experiment, request(START_MS)).pin
    for later_ms in range(0, DAY_MS, 3_600_000):
        proposal = propose(experiment, request(START_MS + later_ms))
        assert resolve(experiment, proposal, stored, written=False).arm == stored.arm


def test_a_users_day_ends_with_its_pin(shop: SmallShop) -> None:
    day_ms = 86_400_000
    state = shop.race(0.5, unit="user_day")
    midnight_ms = START_MS // day_ms * day_ms
    assert unit_lifetime_ms(state.rules.unit, midnight_ms) == 86_400_000
    assert unit_lifetime_ms(state.rules.unit, midnight_ms + day_ms - 1_000) == 1_000


# ---- left out ----------------------------------------------------------------------------------------------


def test_bots_staff_and_previews_are_served_and_never_counted(shop: SmallShop) -> None:
    shop.race(0.5)
    with shop.client() as call:
        bot = call.get("/recommend?user_id=b&n=1", headers=GOOGLEBOT).json()
        staff = call.slate(staff="true", n=1)
        preview = call.get("/recommend?user_id=p&n=1&arm=other", "admin").json()
        header = call.get("/recommend?user_id=p&n=1", "admin", headers={"X-Ringside-Arm": "other"}).json()
    assert (bot["arm"], staff["arm"], preview["arm"], header["arm"]) == ("good", "good", "other", "other")
    exposures = shop.exposures()
    assert [exposure.excluded for exposure in exposures] == ["bot", "staff", "preview", "preview"]
    assert not any(exposure.first or exposure.propensity for exposure in exposures)
    assert shop.reader.pins == {}


def test_only_admins_force_an_arm_and_only_one_that_exists(shop: SmallShop) -> None:
    shop.race(0.5)
    with shop.client() as call:
        assert call.get("/recommend?arm=other").status_code == 403
        missing = call.get("/recommend?arm=nope", "admin")
    assert (missing.status_code, missing.json()["error"]["field"]) == (422, "arm")


def test_an_unreachable_pin_store_leaves_the_unit_out(shop: SmallShop) -> None:
    shop.race(0.5)
    shop.reader.down = True
    with shop.client() as call:
        answers = [call.slate(user=f"u{visit}", n=1) for visit in range(20)]
    assert {answer["arm"] for answer in answers} == {"good"}
    assert {(exposure.excluded, exposure.first) for exposure in shop.exposures()} == {
        ("pin_unreachable", False)
    }


def test_a_paused_experiment_serves_the_champion_and_resumes_its_pins(shop: SmallShop) -> None:
    shop.race(0.5)
    shop.set_weights({"good": 0.0, "other": 1.0})
    with shop.client() as call:
        assert call.slate(n=1)["arm"] == "other"
        shop.decide(commands.pause)
        call.refresh()
        paused = call.slate(n=1)
        shop.decide(commands.resume)
        call.refresh()
        resumed = call.slate(n=1)
    assert (paused["arm"], paused["degraded"], resumed["arm"]) == ("good", None, "other")
    assert [(exposure.excluded, exposure.first) for exposure in shop.exposures()] == [
        (None, True),
        ("champion_only", False),
        (None, False),
    ]


def test_units_of_a_rolled_back_arm_never_count_again(shop: SmallShop) -> None:
    shop.race(0.5)
    shop.set_weights({"good": 0.0, "other": 1.0})
    with shop.client() as call:
        before = call.slate(n=1)
        shop.now_ms += 1_000
        shop.decide(commands.rollback, "other")
        call.refresh()
        after, later = call.slate(n=1), call.slate(n=1)
        item, token = ids(later)[0], later["recommendation_id"]
        click = {"event_id": "e", "type": "click", "item_id": item, "recommendation_id": token}
        assert call.post("/events", [click]).json()["attributed"] == 0
    assert (before["arm"], after["arm"], later["arm"]) == ("other", "good", "good")
    units = shop.exposures()
    assert [(unit.first, unit.excluded) for unit in units] == [
        (True, None),
        (False, "overridden"),
        (False, "overridden"),
    ]
    (pin, _) = shop.reader.pins[f"storefront|{units[0].unit}"]
    assert (pin.arm, pin.propensity, pin.unit_at) == ("good", 0.0, units[0].received_at)


def test_a_pin_newer_than_our_state_is_left_alone(shop: SmallShop) -> None:
    """A replica that is one revision behind must not override what one ahead of it has assigned."""
    shop.race(0.5)
    newer = Pin(shop.state.weights.version + 1, "newcomer", 0.05, START_MS)
    shop.reader.pins["storefront|s:anna:s1"] = (newer, START_MS + 10**9)
    with shop.client() as call:
        answer = call.slate(n=1)
    (exposure,) = shop.exposures()
    assert (answer["arm"], answer["degraded"], exposure.answered_by) == (
        "newcomer",
        "not_loaded:newcomer",
        "good",
    )
    assert shop.reader.pins["storefront|s:anna:s1"][0] == newer


def test_a_stale_replica_keeps_pins_of_a_returned_arm(
    shop: SmallShop,
) -> None:
    shop.race(0.5)
    shop.decide(commands.rollback, "other")
    newer = Pin(shop.state.weights.version + 1, "other", 0.05, START_MS)
    older = Pin(shop.state.weights.version, "other", 0.05, START_MS)
    shop.reader.pins["storefront|s:anna:s1"] = (newer, START_MS + 10**9)
    shop.reader.pins["storefront|s:bert:s1"] = (older, START_MS + 10**9)
    with shop.client() as call:
        kept, overridden = call.slate("anna", n=1), call.slate("bert", n=1)
    assert (kept["arm"], overridden["arm"]) == ("other", "good")
    assert [exposure.excluded for exposure in shop.exposures()] == [None, "overridden"]
    assert shop.reader.pins["storefront|s:anna:s1"][0] == newer


def test_without_an_experiment_slates_are_popular_and_say_so(shop: SmallShop) -> None:
    with shop.client() as call:
        answer = call.slate(n=2)
    assert (answer["experiment"], answer["arm"], answer["degraded"]) == (None, None, "popular")
    assert shop.exposures()[0].excluded == "no_experiment"


# ---- several experiments -----------------------------------------------------------------------------------


class TwoExperiments(Settings):
    """Settings whose table has an experiment of its own for e-mails."""

    @property
    def experiments(self) -> ExperimentTable:
        return ExperimentTable("storefront", {"email": "newsletter"})


def test_each_placement_is_decided_by_its_own_experiment(shop: SmallShop) -> None:
    shop.settings = TwoExperiments.model_construct(**vars(shop.settings))
    shop.start("good")
    arm = commands.Deployed("other", "other")
    shop.log.append(commands.start("newsletter", arm, Rules(unit="user_day"), "salt", shop.provenance()))
    with shop.client() as call:
        home, email = call.slate(n=1), call.slate(n=1, placement="email")
        forced = call.get("/recommend?placement=email&arm=other&n=1", "admin")
        foreign = call.get("/recommend?placement=home&arm=other&n=1", "admin")
        clicks = [
            {
                "event_id": answer["arm"],
                "type": "click",
                "item_id": ids(answer)[0],
                "recommendation_id": answer["recommendation_id"],
            }
            for answer in (home, email)
        ]
        assert call.post("/events", clicks).json()["attributed"] == 2
    assert [(answer["experiment"], answer["arm"]) for answer in (home, email)] == [
        ("storefront", "good"),
        ("newsletter", "other"),
    ]
    assert (forced.status_code, foreign.status_code) == (200, 422)
    counted = {exposure.experiment: exposure.unit[0] for exposure in shop.exposures() if exposure.first}
    assert counted == {"storefront": "s", "newsletter": "u"}


def test_each_experiment_remembers_its_champion_offline(shop: SmallShop) -> None:
    shop.settings = TwoExperiments.model_construct(**vars(shop.settings))
    shop.start("good")
    arm = commands.Deployed("other", "other")
    shop.log.append(commands.start("newsletter", arm, Rules(), "salt", shop.provenance()))
    with shop.client():
        pass
    for part in (shop.reader, shop.cache, shop.log, shop.broker, shop.overlay):
        part.down = True
    with shop.client() as call:
        answers = [call.slate(n=1), call.slate(n=1, placement="email")]
    assert [answer["model_version"] for answer in answers] == ["good", "other"]
