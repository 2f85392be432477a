"""What we depend on: pinned, installed as pinned, consistent. Known vulnerabilities: `make audit`."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
