"""Model artifacts in folders: `<models>/<model_version>/manifest.json` and one `.npy` file per array."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.artifacts import MANIFEST, Provenance, RefusedArtifactError, decode, encode
from models.recommender import Manifest, Recommender
from services.errors import ArtifactError


class FolderModelStore:
    """Artifacts below `path`. A folder is written under a temporary name and renamed, so that a version is
    complete or absent."""

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
        """Write an artifact. Idempotent: the same model at the same `now_ms` (ms) is the same version."""
        provenance = Provenance(data_version, window, dict(metrics), code_version(), now_ms)
        manifest, contents = encode(model, provenance)
        target = self.path / manifest.model_version
        if not target.exists():
            self._write(target, contents)
        return manifest

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """The verified model. Raises ArtifactError naming the version, the file and what is wrong."""
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
        names = [path.parent.name for path in self.path.glob(f"[!.]*/{MANIFEST}")]
        return sorted(names, key=lambda name: (name.split("-")[1:2], name))

    def _write(self, target: Path, contents: Mapping[str, bytes]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.path))
        try:
            for name, content in contents.items():
                _write_synced(draft / name, content)
            draft.chmod(0o755)
            draft.rename(target)
        except OSError:
            if not target.exists():  # else another process wrote the same version first
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


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
