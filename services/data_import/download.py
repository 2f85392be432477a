"""A source at an http(s) URL: the whole file, or an error that says why not."""

import os
import re
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from services.errors import BadInputError

TIMEOUT_S = 30.0  # without a byte
_KIND_OF_TYPE = {
    "text/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/zip": ".zip",
}


def is_url(source: str) -> bool:
    """Whether `source` is to be fetched."""
    return source.startswith(("http://", "https://"))


def shown(source: str) -> str:
    """`source` without what may be a secret in a URL: credentials, and the query (signed links).

    >>> shown("https://me:secret@shop.example/items.csv?signature=x")
    'https://shop.example/items.csv'
    """
    return re.sub(r"[?#].*", "", re.sub(r"//[^/]*@", "//", source)) if is_url(source) else source


def fetched(url: str, folder: Path, most_bytes: int) -> Path:
    """Fetch into `folder`. The file is as old as the server says (Last-Modified), else as new as now.

    Raises BadInputError when the server can't be reached, answers no success, or the connection breaks
    before the announced end, and for more than `most_bytes`.
    """
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            path = folder / _name(response)
            _save(response, path, most_bytes)
    except httpx.HTTPStatusError as error:
        code, phrase = error.response.status_code, error.response.reason_phrase
        raise BadInputError("source", f"{shown(url)}: the server answered {code} {phrase}") from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: no name of a host
        raise BadInputError("source", f"{shown(url)}: {error or type(error).__name__}") from error
    return path


def too_large(most_bytes: int, when: str = "") -> str:
    """Why a file is refused for its size, and what to do."""
    return f"is larger than {most_bytes:,} bytes {when}".rstrip() + " (RINGSIDE_IMPORT_MAX_BYTES)"


def _name(response: httpx.Response) -> str:
    """Of the file: what the address ends with, and the kind by its type if the address has none."""
    name = re.sub(r"[^\w.+-]", "_", Path(response.url.path).name).strip(".") or "download"
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return name if Path(name).suffix else name + _KIND_OF_TYPE.get(media_type, "")


def _save(response: httpx.Response, path: Path, most_bytes: int) -> None:
    size = 0
    with path.open("wb") as file:
        for chunk in response.iter_bytes(1 << 20):
            size += len(chunk)
            if size > most_bytes:
                raise BadInputError("source", f"{shown(str(response.url))}: {too_large(most_bytes)}")
            file.write(chunk)
    with suppress(ValueError, OverflowError):  # a server may say anything
        at_s = parsedate_to_datetime(response.headers.get("last-modified", "")).timestamp()
        os.utime(path, (at_s, at_s))
