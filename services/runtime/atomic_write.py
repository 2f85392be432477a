"""Files that readers see complete or not at all, even if the writer is killed or the disk is full."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_replacement(path: Path, *, synced: bool = False) -> Iterator[Path]:
    """Yield a draft in the folder of `path`, which replaces `path` when the block ends without an error.

    The draft's name begins with a dot and has no suffix, so that no pattern for finished files matches it. An
    error removes the draft and leaves `path` unchanged. With `synced` the bytes reach the disk before the
    name does; otherwise a power cut may leave an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.stem}-{uuid.uuid4().hex}"
    try:
        yield draft
        if synced:
            with draft.open("rb+") as written:
                os.fsync(written.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the content of `path`; text is written as UTF-8. Raises OSError and leaves `path` unchanged."""
    with atomic_replacement(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
