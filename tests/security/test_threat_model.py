"""infra/threat-model.md names a test for each threat, and each of them exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "infra" / "threat-model.md").read_text("utf-8").splitlines()
    if line.startswith("| ")
]


def named(row: str) -> list[tuple[str, str]]:
    """(file, test) of a row; a bare test name stands in the file named before it."""
    found, file = [], ""
    for text in re.findall(r"`([^`]+)`", row.split("|")[3]):
        file, _, test = text.rpartition("::") if "::" in text else (file, "", text)
        found.append((file, test))
    return found


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_each_threat_names_tests_that_exist() -> None:
    threats = ROWS[1:]
    assert len(threats) >= 15
    for row in threats:
        assert named(row), row
        for file, test in named(row):
            assert names_in(file), file
            assert test == "*" or test in names_in(file), (file, test)


def test_every_file_of_security_tests_is_named() -> None:
    files = {file for row in ROWS[1:] for file, _ in named(row)}
    ours = {f"tests/security/{path.name}" for path in (ROOT / "tests" / "security").glob("test_*.py")}
    assert ours - files == {"tests/security/test_threat_model.py"}
