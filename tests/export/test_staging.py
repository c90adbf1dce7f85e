"""A bundle folder is replaced as a whole, and nothing else is ever replaced."""

import json
from pathlib import Path

import pytest

from engine.errors import BundleError, InputError
from export.staging import staged_bundle


def write_bundle(folder: Path, content: str) -> None:
    manifest = {"kind": "deq-mpi-bundle", "content": content}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def existing(tmp_path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder, "old")
    (folder / "operators.h5").write_bytes(b"old operators")
    (folder / "intervals.json").write_text("of the old networks")
    return folder


def content_of(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["content"]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_new_bundle_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "bundle"
    with staged_bundle(target) as folder:
        assert folder.parent == tmp_path
        write_bundle(folder, "new")
        assert not target.exists()
    assert content_of(target) == "new"
    assert names(tmp_path) == ["bundle"]


def test_an_existing_bundle_is_replaced_as_a_whole(existing):
    with staged_bundle(existing) as folder:
        write_bundle(folder, "new")
        assert content_of(existing) == "old"
    assert content_of(existing) == "new"
    assert names(existing) == ["manifest.json"]  # operators and intervals belong to the old bundle
    assert names(existing.parent) == ["bundle"]


def test_a_link_to_a_bundle_stays_a_link(existing, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(existing)
    with staged_bundle(link) as folder:
        write_bundle(folder, "new")
    assert link.is_symlink()
    assert content_of(existing) == "new"


class StopWritingError(Exception):
    pass


def test_a_failure_leaves_the_old_bundle(existing):
    def write_half() -> None:
        with staged_bundle(existing) as folder:
            write_bundle(folder, "half")
            raise StopWritingError

    with pytest.raises(StopWritingError):
        write_half()
    assert content_of(existing) == "old"
    assert names(existing) == ["intervals.json", "manifest.json", "operators.h5"]
    assert names(existing.parent) == ["bundle"]


def test_a_failed_exchange_puts_the_old_bundle_back(existing, monkeypatch):
    rename = Path.rename

    def refuse_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".new") and target == existing:
            raise OSError("disk trouble")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(OSError, match="disk trouble"), staged_bundle(existing) as folder:
        write_bundle(folder, "new")
    assert content_of(existing) == "old"
    assert names(existing.parent) == ["bundle"]


def must_not_run(target: Path) -> None:
    with staged_bundle(target):
        pytest.fail("work began before the target was checked")


@pytest.mark.parametrize(
    "manifest",
    [None, "not JSON", '{"kind": "deq-mpi-operators"}', "[]"],
    ids=["none", "text", "kind", "list"],
)
def test_a_folder_that_is_no_bundle_is_refused(tmp_path, manifest):
    target = tmp_path / "results"
    target.mkdir()
    if manifest is not None:
        (target / "manifest.json").write_text(manifest, encoding="utf-8")
    before = names(target)
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        must_not_run(target)
    assert names(target) == before
    assert names(tmp_path) == ["results"]


def test_a_bundle_with_other_files_is_refused(existing):
    (existing / "notes.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(BundleError, match=r"notes\.txt"):
        must_not_run(existing)
    assert (existing / "notes.txt").read_text(encoding="utf-8") == "keep me"


def test_a_file_is_refused(tmp_path):
    target = tmp_path / "bundle"
    target.write_bytes(b"")
    with pytest.raises(BundleError, match="is a file"):
        must_not_run(target)


def test_a_missing_parent_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot write bundle: the folder .*absent does not exist"):
        must_not_run(tmp_path / "absent" / "bundle")
