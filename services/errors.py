"""The error tree. Every message says what is wrong, where, and what to do next."""


class RingsideError(Exception):
    """Root of every error that Ringside raises on purpose."""


class ConfigurationError(RingsideError):
    """A setting is missing or makes no sense; the message names it and the value that would."""


class BadInputError(RingsideError):
    """Input from outside is wrong. `field` names the offending field, as the sender wrote it."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class BadMessageError(RingsideError):
    """A message on a topic can't be decoded; it goes to `dead-letters` with its bytes and this reason.

    `code` is the reason for counters: not-json, schema (a field is missing, of another type or out of its
    bounds), version, too-large, not-storable.
    """

    def __init__(self, problem: str, code: str = "schema"):
        super().__init__(problem)
        self.code = code


class UnavailableError(RingsideError):
    """A dependency did not answer within its deadline. Callers degrade or answer 503; they don't crash."""

    def __init__(self, dependency: str, problem: str):
        super().__init__(f"{dependency} is unavailable: {problem.rstrip('.')}")  # more may follow
        self.dependency = dependency


class DegradedError(RingsideError):
    """A worker's step did part of its work and has logged the rest; its health check reports this message."""


class DataLossError(RingsideError):
    """The log is not the one counted before, or records between two positions are gone. Counting stops."""


class StalePositionError(RingsideError):
    """Somebody else moved the stored position. Drop what is in memory, reload, seek."""


class ArtifactError(RingsideError):
    """A model artifact is refused: wrong hash, missing file, foreign format. The message names which."""


class NoKeyError(RingsideError):
    """No API key, or one we don't know."""


class ForbiddenError(RingsideError):
    """A known key whose role may not do this."""
