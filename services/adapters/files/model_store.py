"""Model artifacts in folders: `<models>/<model_version>/manifest.json` and arrays."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.artifacts import MANIFEST, Manifest, Origin, RefusedArtifactError, decode, encode
from models.recommender import Recommender
from services.errors import ArtifactError


class FolderModelStore:
    """Writes an artifact aside and renames it into place: a version is there whole, or not at all."""

    def __init__(self, path: Path):
        self.path = path

    def save(
        self,
        model: Recommender,
        *,
        data_version: str,
        window: tuple[float, float],
        metrics: Mapping[str, float],
        now_ms: int,
    ) -> Manifest:
        """Write `model`; saving the same model at the same moment twice is saving it once."""
        origin = Origin(data_version, window, dict(metrics), code_version(), now_ms)
        manifest, contents = encode(model, origin)
        target = self.path / manifest.model_version
        if not target.exists():
            self._write(target, contents)
        return manifest

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """The verified model. Raises ArtifactError naming the version, the file and what is wrong with it."""
        folder = self.path / model_version
        if Path(model_version).name != model_version or not (folder / MANIFEST).is_file():
            raise ArtifactError(f"{model_version}: no such model in {self.path}")
        try:
            model, manifest = decode((folder / MANIFEST).read_bytes(), lambda name: _read(folder, name))
        except RefusedArtifactError as error:
            raise ArtifactError(f"{model_version}: {error}") from error
        if manifest.model_version != model_version:
            raise ArtifactError(f"{model_version}: the folder holds {manifest.model_version}")
        return model, manifest

    def versions(self) -> list[str]:
        """Versions present, oldest first (by the time in their names)."""
        found = [
            entry.parent.name for entry in self.path.glob(f"*/{MANIFEST}") if entry.parent.name[0] != "."
        ]
        return sorted(found, key=lambda name: (name.split("-")[1:2], name))

    def _write(self, target: Path, contents: Mapping[str, bytes]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.path))
        try:
            for name, content in contents.items():
                _write_synced(aside / name, content)
            aside.chmod(0o755)
            aside.rename(target)
        except OSError:
            if not target.exists():  # another writer of the same version may have been first
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def code_version() -> str:
    """Version of the installed distribution; "unknown" from a bare checkout."""
    try:
        return version("ringside")
    except PackageNotFoundError:
        return "unknown"


def _read(folder: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise RefusedArtifactError(f"{name}: not a file name")
    return (folder / name).read_bytes()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
