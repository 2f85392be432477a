"""Known secrets, looked for in all that processes write: answers, pages, metrics, logs, command lines."""

import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.asgi_calls import racing_shop
from support.breakable import BreakableStateCache
from support.console_story import ScriptedExperiment, decision_log_of, recount_service_of
from support.raw_sockets import exchange, running_server
from support.small_shop import KEYS, SIGNING

from services.console.app import create_app
from services.console.log_follower import LogFollower
from services.demo import installation
from services.demo.profile import Profile
from services.settings import Settings
from services.web.api_keys import digest_of

PASSWORD = "pa55-of-redis"
SECRETS = [
    SIGNING,
    PASSWORD,
    *(key for key, _ in KEYS.values()),
    *(digest_of(key) for key, _ in KEYS.values()),
]


def found(text: str) -> list[str]:
    """Secrets in a text."""
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Every line that any library logs, down to the last detail."""
    caplog.set_level(logging.DEBUG)
    for client in ("httpx", "httpx2", "httpcore"):  # the test's own callers
        logging.getLogger(client).setLevel(logging.CRITICAL)
    return caplog


def test_no_secret_in_answers_metrics_or_logs_of_the_service(tmp_path: Path, written: Any) -> None:
    shop = racing_shop(tmp_path, redis_url=f"redis://:{PASSWORD}@nowhere:1/0")
    admin, storefront = KEYS["admin"][0], KEYS["storefront"][0]
    said = []
    with shop.client() as caller:
        for path in ("/metrics", "/health/ready", "/docs", "/openapi.json", "/experiments", "/nothing"):
            said.append(caller.get(path, "admin").text)
        said.append(caller.get(f"/recommend?key={admin}&n=0", None).text)
        said.append(caller.get(f"/popular?key={storefront}x", None).text)
        said.append(caller.post(f"/events?key={admin}", [{"event_id": admin}], None).text)
        said.append(caller.post("/champion-only", {"on": True, "reason": "test"}, "admin").text)
        said.append(caller.get("/experiments/storefront/decisions", "admin").text)
        caller.parts.storefront._slates.popular = None  # an error that nobody foresaw
        said.append(caller.get(f"/popular?key={storefront}", None).text)
        with running_server(caller.http.app) as at:
            raw = f"GET /popular?key={admin} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
            said.append(exchange(at, raw).raw.decode())
            said.append(
                exchange(at, b"GET /" + admin.encode() + b"\xff\xff HTTP/1.1\r\n\r\n\r\n").raw.decode()
            )
    assert found("\n".join(said)) == []
    assert "unexpected error" in written.text
    assert found(written.text) == []


def test_no_secret_in_pages_or_logs_of_the_console(tmp_path: Path, written: Any) -> None:
    story = ScriptedExperiment(looks=4).play()
    cache = BreakableStateCache(lambda: story.now_ms)
    pairs = ",".join(pair for _, pair in KEYS.values())
    settings = Settings(
        keys=pairs, signing_key=SIGNING, home=tmp_path, redis_url=f"redis://:{PASSWORD}@nowhere:1/0"
    )
    follower = LogFollower(
        lambda: (decision_log_of(story), cache), lambda: story.now_ms, settings.kill_switch_path
    )
    follower.refresh()
    app = create_app(settings, follower, recount_service_of(story), lambda: story.now_ms, follow=False)
    client = TestClient(app)
    pages = [client.post("/login", data={"key": KEYS["admin"][0] + "x"}), client.get("/login")]
    pages.append(client.post("/login", data={"key": KEYS["admin"][0]}))
    page = "/experiments/storefront"
    pages += [
        client.get(path)
        for path in ("/", page, f"{page}/live", f"{page}/decisions/2", f"{page}/log.csv", "/x")
    ]
    # the session's cookie names its key by the digest, signed: it is the reader's own
    assert found("\n".join(f"{answer.status_code} {answer.text}" for answer in pages)) == []
    assert found(written.text) == []


def test_settings_do_not_show_their_secrets() -> None:
    shown = repr(Settings(signing_key=SIGNING, storefront_key=KEYS["storefront"][0], keys=KEYS["admin"][1],
                          redis_url=f"redis://:{PASSWORD}@nowhere:1/0"))  # fmt: skip
    assert found(shown) == []


def test_no_secret_on_a_command_line(tmp_path: Path) -> None:
    """`ps` shows command lines to everybody on a host; environments only to their owner."""

    class Server:
        url, bootstrap, partitions = "redis://127.0.0.1:1/0", "127.0.0.1:2", 4

    made = installation.new_installation(Settings(), Profile(), Server(), Server(), tmp_path)  # type: ignore[arg-type]
    specs = [
        made.replica(0),
        made.page("console", 1),
        made.process("simulate", "--sessions", "1"),
        made.command("topics"),
    ]
    secrets = [*made.keys.values(), made.env["RINGSIDE_SIGNING_KEY"]]
    assert all(secret in str(specs[0].env) for secret in secrets[:1])
    for spec in specs:
        assert not [secret for secret in secrets if secret in " ".join(map(str, spec.command))]
