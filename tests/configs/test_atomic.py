from __future__ import annotations

import errno
from pathlib import Path

import pytest

from configs.atomic import folder_written_beside, remove_leftovers, write_text, written_beside
from configs.errors import InputError
from tests.experiments import files_of


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with written_beside(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert files_of(tmp_path) == {"new/a.txt": b"new"}


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), written_beside(path) as partial:
        partial.write_text("new")
        raise ZeroDivisionError
    assert files_of(tmp_path) == {"a.txt": b"old"}


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "there" / "store"
    with folder_written_beside(path) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "a").write_text("x")
        assert not path.exists()
        assert partial.parent == path.parent
    assert files_of(tmp_path) == {"there/store/inner/a": b"x"}
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_folder_may_be_in_the_place(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    with folder_written_beside(path) as partial:
        (partial / "a").write_text("x")
    assert files_of(tmp_path) == {"store/a": b"x"}


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_written_beside(tmp_path / "store") as partial:
        (partial / "a").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_there_stays_and_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store"
    if kind == "folder":
        path.mkdir()
        (path / "mine").write_text("x")
    elif kind == "file":
        path.write_text("x")
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="store: exists already"), folder_written_beside(path):
        pytest.fail("the block ran")
    assert files_of(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_what_appeared_during_the_block_stays(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with (
        pytest.raises(InputError, match="exists already"),
        folder_written_beside(path) as partial,
    ):
        (partial / "a").write_text("ours")
        write_text(path / "a", "theirs")
    assert files_of(tmp_path) == {"store/a": b"theirs"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    place = tmp_path / "file" / "store"
    with pytest.raises(InputError, match=r"store: cannot be made"), folder_written_beside(place):
        pytest.fail("the block ran")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with pytest.raises(InputError, match="store: no space left"), folder_written_beside(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_by_name_or_all(tmp_path: Path) -> None:
    def leave() -> None:
        for name in ("a[1]", "a1"):
            (tmp_path / f"{name}.partial-0").mkdir(exist_ok=True)
            (tmp_path / f"{name}.partial-0" / "x").touch()
            (tmp_path / f"{name}.partial-1").touch()

    (tmp_path / "a1").touch()
    leave()
    remove_leftovers(tmp_path, "a[1]")
    names = {"a1", "a1.partial-0", "a1.partial-1"}
    assert {entry.name for entry in tmp_path.iterdir()} == names
    leave()
    remove_leftovers(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a1"}
