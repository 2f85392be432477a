"""Files from elsewhere: models and data that lie, explode or want to be unpickled."""

import ast
import io
import json
import pickle
import struct
import zipfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.small_shop import START_MS, catalogue, interactions

from models.algorithms.popularity import Popularity
from models.artifacts import MANIFEST, Provenance, RefusedArtifactError, encode, parse_manifest, version_of
from models.recommender import Manifest
from services.adapters.files.model_store import FolderModelStore
from services.data_import.app import ImportRequest, import_data
from services.data_import.source_file import local_file
from services.errors import ArtifactError, BadInputError
from services.settings import Settings

SOURCES = sorted(path for folder in ("models", "experiments", "services", "feature_repo")
                 for path in (Path(__file__).parents[2] / folder).rglob("*.py"))  # fmt: skip


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "unpickled"))


class Stored:
    """A good model on disk, to be spoiled by somebody who can write there and knows how hashes are made."""

    def __init__(self, home: Path):
        model = Popularity.fit(interactions(), catalogue(), now_s=START_MS / 1e3, seed=0)
        self.manifest, self.contents = encode(model, Provenance("d1", (0.0, 1.0), {}, "test", START_MS))
        self.store = FolderModelStore(home / "models")

    def spoil(self, **files: bytes) -> str:
        """Replace files, with hashes and version made right again; the version to load."""
        names = {f"{name}.npy": content for name, content in files.items()}
        hashes = {name: sha256(content).hexdigest() for name, content in names.items()}
        made = replace(self.manifest, files={**self.manifest.files, **hashes})
        return self.write(replace(made, model_version=version_of(made)), {**self.contents, **names})

    def write(self, manifest: Manifest, contents: dict[str, bytes]) -> str:
        folder = self.store.path / manifest.model_version
        folder.mkdir(parents=True, exist_ok=True)
        said = {**asdict(manifest), "window": list(manifest.window)}
        for name, content in {**contents, MANIFEST: json.dumps(said).encode()}.items():
            (folder / name).write_bytes(content)
        return manifest.model_version


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def npy(header: str, body: bytes = b"") -> bytes:
    """An .npy file with any header."""
    text = header.encode().ljust(118 - 10 if len(header) < 108 else len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def object_array(target: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(target)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def bundle() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


def test_a_good_artifact_is_read(stored: Stored) -> None:
    assert stored.store.load(stored.spoil())[1].algorithm == "popularity"


LIES = {
    "huge": lambda _: npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000000000,), }"),
    "negative": lambda _: npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
    "code": lambda t: npy(f"__import__('pathlib').Path({str(t)!r}).write_text('run')"),
    "object": object_array,
    "pickle": lambda t: pickle.dumps(Bomb(t)),
    "zip": lambda _: bundle(),
    "empty": lambda _: b"",
    "long header": lambda _: npy("{" + " " * 60_000 + "}"),
    "short": lambda _: npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }", b"\0" * 8),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_array_that_is_none_is_refused_and_never_run(stored: Stored, tmp_path: Path, lie: str) -> None:
    trap = tmp_path / "trap"
    name = next(iter(stored.manifest.files)).removesuffix(".npy")
    version = stored.spoil(**{name: LIES[lie](trap)})
    with pytest.raises(ArtifactError, match=f"{name}.npy"):
        stored.store.load(version)
    assert not trap.exists()


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "os.system"}, {"algorithm": ["popularity"]}, {"files": ["../../x"]},
    {"files": {"../x.npy": "0"}},
     {"created_ms": 10**30}, {"created_ms": "now"}, {"window": 3}, {"params": None}, {"model_version": 7},
     {"format": 99}, {"extra": 1}, {"files": {}}, {"files": {"/etc/passwd": "0" * 64}}],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused_by_field(stored: Stored, changes: dict[str, Any]) -> None:
    version = stored.write(stored.manifest, stored.contents)
    path = stored.store.path / version / MANIFEST
    content = json.loads(path.read_bytes()) | changes
    if "model_version" not in changes:  # whoever can write there can also make the version right
        try:
            content["model_version"] = version_of(Manifest(**{**content, "window": tuple(content["window"])}))
        except (TypeError, ValueError, OverflowError, AttributeError):
            content["model_version"] = version
    folder = stored.store.path / str(content["model_version"])
    folder.mkdir(exist_ok=True)
    for name, raw in {**stored.contents, MANIFEST: json.dumps(content).encode()}.items():
        (folder / name).write_bytes(raw)
    with pytest.raises(ArtifactError):
        stored.store.load(str(content["model_version"]))


@pytest.mark.parametrize("version", ["../models", "..", ".", "/etc", "a/../b", "", "\x00", "%2e%2e"])
def test_no_version_names_a_folder_elsewhere(stored: Stored, version: str) -> None:
    stored.spoil()
    with pytest.raises((ArtifactError, ValueError)):
        stored.store.load(version)


def test_a_manifest_nested_without_end_is_refused() -> None:
    with pytest.raises(RefusedArtifactError):
        parse_manifest(b"[" * 200_000)


# ---- data --------------------------------------------------------------------------------------------------


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "name", ["../../escaped.csv", "/tmp/escaped.csv", "..\\..\\escaped.csv", "a/../../escaped.csv"]
)
def test_an_archive_unpacks_nowhere_else(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    with local_file(str(zipped(inside / "x.zip", {name: b"item_id,title\n1,a\n"})), 10**6) as path:
        assert "ringside-import-" in str(path)
    assert sorted(found.name for found in tmp_path.rglob("*") if found.is_file()) == ["x.zip"]


@pytest.mark.parametrize("suffix", ["zip", "xlsx"])
def test_an_archive_that_explodes_is_refused_before_it_is_unpacked(tmp_path: Path, suffix: str) -> None:
    member = "items.csv" if suffix == "zip" else "xl/worksheets/sheet1.xml"
    bomb = zipped(tmp_path / f"bomb.{suffix}", {member: b"0" * 5_000_000})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BadInputError, match="larger than"), local_file(str(bomb), 1_000_000):
        pass


def test_an_archive_yields_no_more_than_its_declared_size(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {"items.csv": b"0" * 5_000_000})
    raw = bomb.read_bytes().replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1_000))
    bomb.write_bytes(raw)
    with pytest.raises(BadInputError), local_file(str(bomb), 1_000_000):
        pass


def test_an_encrypted_archive_is_refused_in_words(tmp_path: Path) -> None:
    locked = zipped(tmp_path / "locked.zip", {"items.csv": b"item_id,title\n1,a\n"})
    raw = bytearray(locked.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + at] |= 1
    locked.write_bytes(bytes(raw))
    with pytest.raises(BadInputError), local_file(str(locked), 1_000_000):
        pass


# ---- the code itself ---------------------------------------------------------------------------------------

DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "os.system",
"os.popen",
         "pandas.read_pickle", "pd.read_pickle", "shutil.unpack_archive"}  # fmt: skip


def named(node: ast.AST) -> str:
    """`a.b.c` of a call."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(Path(__file__).parents[2])))
def test_no_code_of_ours_unpickles_evaluates_or_asks_a_shell(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            assert not {name.partition(".")[0] for name in names} & DANGEROUS
        if not isinstance(node, ast.Call):
            continue
        assert named(node) not in CALLS
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("shell", "False") == "False"
        assert given.get("allow_pickle", "False") == "False"
        assert given.get("autoescape", "True") == "True"


@pytest.mark.parametrize("which", ["item_id", "user_id", "description"])
def test_a_file_that_could_not_be_loaded_afterwards_is_refused(tmp_path: Path, which: str) -> None:
    """Ids that differ by a NUL at the end are one id in an array; a long text widens all rows of a column."""
    at = [datetime(2026, 1, 1, tzinfo=UTC)] * 2
    items = {"item_id": ["a", "b"], "title": ["A", "B"], "description": ["", ""]}
    acts = {"user_id": ["u", "v"], "item_id": ["a", "b"], "at": at}
    if which == "description":
        items["description"][0] = "d" * 10_001
    else:
        for table in (items, acts):
            if which in table:
                table[which] = [table[which][0], table[which][0] + "\0"]
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    pq.write_table(pa.table(acts), tmp_path / "acts.parquet")
    request = ImportRequest(str(tmp_path / "items.parquet"), str(tmp_path / "acts.parquet"))
    with pytest.raises(BadInputError, match=which):
        import_data(Settings(home=tmp_path / "home"), request, datetime.now(UTC))
    assert not (tmp_path / "home" / "data" / "current").exists()
