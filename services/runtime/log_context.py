"""What a line of log is about: the serving path says it, the formats of log lines and traces read it."""

from contextvars import ContextVar

RECOMMENDATION: ContextVar[str] = ContextVar("recommendation_id", default="")
