"""Context of log lines: set where a request is answered, read by the formats of log lines and traces."""

from contextvars import ContextVar

RECOMMENDATION: ContextVar[str] = ContextVar("recommendation_id", default="")
