"""The report of a run, as tables."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.crash.play import Outcome
from tests.crash.schedule import EVERY_SHOCK, KINDS

NAMED = 10
FIGURES = ("commands", "slates", "broken", "events", "minutes")


def show(outcomes: Sequence[Outcome]) -> None:
    """Kills, traffic, proofs, and what is wrong."""
    console = Console(width=180)
    console.print(killed(outcomes))
    console.print(instants(outcomes))
    console.print(proved(outcomes))
    for outcome in outcomes:
        for text in outcome.wrong[:NAMED]:
            console.print(f"{outcome.scenario.name}: {text}", style="red", markup=False, highlight=False)
        if len(outcome.wrong) > NAMED:
            console.print(f"{outcome.scenario.name}: … {len(outcome.wrong)} in all", style="red")


def killed(outcomes: Sequence[Outcome]) -> Table:
    """A row a scenario."""
    table = Table(title="Processes killed (SIGKILL) and hung (SIGSTOP … SIGCONT) under load")
    for name in ("scenario", *KINDS, "kills", "hung", *EVERY_SHOCK, *FIGURES):
        table.add_column(name, justify="left" if name == "scenario" else "right")
    total: Counter[str] = Counter()
    for outcome in outcomes:
        row = _figures(outcome)
        total.update(row)
        table.add_row(outcome.scenario.name, *(_told(row[name]) for name in row))
    if len(outcomes) > 1:
        table.add_section()
        table.add_row("all", *(_told(count) for count in total.values()))
    return table


def _figures(outcome: Outcome) -> dict[str, float]:
    told, seen = outcome.told, outcome.seen
    return {
        **{kind: told.kills[kind] for kind in KINDS},
        "kills": told.kills.total(),
        "hung": told.hangs.total(),
        **{shock: told.shocks[shock] for shock in EVERY_SHOCK},
        "commands": outcome.commands,
        "slates": seen.statuses.total(),
        "broken": seen.broken,
        "events": len(seen.acknowledged),
        "minutes": outcome.seconds / 60,
    }


def _told(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def instants(outcomes: Sequence[Outcome]) -> Table:
    """Kills between two writes."""
    table = Table(title="Of these, at a chosen instant between two writes")
    for name in ("process", "instant", "kills"):
        table.add_column(name, justify="right" if name == "kills" else "left")
    total: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        total.update(outcome.told.instants)
    for (kind, what), count in sorted(total.items()):
        table.add_row(kind, what, str(count))
    return table


def proved(outcomes: Sequence[Outcome]) -> Table:
    """A row a proof."""
    table = Table(title="Afterwards")
    for name in ("proof", "compared", "differences"):
        table.add_column(name, justify="left" if name == "proof" else "right")
    compared: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for outcome in outcomes:
        for finding in outcome.findings:
            compared[finding.what] += finding.compared
            wrong[finding.what] += len(finding.wrong)
    for what, count in compared.items():
        table.add_row(what, f"{count:,}", f"[red]{wrong[what]}" if wrong[what] else "0")
    return table
