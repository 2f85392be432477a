"""Shared parts of the console's responses: templates, security headers, static files, plotting script."""

import gzip
import hashlib
import importlib.util
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.templating import Jinja2Templates

from services.console import wording
from services.errors import ConfigurationError
from services.web.page_templates import page_templates

HERE = Path(__file__).parent
# 'unsafe-inline' is for styles only, because the plotting script sets style attributes.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
IMMUTABLE = "public, max-age=31536000, immutable"


async def harden(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Middleware: security headers on every response, no caching of data, no forms from other sites."""
    if request.method == "POST" and not is_same_origin(request):
        response: Response = PlainTextResponse("This form was sent from another site.", 403)
    else:
        response = await call_next(request)
    response.headers.update(SECURITY_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def is_same_origin(request: Request) -> bool:
    """False if the browser reports that another site sent this request. Protects the login form too."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


@lru_cache(maxsize=1)
def plotting_script() -> tuple[str, bytes]:
    """(digest, gzipped bytes) of the script in the plotly wheel. Raises ConfigurationError without one."""
    spec = importlib.util.find_spec("plotly")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], "package_data", "plotly.min.js") if folders else None
    if path is None or not path.is_file():
        raise ConfigurationError("the wheel `plotly` has no package_data/plotly.min.js; install plotly again")
    raw = path.read_bytes()
    return hashlib.sha256(raw).hexdigest()[:16], gzip.compress(raw, compresslevel=6)


@lru_cache(maxsize=1)
def assets_version() -> str:
    """Digest of the static files. It is part of their address, so browsers may cache them without limit."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def significant(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits; an en dash for None."""
    return "–" if value is None else f"{value:.{digits}g}"


def rate(value: float | None) -> str:
    """0.0231 → "2.31 %"."""
    return "–" if value is None else wording.percent(value, 2)


def share(value: float | None) -> str:
    """0.784 → "78.4 %"."""
    return "–" if value is None else wording.percent(value, 1)


def grouped(value: int | None) -> str:
    """12345 → "12 345" with narrow spaces."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def moment(ms: int) -> datetime:
    """Milliseconds since the epoch → aware UTC."""
    return datetime.fromtimestamp(ms / 1_000, UTC)


def templates() -> Jinja2Templates:
    """The console's templates."""
    filters = {
        "share": share, "rate": rate, "grouped": grouped, "significant": significant, "moment": moment,
        "seconds": wording.seconds, "evidence": wording.evidence, "chance": wording.chance,
        "nearness": wording.nearness,
    }  # fmt: skip
    functions = {
        "title_of": wording.title, "assets": assets_version, "plotly": lambda: plotting_script()[0]
    }  # fmt: skip
    return page_templates(HERE / "templates", functions, filters)
