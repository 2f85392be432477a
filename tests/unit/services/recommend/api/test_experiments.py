"""/experiments over HTTP: commands become decisions, audited, and only legal ones."""

from pathlib import Path

import pytest
from support.breakable import BreakableDecisionLog
from support.small_shop import KEYS, SmallShop

from experiments.lifecycle import commands
from services.errors import StalePositionError

BASE = "/experiments/storefront"


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, window_s=600)


def test_an_experiment_from_start_to_end_names_who_commanded(shop: SmallShop) -> None:
    steps = [
        ("start", {"model_version": "good", "arm": "champ", "rules": {"unit": "request", "margin": 0.1}}),
        ("enter", {"model_version": "other", "reason": "worth a try"}),
        ("pause", {}),
        ("resume", {"rules": {"margin": 0.05}}),
        ("promote", {"arm": "other"}),
        ("undo", {"revision": 5}),
        ("rollback", {"arm": "other"}),
        ("end", {}),
    ]
    with shop.client() as call:
        for command, said in steps:
            response = call.post(f"{BASE}/{command}", said, "admin")
            assert response.status_code == 200, (command, response.text)
        state = call.get(BASE, "analyst").json()
        decisions = call.get(f"{BASE}/decisions?after_revision=1&limit=3", "analyst").json()
    assert (state["revision"], state["status"], state["champion"]) == (8, "ended", "champ")
    assert (state["rules"]["unit"], state["rules"]["margin"], state["rules"]["window_s"]) == (
        "request",
        0.05,
        600,
    )
    history = shop.log.history("storefront")
    assert [decision.kind for decision in history] == [command for command, _ in steps]
    digest = KEYS["admin"][1].split("=")[1]
    assert {decision.author for decision in history} == {f"admin:{digest[:8]}"}
    assert history[1].reason == "worth a try"
    assert [decision["revision"] for decision in decisions["decisions"]] == [2, 3, 4]
    assert decisions["more"] is True


WRONG = [
    ("promote", {"arm": "nobody"}, 409),
    ("promote", {"arm": "bad|name"}, 422),
    ("promote", {}, 422),
    ("start", {"model_version": "good"}, 409),
    ("undo", {"revision": 1}, 409),
    ("enter", {"model_version": "no artifact"}, 422),
    ("resume", {"rules": {"margin": 2}}, 422),
    ("resume", {"rules": {"colour": "red"}}, 422),
    ("resume", {"rules": {"alpha": {}}}, 422),
    ("resume", {"rules": {"burn_in_units": "many"}}, 422),
    ("pause", {"because": "typo"}, 422),
]


@pytest.mark.parametrize(
    ("command", "said", "status"), WRONG, ids=[f"{row[0]}-{at}" for at, row in enumerate(WRONG)]
)
def test_illegal_and_malformed_commands_change_nothing(
    shop: SmallShop, command: str, said: dict, status: int
) -> None:
    shop.start()
    if command == "resume":
        shop.decide(commands.pause)
    before = shop.state
    with shop.client() as call:
        response = call.post(f"{BASE}/{command}", said, "admin")
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]
    assert shop.state == before


def test_unknown_experiments_are_not_found(shop: SmallShop) -> None:
    with shop.client() as call:
        for method, path in (("GET", ""), ("GET", "/decisions"), ("POST", "/pause")):
            body = {"json": {}} if method == "POST" else {}
            assert call.send(method, f"/experiments/nope{path}", "admin", **body).status_code == 404
        found = call.get("/experiments", "analyst").json()
        assert found == {"experiments": [], "source": "decisions", "notice": None}


def test_a_command_with_a_stale_revision_is_retried(shop: SmallShop) -> None:
    shop.race(0.5)
    append, lost = shop.log.append, []

    def overtaken(decision):
        if not lost:
            lost.append(decision)
            append(commands.allocate(shop.state, {"good": 0.6, "other": 0.4}, {}, 0, shop.provenance()))
            raise StalePositionError("somebody was faster")
        return append(decision)

    shop.log.append = overtaken
    with shop.client() as call:
        response = call.post(f"{BASE}/rollback", {"arm": "other"}, "admin")
    assert response.status_code == 200
    assert shop.state.revision == lost[0].revision + 1
    assert shop.state.arms["other"].role == "retired"


def test_without_log_the_cached_state_shows_and_commands_fail(shop: SmallShop) -> None:
    shop.start()
    with shop.client() as call:
        shop.log.down = True
        for path, of in ((BASE, lambda said: said), ("/experiments", lambda said: said["experiments"][0])):
            shown = call.get(path, "analyst").json()
            assert of(shown)["champion"] == "good"
            assert shown["source"] == "cache"
            assert "cached state" in shown["notice"]
        response = call.post(f"{BASE}/pause", {}, "admin")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "nothing was changed" in response.json()["error"]["message"]
        shop.cache.down = True
        both = call.get("/experiments", "analyst")
    assert both.status_code == 503
    assert "the decision log and its cache" in both.json()["error"]["message"]


def test_without_redis_the_log_answers_and_takes_commands(shop: SmallShop) -> None:
    shop.log = BreakableDecisionLog()  # the real one caches as well as it can
    with shop.client() as call:
        shop.start()
        shop.cache.down = True
        shown = call.get(BASE, "analyst").json()
        assert (shown["champion"], shown["source"]) == ("good", "decisions")
        assert "Replicas may serve an older revision" in shown["notice"]
        assert call.post(f"{BASE}/pause", {}, "admin").json()["status"] == "paused"
        listed = call.get(f"{BASE}/decisions", "analyst").json()
    assert [decision["kind"] for decision in listed["decisions"]] == ["start", "pause"]
