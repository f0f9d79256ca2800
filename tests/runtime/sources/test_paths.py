from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_edge.runtime.sources.paths import is_file, is_folder, is_there

LONG = "n" * 300


def test_a_file_and_a_folder_are_told_apart_also_behind_links(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path)
    assert (is_there(file), is_file(file), is_folder(file)) == (True, True, False)
    assert (is_there(link), is_file(link), is_folder(link)) == (True, False, True)


@pytest.mark.parametrize("name", ["missing", LONG, "file/below", "loop", "null\0"])
def test_what_can_not_be_looked_at_is_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    path = str(tmp_path / name)
    assert (is_there(path), is_file(path), is_folder(path)) == (False, False, False)
