"""Buckets of many names in bounded memory; rates and bursts are tested in tests/security/test_gate.py."""

import pytest

from services.web import rate_limit
from services.web.rate_limit import RateLimiter


def test_waiting_is_reported_without_taking_a_token() -> None:
    limiter = RateLimiter(1.0, 2.0)
    assert [limiter.take("anna", 50.0) for _ in range(2)] == [0.0, 0.0]
    assert [limiter.wait_s("anna", 50.0) for _ in range(3)] == [1.0] * 3
    assert limiter.wait_s("bert", 50.0) == 0.0
    assert limiter.take("anna", 51.0) == 0.0


def test_the_names_seen_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "NAMES", 100)
    limiter = RateLimiter(1.0, 1.0)
    assert limiter.take("anna", 50.0) == 0.0
    for name in range(99):
        assert limiter.take(f"client {name}", 50.0) == 0.0
    assert limiter.take("anna", 50.0) == 1.0
    for name in range(99, 300):
        assert limiter.take(f"client {name}", 50.0) == 0.0
    assert len(limiter._full_at) == 100
