"""Stores where nothing may be written: read-only folders, and links that lead elsewhere."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from kdcache.encode import LOGITS, find_encoder
from kdcache.errors import StoreError
from kdcache.store import ensure_mentor, ensure_store, write_commit_index, writing
from tests.store.small import (
    SmallStore,
    commit_rows,
    files_of,
    make_store,
    mentor_manifest,
    random_targets,
)


@pytest.fixture
def anybodys_folder() -> Iterator[Path]:
    """A folder that others than its owner may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def without_root() -> Iterator[None]:
    """As a user whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_store_in_a_read_only_folder_can_be_read(anybodys_folder: Path) -> None:
    small = make_store(anybodys_folder / "store")
    (small.root / ".lock").unlink()
    folders = [small.root, *(path for path in small.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        before = files_of(small.root)
        with without_root():
            with pytest.raises(PermissionError):
                (small.root / "new").write_text("text")
            ensure_all(small)  # nothing lacks, so nothing is written, not even a lock
            assert files_of(small.root) == before
            got = small.open().targets(view=1, index=np.arange(7))[:, 0]
        assert np.array_equal(got, small.decoded["r20"][1])
    finally:
        for folder in folders:
            folder.chmod(0o755)


# Links. A store from a stranger must not make us write over files of ours.


def ensure_all(small: SmallStore) -> None:
    manifest = small.open().manifest
    ensure_store(small.root, manifest, small.dataset)
    mentor = mentor_manifest("r20", 3, manifest.fingerprint)
    ensure_mentor(small.root, manifest, mentor, find_encoder("float16"), LOGITS, 2)


def write_everything(small: SmallStore) -> None:
    """All that a precompute writes, with one document of each kind to be healed."""
    store = small.open()
    stored = store.mentor("r20")
    with writing(small.root):
        commit_rows(store, "r20", (1, 0), random_targets(2, 7, 3)[1])
        write_commit_index(stored.array, stored.commits.values())


FOLDERS = {
    "index": "index/zarr.json",
    "index/c": "index/c/0",
    "labels": "labels/c/0",
    "mentors": "mentors/zarr.json",
    "mentors/r20": "mentors/r20/zarr.json",
    "mentors/r20/logits": "mentors/r20/logits/zarr.json",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_document_is_healed_behind_a_link(tmp_path: Path, folder: str) -> None:
    small = make_store(tmp_path / "store")
    manifest = small.open().manifest
    mentor = mentor_manifest("r20", 3, manifest.fingerprint)
    (small.root / FOLDERS[folder]).unlink()
    elsewhere = tmp_path / "elsewhere"
    (small.root / folder).rename(elsewhere)
    (small.root / folder).symlink_to(elsewhere, target_is_directory=True)
    before = files_of(elsewhere)

    def heal() -> None:
        ensure_store(small.root, manifest, small.dataset)
        ensure_mentor(small.root, manifest, mentor, find_encoder("float16"), LOGITS, 2)

    with pytest.raises(StoreError, match="lies behind a symbolic link inside the store"):
        heal()
    assert files_of(elsewhere) == before


@pytest.mark.parametrize("folder", ["c", "c/1", "c/1/0", "commits", "."])
def test_no_chunk_is_written_behind_a_link(tmp_path: Path, folder: str) -> None:
    small = make_store(tmp_path / "store")
    store = small.open()
    array = store.mentor("r20").array
    array.chunk(1, 0).unlink()  # which commit_chunk would heal
    elsewhere = tmp_path / "elsewhere"
    linked = array.folder / folder
    linked.rename(elsewhere)
    linked.symlink_to(elsewhere, target_is_directory=True)
    before = files_of(elsewhere)
    with pytest.raises(StoreError, match="lies behind a symbolic link inside the store"):
        commit_rows(store, "r20", (1, 0), random_targets(2, 7, 3)[1])
    assert files_of(elsewhere) == before


@pytest.mark.parametrize("name", [".lock", ".writers"])
@pytest.mark.parametrize("exists", [True, False])
def test_no_lock_is_taken_behind_a_link(tmp_path: Path, name: str, exists: bool) -> None:
    small = make_store(tmp_path / "store")
    elsewhere = tmp_path / "elsewhere"
    if exists:
        elsewhere.write_text("precious")
    (small.root / name).unlink(missing_ok=True)
    (small.root / name).symlink_to(elsewhere)
    with pytest.raises(StoreError, match="lies behind a symbolic link inside the store"):
        write_everything(small)
    assert elsewhere.exists() is exists
    assert not exists or elsewhere.read_text() == "precious"


def test_a_link_for_a_file_is_replaced_by_a_file(tmp_path: Path) -> None:
    """What it leads to is neither read nor written."""
    small = make_store(tmp_path / "store")
    array = small.array("r20")
    record = small.open().mentor("r20").commits[1, 0]
    paths = [array.chunk(1, 0), array.commits / record.file_name, array.commit_index]
    paths += [array.metadata, small.root / "zarr.json", small.root / "index" / "zarr.json"]
    manifest = small.open().manifest
    write_commit_index(array, [record])
    for number, path in enumerate(paths):
        path.rename(tmp_path / f"elsewhere-{number}")
        path.symlink_to(tmp_path / f"elsewhere-{number}")
    before = [(tmp_path / f"elsewhere-{number}").read_bytes() for number in range(len(paths))]
    ensure_store(small.root, manifest, small.dataset)
    ensure_all(small)
    write_everything(small)
    assert not any(path.is_symlink() for path in paths)
    after = [(tmp_path / f"elsewhere-{number}").read_bytes() for number in range(len(paths))]
    assert after == before
    got = small.open().targets(view=1, index=np.arange(7))[:, 0]
    assert np.array_equal(got, small.decoded["r20"][1])


def test_leftovers_behind_a_link_stay(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (elsewhere, small.root / "mentors"):
        (folder / ".mine.0123456789ab.tmp").write_text("text")
    (small.root / "linked").symlink_to(elsewhere, target_is_directory=True)
    with writing(small.root):
        pass
    assert (elsewhere / ".mine.0123456789ab.tmp").exists()
    assert not (small.root / "mentors" / ".mine.0123456789ab.tmp").exists()


def test_a_mentor_behind_a_link_is_not_opened(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", mentors=["r8", "r20"])
    (small.root / "mentors" / "r20").rename(tmp_path / "elsewhere")
    (small.root / "mentors" / "r20").symlink_to(tmp_path / "elsewhere")
    store = small.open()
    with pytest.raises(StoreError, match="lies behind a symbolic link inside the store"):
        store.mentor("r20")
    assert store.usable_views(["r8"]) == [0, 1]


def test_a_store_that_is_itself_a_link_is_one(tmp_path: Path) -> None:
    small = make_store(tmp_path / "real" / "store")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    linked = SmallStore(tmp_path / "link" / "store", small.dataset, small.decoded)
    (linked.root / "labels" / "zarr.json").unlink()
    shutil.rmtree(linked.array("r20").commits)
    ensure_all(linked)
    write_everything(linked)
    assert linked.open().labels_N.tolist() == small.open().labels_N.tolist()
    assert linked.open().usable_views(["r20"]) == [1]
