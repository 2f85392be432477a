"""Test names stay short enough to be read."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST_WORDS = 10


def test_no_test_name_has_more_than_ten_words() -> None:
    names = [
        node.name.removeprefix("test_").split("_")
        for file in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 1_000
    assert ["_".join(words) for words in names if len(words) > MOST_WORDS] == []
