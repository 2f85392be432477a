"""`ringside dead-letters …`: list records that could not be decoded, and replay them once that is fixed."""

import getpass
import time
from contextlib import closing
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services import bootstrap
from services.dead_letters.reader import DeadLetter, DeadLetterFilter, read_dead_letters
from services.dead_letters.replay import Planned, plan
from services.dead_letters.replay import replay as replay_letter
from services.errors import BadInputError
from services.runtime.dead_letters import source_of
from services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Records that no worker could decode, with bytes and reason.")

Topic = Annotated[str, typer.Option("--topic", help="Only dead letters of records of this topic.")]
Reason = Annotated[str, typer.Option("--reason", help="Only those whose code or reason contains this text.")]
Offsets = Annotated[list[int] | None, typer.Option("--offset", help="Only this offset; may be repeated.")]
Scan = Annotated[int, typer.Option("--scan", min=1, help="Read this many of the newest records.")]
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
    letters, unread = _read(Settings(), DeadLetterFilter(topic, reason, frozenset(offset or ())), scan)
    if as_json:
        for letter in letters[-last:]:
            typer.echo(msgspec.json.encode(letter))  # bytes become base64
        return
    console = Console()
    console.print(as_table(letters[-last:]))
    _print_bounds(console, len(letters) - last, unread)


@app.command()
def replay(
    topic: Topic = "",
    reason: Reason = "",
    offset: Offsets = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All dead letters; required without a filter.")
    ] = False,
    scan: Scan = 20_000,
    yes: Annotated[
        bool, typer.Option("--yes", help="Replay; without this, only print what would happen.")
    ] = False,
) -> None:
    """Append dead letters to the topic they came from, with the same bytes and key, each once.

    A record that fails again becomes a new dead letter. Counts stay right: readers recognise copies.
    """
    if not (topic or reason or offset or everything):
        raise BadInputError("--all", "select dead letters by --topic, --reason or --offset, or give --all")
    settings = Settings()
    letters, unread = _read(settings, DeadLetterFilter(topic, reason, frozenset(offset or ())), scan)
    planned, console = plan(letters), Console()
    _print_plan(console, planned)
    _print_bounds(console, 0, unread)
    ready = [letter for letter, obstacle in planned if not obstacle]
    if not yes:
        console.print(f"{len(ready)} dead letters would be replayed; add --yes to do it.")
        return
    _replay(settings, console, ready)


def as_table(letters: list[DeadLetter]) -> Table:
    """Build a table with one row for each dead letter."""
    table = Table("offset", "time (UTC)", "origin", "code", "reason", "first bytes", "replayed")
    for letter in letters:
        cells = (
            str(letter.offset),
            _time(letter.at_ms),
            letter.source or "unknown",
            letter.code,
            letter.reason,
            _preview(letter.value),
            "" if letter.replayed_ms is None else _time(letter.replayed_ms),
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _read(settings: Settings, selected: DeadLetterFilter, scan: int) -> tuple[list[DeadLetter], int]:
    with closing(bootstrap.consumer(settings)) as consumer:
        letters, unread = read_dead_letters(consumer, scan)
    return [letter for letter in letters if selected.matches(letter)], unread


def _replay(settings: Settings, console: Console, ready: list[DeadLetter]) -> None:
    author = f"shell:{getpass.getuser()}"
    with closing(bootstrap.producer(settings)) as producer:
        for letter in ready:
            record = replay_letter(producer, letter, author)
            console.print(f"dead letter {letter.offset} → {source_of(record)}")
    console.print(f"{len(ready)} dead letters were replayed.")


def _print_plan(console: Console, planned: list[Planned]) -> None:
    for letter, obstacle in planned:
        source = letter.source or "unknown origin"
        outcome = f"is skipped: {obstacle}" if obstacle else "is replayed"
        console.print(escape(f"dead letter {letter.offset} of {source} {outcome}"))


def _print_bounds(console: Console, hidden: int, unread: int) -> None:
    if hidden > 0:
        console.print(f"{hidden} older dead letters are not shown; raise --last to show them.")
    if unread > 0:
        console.print(f"{unread} older records of the topic were not read; raise --scan to read them.")


def _time(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_ms / 1_000))


def _preview(value: bytes) -> str:
    """Return the first bytes as text, with escapes for what can't be printed."""
    text = value[:FIRST_BYTES].decode("utf-8", "backslashreplace")
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return printable + ("…" if len(value) > FIRST_BYTES else "")
