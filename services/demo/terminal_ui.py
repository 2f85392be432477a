"""Terminal output of the demo: steps, addresses, the arms' shares of the traffic, the newest decisions."""

import math

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from experiments.lifecycle.decisions import RaceEvidence
from services.demo.state import DemoState, Json, Step

LONGEST_BAR = 30
STEPS_SHOWN, DECISIONS_SHOWN = 9, 3
FRAME = 4  # columns of the panel's borders and blanks
OTHER_COLUMNS = 62  # columns of the arms' table without the bar
FOOT = 2  # rows below the decisions
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
RUNNING = "Press Ctrl-C to stop the demo."
FINISHED = "The story is complete. Explore as long as you like; press Ctrl-C to stop the demo."


class TerminalUi:
    """Renders the demo's state. The panel is no higher than the terminal below the addresses. Without a
    terminal it prints each fact once, as a line. `finished`: the story has ended and the viewer may stay."""

    def __init__(self, state: DemoState, console: Console, differences: list[str]):
        self._state, self._console, self._differences = state, console, differences
        self.addresses: dict[str, str] = {}
        self.finished = False
        self._printed: set[str] = set()

    def __rich__(self) -> RenderableType:
        """The panel."""
        width, rows = self._console.width - FRAME, self._console.height - len(self.addresses) - 3 - FOOT
        with self._state.lock:
            parts: list[RenderableType] = []
            if self._state.weights:
                parts.append(_arms(self._state, min(LONGEST_BAR, max(1, width - OTHER_COLUMNS))))
                rows -= len(self._state.weights[-1][1]) + 2
            steps = _visible(self._state.steps, min(STEPS_SHOWN, max(1, rows - DECISIONS_SHOWN - 1)))
            decisions = _decisions(self._state, self._console, width, rows - len(steps))
            parts = [_steps(steps), *parts, *decisions, self._pages()]
        parts.append(_line(FINISHED if self.finished else RUNNING, "bold" if self.finished else "dim"))
        return Panel(Group(*parts), title="Ringside: models compete for traffic", border_style="blue")

    def _pages(self) -> Text:
        """Which pages respond; their addresses are printed above."""
        states = {name: name in self._state.responding for name in self.addresses}
        parts = [
            (f"{name} {'ready' if up else 'starting…'}   ", "" if up else "dim")
            for name, up in states.items()
        ]
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")

    def print_news(self) -> None:
        """Print new facts, a line each, for logs and pipes."""
        with self._state.lock:
            for step in self._state.steps:
                self._once(f"{step.started_s:6.1f} s  {step.title} …", f"begun {id(step)}")
                if step.ended_s is not None:
                    note = f" ({step.note})" if step.note else ""
                    self._once(f"{step.ended_s:6.1f} s  {step.title}: done{note}", f"ended {id(step)}")
            for at_s, notice in self._state.notices:
                self._once(f"{at_s:6.1f} s  {notice}", f"{at_s} {notice}")
            for at_s, shares in self._state.weights:
                text = ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())
                self._once(f"{at_s:6.1f} s  traffic: {text}", f"weights {at_s}")
            for name in self._state.responding & self.addresses.keys():
                self._once(f"{name} is ready: {self.addresses[name]}", f"ready {name}")
        if self.finished:
            self._once(FINISHED, FINISHED)

    def print_addresses(self) -> None:
        """Print how the demo differs from the product, and the addresses, a line each and never cut: the
        longest has 80 characters."""
        profile = "Demo profile: " + "; ".join(self._differences) + "."
        self._once(profile, "profile", soft_wrap=not self._console.is_terminal)
        for name, address in self.addresses.items():
            self._once(f"{name:<7} {address}", name)

    def _once(self, line: str, key: str, *, soft_wrap: bool = True) -> None:
        if key not in self._printed:
            self._printed.add(key)
            self._console.print(line, highlight=False, soft_wrap=soft_wrap, markup=False)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _visible(steps: list[Step], limit: int) -> list[Step]:
    """The newest steps, in order; running steps take precedence."""
    by_precedence = sorted(range(len(steps)), key=lambda index: (steps[index].ended_s is None, index))
    return [steps[index] for index in sorted(by_precedence[-limit:])]


def _steps(steps: list[Step]) -> RenderableType:
    """One row for each step; long notes are cut."""
    table = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, None, None, 1):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    for step in steps:
        running = step.ended_s is None
        mark: RenderableType = Spinner("dots", style="cyan") if running else Text("✓", style="green")
        at_s = step.started_s if step.ended_s is None else step.ended_s
        table.add_row(f"{at_s:5.0f} s", mark, _line(step.title), _line(step.note, "dim"))
    return table


def _arms(state: DemoState, bar: int) -> RenderableType:
    """One row for each arm; `bar`: columns of a bar of 100 %."""
    table = Table(expand=True, box=None, header_style="dim")
    table.add_column("arm", no_wrap=True)
    table.add_column("traffic", no_wrap=True, min_width=bar + 5)
    table.add_column("sessions clicked", no_wrap=True, justify="right")
    table.add_column("evidence against it", no_wrap=True)
    races = _races(state)
    for index, (arm, share) in enumerate(state.weights[-1][1].items()):
        shown = Text("█" * round(bar * share), style=COLOURS[index % len(COLOURS)]) + Text(f" {share:.0%}")
        table.add_row(arm, shown, _clicked(state.shoppers, arm), _evidence(races.get(arm)))
    failed = sum(state.shoppers.get("errors", {}).values())
    line = f"{state.requests_per_s:,.0f} requests/s from simulated shoppers, {failed} failed"
    return Group(table, _line(line, "dim"))


def _races(state: DemoState) -> dict[str, RaceEvidence]:
    """Newest numbers of each race, by arm."""
    for decision in reversed(state.decisions):
        if decision.evidence.races:
            return {race.arm: race for race in decision.evidence.races}
    return {}


def _evidence(race: RaceEvidence | None) -> str:
    """The e-value of the click race, and the e-value at which the arm is rolled back (1/alpha)."""
    if race is None or race.log_e is None or race.log_threshold is None:
        return ""
    return f"E = {_exp(race.log_e)}, limit {_exp(race.log_threshold)}"


def _exp(log_value: float) -> str:
    if abs(log_value) >= 12:
        return f"10^{log_value / math.log(10):.1f}"
    return f"{math.exp(log_value):,.0f}" if log_value >= math.log(10) else f"{math.exp(log_value):.2g}"


def _clicked(shoppers: Json, arm: str) -> str:
    row = shoppers.get("sessions", {}).get(arm)
    return f"{row['clicked'] / row['sessions']:.1%} of {row['sessions']:,}" if row and row["sessions"] else ""


def _decisions(state: DemoState, console: Console, width: int, rows: int) -> list[Text]:
    """The newest decisions and notices under a heading: in full if they fit into `rows`, else one row each,
    else fewer."""
    newest = [decision for decision in state.decisions if decision.kind != "allocate"][-DECISIONS_SHOWN:]
    lines = [(f"  {decision.kind}: {decision.reason}", "") for decision in newest]
    lines += [(f"  {at_s:.0f} s: {notice}", "yellow") for at_s, notice in state.notices[-DECISIONS_SHOWN:]]
    texts = [Text(text, style) for text, style in lines]
    if sum(len(text.wrap(console, width)) for text in texts) >= rows:
        cut = lines[max(0, len(lines) - rows + 1) :]
        texts = [_line(" ".join(text.split()), style) for text, style in cut]
    return [Text("decisions", style="dim"), *texts] if texts and rows > 1 else []
