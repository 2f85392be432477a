"""Errors that Ringside raises. A message says which field or dependency, what is wrong, and what to do."""


class RingsideError(Exception):
    """Root of every error that Ringside raises on purpose."""


class ConfigurationError(RingsideError):
    """A setting is missing or invalid; the message names it and a valid value."""


class BadInputError(RingsideError):
    """Input from outside is wrong. `field` names the offending field, as the sender wrote it."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class BadMessageError(RingsideError):
    """A message on a topic can't be decoded; its bytes go to `dead-letters` with this reason.

    `code` is the label of counters: not-json, schema (a field is missing, has another type or is out of
    bounds), version, too-large, not-storable.
    """

    def __init__(self, problem: str, code: str = "schema"):
        super().__init__(problem)
        self.code = code


class UnavailableError(RingsideError):
    """A dependency did not answer within its deadline. Callers degrade, retry, or answer 503."""

    def __init__(self, dependency: str, problem: str):
        super().__init__(f"{dependency} is unavailable: {problem.rstrip('.')}")  # more may follow
        self.dependency = dependency


class DegradedError(RingsideError):
    """A worker's step did part of its work and has logged the rest; its health check reports this message."""


class DataLossError(RingsideError):
    """The log is another one than was counted before, or it lost records. Counting stops."""


class StalePositionError(RingsideError):
    """Another process moved the stored position. Drop the state in memory, load the stored one, and seek."""


class ArtifactError(RingsideError):
    """A model artifact is rejected: wrong hash, missing file, or unknown format. The message names it."""


class NotFoundError(BadInputError):
    """A command or a path names something that does not exist."""


class NoKeyError(RingsideError):
    """The API key is missing or unknown."""


class ForbiddenError(RingsideError):
    """The role of the API key may not do this."""
