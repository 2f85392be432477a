"""A model as bytes: arrays without pickle, and a manifest with what they are and the hash of each file."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.algorithms import UnknownAlgorithmError, algorithm_class
from models.algorithms.base import Algorithm
from models.recommender import ARTIFACT_FORMAT, Manifest, Recommender

MANIFEST = "manifest.json"
_FIELD_TYPES = {
    "model_version": str,
    "algorithm": str,
    "params": dict,
    "files": dict,
    "window": list,
    "created_ms": int,
}


class RefusedArtifactError(ValueError):
    """The bytes are not a model that can be served. The message names the file or field and what is wrong."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from; the fields are those of `Manifest`."""

    data_version: str
    window: tuple[float, float]
    metrics: Mapping[str, float]
    code_version: str
    created_ms: int


def encode(model: Recommender, provenance: Provenance) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of `model`, and the content of every file by name, including the manifest.

    The model version is `<algorithm>-<UTC time>-<hash>`; the hash covers arrays, parameters and provenance.
    """
    arrays, params = model.to_arrays()
    contents = {f"{name}.npy": _to_bytes(name, array) for name, array in arrays.items()}
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = Manifest(
        model_version="",
        algorithm=model.algorithm,
        params=params,
        files=files,
        **asdict(provenance),
    )
    manifest = replace(manifest, model_version=version_of(manifest))
    contents[MANIFEST] = json.dumps(
        _to_json_types(manifest), indent=1, sort_keys=True, allow_nan=False
    ).encode()
    return manifest, contents


def version_of(manifest: Manifest) -> str:
    """The model version that a manifest with this content must carry."""
    created = datetime.fromtimestamp(manifest.created_ms / 1000, UTC)
    content = json.dumps({**_to_json_types(manifest), "model_version": ""}, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{manifest.algorithm}-{created:%Y%m%dT%H%M%SZ}-{digest}"


def parse_manifest(raw: bytes) -> Manifest:
    """Read and check a manifest by itself. Raises RefusedArtifactError naming the field that is wrong."""
    content = _checked_fields(raw)
    manifest = Manifest(**{**content, "window": tuple(content["window"])})
    try:
        algorithm_class(manifest.algorithm)
    except UnknownAlgorithmError as error:
        raise RefusedArtifactError(f"algorithm: {error}") from error
    try:
        version = version_of(manifest)
    except (ValueError, OverflowError, OSError) as error:  # a year outside the calendar
        raise RefusedArtifactError(f"{MANIFEST}: created_ms: {error}") from error
    if manifest.model_version != version:
        raise RefusedArtifactError(
            f"model_version: {manifest.model_version} does not match {MANIFEST}'s content"
        )
    return manifest


def _checked_fields(raw: bytes) -> dict[str, Any]:
    """The fields of a manifest, complete and each of its JSON type."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedArtifactError(f"{MANIFEST}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise RefusedArtifactError(f"{MANIFEST}: a {type(content).__name__} instead of an object")
    if content.get("format") != ARTIFACT_FORMAT:
        raise RefusedArtifactError(
            f"{MANIFEST}: format {content.get('format')!r} is unknown, this release reads {ARTIFACT_FORMAT}"
        )
    names = {field.name for field in fields(Manifest)}
    if names != content.keys():
        raise RefusedArtifactError(f"{MANIFEST}: missing or unknown fields: {sorted(names ^ content.keys())}")
    for name, field_type in _FIELD_TYPES.items():
        if not isinstance(content[name], field_type):
            raise RefusedArtifactError(
                f"{MANIFEST}: {name} is a {type(content[name]).__name__} instead of a {field_type.__name__}"
            )
    return content


def decode(raw_manifest: bytes, read: Callable[[str], bytes]) -> tuple[Algorithm, Manifest]:
    """The verified model. `read` returns the content of a file by name, or raises FileNotFoundError.

    No file is parsed before its sha256 is verified. Raises RefusedArtifactError naming what is wrong.
    """
    manifest = parse_manifest(raw_manifest)
    arrays = {
        name.removesuffix(".npy"): _verified(name, digest, read) for name, digest in manifest.files.items()
    }
    try:
        model = algorithm_class(manifest.algorithm).from_arrays(arrays, manifest.params)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise RefusedArtifactError(
            f"{manifest.model_version}: not a model of {manifest.algorithm}: {error}"
        ) from error
    return model, manifest


def _verified(name: str, digest: str, read: Callable[[str], bytes]) -> NDArray[Any]:
    try:
        content = read(name)
    except FileNotFoundError as error:
        raise RefusedArtifactError(f"{name}: the file is missing") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise RefusedArtifactError(f"{name}: sha256 is {actual[:12]}…, the manifest says {digest[:12]}…")
    try:
        # np.load would also accept a zip archive
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, TypeError, EOFError, MemoryError, OverflowError) as error:
        raise RefusedArtifactError(f"{name}: not an array: {error}") from error
    return array


def _to_bytes(name: str, array: NDArray[Any]) -> bytes:
    if array.dtype.hasobject:
        raise ValueError(f"{name}: object arrays are not stored")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _to_json_types(manifest: Manifest) -> dict[str, Any]:
    """The manifest in JSON types."""
    return {**asdict(manifest), "window": list(manifest.window)}
