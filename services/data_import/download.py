"""Downloading a source from an http(s) URL: the whole file, or an error with the cause."""

import os
import re
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from services.errors import BadInputError

TIMEOUT_S = 30.0  # without a byte
_SUFFIX_OF_TYPE = {
    "text/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/zip": ".zip",
}


def is_url(source: str) -> bool:
    """Return whether `source` is an http(s) URL."""
    return source.startswith(("http://", "https://"))


def without_secrets(source: str) -> str:
    """Remove the parts of a URL that may be secret: credentials, and the query (of signed links).

    >>> without_secrets("https://me:secret@shop.example/items.csv?signature=x")
    'https://shop.example/items.csv'
    """
    return re.sub(r"[?#].*", "", re.sub(r"//[^/]*@", "//", source)) if is_url(source) else source


def download(url: str, folder: Path, max_bytes: int) -> Path:
    """Download a file into `folder`. Its modification time is the server's Last-Modified, if there is one.

    Raises BadInputError if the server can't be reached or answers with an error, if the connection breaks
    before the announced end, or if the file has more than `max_bytes`.
    """
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            path = folder / _file_name(response)
            _save(response, path, max_bytes)
    except httpx.HTTPStatusError as error:
        code, phrase = error.response.status_code, error.response.reason_phrase
        raise BadInputError(
            "source", f"{without_secrets(url)}: the server answered {code} {phrase}"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: invalid host name
        raise BadInputError("source", f"{without_secrets(url)}: {error or type(error).__name__}") from error
    return path


def size_problem(max_bytes: int, when: str = "") -> str:
    """Format the problem of a file that is too large."""
    return f"is larger than {max_bytes:,} bytes {when}".rstrip() + " (raise RINGSIDE_IMPORT_MAX_BYTES)"


def _file_name(response: httpx.Response) -> str:
    """Return the last part of the URL's path, with a suffix by the content type if it has none."""
    name = re.sub(r"[^\w.+-]", "_", Path(response.url.path).name).strip(".") or "download"
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return name if Path(name).suffix else name + _SUFFIX_OF_TYPE.get(media_type, "")


def _save(response: httpx.Response, path: Path, max_bytes: int) -> None:
    size = 0
    with path.open("wb") as file:
        for chunk in response.iter_bytes(1 << 20):
            size += len(chunk)
            if size > max_bytes:
                raise BadInputError(
                    "source", f"{without_secrets(str(response.url))}: {size_problem(max_bytes)}"
                )
            file.write(chunk)
    with suppress(ValueError, OverflowError):  # the header is missing or malformed
        at_s = parsedate_to_datetime(response.headers.get("last-modified", "")).timestamp()
        os.utime(path, (at_s, at_s))
