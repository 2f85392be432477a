"""What the viewer sees in the terminal: steps, addresses, the race for traffic, the newest decisions."""

import math

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from services.demo.state import Board, Json, Step

LONGEST_BAR = 30
STEPS_SHOWN, DECISIONS_SHOWN = 9, 3
FRAME = 4  # columns of the panel's borders and blanks
BESIDE_BAR = 62  # columns of the contest that are not the bar
FOOT = 2  # rows below the decisions
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
GOING, TOLD = (
    "Ctrl-C ends everything.",
    "The story is told. Stay as long as you like; Ctrl-C ends everything.",
)


class Screen:
    """Renders a board, no higher than what the terminal has below the addresses. Without a terminal it prints
    each fact once, as a line.

    told: whether the story is over, and one may stay."""

    def __init__(self, board: Board, console: Console, differences: list[str]):
        self._board, self._console, self._differences = board, console, differences
        self.addresses: dict[str, str] = {}
        self.told = False
        self._printed: set[str] = set()

    def __rich__(self) -> RenderableType:
        """The whole screen, from facts of this moment."""
        width, rows = self._console.width - FRAME, self._console.height - len(self.addresses) - 3 - FOOT
        with self._board.lock:
            parts: list[RenderableType] = []
            if self._board.weights:
                parts.append(_contest(self._board, min(LONGEST_BAR, max(1, width - BESIDE_BAR))))
                rows -= len(self._board.weights[-1][1]) + 2
            steps = _chosen(self._board.steps, min(STEPS_SHOWN, max(1, rows - DECISIONS_SHOWN - 1)))
            decisions = _decisions(self._board, self._console, width, rows - len(steps))
            parts = [_steps(steps), *parts, *decisions, self._pages()]
        parts.append(_line(TOLD if self.told else GOING, "bold" if self.told else "dim"))
        return Panel(Group(*parts), title="Ringside: models compete for traffic", border_style="blue")

    def _pages(self) -> Text:
        """Which addresses answer; what they are was printed above."""
        states = {name: name in self._board.answering for name in self.addresses}
        parts = [
            (f"{name} {'open' if up else 'starting…'}   ", "" if up else "dim") for name, up in states.items()
        ]
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")

    def print_news(self) -> None:
        """Print what is new, a line each (for logs and pipes)."""
        with self._board.lock:
            for step in self._board.steps:
                self._once(f"{step.started_s:6.1f} s  {step.title} …", f"begun {id(step)}")
                if step.ended_s is not None:
                    note = f" ({step.note})" if step.note else ""
                    self._once(f"{step.ended_s:6.1f} s  {step.title}: done{note}", f"ended {id(step)}")
            for at_s, notice in self._board.notices:
                self._once(f"{at_s:6.1f} s  {notice}", f"{at_s} {notice}")
            for at_s, shares in self._board.weights:
                told = ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())
                self._once(f"{at_s:6.1f} s  weights: {told}", f"weights {at_s}")
            for name in self._board.answering & self.addresses.keys():
                self._once(f"{name} answers: {self.addresses[name]}", f"answers {name}")
        if self.told:
            self._once(TOLD, TOLD)

    def print_addresses(self) -> None:
        """Print what differs from the product and the three addresses, a line each and never cut: the
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


def _chosen(steps: list[Step], most: int) -> list[Step]:
    """The newest steps, but those first that go on."""
    order = sorted(range(len(steps)), key=lambda index: (steps[index].ended_s is None, index))
    return [steps[index] for index in sorted(order[-most:])]


def _steps(steps: list[Step]) -> RenderableType:
    """A row each, whatever they say."""
    table = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, None, None, 1):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    for step in steps:
        going = step.ended_s is None
        mark: RenderableType = Spinner("dots", style="cyan") if going else Text("✓", style="green")
        at_s = step.started_s if step.ended_s is None else step.ended_s
        table.add_row(f"{at_s:5.0f} s", mark, _line(step.title), _line(step.note, "dim"))
    return table


def _contest(board: Board, bar: int) -> RenderableType:
    """A row an arm; `bar`: columns of a bar of 100 %."""
    table = Table(expand=True, box=None, header_style="dim")
    table.add_column("arm", no_wrap=True)
    table.add_column("traffic", no_wrap=True, min_width=bar + 5)
    table.add_column("clicked", no_wrap=True, justify="right")
    table.add_column("evidence against it", no_wrap=True)
    races = _races(board)
    for index, (arm, share) in enumerate(board.weights[-1][1].items()):
        shown = Text("█" * round(bar * share), style=COLOURS[index % len(COLOURS)]) + Text(f" {share:.0%}")
        table.add_row(arm, shown, _clicked(board.shoppers, arm), _evidence(races.get(arm)))
    rate = board.rates.get("requests_per_s", 0.0)
    errors = sum(board.shoppers.get("errors", {}).values())
    return Group(table, _line(f"{rate:,.0f} requests/s by shoppers, {errors} failed", "dim"))


def _races(board: Board) -> dict[str, Json]:
    """Newest numbers of each race, by arm."""
    for decision in reversed(board.decisions):
        if "races" in decision.get("evidence", {}):
            return {race["arm"]: race for race in decision["evidence"]["races"]}
    return {}


def _evidence(race: Json | None) -> str:
    """How far the click race has come, as numbers a person can compare: E against 1/alpha."""
    if race is None:
        return ""
    return f"E = {_power(race['log_e'])}, out at {_power(race['log_threshold'])}"


def _power(log_value: float) -> str:
    if abs(log_value) >= 12:
        return f"10^{log_value / math.log(10):.1f}"
    return f"{math.exp(log_value):,.0f}" if log_value >= math.log(10) else f"{math.exp(log_value):.2g}"


def _clicked(shoppers: Json, arm: str) -> str:
    row = shoppers.get("sessions", {}).get(arm)
    return f"{row['clicked'] / row['sessions']:.1%} of {row['sessions']:,}" if row and row["sessions"] else ""


def _decisions(board: Board, console: Console, width: int, rows: int) -> list[Text]:
    """The newest decisions and notices under a heading: whole if that takes no more than `rows`, else a row
    each, else fewer."""
    told = [decision for decision in board.decisions if decision["kind"] != "allocate"][-DECISIONS_SHOWN:]
    said = [(f"  {decision['kind']}: {decision['reason']}", "") for decision in told]
    said += [(f"  {at_s:.0f} s: {notice}", "yellow") for at_s, notice in board.notices[-DECISIONS_SHOWN:]]
    whole = [Text(text, style) for text, style in said]
    if sum(len(text.wrap(console, width)) for text in whole) >= rows:
        whole = [_line(" ".join(text.split()), style) for text, style in said][max(0, len(said) - rows + 1) :]
    return [Text("decisions", style="dim"), *whole] if whole and rows > 1 else []
