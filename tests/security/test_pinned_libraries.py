"""What we depend on: pinned, installed as pinned, consistent. Known vulnerabilities: `make audit`."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def name_of(requirement: str) -> str:
    """Normalised, as PEP 503 says."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0]).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def direct() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extra = [each for group in project.get("optional-dependencies", {}).values() for each in group]
    return {name_of(each) for each in (*project["dependencies"], *extra)}


def test_every_library_is_pinned_to_one_version() -> None:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert [line for line in lines if line and not re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)] == []
    assert direct() - {name_of(name) for name in pins()} == set()


def test_what_is_installed_is_what_is_pinned() -> None:
    wrong = {}
    for name, pinned in pins().items():
        try:
            found = version(name)
        except PackageNotFoundError:  # of another platform
            continue
        if found.partition("+")[0] != pinned.partition("+")[0]:  # +cpu, +cu128: builds of one version
            wrong[name] = (found, pinned)
    assert wrong == {}


def test_what_is_installed_fits_together() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def audited(folder: Path, *records: dict) -> subprocess.CompletedProcess[str]:
    """infra/advisories.py over these records, for a library `shop` pinned at 1.5."""
    (folder / "constraints.txt").write_text("# pinned\nPy.Shop==1.5\n")
    for number, record in enumerate(records):
        told = {"id": f"T-{number}", "modified": "2026-01-01T00:00:00Z", **record}
        (folder / f"T-{number}.yaml").write_text(json.dumps(told))
    call = [sys.executable, ROOT / "infra" / "advisories.py", folder, folder / "constraints.txt"]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def about(
    name: str, *events: dict[str, str], ecosystem: str = "PyPI", versions: tuple[str, ...] = ()
) -> dict:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    package = {"name": name, "ecosystem": ecosystem}
    return {"affected": [{"package": package, "ranges": ranges, "versions": list(versions)}]}


FROM_0, FIXED_IN_15 = {"introduced": "0"}, {"fixed": "1.5"}


@pytest.mark.parametrize(
    "record",
    [
        about("py-shop", FROM_0),
        about("Py_Shop", FROM_0, {"fixed": "1.10"}),
        about("py-shop", {"introduced": "1.5"}, {"last_affected": "1.5"}),
        about("py-shop", FROM_0, FIXED_IN_15, {"introduced": "1.5"}),
        about("py-shop", {"introduced": "2"}, versions=("1.5",)),
        about("py-shop", {"introduced": "not a version"}),
    ],
)
def test_an_advisory_about_a_pinned_version_is_found(record: dict, tmp_path: Path) -> None:
    found = audited(tmp_path, record)
    assert (found.returncode, found.stderr) == (1, "")
    assert "py-shop 1.5: T-0" in found.stdout


@pytest.mark.parametrize(
    "record",
    [
        about("py-shop", FROM_0, FIXED_IN_15),
        about("py-shop", FROM_0, {"fixed": "1.4"}, {"introduced": "1.10"}),
        about("py-shop", FROM_0, {"last_affected": "1.4.9"}),
        about("py-shop", FROM_0) | {"withdrawn": "2026-01-02T00:00:00Z"},
        about("py-shop", FROM_0, ecosystem="npm"),
    ],
)
def test_an_advisory_about_other_versions_is_not(record: dict, tmp_path: Path) -> None:
    found = audited(tmp_path, about("py-shop", FROM_0, {"fixed": "0.1"}), record)
    assert (found.returncode, found.stderr) == (0, "")
    assert "0 affected" in found.stdout


def test_no_advisories_are_no_audit(tmp_path: Path) -> None:
    found = audited(tmp_path, about("another", FROM_0))
    assert found.returncode == 2
    assert "Not audited" in found.stderr
