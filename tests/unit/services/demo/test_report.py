"""The headless report: a story that happened passes; what did not happen fails its own check."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from experiments.lifecycle.decisions import Decision
from services.demo.observer import poll_pages
from services.demo.profile import Profile
from services.demo.report import report
from services.demo.state import DemoState, Step
from services.demo.supervisor import last_line
from services.demo.terminal_ui import TerminalUi
from services.messages.events import decode
from services.settings import Settings

ORIGINS = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
BEGAN_MS = 1_790_000_000_000
BEGAN_S = BEGAN_MS // 1_000


def decision(revision: int, kind: str, at_s: float, weights: dict[str, float], **fields: Any) -> Decision:
    row = {
        "experiment": "storefront",
        "revision": revision,
        "kind": kind,
        "received_at": BEGAN_MS + int(1_000 * at_s),
        "author": "admin:demo",
        "rule": "command",
        "reason": f"{kind} happened",
        "weights_version": revision,
        "weights": weights,
        "detail": DETAILS.get(kind, {}),
    }
    return decode(Decision, json.dumps(row | fields).encode())


DETAILS: dict[str, dict[str, Any]] = {
    "start": {"champion": {"name": "popularity", "model_version": "popularity-1"}, "rules": {}, "salt": "s"},
    "allocate": {"updated": True, "units": 100, "ramp": {}},
    "confirm": {"confirms": 6, "replicas": ["a", "b"], "seconds": 1.0},
}


REMOVED = {"arm": "broken", "version_out": "b", "version_in": "p", "restored": None}


def entry(arm: str) -> dict[str, str]:
    return {"arm": arm, "model_version": f"{arm}-1"}


def shoppers() -> dict[str, Any]:
    """Two replicas; `broken` is served from second 60 until its rollback at second 90."""
    served = []
    for second in range(30, 120):
        for origin in ORIGINS:
            served.append([BEGAN_S + second, origin, "als", 10])
            if 60 <= second < 90:
                served.append([BEGAN_S + second, origin, "broken", 2])
    worth = {"n": 900, "standard_error": 0.004}
    return {
        "elapsed_s": 90.0,
        "requests": {"recommend": {"sent": 5_000, "n": 5_000, "p50_ms": 3.0, "p99_ms": 20.0}},
        "errors": {},
        "sessions": {"als": {"sessions": 1_000, "clicked": 300}},
        "truth": {"popularity": {**worth, "mean": 0.12}, "als": {**worth, "mean": 0.23}},
        "served": served,
        "click_to_slate": {
            "n": 80,
            "by_arm": {"als": {"n": 80, "p50_ms": 60.0, "p99_ms": 150.0, "unchanged": 1}},
        },
    }


@pytest.fixture
def state() -> DemoState:
    state = DemoState(began_ms=BEGAN_MS, facts={"first_slate_s": 21.0}, steps=[Step("Importing", 1.0, 9.0)])
    three = {"popularity": 0.2, "als": 0.55, "broken": 0.25}
    race = {"arm": "broken", "log_e": 5.9, "log_threshold": 5.7}
    rolled_back = {
        "rule": "click-race",
        "author": "decider",
        "detail": REMOVED,
    }
    state.add_decisions(
        [
            decision(1, "start", 20, {"popularity": 1.0}),
            decision(
                2,
                "enter",
                40,
                {"popularity": 1.0, "als": 0.0},
                detail=entry("als"),
            ),
            decision(3, "allocate", 50, {"popularity": 0.2, "als": 0.8}),
            decision(
                4,
                "enter",
                58,
                {"popularity": 0.2, "als": 0.8, "broken": 0.0},
                detail=entry("broken"),
            ),
            decision(5, "allocate", 60, three, evidence={"races": [race]}),
            decision(
                6, "rollback", 90, {"popularity": 0.2, "als": 0.8}, evidence={"races": [race]}, **rolled_back
            ),
            decision(
                7,
                "confirm",
                91,
                {"popularity": 0.2, "als": 0.8},
                author="decider",
            ),
        ],
    )
    state.set_shoppers(shoppers())
    return state


def failing(state: DemoState, failure: str | None = None) -> list[str]:
    result = report(state, ORIGINS, 120.0, failure)
    assert result["happened"] is (failure is None and all(check["holds"] for check in result["checks"]))
    return [check["check"] for check in result["checks"] if not check["holds"]]


def test_a_story_that_happened_passes_and_says_what_it_saw(state: DemoState) -> None:
    result = report(state, ORIGINS, 120.0, None)
    assert result["happened"]
    assert result["truth"]["better"] == "als"
    assert result["rollback"]["seconds_after_entering"] == 32.0
    assert result["rollback"]["served_before"][ORIGINS[0]] == {"answers": 660, "of_arm": 60}
    assert result["rollback"]["served_after"][ORIGINS[1]] == {"answers": 280, "of_arm": 0}
    assert [at["at_s"] for at in result["weights"]] == [20.0, 40.0, 50.0, 58.0, 60.0, 90.0]


def test_a_story_that_broke_off_did_not_happen(state: DemoState) -> None:
    assert failing(state, "no weight for als") == []
    assert report(state, ORIGINS, 120.0, "no weight for als")["failure"] == "no weight for als"


def spoil_first_slate(state: DemoState) -> None:
    state.facts["first_slate_s"] = 61.0


def spoil_weights(state: DemoState) -> None:
    state.weights.append((100.0, {"popularity": 0.5, "als": 0.5}))


def spoil_truth(state: DemoState) -> None:
    state.shoppers["truth"]["als"]["mean"] = 0.125  # ahead by less than three standard errors


def spoil_errors(state: DemoState) -> None:
    state.shoppers["errors"]["recommend: 503"] = 6


def spoil_clicks(state: DemoState) -> None:
    state.shoppers["click_to_slate"]["by_arm"]["als"]["unchanged"] = 12


def spoil_rule(state: DemoState) -> None:
    state.decisions[5] = msgspec.structs.replace(state.decisions[5], rule="command")


def spoil_confirmation(state: DemoState) -> None:
    del state.decisions[6]


def spoil_before(state: DemoState) -> None:
    state.shoppers["served"] = [
        row for row in state.shoppers["served"] if not (row[1] == ORIGINS[1] and row[2] == "broken")
    ]


def spoil_after(state: DemoState) -> None:
    state.shoppers["served"].append([BEGAN_S + 100, ORIGINS[1], "broken", 1])


@pytest.mark.parametrize(
    ("spoil", "checks"),
    [
        (spoil_first_slate, ["first complete slate"]),
        (spoil_weights, ["truly better slates"]),
        (spoil_truth, ["truly better slates"]),
        (spoil_errors, ["of the requests failed"]),
        (spoil_clicks, ["a click on an item new"]),
        (spoil_rule, ["click race rolled"]),
        (spoil_confirmation, ["click race rolled", "after that"]),
        (spoil_before, ["before, every replica"]),
        (spoil_after, ["after that"]),
    ],
)
def test_what_did_not_happen_fails_its_own_check(
    state: DemoState, spoil: Callable[[DemoState], None], checks: list[str]
) -> None:
    spoil(state)
    failed = failing(state)
    assert len(failed) == len(checks)
    assert all(part in check for part, check in zip(checks, failed, strict=True))


def test_nothing_seen_fails_every_check() -> None:
    assert len(failing(DemoState())) == 7


def test_the_screen_shows_the_race_and_production_differences(state: DemoState) -> None:
    state.notices.append((70.0, "lake exited with code 1; restarting in 0.5 s"))
    console = Console(width=110, record=True, force_terminal=True)
    ui = TerminalUi(state, console, Profile().differences(Settings()))
    ui.addresses = {"shop": "http://127.0.0.1:3/"}
    state.decisions.pop()  # the rollback is the newest decision then
    ui.print_addresses()
    console.print(ui)
    shown = console.export_text()
    for expected in ("als", "80%", "30.0% of 1,000", "http://127.0.0.1:3/", "rollback: rollback happened"):
        assert expected in shown
    assert "attribution window 6 s (product: 30 min)" in shown
    assert "alpha, margin, floor, cap, ramp and burn-in as in the product" in " ".join(
        shown.replace("│", " ").split()
    )
    assert "lake exited with code 1" in shown


def test_without_a_terminal_every_fact_is_printed_once(state: DemoState) -> None:
    console = Console(width=200, record=True)
    ui = TerminalUi(state, console, [])
    ui.print_news()
    ui.print_news()
    shown = console.export_text()
    assert shown.count("Importing: done") == 1
    assert shown.count("traffic: popularity 20%, als 80%, broken 0%") == 1


LOGIN = f"http://127.0.0.1:45678/login#key=rs_adm_{'k' * 32}"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_addresses_are_whole_and_the_panel_fits_below_them(
    state: DemoState, width: int, height: int
) -> None:
    state.steps = [Step(f"Step {index}", 1.0, 2.0, "why " * 40) for index in range(12)]
    state.steps.insert(3, Step("Embedding texts at low priority", 1.0, None, "note " * 40))
    state.notices += [(70.0, "lake ended " + "and why " * 40)] * 3
    console = Console(width=width, height=height, record=True, force_terminal=True)
    ui = TerminalUi(state, console, [])
    ui.addresses = {"shop": "http://127.0.0.1:3/", "console": LOGIN, "docs": "http://127.0.0.1:4/docs"}
    state.responding.add("shop")
    ui.print_addresses()
    assert f"console {LOGIN}\n" in console.export_text()
    assert len(f"console {LOGIN}") <= 80
    console.print(ui)
    rows = console.export_text().splitlines()
    assert len(rows) < height - len(ui.addresses)
    assert any("Embedding texts" in row for row in rows)
    assert any("█ 80%" in row for row in rows)
    assert any("shop ready   console starting…   docs starting…" in row for row in rows)
    assert "Ctrl-C to stop the demo." in rows[-2]


def test_when_the_story_is_told_one_may_stay(state: DemoState) -> None:
    console = Console(width=80, height=24, record=True, force_terminal=True)
    ui = TerminalUi(state, console, [])
    ui.finished = True
    console.print(ui)
    assert "The story is complete. Explore as long as you like" in console.export_text()


def test_a_page_is_asked_until_it_answers(state: DemoState) -> None:
    pages = {"shop": "http://shop", "console": "http://console"}
    poll_pages(state, pages, lambda address: address == "http://shop")
    assert state.responding == {"shop"}
    asked: list[str] = []
    poll_pages(state, pages, lambda address: not asked.append(address))
    assert asked == ["http://console"]
    assert state.responding == {"shop", "console"}


def test_a_log_line_is_no_progress(tmp_path: Path) -> None:
    log = tmp_path / "fit.log"
    log.write_text(
        "x" * 3_000 + "\nround 3 of 10\r\n2026-11-28 03:41:31,146 train INFO services.trainer: told\n"
    )
    assert last_line(log) == "round 3 of 10"
    log.write_text("2026-11-28 03:41:31,146 train INFO services.trainer: " + "told " * 1_000)
    assert last_line(log) == ""
