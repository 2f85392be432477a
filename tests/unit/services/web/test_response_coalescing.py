"""Head and body of a response leave in one piece, in order, whatever the connection does."""

import asyncio
from collections.abc import Callable

import pytest

from services.recommend.app import Ids
from services.web.response_coalescing import CoalescingTransport


class Wire:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.said: list[bytes | str] = []
        self.gone = False

    def write(self, data: bytes) -> None:
        assert not self.gone, "a closed transport refuses to write"
        self.said.append(data)

    def close(self) -> None:
        self.said.append("closed")
        self.gone = True

    def is_closing(self) -> bool:
        return self.gone

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def played(scene: Callable[[CoalescingTransport, Wire], None]) -> list[bytes | str]:
    """What went over the wire when `scene` and the turn of the loop that it is played in are over."""
    wire = Wire()

    async def turn() -> None:
        scene(CoalescingTransport(wire, asyncio.get_running_loop()), wire)  # type: ignore[arg-type]
        await asyncio.sleep(0)

    asyncio.run(turn())
    return wire.said


def test_a_head_leaves_with_its_body() -> None:
    def answer(out: CoalescingTransport, wire: Wire) -> None:
        out.write(b"head")
        assert wire.said == []
        out.write(b"body")

    assert played(answer) == [b"headbody"]


def test_a_lone_chunk_is_sent_at_the_turns_end() -> None:
    assert played(lambda out, _: out.write(b"head")) == [b"head"]


def test_pipelined_answers_keep_their_order() -> None:
    def answers(out: CoalescingTransport, _: Wire) -> None:
        for piece in (b"1", b"2", b"3", b"4", b"5"):
            out.write(piece)

    assert b"".join(map(bytes, played(answers))) == b"12345"


def test_closing_sends_what_is_held() -> None:
    def answer(out: CoalescingTransport, _: Wire) -> None:
        out.write(b"last words")
        out.close()

    assert played(answer) == [b"last words", "closed"]


def test_a_caller_that_hung_up_is_written_nothing() -> None:
    def answer(out: CoalescingTransport, wire: Wire) -> None:
        out.write(b"head")
        wire.gone = True

    assert played(answer) == []


def test_all_else_is_the_transports_own() -> None:
    def ask(out: CoalescingTransport, _: Wire) -> None:
        assert out.get_extra_info("peername") == "the peername"

    assert played(ask) == []


@pytest.mark.parametrize("count", [1, 255, 256, 2_000])
def test_ids_are_128_bits_in_hex_and_never_the_same(count: int) -> None:
    ids = Ids()
    made = [ids() for _ in range(count)]
    assert len(set(made)) == count
    assert all(len(bytes.fromhex(one)) == 16 for one in made)
