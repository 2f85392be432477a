"""Waiting for a process under test."""

import time
from collections.abc import Callable
from typing import Any

import httpx


def ready(client: httpx.Client) -> bool:
    """Whether /health/ready says so."""
    try:
        return client.get("/health/ready", headers={"Connection": "close"}).status_code == 200
    except httpx.TransportError:
        return False


def until(holds: Callable[[], Any]) -> Any:
    """Wait for it; the test's timeout ends a wait in vain."""
    while not (found := holds()):
        time.sleep(0.05)
    return found
