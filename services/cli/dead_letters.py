"""`ringside dead-letters …`: what could not be read, and putting it back after what was wrong is mended."""

import base64
import getpass
import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services import bootstrap
from services.dead_letters.reader import Letter, Wanted, letters
from services.dead_letters.replay import plan, put_back
from services.errors import BadInputError
from services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Records that no worker could read, with bytes and reason.")

Topic = Annotated[str, typer.Option("--topic", help="Only letters that came from this topic.")]
Reason = Annotated[str, typer.Option("--reason", help="Only letters whose code or reason holds this text.")]
Offsets = Annotated[list[int] | None, typer.Option("--offset", help="Only this letter; may be repeated.")]
Scan = Annotated[int, typer.Option("--scan", min=1, help="Look at this many newest records of the topic.")]
FIRST_BYTES = 48


@app.command()
def show(
    topic: Topic = "",
    reason: Reason = "",
    offset: Offsets = None,
    last: Annotated[int, typer.Option("--last", min=1, help="Show at most this many, the newest.")] = 50,
    scan: Scan = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all bytes.")] = False,
) -> None:
    """List dead letters, oldest first."""
    found, unseen = _found(Settings(), Wanted(topic, reason, frozenset(offset or ())), scan)
    if as_json:
        for letter in found[-last:]:
            typer.echo(json.dumps(as_object(letter)))
        return
    console = Console()
    console.print(as_table(found[-last:]))
    _tell_bounds(console, len(found) - last, unseen)


@app.command()
def replay(
    topic: Topic = "",
    reason: Reason = "",
    offset: Offsets = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter; needed without a filter.")] = False,
    scan: Scan = 20_000,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this it only says what it would do.")
    ] = False,
) -> None:
    """Put letters back on the topic they came from, same bytes and key, each once.

    One that fails again becomes a new letter. Counting is not disturbed: readers know copies by their ids.
    """
    if not (topic or reason or offset or everything):
        raise BadInputError("--all", "say which letters: --topic, --reason, --offset, or --all")
    settings = Settings()
    found, unseen = _found(settings, Wanted(topic, reason, frozenset(offset or ())), scan)
    planned, console = plan(found), Console()
    _tell_plan(console, planned)
    _tell_bounds(console, 0, unseen)
    ready = [letter for letter, why in planned if not why]
    if not yes:
        console.print(f"{len(ready)} letters would be put back; --yes does it.")
        return
    _put_back(settings, console, ready)


def as_table(found: list[Letter]) -> Table:
    """One row a letter."""
    table = Table("letter", "time (UTC)", "origin", "code", "reason", "first bytes", "put back")
    for letter in found:
        when = "" if letter.replayed_ms is None else _at(letter.replayed_ms)
        cells = (
            str(letter.offset),
            _at(letter.at_ms),
            str(letter.origin or "unknown"),
            letter.code,
            letter.reason,
            _first(letter.value),
            when,
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table


def as_object(letter: Letter) -> dict[str, Any]:
    """JSON-able, with key and value in base64 (they may be anything)."""
    return {
        "offset": letter.offset,
        "at_ms": letter.at_ms,
        "origin": str(letter.origin) if letter.origin else None,
        "code": letter.code,
        "reason": letter.reason,
        "reader": letter.reader,
        "cut": letter.cut,
        "replay_of": letter.replay_of,
        "replayed_ms": letter.replayed_ms,
        "key_base64": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "value_base64": base64.b64encode(letter.value).decode(),
    }


def _found(settings: Settings, wanted: Wanted, scan: int) -> tuple[list[Letter], int]:
    consumer = bootstrap.consumer(settings)
    try:
        found, unseen = letters(consumer, scan)
    finally:
        consumer.close()
    return [letter for letter in found if wanted(letter)], unseen


def _put_back(settings: Settings, console: Console, ready: list[Letter]) -> None:
    producer, author = bootstrap.producer(settings), f"shell:{getpass.getuser()}"
    try:
        for letter in ready:
            where = put_back(producer, letter, author)
            console.print(f"letter {letter.offset} → {where.topic}/{where.partition}/{where.offset}")
    finally:
        producer.close()
    console.print(f"{len(ready)} letters were put back.")


def _tell_plan(console: Console, planned: list[tuple[Letter, str]]) -> None:
    for letter, why in planned:
        told = f"is left: {why}" if why else f"goes back to {letter.origin.topic}" if letter.origin else ""
        console.print(escape(f"letter {letter.offset} of {letter.origin or 'unknown origin'} {told}"))


def _tell_bounds(console: Console, hidden: int, unseen: int) -> None:
    if hidden > 0:
        console.print(f"{hidden} older ones are not shown; --last shows more.")
    if unseen > 0:
        console.print(f"{unseen} older records of the topic were not looked at; --scan looks further.")


def _at(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1_000))


def _first(value: bytes) -> str:
    """The first bytes as text, what can't be shown as escapes."""
    shown = value[:FIRST_BYTES].decode("utf-8", "backslashreplace")
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return printable + ("…" if len(value) > FIRST_BYTES else "")
