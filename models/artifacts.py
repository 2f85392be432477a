"""A model as bytes: arrays without pickle, and a manifest that says what they are and how to tell they are
whole."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.algorithms.als import Als
from models.algorithms.content import Content
from models.algorithms.ease import Linear
from models.algorithms.popularity import Popularity
from models.algorithms.reversed_popularity import Inverted
from models.recommender import FORMAT, Manifest, Recommender

MANIFEST = "manifest.json"
ALGORITHMS: Mapping[str, type[Any]] = {
    kind.algorithm: kind for kind in (Popularity, Als, Content, Linear, Inverted)
}


_KINDS = {
    "model_version": str,
    "algorithm": str,
    "params": dict,
    "files": dict,
    "window": list,
    "created_ms": int,
}


class RefusedArtifactError(ValueError):
    """These bytes are not a model that can be served; the message names the file or field and what is
    wrong."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: data version, window of the data (from, to) in s, offline metrics, code,
    time."""

    data_version: str
    window: tuple[float, float]
    metrics: Mapping[str, float]
    code_version: str
    created_ms: int


def encode(model: Recommender, origin: Origin) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of `model` and the bytes of every file, the manifest's among them.

    The model version is `<algorithm>-<UTC time>-<hash>`; the hash covers arrays, parameters and origin.
    """
    arrays, params = model.to_arrays()
    contents = {f"{name}.npy": _to_bytes(name, array) for name, array in arrays.items()}
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = Manifest(
        model_version="",
        algorithm=model.algorithm,
        params=params,
        files=files,
        **{field.name: getattr(origin, field.name) for field in fields(origin)},
    )
    manifest = replace(manifest, model_version=version_of(manifest))
    contents[MANIFEST] = json.dumps(_plain(manifest), indent=1, sort_keys=True, allow_nan=False).encode()
    return manifest, contents


def version_of(manifest: Manifest) -> str:
    """The model version that a manifest with this content must carry."""
    made = datetime.fromtimestamp(manifest.created_ms / 1000, UTC)
    content = json.dumps({**_plain(manifest), "model_version": ""}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{manifest.algorithm}-{made:%Y%m%dT%H%M%SZ}-{digest}"


def parse_manifest(raw: bytes) -> Manifest:
    """Read and check a manifest by itself; RefusedArtifactError names the field that is wrong."""
    content = _content(raw)
    manifest = Manifest(**{**content, "window": tuple(content["window"])})
    if manifest.algorithm not in ALGORITHMS:
        raise RefusedArtifactError(f"algorithm: {manifest.algorithm!r} is not one of {sorted(ALGORITHMS)}")
    try:
        version = version_of(manifest)
    except (ValueError, OverflowError, OSError) as error:  # a year that no calendar has
        raise RefusedArtifactError(f"{MANIFEST}: created_ms: {error}") from error
    if manifest.model_version != version:
        raise RefusedArtifactError(
            f"model_version: {manifest.model_version} does not match {MANIFEST}'s content"
        )
    return manifest


def _content(raw: bytes) -> dict[str, Any]:
    """The fields of a manifest, each of its kind."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedArtifactError(f"{MANIFEST}: not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise RefusedArtifactError(f"{MANIFEST}: format {found!r} is foreign, format {FORMAT} is read here")
    names = {field.name for field in fields(Manifest)}
    if names != content.keys():
        raise RefusedArtifactError(f"{MANIFEST}: fields missing or foreign: {sorted(names ^ content.keys())}")
    for name, kind in _KINDS.items():
        if not isinstance(content[name], kind):
            raise RefusedArtifactError(f"{MANIFEST}: {name} is a {type(content[name]).__name__}")
    return content


def decode(raw_manifest: bytes, read: Callable[[str], bytes]) -> tuple[Recommender, Manifest]:
    """The verified model. `read` gives the bytes of a file by name and raises FileNotFoundError if it is
    missing.

    Nothing of a file is parsed before its sha256 was found right.
    """
    manifest = parse_manifest(raw_manifest)
    arrays = {
        name.removesuffix(".npy"): _verified(name, digest, read) for name, digest in manifest.files.items()
    }
    try:
        model = ALGORITHMS[manifest.algorithm].from_arrays(arrays, manifest.params)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise RefusedArtifactError(
            f"{manifest.model_version}: not a {manifest.algorithm}: {error}"
        ) from error
    return model, manifest


def _verified(name: str, digest: str, read: Callable[[str], bytes]) -> NDArray[Any]:
    try:
        content = read(name)
    except FileNotFoundError as error:
        raise RefusedArtifactError(f"{name}: the file is missing") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise RefusedArtifactError(f"{name}: sha256 is {found[:12]}…, the manifest says {digest[:12]}…")
    try:
        return np.lib.format.read_array(
            io.BytesIO(content), allow_pickle=False
        )  # arrays only: no zip, no pickle
    except (ValueError, TypeError, EOFError, MemoryError, OverflowError) as error:
        raise RefusedArtifactError(f"{name}: not an array: {error}") from error


def _to_bytes(name: str, array: NDArray[Any]) -> bytes:
    if array.dtype.hasobject:
        raise ValueError(f"{name}: object arrays are not stored")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _plain(manifest: Manifest) -> dict[str, Any]:
    """The manifest as what JSON makes of it."""
    return {**asdict(manifest), "window": list(manifest.window)}
