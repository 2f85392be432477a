"""An artifact comes back as the model it was, or is refused with the name of what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.fitted_models import catalogue, fit, query, two_tastes

from models.algorithms import ALGORITHM_NAMES
from models.artifacts import MANIFEST, Provenance, encode
from services.adapters.files.model_store import FolderModelStore
from services.errors import ArtifactError
from services.training.model_spec import spec_of

NOW_MS = 1_700_000_000_000
ORIGIN = {"data_version": "d1", "window": (1.0, 2.0), "metrics": {"recall@20": 0.5}, "now_ms": NOW_MS}


@pytest.fixture
def store(tmp_path) -> FolderModelStore:
    return FolderModelStore(tmp_path / "models")


@pytest.mark.parametrize("algorithm", ALGORITHM_NAMES)
def test_a_saved_model_comes_back_with_the_same_rankings(store, algorithm):
    model = fit(algorithm, two_tastes(), catalogue())
    saved = store.save(model, **ORIGIN)
    again, manifest = store.load(saved.model_version)
    assert manifest == saved
    assert manifest.model_version.startswith(f"{algorithm}-20231114T221320Z-")
    ours, theirs = model.rank(query([1, 2]), 30), again.rank(query([1, 2]), 30)
    np.testing.assert_array_equal(ours.item, theirs.item)
    np.testing.assert_array_equal(ours.score, theirs.score)


def test_saving_is_idempotent_and_versions_are_oldest_first(store):
    model = fit("popularity", two_tastes(), catalogue())
    newest = store.save(model, **{**ORIGIN, "now_ms": NOW_MS + 5_000}).model_version
    other = store.save(fit("reversed_popularity", two_tastes(), catalogue()), **ORIGIN).model_version
    assert store.save(model, **{**ORIGIN, "now_ms": NOW_MS + 5_000}).model_version == newest
    assert store.versions() == [other, newest]
    assert not [entry for entry in store.path.iterdir() if entry.name.startswith(".")]


def flip_a_bit(folder):
    path = folder / "fast.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


def edit(**changes):
    def damage(folder):
        content = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**content, **changes}))

    return damage


DAMAGES = {
    "sha256": (flip_a_bit, r"fast\.npy: sha256"),
    "missing": (lambda folder: (folder / "slow.npy").unlink(), r"slow\.npy: the file is missing"),
    "truncated": (lambda folder: (folder / "items.npy").write_bytes(b""), r"items\.npy: sha256"),
    "format": (edit(format=2), "format 2 is unknown"),
    "field": (edit(surprise=1), "surprise"),
    "algorithm": (edit(algorithm="magic"), "algorithm: 'magic'"),
    "parameters": (edit(params={"fitted_s": 0.0}), "model_version"),
    "metrics": (edit(metrics={"recall@20": 1.0}), "model_version"),
    "json": (lambda folder: (folder / MANIFEST).write_text("{"), "not JSON"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no such model"),
    "no object": (lambda folder: (folder / MANIFEST).write_text("[]"), "a list instead of an object"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_artifact_is_refused_by_name(store, case):
    damage, message = DAMAGES[case]
    version = store.save(fit("popularity", two_tastes(), catalogue()), **ORIGIN).model_version
    damage(store.path / version)
    with pytest.raises(ArtifactError, match=message) as refusal:
        store.load(version)
    assert version in str(refusal.value)


def test_a_folder_under_another_name_is_refused(store):
    version = store.save(fit("popularity", two_tastes(), catalogue()), **ORIGIN).model_version
    (store.path / version).rename(store.path / "als-1")
    with pytest.raises(ArtifactError, match="the folder holds"):
        store.load("als-1")


@pytest.mark.parametrize("name", ["nothing", "../models", ""])
def test_a_missing_version_is_named(store, name):
    with pytest.raises(ArtifactError, match="no such model"):
        store.load(name)


def test_a_change_of_any_byte_is_detected(store):
    _, contents = encode(
        fit("als", two_tastes(), catalogue()), Provenance("d", (0.0, 1.0), {"recall@20": 0.1}, "0", NOW_MS)
    )
    rng = np.random.default_rng(0)
    version = store.save(fit("als", two_tastes(), catalogue()), **ORIGIN).model_version
    for name in contents:
        path = store.path / version / name
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 10).tolist():
            digit = whole[place : place + 1]
            path.write_bytes(whole[:place] + (b"7" if digit != b"7" else b"8") + whole[place + 1 :])
            with pytest.raises(ArtifactError):
                store.load(version)
        path.write_bytes(whole)
    store.load(version)


def test_a_failed_write_leaves_nothing_behind(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.adapters.files.model_store._write_synced", full)
    with pytest.raises(OSError, match="No space"):
        store.save(fit("popularity", two_tastes(), catalogue()), **ORIGIN)
    assert list(store.path.iterdir()) == []


# Written by the last release with the algorithms `linear` and `inverted`: 8 items, 12 users. `expected.json`
# holds what that release ranked for the query below.
RECORDED = Path(__file__).with_name("recorded_models")
EXPECTED = json.loads((RECORDED / "expected.json").read_text())
FORMER_NAMES = {"linear": "ease", "inverted": "reversed_popularity"}


@pytest.mark.parametrize("version", EXPECTED)
def test_a_recorded_artifact_loads_and_ranks_as_recorded(version):
    model, manifest = FolderModelStore(RECORDED).load(version)
    written = version.partition("-")[0]
    assert (manifest.algorithm, model.algorithm) == (written, FORMER_NAMES.get(written, written))
    ranking, similar = model.rank(query([1, 5, 2], [0.0, 3.0, 9.0]), 8), model.similar(1, 8)
    assert (ranking.item.tolist(), ranking.reason) == (EXPECTED[version]["item"], EXPECTED[version]["reason"])
    np.testing.assert_allclose(ranking.score, EXPECTED[version]["score"], rtol=1e-5)
    assert similar.item.tolist() == EXPECTED[version]["similar"]


def test_a_recorded_artifact_is_fitted_again_under_the_present_name():
    old = next(version for version in EXPECTED if version.startswith("linear-"))
    spec = spec_of(FolderModelStore(RECORDED).load(old)[1])
    assert (spec.algorithm, spec.params["kept"]) == ("ease", 5)
