"""Looks twice a second at decisions, at the simulator's summary and at pages that start, and puts all on the
board."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from services.demo.api import Api
from services.demo.installation import answers
from services.demo.state import Board
from services.errors import UnavailableError

EVERY_S = 0.5


def observe(
    board: Board, api: Api, summary: Path, pages: Mapping[str, str], began_ms: int, stop: threading.Event
) -> None:
    """Keep the board up to date until `stop`; what can't be read now is read at the next look."""
    while not stop.wait(EVERY_S):
        look_at_pages(board, pages, answers)
        look_at_decisions(board, api, began_ms)
        look_at_shoppers(board, summary)


def look_at_pages(board: Board, pages: Mapping[str, str], answers: Callable[[str], bool]) -> None:
    """Which of the pages (name → address) that had not answered do."""
    for name, address in pages.items():
        if name not in board.answering and answers(address):
            with board.lock:
                board.answering.add(name)


def look_at_decisions(board: Board, api: Api, began_ms: int) -> None:
    """New decisions since the last look."""
    try:
        found = api.decisions(board.revision())
        if found:
            board.saw_decisions(found, began_ms)
            state = api.state()
            with board.lock:
                board.state = state
    except (UnavailableError, httpx.HTTPError):
        return  # no experiment yet, or the replica is busy


def look_at_shoppers(board: Board, summary: Path) -> None:
    """The newest summary, if it is newer."""
    try:
        found = json.loads(summary.read_text())
    except (OSError, ValueError):
        return
    if found.get("elapsed_s") != board.shoppers.get("elapsed_s"):
        board.saw_shoppers(found)
