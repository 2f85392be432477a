"""Files are complete or absent."""

from pathlib import Path

import pytest

from services.runtime.atomic_write import atomic_replacement, write_atomically


def test_content_appears_under_its_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    write_atomically(path, "ä")
    write_atomically(path, b"2")
    assert path.read_bytes() == b"2"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("synced", [False, True])
def test_a_failed_write_changes_nothing_and_leaves_no_draft(tmp_path: Path, synced: bool) -> None:
    path = tmp_path / "facts.json"
    write_atomically(path, "1")

    def fail() -> None:
        with atomic_replacement(path, synced=synced) as draft:
            draft.write_text("2")
            assert draft.name.startswith(".")
            assert not draft.match("*.json")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]
