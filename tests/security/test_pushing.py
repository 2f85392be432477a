"""Who tries to push an arm: forged, foreign, old and borrowed recommendation ids, clicks by the thousand.

The real way, HTTP → log → join → sums. What the rules allow: a unit is made by a slate we served, its arm
is drawn by us, and it succeeds once at most. So s <= n in every cell, and n is what we served."""

import asyncio
import base64
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.asgi_calls import AsgiRequest, call, key, running_app
from support.breakable import BreakableSumStore
from support.small_shop import SIGNING, START_MS, Caller, SmallShop, ids

from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.recommend.recommendation_id import RecommendationClaims, RecommendationIds

PARTITIONS = frozenset(range(4))
WINDOW_MS, OVER_MS = 4_000, 9_000


class Ring(SmallShop):
    """A shop whose champion `good` has half of the traffic and `other` the rest, and a bandit worker."""

    def __init__(self, home: Path, unit: str = "session", **settings: Any):
        super().__init__(home, **settings)
        self.race(0.5, unit=unit, window_s=WINDOW_MS / 1e3, lateness_s=1.0)

    def sums(self) -> Counter[str]:
        """What is counted when everything has matured: n and s by arm, and the accounts."""
        self.now_ms += OVER_MS
        store, producer = BreakableSumStore(), MemoryEventProducer(self.broker)
        admin, consumer = MemoryLogAdmin(self.broker), MemoryEventConsumer(self.broker)
        deps = Deps(consumer, admin, store, self.log, Decoder(producer))
        worker = Worker(deps, lambda: PARTITIONS, lambda: self.now_ms, Pace(max_records=100_000))
        for _ in range(6):
            self.now_ms += 2_000
            worker.step(0)
        worker.commit()
        found: Counter[str] = Counter()
        for partition in PARTITIONS:
            for name, count in store.load(partition)[1].get("storefront", {}).items():
                parts = name.split("|")
                found["|".join(parts[1:]) if parts[0] == "acct" else f"{parts[1]}|{parts[3]}"] += count
        return found


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


def click(token: str, item: str, number: int, **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "type": "click", "item_id": item, "recommendation_id": token, **more}


def send(caller: Caller, rows: list[dict[str, Any]]) -> int:
    """How many of them were attributed."""
    answers = [caller.post("/events", rows[at : at + 500]) for at in range(0, len(rows), 500)]
    assert {answer.status_code for answer in answers} == {202}
    return sum(answer.json()["attributed"] for answer in answers)


def totals(sums: Counter[str]) -> tuple[int, int]:
    """(units, successes) of all arms."""
    return tuple(sum(count for name, count in sums.items() if name.endswith(f"|{what}")) for what in "ns")  # type: ignore[return-value]


def test_a_thousand_clicks_of_one_client_are_one_success(ring: Ring) -> None:
    with ring.client() as caller:
        answer = caller.slate(n=10)
        rows = [
            click(answer["recommendation_id"], item, number) for number, item in enumerate(ids(answer) * 100)
        ]
        assert send(caller, rows) == 1_000
    sums, arm = ring.sums(), answer["arm"]
    assert (totals(sums), sums[f"{arm}|s"]) == ((1, 1), 1)


def test_a_click_sent_again_and_again_is_one_click(ring: Ring) -> None:
    with ring.client() as caller:
        answer = caller.slate(n=1)
        for _ in range(50):
            send(caller, [click(answer["recommendation_id"], ids(answer)[0], 1)])
    sums, arm = ring.sums(), answer["arm"]
    assert (totals(sums), sums[f"{arm}|counted"], sums[f"{arm}|duplicate"]) == ((1, 1), 1, 49)


def test_a_borrowed_id_counts_for_whom_it_was_made(ring: Ring) -> None:
    """Ten shoppers send the id of one slate: it remains one unit of one arm."""
    with ring.client() as caller:
        answer = caller.slate("anna", "s1", n=3)
        for number in range(10):
            caller.slate(f"user{number}", f"x{number}", n=3)
        rows = [click(answer["recommendation_id"], ids(answer)[0], number, user_id=f"user{number}",
                      session_id=f"x{number}") for number in range(10)]  # fmt: skip
        assert send(caller, rows) == 10
    sums = ring.sums()
    assert (totals(sums), sums[f"{answer['arm']}|s"]) == ((11, 1), 1)


def forgeries(token: str, rng: random.Random) -> list[str]:
    """Ids that are nearly right: bits flipped, cut, joined, signed by others, spoiled inside."""
    made = [token[:cut] for cut in range(0, len(token) - 1, 3)]
    for place in range(len(token) - 1):
        other = rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=")
        made.append(token[:place] + other + token[place + 1 :] if other != token[place] else "x")
    body, _, signature = token.rpartition(".")
    made += [
        f"{body}.",
        f".{signature}",
        f"{body}.{signature[::-1]}",
        token + token,
        token + "A",
        "",
        ".",
        "\u202e" + token,
    ]
    return made


def test_what_we_did_not_sign_counts_for_nothing(ring: Ring) -> None:
    with ring.client() as caller:
        answer = caller.slate(n=3)
        token, item = answer["recommendation_id"], ids(answer)[0]
        slip = RecommendationIds([SIGNING], 10**9).read(token)
        assert slip is not None
        exposure = ring.exposures()[0]
        strangers = RecommendationIds(["a key that is not ours at all"], 10**9).sign(exposure)
        foreign = RecommendationIds([SIGNING], 10**9).sign(
            msgspec.structs.replace(exposure, experiment="checkout")
        )
        false = [*forgeries(token, random.Random(3)), strangers, foreign]
        assert send(caller, [click(text, item, number) for number, text in enumerate(false)]) == 0
        outside = [name for name in (f"i{at}" for at in range(40)) if name not in ids(answer)]
        assert send(caller, [click(token, name, number) for number, name in enumerate(outside)]) == 0
    assert totals(ring.sums()) == (1, 0)


def test_nothing_in_an_id_can_be_changed_to_something_better(ring: Ring) -> None:
    """Each field of the slip changed, signed with all that the attacker has: other signatures of ours."""
    with ring.client() as caller:
        first, second = caller.slate("anna", "s1", n=3), caller.slate("ben", "s2", n=3)
        tokens = RecommendationIds([SIGNING], 10**9)
        slips = [tokens.read(answer["recommendation_id"]) for answer in (first, second)]
        packed, signature = first["recommendation_id"].rsplit(".", 1)
        stolen = second["recommendation_id"].rsplit(".", 1)[1]
        rows = []
        for name in RecommendationClaims.__struct_fields__:
            better = msgspec.structs.replace(slips[0], **{name: getattr(slips[1], name)})
            text = base64.urlsafe_b64encode(msgspec.msgpack.encode(better)).rstrip(b"=").decode()
            rows += [(f"{text}.{sig}", text == packed and sig == signature) for sig in (signature, stolen)]
        false = [text for text, same in rows if not same]
        assert send(caller, [click(text, ids(first)[0], number) for number, text in enumerate(false)]) == 0
    assert totals(ring.sums()) == (2, 0)


@pytest.mark.parametrize(("after_ms", "succeeds"), [(WINDOW_MS, 1), (WINDOW_MS + 1, 0), (3_600_000, 0)])
def test_an_old_id_counts_nothing_after_its_window(ring: Ring, after_ms: int, succeeds: int) -> None:
    with ring.client() as caller:
        answer = caller.slate(n=1)
        ring.now_ms += after_ms
        assert send(caller, [click(answer["recommendation_id"], ids(answer)[0], 1, ts=START_MS)]) == 1
    sums = ring.sums()
    assert (totals(sums), sums[f"{answer['arm']}|late"]) == ((1, succeeds), 1 - succeeds)


def test_an_expired_id_is_not_even_attributed(ring: Ring) -> None:
    with ring.client() as caller:
        answer = caller.slate(n=1)
        ring.now_ms += round(ring.settings.recommendation_ttl_s * 1_000) + 1
        assert send(caller, [click(answer["recommendation_id"], ids(answer)[0], 1)]) == 0


# ---- a script ----------------------------------------------------------------------------------------------


def push(caller: Caller, sessions: int, target: str = "other", clicks: int = 20) -> Counter[str]:
    """One user, many sessions, twenty clicks on every slate of the arm to be pushed; sessions by arm."""
    drawn: Counter[str] = Counter()
    for number in range(sessions):
        for _ in range(3):  # asks again and again: the arm stays what it was
            answer = caller.slate("mallory", f"m{number}", n=3)
        drawn[answer["arm"]] += 1
        if answer["arm"] == target:
            token = answer["recommendation_id"]
            send(caller, [click(token, ids(answer)[at % 3], 100 * number + at) for at in range(clicks)])
    return drawn


def test_a_script_gets_one_success_per_session(ring: Ring) -> None:
    """The bound of the threat model: thousands of clicks buy what 200 sessions of shoppers would."""
    with ring.client() as caller:
        drawn = push(caller, 200)
        assert caller.get("/recommend?arm=other&session_id=z").status_code == 403
        assert caller.get("/recommend?session_id=z", headers={"x-ringside-arm": "other"}).status_code == 403
    sums = ring.sums()
    assert {arm: sums[f"{arm}|n"] for arm in ("good", "other")} == dict(drawn)
    assert (sums["other|s"], sums["good|s"]) == (drawn["other"], 0)
    assert abs(drawn["other"] - 100) < 4 * 50**0.5  # drawn by the salt, 4 standard deviations


def test_with_user_units_a_one_user_script_is_one_unit(tmp_path: Path) -> None:
    ring = Ring(tmp_path, unit="user_day")
    with ring.client() as caller:
        push(caller, 40, target=caller.slate("mallory", "m0")["arm"])
    assert totals(ring.sums()) == (1, 1)


@pytest.mark.parametrize("agent", ["Googlebot/2.1", "HeadlessChrome/126.0"])
def test_a_script_that_says_what_it_is_counts_for_nothing(ring: Ring, agent: str) -> None:
    with ring.client() as caller:
        for number in range(10):
            answer = caller.get(f"/recommend?session_id=b{number}&n=1", headers={"user-agent": agent}).json()
            assert send(caller, [click(answer["recommendation_id"], ids(answer)[0], number)]) == 0
    assert totals(ring.sums()) == (0, 0)


def test_the_client_rate_limits_the_units_of_a_script(tmp_path: Path) -> None:
    """2,000 sessions in 20 s from one address, at 5 a second and 10 s' worth: 150 units at most."""
    ring = Ring(tmp_path, rates="client=5", rate_burst_s=10.0)

    async def storm() -> Counter[int]:
        statuses: Counter[int] = Counter()
        async with running_app(ring) as (app, parts):
            for number in range(2_000):
                parts.access._now_s = lambda at=number: at / 100  # type: ignore[misc]
                query = f"user_id=mallory&session_id=m{number}&n=1".encode()
                statuses[
                    (
                        await call(app, AsgiRequest("GET", "/recommend", query, [key()]), ("203.0.113.7", 9))
                    ).status
                ] += 1
        return statuses

    statuses = asyncio.run(storm())
    units, _ = totals(ring.sums())
    assert statuses.keys() == {200, 429}
    assert 140 <= units == statuses[200] <= 150
