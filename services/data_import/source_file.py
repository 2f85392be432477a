"""A source as a local file: a path or URL, downloaded and unpacked if necessary."""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from services.data_import.download import download, is_url, size_problem
from services.errors import BadInputError

FORMATS = (".csv", ".parquet", ".xlsx")


@contextmanager
def local_file(source: str, max_bytes: int) -> Iterator[Path]:
    """Provide the file at `source` (path or http(s) URL) while the block runs, unpacked if it is a zip.

    Neither a download nor an unpacked file may have more than `max_bytes`. Raises BadInputError naming
    `source` if there is no such file, or no readable file in it.
    """
    with tempfile.TemporaryDirectory(prefix="ringside-import-") as folder:
        path = download(source, Path(folder), max_bytes) if is_url(source) else Path(source)
        if not path.is_file():
            raise BadInputError("source", f"{source}: there is no such file")
        packed = zipfile.is_zipfile(path) and path.suffix != ".xlsx"
        if not packed:
            _check_unpacked_size(path, max_bytes)
        yield _unpack(path, Path(folder), max_bytes) if packed else path


def modified_at(path: Path) -> datetime:
    """Return when the file was last written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _check_unpacked_size(path: Path, max_bytes: int) -> None:
    """Check the size of a workbook: it is a zip, which its reader unpacks in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as workbook:
            if sum(member.file_size for member in workbook.infolist()) > max_bytes:
                raise BadInputError("source", f"{path.name}: {size_problem(max_bytes, 'unpacked')}")


def _unpack(archive: Path, folder: Path, max_bytes: int) -> Path:
    with zipfile.ZipFile(archive) as packed:
        members = [member for member in packed.infolist() if Path(member.filename).suffix.lower() in FORMATS]
        if len(members) != 1:
            formats = ", ".join(FORMATS)
            raise BadInputError(
                "source", f"{archive.name}: must hold exactly one file of {formats}, not {len(members)}"
            )
        if members[0].file_size > max_bytes:
            raise BadInputError("source", f"{archive.name}: {size_problem(max_bytes, 'unpacked')}")
        try:
            path = Path(packed.extract(members[0], folder))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
            raise BadInputError("source", f"{archive.name}: the archive is damaged: {error}") from error
    os.utime(path, (archive.stat().st_mtime,) * 2)  # the catalogue is as old as the archive
    return path
