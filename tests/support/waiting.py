"""Waiting for a process under test."""

import time
from collections.abc import Callable
from typing import Any

import httpx


def is_ready(client: httpx.Client) -> bool:
    """Whether /health/ready says so."""
    try:
        return client.get("/health/ready", headers={"Connection": "close"}).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(holds: Callable[[], Any], within_s: float | None = None) -> Any:
    """Wait until `holds` returns something true, and return it; None: the test's own timeout ends the wait.

    Raises AssertionError after `within_s`, which should be far longer than a busy machine needs.
    """
    end_s = None if within_s is None else time.monotonic() + within_s
    while not (result := holds()):
        assert end_s is None or time.monotonic() < end_s, f"this did not happen within {within_s:g} s"
        time.sleep(0.05)
    return result
