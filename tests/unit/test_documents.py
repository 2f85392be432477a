"""What the documents name exists: links, anchors, paths, make targets, commands, and the Python they show."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from services.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "infra").glob("*.md")),
    *sorted((ROOT / "infra" / "docs").glob("*.md")),
    *sorted((ROOT / "infra" / "adr").glob("*.md")),
]
FOLDERS = ("experiments", "feature_repo", "infra", "models", "services", "tests")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"<[^>]*>|…")
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(document: Path) -> str:
    return document.read_text("utf-8")


def blocks(document: Path, *languages: str) -> list[str]:
    """Fenced blocks in one of these languages."""
    return [block for language, block in FENCED.findall(text_of(document)) if language in languages]


def quoted(document: Path) -> list[str]:
    """What stands in backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", text_of(document)))


def anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text_of(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell_lines(document: Path) -> Iterator[str]:
    """Commands: in backticks, and those of console blocks without their comments."""
    yield from quoted(document)
    for block in blocks(document, "console", "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.split(r" & ?|&&|\|", re.sub(r"(^|\s)#.*", "", line))


def commands(document: Path, program: str) -> list[list[str]]:
    """Arguments of every call of a program, without placeholders."""
    found = (
        re.fullmatch(rf"\$?\s*(?:\w+=\S*\s+)*{program} (.+)", line.strip()) for line in shell_lines(document)
    )
    return [shlex.split(PLACEHOLDER.sub("", match[1])) for match in found if match]


def unknown(words: list[str]) -> set[str]:
    """Commands and options in these words that `ringside` does not know."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        named = set(words[0].split("|"))
        if not named <= command.commands.keys():
            return named - command.commands.keys() - {"--help"}
        command, words = command.commands[min(named)], words[1:]
    options = {option for one in command.params for option in [*one.opts, *one.secondary_opts]}
    return {word for word in words if word.startswith("--")} - options - {"--help"}


@documents
def test_every_link_and_its_anchor_exist(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text_of(document))):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@documents
def test_every_path_exists(document: Path) -> None:
    names = {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    for word in (word for text in quoted(document) for word in text.split()):
        path = word.partition("::")[0].rstrip(",;")
        if PLACEHOLDER.search(path) or "*" in path:
            continue
        if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            assert (ROOT / path).exists(), path
        elif re.fullmatch(r"test_\w+\.py", path):
            assert path in names, path


@documents
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(document, "make"):
        assert words[0] in targets, words


@documents
def test_every_ringside_command_and_option_exists(document: Path) -> None:
    for words in commands(document, "ringside"):
        assert unknown(words) == set(), words


def test_an_unknown_command_or_option_is_noticed() -> None:
    assert unknown(["no-such-command", "x"]) == {"no-such-command"}
    assert unknown(["data", "show", "--no-such-option"]) == {"--no-such-option"}
    assert unknown(["data", "show", "--help"]) == set()


@documents
def test_every_python_block_compiles_and_imports(document: Path) -> None:
    for block in blocks(document, "python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
