"""The console over HTTP: who may read, who may command, what an export holds, what it says when things
are down."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.breakable import BreakableStateCache
from support.console_story import ScriptedExperiment, decision_log_of, put_heartbeats, recount_service_of
from support.decisions import evidence_of

from experiments.counting.sums import ExperimentSums
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import LATEST_MS
from services.console.app import create_app
from services.console.log_follower import LogFollower
from services.console.sessions import Sessions
from services.console.web import grouped
from services.errors import ConfigurationError
from services.messages.events import encode
from services.ports.state import Heartbeat, Positions
from services.settings import Settings

PAGE = "/experiments/storefront"
HTML = {"accept": "text/html"}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Console:
    """A console over in-memory ports, with a client for each role."""

    def __init__(self, home: Path, story: ScriptedExperiment):
        self.story = story
        self.now_ms = story.now_ms + 1_000
        self.cache = BreakableStateCache(lambda: self.now_ms)
        self.log = decision_log_of(story, self.cache)
        put_heartbeats(self.cache, story.state)
        keys = f"admin={digest('adm')},analyst={digest('ana')},storefront={digest('pub')}"
        self.settings = Settings(keys=keys, signing_key="s" * 32, home=home)
        self.follower = LogFollower(
            lambda: (self.log, self.cache), lambda: self.now_ms, self.settings.kill_switch_path
        )
        self.follower.refresh()
        self.recounting = recount_service_of(story)
        self.app = create_app(
            self.settings, self.follower, self.recounting, lambda: self.now_ms, follow=False
        )

    def client(self, key: str | None = None) -> TestClient:
        client = TestClient(self.app, follow_redirects=False)
        if key is not None:
            assert client.post("/login", data={"key": key}).status_code == 303
        return client

    def command(self, client: TestClient, kind: str, **form: str):
        page = client.get(PAGE, headers=HTML)
        token = re.search(r'data-csrf="([^"]+)"', page.text)
        assert token is not None
        answer = client.post(f"{PAGE}/commands/{kind}", data={"csrf": token[1], "reason": "testing", **form})
        self.follower.refresh()
        return answer


@pytest.fixture(scope="module")
def story() -> ScriptedExperiment:
    return ScriptedExperiment(looks=70, units_per_look=700).play()


@pytest.fixture
def console(tmp_path, story) -> Console:
    return Console(tmp_path, story)


def test_without_a_key_pages_redirect_and_scripts_get_401(console):
    page = console.client().get(PAGE, headers=HTML)
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=/experiments/storefront")
    for path in (f"{PAGE}/live", f"{PAGE}/log.csv", f"{PAGE}/decisions/3/record.json", "/experiments"):
        assert console.client().get(path).status_code == 401


@pytest.mark.parametrize("key", ["pub", "wrong", "", "ана"])
def test_a_storefront_key_or_none_opens_nothing(console, key):
    client = console.client()
    assert client.post("/login", data={"key": key}).status_code == 401
    assert client.get(f"{PAGE}/live").status_code == 401


def test_an_arm_that_is_not_loaded_everywhere_is_not_promoted(console):
    def button() -> str:
        return re.search(r'<button[^>]*data-command="promote"[^>]*>', console.client("adm").get(PAGE).text)[0]

    assert "disabled" not in button()
    state = console.story.state
    champion = state.arms[state.champion].model_version
    console.cache.put_heartbeat(
        Heartbeat("replica-b", state.revision, state.champion, (champion,), 1), ttl_s=3_600
    )
    console.follower.refresh()
    assert 'disabled title="1 of 2 replicas have not loaded als"' in button()


def test_a_forged_or_withdrawn_session_is_nobody(console):
    client = console.client("ana")
    cookie = client.cookies["ringside_console"]
    fewer = console.settings.model_copy(update={"keys": f"admin={digest('adm')}"})
    assert Sessions(console.settings).person(cookie).role == "analyst"
    assert Sessions(fewer).person(cookie) is None
    assert Sessions(console.settings).person(cookie[:-2] + "xx") is None


def test_a_session_outlives_the_rotation_of_the_signing_key(console):
    cookie = console.client("ana").cookies["ringside_console"]
    rotated = console.settings.model_copy(update={"signing_key": ("n" * 32, "s" * 32)})
    assert Sessions(rotated).person(cookie) is not None
    replaced = console.settings.model_copy(update={"signing_key": ("n" * 32,)})
    assert Sessions(replaced).person(cookie) is None


def test_scripts_and_other_sites_cannot_use_the_session_cookie(console):
    header = console.client().post("/login", data={"key": "ana"}).headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=strict" in header


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "evil"])
def test_logging_in_never_leads_to_another_site(console, target):
    answer = console.client().post("/login", data={"key": "ana", "next": target})
    assert answer.headers["location"] == "/"


def test_every_answer_carries_the_security_headers(console):
    for path in ("/login", PAGE, f"{PAGE}/live", "/health/live", "/nothing"):
        headers = console.client("ana").get(path).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_live_sends_only_what_is_new(console, story):
    client = console.client("ana")
    whole = client.get(f"{PAGE}/live").json()
    assert [p["revision"] for p in whole["points"]] == [r.revision for r in story.records]
    assert set(whole["parts"]) == {"headline", "arms", "decisions", "replicas", "accounting"}
    later = client.get(f"{PAGE}/live", params={"after_revision": story.state.revision - 2}).json()
    assert [p["revision"] for p in later["points"]] == [story.state.revision - 1, story.state.revision]
    newest = client.get(f"{PAGE}/live", params={"after_revision": story.state.revision}).json()
    assert (newest["points"], newest["densities"]) == ([], None)


def test_a_record_shows_every_number_and_the_logs_json(console, story):
    client = console.client("ana")
    record = next(r for r in story.records if r.kind == "rollback")
    page = client.get(f"{PAGE}/decisions/{record.revision}", headers=HTML).text
    race = record.evidence.races[-1]
    wanted = [
        f"{race.log_e:.5g}",
        f"{race.log_threshold:.5g}",
        record.sums_digest,
        "exposures/3",
        "0.1.0",
    ]
    wanted += [record.detail.version_out, record.detail.version_in, record.author, record.rule]
    assert [text for text in wanted if text not in page] == []
    assert client.get(f"{PAGE}/decisions/{record.revision}/record.json").content == encode(record)
    assert client.get(f"{PAGE}/decisions/99999").status_code == 404


def test_the_json_lines_are_the_log(console, story):
    lines = console.client("ana").get(f"{PAGE}/log.jsonl").content.splitlines()
    assert lines == [encode(record) for record in story.records]


def test_the_csv_has_a_row_for_each_decision(console, story):
    answer = console.client("ana").get(f"{PAGE}/log.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == len(story.records)
    for row, record in zip(rows, story.records, strict=True):
        assert int(row["revision"]) == record.revision
        for arm, numbers in record.evidence.arms.items():
            assert (int(row[f"{arm}.n"]), float(row[f"{arm}.low"])) == (numbers.n, numbers.low)
        for race in record.evidence.races:
            assert float(row[f"{race.arm}.race.log_e"]) == race.log_e


@pytest.mark.parametrize(
    "evidence",
    [
        {"arms": {"als": {}, "broken": {"n": None}}, "races": [{"arm": "als"}], "accounting": {"als": {}}},
        {
            "arms": {"als": {"n": 5, "p_best": 0.4}, "popularity": {"n": 9, "p_best": None, "low": 0.1}},
            "races": [{"arm": "als", "log_e": None, "log_threshold": 3.0, "index": None}],
        },
        {
            "arms": dict.fromkeys(
                ("als", "popularity"),
                {"n": 2**62, "p_best": 1e308, "low": 0.0, "posterior_mean": 5e-324, "high": 1.0},
            ),
            "races": [{"arm": "als", "log_e": 1e308, "log_threshold": 5e-324}],
            "watermark_ms": LATEST_MS,
            "new_units": -(2**62),
        },
    ],
)
def test_a_sparse_or_verbose_look_breaks_no_page(console, evidence):
    state = console.log.catch_up()["storefront"]
    origin = Provenance("decider", LATEST_MS, evidence=evidence_of(**evidence))
    after = console.log.append(commands.allocate(state, dict(state.weights.shares), {}, 0, origin))
    console.follower.refresh()
    client = console.client("ana")
    assert console.follower.view.sources.log_error is None
    for path in ("", "/live", "/decisions", f"/decisions/{after.revision}", "/log.jsonl"):
        answer = client.get(f"{PAGE}{path}", headers=HTML)
        assert answer.status_code == 200, path
    rows = list(csv.DictReader(io.StringIO(client.get(f"{PAGE}/log.csv").text)))
    assert (rows[-1]["revision"], rows[-1]["time_utc"][:4]) == (str(after.revision), "2255")
    for race in client.get(f"{PAGE}/live").json()["points"][-1]["races"]:
        assert None not in (race["log_e"], race["log_threshold"])


def test_a_record_that_makes_no_point_is_read_again(console, monkeypatch):
    followed = console.follower.view.experiments["storefront"]
    before = len(followed.history), len(followed.axis.points)
    state = console.log.catch_up()["storefront"]
    console.log.append(commands.pause(state, Provenance("anna", state.updated_ms + 1)))
    with monkeypatch.context() as broken:
        broken.setattr(followed.axis, "extend", lambda _: 1 / 0)
        console.follower.refresh()
    assert (len(followed.history), len(followed.axis.points)) == before
    console.follower.refresh()
    assert (len(followed.history), len(followed.axis.points)) == (before[0] + 1, before[1] + 1)


def test_a_reason_that_looks_like_a_formula_stays_a_text(console):
    admin = console.client("adm")
    assert console.command(admin, "pause", reason="=cmd|' /C calc'!A0").status_code == 200
    rows = list(csv.DictReader(io.StringIO(admin.get(f"{PAGE}/log.csv").text)))
    assert rows[-1]["reason"].startswith("'=cmd")


def test_an_analyst_reads_but_does_not_command(console, story):
    analyst = console.client("ana")
    assert "data-command" not in analyst.get(PAGE, headers=HTML).text
    assert console.command(analyst, "pause").status_code == 403
    assert console.log.catch_up()["storefront"].revision == story.state.revision


def test_a_command_without_the_token_of_the_session_changes_nothing(console, story):
    admin = console.client("adm")
    for form in ({}, {"csrf": "guess"}, {"csrf": "ключ"}):
        assert admin.post(f"{PAGE}/commands/pause", data={"reason": "x", **form}).status_code == 403
    assert console.log.catch_up()["storefront"].revision == story.state.revision


def test_commands_reach_the_log_with_the_name_of_the_key(console):
    admin = console.client("adm")
    assert console.command(admin, "pause", reason="a look at the  numbers").json()["status"] == "paused"
    record = console.log.history("storefront")[-1]
    assert record.author == f"admin:{digest('adm')[:8]}"
    assert (record.rule, record.reason) == ("command", "a look at the numbers")
    assert console.command(admin, "resume").json()["status"] == "running"
    assert console.command(admin, "promote", arm="als").json()["champion"] == "als"
    undone = console.command(admin, "undo", reverts=str(console.log.catch_up()["storefront"].revision))
    assert undone.json()["champion"] == "popularity"
    assert console.command(admin, "rollback", arm="als").status_code == 200
    assert console.log.catch_up()["storefront"].arms["als"].role == "retired"


@pytest.mark.parametrize(
    ("kind", "form", "status", "says"),
    [
        ("promote", {"arm": "nobody"}, 409, "no arm nobody"),
        ("promote", {}, 422, "arm: name the arm"),
        ("undo", {}, 422, "reverts"),
        ("pause", {"reason": "  "}, 422, "reason: say why"),
        ("explode", {}, 422, "command: explode is not one of"),
        ("resume", {}, 409, "resume"),
    ],
)
def test_a_refused_command_says_why_in_a_sentence(console, kind, form, status, says):
    answer = console.command(console.client("adm"), kind, **form)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_a_command_survives_a_look_that_takes_its_revision(console, story):
    append = console.log.append

    def look_first(decision):
        console.log.append = append
        append(decision)
        return append(decision)

    console.log.append = look_first
    admin = console.client("adm")
    answer = console.command(admin, "promote", arm="als")
    # The first append took the revision, so ours was void; built anew it is impossible, and that is what
    # is said.
    assert answer.status_code == 409
    assert console.log.catch_up()["storefront"].champion == "als"


def test_dead_redis_and_log_are_named_and_numbers_stay(console):
    client = console.client("ana")
    before = client.get(f"{PAGE}/live").json()["points"]
    console.cache.down = console.log.down = True
    console.follower.refresh()
    console.now_ms += 40_000
    live = client.get(f"{PAGE}/live").json()
    assert live["points"] == before
    assert "so this page is 40 s old" in live["parts"]["headline"]
    assert "Redis can&#39;t be reached" in live["parts"]["headline"]
    console.cache.down = console.log.down = False
    console.follower.refresh()
    assert "can&#39;t be" not in client.get(f"{PAGE}/live").json()["parts"]["headline"]


def test_an_unforeseen_error_is_shown_and_the_follower_goes_on(console, monkeypatch):
    def broken():
        raise ValueError("a record of tomorrow")

    with monkeypatch.context() as patched:
        patched.setattr(console.log, "catch_up", broken)
        patched.setattr(console.cache, "heartbeats", broken)
        console.follower.refresh()
    headline = console.client("ana").get(f"{PAGE}/live").json()["parts"]["headline"]
    assert "a record of tomorrow" in headline
    console.follower.refresh()
    assert console.follower.view.sources.log_error is None
    assert console.follower.view.sources.cache_error is None


def test_commands_answer_503_while_the_log_is_down(console):
    admin = console.client("adm")
    page = admin.get(PAGE, headers=HTML).text
    console.log.down = True
    token = re.search(r'data-csrf="([^"]+)"', page)[1]
    answer = admin.post(f"{PAGE}/commands/pause", data={"csrf": token, "reason": "x"})
    assert answer.status_code == 503


def test_before_the_first_read_the_console_is_not_ready(tmp_path, story):
    console = Console(tmp_path, story)
    console.follower = LogFollower(
        lambda: (console.log, console.cache), lambda: 1, tmp_path / "champion-only"
    )
    console.app = create_app(console.settings, console.follower, console.recounting, lambda: 1, follow=False)
    client = console.client("ana")
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503
    assert "has not been read yet" in client.get("/experiments", headers=HTML).text
    console.follower.refresh()
    assert client.get("/health/ready").status_code == 200


def test_the_kill_switch_is_named(console):
    console.settings.kill_switch_path.touch()
    console.follower.refresh()
    assert "The kill switch is on" in console.client("ana").get(PAGE, headers=HTML).text


def test_a_broker_that_lost_its_data_starts_a_new_page(console, story):
    other = ScriptedExperiment(looks=3, seed=5)
    other.now_ms = story.now_ms + 60_000
    other.play()
    console.log = decision_log_of(other)
    console.follower._ports = (console.log, console.cache)
    console.follower.refresh()
    live = console.client("ana").get(f"{PAGE}/live").json()
    assert live["log"] == other.state.started_ms
    assert [p["revision"] for p in live["points"]] == [r.revision for r in other.records]


def test_the_list_names_every_experiment_in_words(console):
    page = console.client("ana").get("/experiments", headers=HTML).text
    assert "storefront" in page
    assert "als is best" in page


def test_the_log_can_be_paged_and_looks_left_out(console, story):
    client = console.client("ana")
    page = client.get(f"{PAGE}/decisions", params={"looks": "false"}, headers=HTML).text
    marks = [r.revision for r in story.records if r.kind != "allocate"]
    found = [int(r) for r in re.findall(rf'href="{PAGE}/decisions/(\d+)"', page)]
    assert found == sorted(marks, reverse=True)


def test_the_plotting_script_is_ours_compressed_and_kept_by_browsers(console):
    client = console.client("ana")
    path = re.search(r'src="(/static/plotly-[0-9a-f]+\.js)"', client.get(PAGE, headers=HTML).text)[1]
    answer = client.get(path)
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert b"plotly.js v" in answer.content[:200]
    assert client.get("/static/plotly-0000.js").status_code == 404


def test_settings_that_let_nobody_in_are_refused_or_named(tmp_path, story):
    with pytest.raises(ConfigurationError, match="RINGSIDE_SIGNING_KEY"):
        Sessions(Settings(keys=f"admin={digest('a')}"))
    with pytest.raises(ConfigurationError, match="RINGSIDE_KEYS"):
        Sessions(Settings(keys="admin=short", signing_key="s" * 32))
    console = Console(tmp_path, story)
    console.settings = console.settings.model_copy(update={"keys": f"storefront={digest('pub')}"})
    app = create_app(console.settings, console.follower, console.recounting, lambda: 1, follow=False)
    assert "No analyst or admin key is configured" in TestClient(app).get("/login").text


def test_the_record_on_the_page_is_json(console, story):
    page = console.client("ana").get(f"{PAGE}/decisions/9", headers=HTML).text
    text = re.search(r'<pre id="json-9"[^>]*>(.*?)</pre>', page, re.S)[1].replace("&#34;", '"')
    assert json.loads(text)["revision"] == 9


# ---- recounts ----------------------------------------------------------------------------------------------


def asked_recount(console: Console, client: TestClient) -> str:
    """The question, as the dialog shows it; its `seen` is in it."""
    answer = client.get(f"{PAGE}/recount")
    assert answer.status_code == 200, answer.text
    return answer.text


def seen_in(question: str) -> str:
    found = re.search(r'name="seen" value="([^"]+)"', question)
    assert found is not None
    return found[1]


def test_a_recount_shows_what_goes_and_drops_it(console, story):
    admin = console.client("adm")
    question = asked_recount(console, admin)
    parsed = ExperimentSums.parse(dict(story.sums))
    for arm in ("popularity", "als", "broken"):
        counts = parsed.arm(arm)
        cells = (counts.n, counts.s, parsed.accounts[arm]["acknowledged"])
        shown = "".join(rf'<td class="right number">{grouped(count)}</td>' for count in cells)
        assert re.search(rf">{arm}</th>{shown}", question), arm
    assert console.log.catch_up()["storefront"].counting.generation == 0  # to ask changes nothing
    done = console.command(admin, "recount", seen=seen_in(question), reason="Redis was edited")
    assert (done.status_code, done.json()["status"]) == (200, "running")
    record = console.log.history("storefront")[-1]
    assert (record.kind, record.reason, record.author[:6]) == ("recount", "Redis was edited", "admin:")
    assert record.detail.from_ms == 0
    page = admin.get(f"{PAGE}/decisions/{record.revision}", headers=HTML).text
    assert "Dropped counts" in page
    assert record.detail.dropped.digest in page


def test_a_recount_from_now_on_starts_every_race_anew(console):
    admin = console.client("adm")
    before = console.log.catch_up()["storefront"]
    seen = seen_in(asked_recount(console, admin))
    assert console.command(admin, "recount", seen=seen, from_now="true").status_code == 200
    state = console.log.catch_up()["storefront"]
    assert state.counting.from_ms > console.now_ms
    assert min(race.index for race in state.races) > max(race.index for race in before.races)


def test_sums_that_nobody_saw_are_not_dropped(console, story):
    admin = console.client("adm")
    seen = seen_in(asked_recount(console, admin))
    for form, status in (({}, 422), ({"seen": "x"}, 422), ({"seen": seen, "reason": " "}, 422)):
        assert console.command(admin, "recount", **form).status_code == status
    assert admin.post(f"{PAGE}/commands/recount", data={"seen": seen, "reason": "x"}).status_code == 403
    assert console.log.catch_up()["storefront"].revision == story.state.revision
    assert console.command(admin, "recount", seen=seen).status_code == 200
    again = console.command(admin, "recount", seen=seen)  # a second click drops nothing more
    assert again.status_code == 409
    assert "recounted since" in again.json()["error"]
    assert console.log.catch_up()["storefront"].counting.generation == 1


def test_an_analyst_and_a_stranger_are_not_asked(console):
    assert console.client("ana").get(f"{PAGE}/recount").status_code == 403
    assert console.client().get(f"{PAGE}/recount").status_code == 401


def test_what_a_recount_lacks_is_named_and_nothing_changes(console, story):
    admin = console.client("adm")
    seen = seen_in(asked_recount(console, admin))
    console.recounting.store.down = True
    for answer in (admin.get(f"{PAGE}/recount"), console.command(admin, "recount", seen=seen)):
        assert answer.status_code == 503
        assert "Redis is unavailable" in answer.json()["error"]
    assert console.log.catch_up()["storefront"].revision == story.state.revision


def test_the_question_names_unreadable_sums_and_a_cut_log(console):
    store = console.recounting.store
    at, _ = store.load(0)
    store.apply(0, at, Positions("memory-1", 2, 2, 2), {"storefront": {"what|<b>": 1}})
    console.recounting.open_log()._broker.truncate("exposures", 0, 20)
    admin = console.client("adm")
    question = asked_recount(console, admin)
    assert "These counts can't be read: &#39;what|&lt;b&gt;&#39; is not" in question
    assert "exposures/0 begins at offset 20" in question
    assert re.search(r'value="false" disabled', question)
    assert re.search(r'value="true" checked', question)
    seen = seen_in(question)
    assert console.command(admin, "recount", seen=seen).status_code == 409
    assert console.command(admin, "recount", seen=seen, from_now="true").status_code == 200


def test_a_hold_for_wrong_sums_offers_a_recount_first(console, story):
    held = commands.hold(
        story.state, ["arm als: 3 off"], Provenance("decider", story.now_ms, rule="broken-identity")
    )
    parts = console.client("adm").get(f"{PAGE}/live").json()["parts"]
    assert "recount" not in parts["arms"]
    console.log.append(held)
    console.follower.refresh()
    parts = console.client("adm").get(f"{PAGE}/live").json()["parts"]
    assert "Recount before resuming: resuming would base decisions on these counts." in parts["headline"]
    assert parts["arms"].index('data-command="recount"') < parts["arms"].index('data-command="resume"')
    analyst = console.client("ana")
    assert "data-command" not in analyst.get(PAGE, headers=HTML).text
