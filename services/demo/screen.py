"""What the viewer sees in the terminal: steps, addresses, the race for traffic, the newest decisions."""

import math

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from services.demo.board import Board, Json, Step

BAR = 30
STEPS_SHOWN = 9
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


class Screen:
    """Renders a board. Without a terminal it prints each fact once, as a line."""

    def __init__(self, board: Board, console: Console, differences: list[str]):
        self._board, self._console, self._differences = board, console, differences
        self.addresses: dict[str, str] = {}
        self._printed: set[str] = set()

    def __rich__(self) -> RenderableType:
        """The whole screen, from facts of this moment."""
        with self._board.lock:
            parts: list[RenderableType] = [_steps(self._board.steps[-STEPS_SHOWN:])]
            if self._board.weights:
                parts.append(_contest(self._board))
            parts.append(_decisions(self._board))
        parts.append(_addresses(self.addresses))
        parts.append(Text("Demo profile: " + "; ".join(self._differences) + ".", style="dim"))
        parts.append(Text("Ctrl-C ends everything.", style="dim"))
        return Panel(Group(*parts), title="Ringside: models compete for traffic", border_style="blue")

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

    def print_addresses(self) -> None:
        """Print what differs from the product and the three addresses, a line each."""
        self._once("Demo profile: " + "; ".join(self._differences) + ".", "profile")
        for name, address in self.addresses.items():
            self._once(f"{name:>9}: {address}", name)

    def _once(self, line: str, key: str) -> None:
        if key not in self._printed:
            self._printed.add(key)
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _steps(steps: list[Step]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for step in steps:
        going = step.ended_s is None
        mark: RenderableType = Spinner("dots", style="cyan") if going else Text("✓", style="green")
        at_s = step.started_s if step.ended_s is None else step.ended_s
        table.add_row(
            f"{at_s:5.0f} s", mark, Text(step.title), Text(step.note, style="dim", overflow="ellipsis")
        )
    return table


def _contest(board: Board) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim")
    for name, justify in (
        ("arm", "left"),
        ("traffic", "left"),
        ("clicked", "right"),
        ("evidence against it", "left"),
    ):
        table.add_column(name, justify=justify)
    races = _races(board)
    for index, (arm, share) in enumerate(board.weights[-1][1].items()):
        bar = Text("█" * round(BAR * share), style=COLOURS[index % len(COLOURS)])
        table.add_row(
            arm, bar + Text(f" {share:.0%}"), _clicked(board.shoppers, arm), _evidence(races.get(arm))
        )
    rate = board.rates.get("requests_per_s", 0.0)
    errors = sum(board.shoppers.get("errors", {}).values())
    return Group(table, Text(f"{rate:,.0f} requests/s by shoppers, {errors} failed", style="dim"))


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


def _decisions(board: Board) -> RenderableType:
    told = [decision for decision in board.decisions if decision["kind"] != "allocate"][-3:]
    lines = [Text(f"  {decision['kind']}: {decision['reason']}") for decision in told]
    lines += [Text(f"  {at_s:.0f} s: {notice}", style="yellow") for at_s, notice in board.notices[-3:]]
    return Group(Text("decisions", style="dim"), *lines) if lines else Text("")


def _addresses(addresses: dict[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for name, address in addresses.items():
        table.add_row(Text(name, style="bold"), Text(address, style=f"link {address}", no_wrap=True))
    return table
