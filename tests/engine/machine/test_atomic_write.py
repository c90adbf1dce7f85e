"""Outputs are complete or absent, and nothing that was there is lost."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.machine.atomic_write import atomic_directory, atomic_path


class InterruptedWriteError(Exception):
    """What the block under test raises half way."""


def fail_after_writing(*targets: Path) -> None:
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(atomic_path(target)).write_bytes(b"half")
        raise InterruptedWriteError


def fail_inside_directory(target: Path) -> None:
    with atomic_directory(target) as temporary:
        (temporary / "file").write_text("half")
        raise InterruptedWriteError


def test_file_is_written_and_no_temporary_stays(tmp_path: Path) -> None:
    target = tmp_path / "image.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.mdf"
    target.write_bytes(b"old")
    with pytest.raises(InterruptedWriteError):
        fail_after_writing(target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_several_outputs_appear_together_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(InterruptedWriteError):
        fail_after_writing(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_link_keeps_pointing_to_the_new_content(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(real)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_devices_and_folders_are_refused(tmp_path: Path) -> None:
    for target in (Path("/dev/null"), tmp_path):
        with pytest.raises(InputError, match="regular file"), atomic_path(target):
            pytest.fail("the block must not run")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"), atomic_path(tmp_path / "absent" / "out"):
        pytest.fail("the block must not run")


def test_directory_appears_complete(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with atomic_directory(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("content")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "content"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InterruptedWriteError):
        fail_inside_directory(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_empty_directory_is_used_and_a_filled_one_refused(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_directory(target) as temporary:
        (temporary / "file").write_text("first")
    with pytest.raises(InputError, match="not empty"), atomic_directory(target):
        pytest.fail("the block must not run")
    assert (target / "file").read_text() == "first"
