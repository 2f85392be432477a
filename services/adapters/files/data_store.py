"""Imported data versions as Parquet folders: `<root>/<version>/…` and the text file `<root>/current`.

A version is the hash of its content, so importing the same data twice gives the same folder. A folder is
written under a temporary name and renamed, and the pointer is replaced last, so a reader sees a complete
version or none.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.recommender import KINDS, Catalogue, Interactions
from services.errors import ConfigurationError
from services.ports.catalogue import CatalogueProvenance
from services.ports.training import DataFacts, DataManifest, Dataset
from services.runtime.atomic_write import write_atomically

FORMAT = 1
HOLDOUT = "holdout"
TABLES = ("items", "users", "interactions")  # and, after a split, HOLDOUT


class ParquetDataStore:
    """Data versions below `root`; see `services.ports.DataStore`."""

    def __init__(self, root: Path):
        self._root = root

    def current(self) -> str | None:
        """See DataStore."""
        pointer = self._root / "current"
        return pointer.read_text().strip() or None if pointer.exists() else None

    def versions(self) -> list[str]:
        """See DataStore."""
        dated = [(json.loads(path.read_text())["created_at"], path.parent.name) for path in self._manifests()]
        return [version for _, version in sorted(dated)]

    def manifest(self, version: str | None = None) -> DataManifest:
        """See DataStore."""
        return self._verified(version)[1]

    def load(self, version: str | None = None) -> Dataset:
        """See DataStore."""
        folder, manifest = self._verified(version)
        catalogue = _catalogue(pq.read_table(folder / "items.parquet"))
        users = _strings(pq.read_table(folder / "users.parquet", columns=["user_id"])["user_id"])
        interactions = _interactions(_read_lines(folder, "interactions"), catalogue.items, users)
        return Dataset(manifest["version"], catalogue, interactions, manifest["source"], manifest["shift_s"])

    def catalogue_provenance(self, version: str) -> CatalogueProvenance:
        """See DataStore. Only the manifest is read, so frequent calls are cheap. Manifests of older releases
        have no provenance."""
        catalogue = self._manifest(version).get("catalogue")
        if catalogue is None:
            return CatalogueProvenance()
        as_of_ms = int(datetime.fromisoformat(catalogue["as_of"]).timestamp() * 1_000)
        return CatalogueProvenance(as_of_ms, frozenset(catalogue["fields"]))

    def table(self, name: str, version: str | None = None) -> pa.Table:
        """See DataStore."""
        folder, manifest = self._verified(version)
        if f"{name}.parquet" not in manifest["files"]:
            raise ConfigurationError(f"data version {manifest['version']} has no table {name!r}")
        return pq.read_table(folder / f"{name}.parquet")

    def load_holdout(self, version: str | None = None) -> Interactions:
        """See DataStore. Its users are those of the holdout itself. Interactions with items that are not in
        the catalogue (first sold after the split) are left out."""
        folder, manifest = self._verified(version)
        if f"{HOLDOUT}.parquet" not in manifest["files"]:
            raise ConfigurationError(
                f"data version {manifest['version']} has no held-out part: import it again with --split"
            )
        items = _strings(pq.read_table(folder / "items.parquet", columns=["item_id"])["item_id"])
        lines = _read_lines(folder, HOLDOUT)
        in_catalogue = lines.filter(pc.is_in(lines["item_id"].cast(pa.string()), value_set=pa.array(items)))
        return _interactions(in_catalogue, items, np.unique(_strings(in_catalogue["user_id"])))

    def write(self, tables: Mapping[str, pa.Table], facts: DataFacts) -> str:
        """See DataStore. `tables`: TABLES, perhaps HOLDOUT.

        The manifest is `facts` with version, format, counts and file hashes. If the same content was imported
        before, only the catalogue's provenance changes.
        """
        version = content_hash(tables)
        path = self._root / version / "manifest.json"
        if path.exists():
            known = {**json.loads(path.read_text()), "catalogue": facts["catalogue"]}
            write_atomically(path, json.dumps(known, indent=1))
        else:
            self._write_folder(version, tables, facts)
        write_atomically(self._root / "current", version + "\n")
        return version

    def _write_folder(self, version: str, tables: Mapping[str, pa.Table], facts: DataFacts) -> None:
        draft = self._root / f".draft-{uuid.uuid4().hex}"
        draft.mkdir(parents=True)
        try:
            for name, table in tables.items():
                pq.write_table(table, draft / f"{name}.parquet", compression="zstd", row_group_size=1 << 17)
            manifest: DataManifest = {
                "format": FORMAT,
                "version": version,
                **facts,
                "counts": {name: table.num_rows for name, table in tables.items()},
                "files": {f"{name}.parquet": _sha256(draft / f"{name}.parquet") for name in tables},
            }
            (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
            draft.rename(self._root / version)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _manifests(self) -> list[Path]:
        return [path for path in self._root.glob("*/manifest.json") if not path.parent.name.startswith(".")]

    def _verified(self, version: str | None) -> tuple[Path, DataManifest]:
        wanted = version or self.current()
        if wanted is None:
            raise ConfigurationError(f"no data in {self._root}: run `ringside data import SOURCE` first")
        folder, manifest = self._root / wanted, self._manifest(wanted)
        for name, digest in manifest["files"].items():
            if not (folder / name).exists() or _sha256(folder / name) != digest:
                raise ConfigurationError(
                    f"data version {wanted} is damaged: {name} is not what was imported; import it again"
                )
        return folder, manifest

    def _manifest(self, version: str) -> DataManifest:
        folder = self._root / version
        try:
            manifest: DataManifest = json.loads((folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"data version {version} has no readable manifest.json in {folder}"
            ) from error
        if manifest.get("format") != FORMAT:
            raise ConfigurationError(
                f"data version {version}: format {manifest.get('format')} is not {FORMAT}"
            )
        return manifest


def content_hash(tables: Mapping[str, pa.Table]) -> str:
    """16 hex digits of the SHA-256 over names, types and values of all columns, independent of chunks."""
    digest = hashlib.sha256()
    for name in sorted(tables):
        table = tables[name].replace_schema_metadata(None).combine_chunks()
        digest.update(name.encode())
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        digest.update(sink.getvalue())
    return digest.hexdigest()[:16]


def _read_lines(folder: Path, name: str) -> pa.Table:
    columns = ["user_id", "item_id", "at", "kind", "quantity", "price"]
    return pq.read_table(
        folder / f"{name}.parquet", columns=columns, read_dictionary=["user_id", "item_id", "kind"]
    )


def _catalogue(table: pa.Table) -> Catalogue:
    return Catalogue(
        items=_strings(table["item_id"]),
        title=_strings(table["title"]),
        category=_strings(table["category"]),
        price=table["price"].to_numpy().astype(np.float32),
        description=np.array(table["description"].to_pylist(), dtype=object),
        stock=table["stock"].to_numpy().astype(np.int32),
        hidden=table["hidden"].to_numpy().astype(np.bool_),
    )


def _interactions(table: pa.Table, items: NDArray[np.str_], users: NDArray[np.str_]) -> Interactions:
    return Interactions(
        user=_codes(table["user_id"], users, "user_id"),
        item=_codes(table["item_id"], items, "item_id"),
        at=table["at"].cast(pa.int64()).to_numpy() / 1e6,
        quantity=table["quantity"].to_numpy().astype(np.float32),
        price=table["price"].to_numpy().astype(np.float32),
        kind=_codes(table["kind"], np.array(KINDS), "kind").astype(np.uint8),
        users=users,
    )


def _codes(column: pa.ChunkedArray, vocabulary: NDArray[np.str_], name: str) -> NDArray[np.int32]:
    """Index of each value in `vocabulary`, int32 [n]."""
    encoded = column.unify_dictionaries().combine_chunks()
    if len(encoded) == 0:
        return np.empty(0, np.int32)
    position = pc.index_in(encoded.dictionary, value_set=pa.array(vocabulary, pa.string()))
    codes = pc.take(position, encoded.indices)
    if codes.null_count:
        raise ConfigurationError(
            f"damaged data version: {codes.null_count} interactions with an unknown {name}"
        )
    indices: NDArray[np.int32] = codes.to_numpy().astype(np.int32)
    return indices


def _strings(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.array(column.to_pylist(), dtype=np.str_) if len(column) else np.empty(0, "<U1")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
