"""Format of log lines: text, or one JSON object a line; without secrets.

The standard library is enough. structlog would be a second way to log next to the one that every library here
uses, and it would need extra configuration to format the lines of these libraries as well.
"""

import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import msgspec

from services.runtime.log_context import RECOMMENDATION
from services.settings import Settings

REDACTED = "[hidden]"
_API_KEY = re.compile(r"rs_(pub|ana|adm)_[A-Za-z0-9_-]+")  # as services.web.api_keys makes them
_IN_ADDRESS = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]+)(?=@)")
_NUMBER = re.compile(r"\d+")
_STANDARD = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"))

TraceIds = Callable[[], Mapping[str, str]]


def no_trace() -> Mapping[str, str]:
    """No ids, because tracing is off."""
    return {}


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Secrets that no line may contain, longest first."""
    urls = (settings.redis_url, settings.mlflow_uri)
    passwords = [password for url in urls if (password := urlsplit(url).password)]
    known = [*settings.signing_key, settings.storefront_key]
    known += [*passwords, *map(unquote, passwords)]
    return tuple(sorted({text.strip() for text in known if len(text.strip()) >= 4}, key=len, reverse=True))


class LineFormatter(logging.Formatter):
    """Base of both formats: names the process, adds the request's ids, and hides secrets.

    `ids` returns the current trace and span. A line is formatted on the thread that logs it, so `ids` and
    `RECOMMENDATION` are those of its request.
    """

    def __init__(self, settings: Settings, process: str, replica: str, ids: TraceIds = no_trace):
        super().__init__()
        self._source = {"process": process, "replica": replica}
        self._secrets, self._ids = secrets_of(settings), ids

    def redact(self, text: str) -> str:
        """The text without the installation's secrets, API keys and passwords in addresses."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return _IN_ADDRESS.sub(rf"\1:{REDACTED}", _API_KEY.sub(rf"rs_\1_{REDACTED}", text))

    def context(self, record: logging.LogRecord) -> dict[str, object]:
        """Recommendation id, trace ids, and the fields that the caller passed as `extra`."""
        slate = {"recommendation_id": signed} if (signed := RECOMMENDATION.get()) else {}
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return {**slate, **self._ids(), **extra}


class TextFormatter(LineFormatter):
    """Time, process, level, logger: message, then its context as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback under it."""
        context = "".join(
            f" {name}={value}" for name, value in self.context(record).items() if name != "event"
        )
        head = f"{self.formatTime(record)} {self._source['process']} {record.levelname} {record.name}"
        error = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return self.redact(f"{head}: {record.getMessage()}{context}{error}")


class JsonFormatter(LineFormatter):
    """at, level, process, replica, logger, event, message, recommendation_id, trace_id, span_id, error.

    `event` is the same for every line of one kind: `extra={"event": …}`, else the message before its values
    are filled in.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, on one line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"at": at, "level": record.levelname, **self._source, "logger": record.name}
        line |= {"event": str(record.msg), "message": record.getMessage(), **self.context(record)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        hidden = {name: self.redact(str(value)) for name, value in line.items()}
        return msgspec.json.encode(hidden).decode()


class RateLimitFilter(logging.Filter):
    """Passes lines with this message once in `every_s`, because clients choose how often they cause them."""

    def __init__(self, message: str, every_s: float = 10.0):
        super().__init__()
        self._message, self._every_s, self._next_s = message, every_s, 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        if record.msg != self._message:
            return True
        if record.created < self._next_s:
            return False
        self._next_s = record.created + self._every_s
        return True


class RepeatFilter(logging.Filter):
    """Passes a line that ends with "; trying again" when its text changes, and once in `every_s` while it
    repeats: every process tries an unreachable broker every two seconds. Numbers do not count as a change."""

    def __init__(self, every_s: float = 60.0):
        super().__init__()
        self._every_s = every_s
        self._last: dict[str, tuple[str, float]] = {}  # by logger: text and time of the last line

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        if not str(record.msg).endswith("; trying again") or record.exc_info:
            return True
        text = _NUMBER.sub("#", record.getMessage())
        before, at = self._last.get(record.name, ("", 0.0))
        if text == before and record.created < at + self._every_s:
            return False
        self._last[record.name] = text, record.created
        return True


FORMATS: Mapping[str, type[LineFormatter]] = {"text": TextFormatter, "json": JsonFormatter}


def configure(settings: Settings, process: str, replica: str, ids: TraceIds = no_trace) -> None:
    """Make all loggers of this process write lines of this format to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMATS[settings.log_format](settings, process, replica, ids))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    # kafka-python logs two lines a second while the broker is away; our own loggers report the outage once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(RateLimitFilter("Invalid HTTP request received."))
