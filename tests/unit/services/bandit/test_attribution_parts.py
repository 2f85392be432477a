"""Parts of the attribution worker: watermark, dead letters, data loss."""

from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.breakable import BreakableBroker

from services.adapters.memory.event_log import MemoryEventProducer
from services.bandit.attribution.data_loss import after_loss, find_loss
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.watermark import ReadProgress
from services.errors import BadMessageError, UnavailableError
from services.messages import events
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import Record
from services.ports.state import Positions
from services.runtime.dead_letters import KEPT_BYTES

# ---- watermark -------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["append", "ask for the end", "read"])),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 20),
)
def test_no_record_appended_before_a_watermark_is_read_later(steps, safety_ms):
    """Any order of appends, reads and requests for the end; broker and worker have the same clock."""
    now_ms, log, progress, promised = 1_000, [], ReadProgress(position=0), 0
    for wait_ms, what in steps:
        now_ms += wait_ms
        if what == "append":
            log.append(now_ms)
        elif what == "ask for the end" and progress.needs_end:
            progress.note_end(now_ms, len(log))
        elif what == "read" and progress.position < len(log):
            append_ms = log[progress.position]
            assert append_ms >= promised
            progress.note_record(append_ms)
            progress.advance(progress.position + 1)
        assert progress.watermark(now_ms, safety_ms) >= promised - safety_ms
        promised = max(promised, progress.watermark(now_ms, safety_ms))


def test_only_at_the_logs_end_time_moves_the_watermark():
    progress = ReadProgress(position=0)
    progress.note_end(5_000, end=2)
    progress.note_record(1_000)
    progress.advance(1)
    assert progress.watermark(9_000, 0) == 1_000
    progress.note_record(1_500)
    progress.advance(2)
    assert progress.watermark(9_000, 0) == 5_000
    progress.note_end(8_000, end=2)
    assert progress.watermark(9_000, 100) == 7_900


def test_positions_may_pass_offsets_that_hold_no_record():
    progress = ReadProgress(position=3)
    progress.note_end(5_000, end=9)
    progress.advance(9)
    assert (progress.watermark(5_000, 0), progress.lag) == (5_000, 0)


def test_a_record_from_the_future_does_not_outrun_our_clock():
    progress = ReadProgress(position=0)
    progress.note_record(10**15)
    assert progress.watermark(now_ms=5_000, safety_ms=100) == 4_900


# ---- dead letters ----------------------------------------------------------------------------------------

BAD = Record(EVENTS, 0, 7, 1_000, b"ada", b"\xff")


def fresh(topic: str, offset: int) -> bool:
    return False


def test_a_failed_dead_letter_is_resent_until_acknowledged():
    broker = BreakableBroker(1)
    decoder = Decoder(MemoryEventProducer(broker))
    broker.down = True
    assert decoder.decode([BAD], fresh) == []
    for _ in range(2):
        with pytest.raises(UnavailableError, match="1 records are not acknowledged"):
            decoder.flush_dead_letters()
    broker.down = False
    with pytest.raises(UnavailableError):
        decoder.flush_dead_letters()  # notes the failure and sends the dead letter again
    decoder.flush_dead_letters()
    assert [letter.value for letter in broker.records(events.DEAD_LETTERS)] == [b"\xff"]


def test_a_record_that_is_read_again_is_not_buried_again():
    broker = BreakableBroker(1)
    Decoder(MemoryEventProducer(broker)).decode([BAD], lambda topic, offset: True)
    assert broker.records(events.DEAD_LETTERS) == []


class Narrow(MemoryEventProducer):
    """A producer whose broker rejects records beyond a size."""

    def send(self, topic, key, value, headers=()):
        if len(value) <= KEPT_BYTES:
            return super().send(topic, key, value, headers)
        refused: Future[Record] = Future()
        refused.set_exception(BadMessageError("too large"))
        return refused


def test_what_is_too_large_for_a_dead_letter_is_cut():
    broker = BreakableBroker(1)
    decoder = Decoder(Narrow(broker))
    decoder.decode([Record(EVENTS, 0, 7, 1_000, None, b"x" * 100_000)], fresh)
    with pytest.raises(UnavailableError):
        decoder.flush_dead_letters()
    decoder.flush_dead_letters()
    [letter] = broker.records(events.DEAD_LETTERS)
    assert letter.value == b"x" * KEPT_BYTES
    assert dict(letter.headers)["reason"].endswith(b"(cut)")


# ---- data loss -------------------------------------------------------------------------------------------

AT = Positions("one", exposures=50, events=80, rebuild=40)


@pytest.mark.parametrize(
    ("log_id", "exposures", "events_", "expected"),
    [
        ("one", (0, 90), (0, 90), None),
        ("one", (40, 50), (80, 80), None),
        ("one", (41, 90), (0, 90), "offsets 40 to 40 of exposures/2 are gone, the log begins at 41"),
        ("one", (0, 90), (85, 90), "offsets 80 to 84 of events/2 are gone"),
        ("one", (0, 49), (0, 90), "exposures/2 was counted up to offset 50, but the log ends at 49"),
        ("two", (0, 90), (0, 90), "of log one, but the broker holds log two"),
    ],
)
def test_what_is_gone_is_named_with_its_range(log_id, exposures, events_, expected):
    loss = find_loss(2, AT, log_id, {EXPOSURES: exposures, EVENTS: events_})
    assert loss is None if expected is None else expected in str(loss)


def test_after_a_loss_nothing_half_lost_is_counted():
    whole, cut = {EXPOSURES: (0, 9), EVENTS: (0, 7)}, {EXPOSURES: (0, 9), EVENTS: (3, 7)}
    assert after_loss(AT, "two", whole) == Positions("two", 0, 0, 0)
    assert after_loss(AT, "two", cut) == Positions("two", 9, 7, 9)
    assert after_loss(AT, "one", {EXPOSURES: (60, 90), EVENTS: (0, 90)}) == Positions("one", 90, 90, 90)
