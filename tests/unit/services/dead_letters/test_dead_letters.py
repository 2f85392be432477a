"""`ringside dead-letters`: any record of the topic is listed, and each source record is replayed once."""

import base64
import json
from concurrent.futures import Future
from typing import Any

import pytest
from support.breakable import BreakableBroker
from typer.testing import CliRunner

from services import bootstrap
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer
from services.cli.main import app
from services.dead_letters import reader
from services.dead_letters.reader import DeadLetterFilter, read_dead_letters
from services.dead_letters.replay import plan, replay
from services.errors import BadMessageError, UnavailableError
from services.messages import events
from services.messages.events import DEAD_LETTERS, DECISIONS, EVENTS, ITEMS
from services.ports.event_log import Record
from services.runtime import dead_letters
from services.runtime.dead_letters import DeadLetterWriter

BAD = b"\xff\x00[bold]"
SCHEMA = BadMessageError("not an Event: `ts` is wrong", "schema")


@pytest.fixture
def broker(memory_broker: BreakableBroker, monkeypatch: pytest.MonkeyPatch) -> BreakableBroker:
    monkeypatch.setattr(bootstrap, "consumer", lambda settings: MemoryEventConsumer(memory_broker))
    monkeypatch.setattr(bootstrap, "producer", lambda settings: MemoryEventProducer(memory_broker))
    return memory_broker


def dead_letter(
    broker: BreakableBroker, record: Record, error: BadMessageError = SCHEMA, reader: str = "lake"
) -> None:
    dead = DeadLetterWriter(MemoryEventProducer(broker), reader)
    dead.dead_letter(record, error)
    dead.flush()


def dead_letters_of(broker: BreakableBroker, newest: int = 100) -> list[reader.DeadLetter]:
    return read_dead_letters(MemoryEventConsumer(broker), newest)[0]


def ringside(*words: str) -> Any:
    result = CliRunner().invoke(app, ["dead-letters", *words], env={"COLUMNS": "250"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_letter_tells_where_when_why_and_what(broker):
    record = broker.append(EVENTS, b"\xfekey", BAD)
    dead_letter(broker, record)
    [line] = ringside("show", "--json").splitlines()
    shown = json.loads(line)
    assert shown["origin"] == f"events/{record.partition}/{record.offset}"
    assert (shown["code"], shown["reader"]) == ("schema", "lake")
    assert base64.b64decode(shown["key_base64"]) == b"\xfekey"
    assert base64.b64decode(shown["value_base64"]) == BAD
    table = ringside("show")
    assert r"\xff\x00[bold]" in table
    assert "`ts` is wrong" in table


def test_letters_are_chosen_and_bounded(broker):
    for number in range(30):
        topic = ITEMS if number % 2 else EVENTS
        code = "version" if number % 3 else "not-json"
        dead_letter(broker, broker.append(topic, b"k", b"%d" % number), BadMessageError("no", code))
    assert (
        len([letter for letter in dead_letters_of(broker) if DeadLetterFilter(topic=ITEMS).matches(letter)])
        == 15
    )
    assert (
        len(
            [
                letter
                for letter in dead_letters_of(broker)
                if DeadLetterFilter(reason="VERSION").matches(letter)
            ]
        )
        == 20
    )
    shown = ringside("show", "--topic", "items", "--last", "4", "--json").splitlines()
    assert [base64.b64decode(json.loads(line)["value_base64"]) for line in shown] == [
        b"23", b"25", b"27", b"29",
    ]  # fmt: skip
    assert read_dead_letters(MemoryEventConsumer(broker), 10)[1] == 20
    assert "20 older records of the topic were not read" in ringside("show", "--scan", "10")
    assert "26 older dead letters are not shown" in ringside("show", "--last", "4")


GARBAGE_HEADERS = [
    (),
    (("origin", b"\xff/\xfe"), ("reason", b"\xff")),
    (("origin", b"events/0"),),
    (("origin", b"events/-1/x"), ("cut", b"many")),
    (("origin", "events/²/1".encode()),),
    (("origin", b"nowhere/0/1"),),
    (("origin", b"dead-letters/0/0"),),
    (("replayed", b"-3"),),
    (("replayed", b"9" * 40),),
    *[((name, b"9" * 5_000),) for name in ("replayed", "replay-of", "cut")],
    (("origin", b"events/0/" + b"9" * 5_000),),
    (("origin", b"events/" + b"9" * 5_000 + b"/0"),),
]


@pytest.mark.parametrize("headers", GARBAGE_HEADERS)
def test_malformed_dead_letters_are_shown_and_never_replayed(broker, headers):
    broker.append(DEAD_LETTERS, None, BAD, headers)
    ringside("show")
    ringside("show", "--json")
    before = sum(len(broker.records(topic)) for topic in (EVENTS, DECISIONS, ITEMS))
    assert "0 dead letters were replayed" in ringside("replay", "--all", "--yes")
    assert sum(len(broker.records(topic)) for topic in (EVENTS, DECISIONS, ITEMS)) == before


def test_replay_previews_first_and_runs_once_when_confirmed(broker):
    record = broker.append(EVENTS, b"\xfeada", BAD)
    dead_letter(broker, record)
    assert "1 dead letters would be replayed" in ringside("replay", "--all")
    assert len(broker.records(EVENTS)) == 1
    assert "1 dead letters were replayed" in ringside("replay", "--all", "--yes")
    assert "0 dead letters were replayed" in ringside("replay", "--all", "--yes")
    assert "already replayed" in ringside("replay", "--all")
    first, second = broker.records(EVENTS)
    assert (second.key, second.value, second.partition) == (first.key, first.value, first.partition)


def test_a_replay_without_a_choice_is_refused():
    result = CliRunner().invoke(app, ["dead-letters", "replay", "--yes"])
    assert "--all: select dead letters" in str(result.exception)


def test_a_failed_replay_makes_a_letter_naming_the_first(broker):
    dead_letter(broker, broker.append(EVENTS, b"ada", BAD))
    replay(MemoryEventProducer(broker), dead_letters_of(broker)[0], "anna")
    again = broker.records(EVENTS)[-1]
    dead_letter(broker, again)
    old, new = dead_letters_of(broker)
    assert (old.replayed_ms is not None, new.replayed_ms, new.replay_of) == (True, None, old.offset)
    assert new.source == f"events/{again.partition}/{again.offset}"
    assert [why for _, why in plan(dead_letters_of(broker))] == ["already replayed", ""]


def test_copies_of_one_letter_go_back_once(broker):
    record = broker.append(EVENTS, b"ada", BAD)
    dead_letter(broker, record)
    dead_letter(broker, record)  # a worker crashed before it stored its position
    assert [why for _, why in plan(dead_letters_of(broker))] == ["", "a copy of a dead letter above"]
    replay(MemoryEventProducer(broker), dead_letters_of(broker)[0], "anna")
    assert [why for _, why in plan(dead_letters_of(broker))] == ["already replayed"] * 2


def test_what_was_cut_is_not_put_back(broker):
    record = broker.append(EVENTS, b"ada", BAD)
    headers = (("origin", b"events/0/1"), ("cut", b"99999"))
    broker.append(DEAD_LETTERS, None, record.value, headers)
    assert [why for _, why in plan(dead_letters_of(broker))] == [
        f"only {len(BAD)} of its 99999 bytes were kept"
    ]


def test_a_broker_that_falls_silent_is_unavailable(broker, monkeypatch):
    monkeypatch.setattr(reader, "IDLE_S", 0.0)
    monkeypatch.setattr(reader, "POLL_S", 0.0)
    dead_letter(broker, broker.append(EVENTS, b"ada", BAD))

    class Silent(MemoryEventConsumer):
        def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
            return []

    with pytest.raises(UnavailableError, match="nothing came after offset 0"):
        read_dead_letters(Silent(broker), 10)


def test_a_dead_letter_is_sent_once_despite_rereads(broker):
    record = broker.append(EVENTS, b"ada", BAD)
    dead = DeadLetterWriter(MemoryEventProducer(broker), "bandit")
    for _ in range(3):
        dead.dead_letter(record, SCHEMA)
        dead.flush()
    assert len(broker.records(DEAD_LETTERS)) == 1


class Slow:
    """A producer whose broker answers when the test says so."""

    def __init__(self) -> None:
        self.answers: list[Future[Record]] = []

    def send(self, *_what: Any) -> "Future[Record]":
        self.answers.append(Future())
        return self.answers[-1]


def test_only_failed_dead_letters_are_sent_again(monkeypatch):
    monkeypatch.setattr(dead_letters, "ACKNOWLEDGE_S", 0.0)
    slow = Slow()
    dead = DeadLetterWriter(slow, "bandit")
    records = [Record(EVENTS, 0, offset, 0, None, BAD) for offset in range(4)]
    for record in records:
        dead.dead_letter(record, SCHEMA)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="4 records"):
            dead.flush()
    assert len(slow.answers) == 4
    slow.answers[0].set_result(records[0])
    slow.answers[1].set_exception(UnavailableError("broker", "gone"))
    with pytest.raises(UnavailableError, match="3 records"):
        dead.flush()
    assert len(slow.answers) == 5
    for answer in slow.answers[2:]:
        answer.set_result(records[2])
    dead.flush()
    assert len(slow.answers) == 5


def test_all_letters_together_have_one_deadline(monkeypatch):
    """A deadline for each would make the worker look dead."""
    monkeypatch.setattr(dead_letters, "ACKNOWLEDGE_S", 0.001)
    waited = []

    class Watched(Future):
        def result(self, timeout: float | None = None) -> Record:
            waited.append(timeout)
            return super().result(timeout)

    slow = Slow()
    monkeypatch.setattr(slow, "send", lambda *_what: Watched())
    dead = DeadLetterWriter(slow, "bandit")
    for offset in range(50):
        dead.dead_letter(Record(EVENTS, 0, offset, 0, None, BAD), SCHEMA)
    with pytest.raises(UnavailableError, match="50 records"):
        dead.flush()
    assert waited == []  # there is no wait for a single one


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\xff", "not-json"),
        (b'{"received_at": 1, "v": 2}', "version"),
        (b'{"v": "two", "received_at": 1}', "version"),
        (b'{"received_at": "noon"}', "schema"),
        (b"[" * 100_000, "schema"),
        (b"7", "schema"),
    ],
)
def test_why_bytes_are_no_message(raw, code):
    with pytest.raises(BadMessageError) as caught:
        events.decode(events.Event, raw)
    assert caught.value.code == code
