"""Making and growing stores: whole or not at all, and never smaller."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr

from kdcache.encode import LOGITS, find_encoder
from kdcache.errors import StoreError
from kdcache.store import add_mentor, create_store, grow_views, is_store, new_manifest, open_store
from tests.store.small import RECIPE, make_store, mentor_manifest, small_dataset


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    manifest = new_manifest(dataset, RECIPE)
    create_store(tmp_path / "deep" / "store", manifest, dataset)
    store = open_store(tmp_path / "deep" / "store")
    assert is_store(store.root)
    assert store.manifest == manifest
    assert (store.mentors, store.num_views, store.num_samples) == ([], 0, 6)
    assert store.targets(view=0, index=np.arange(3)).shape == (3, 0, 3)
    assert sorted(path.name for path in store.root.parent.iterdir()) == ["store"]


def test_an_empty_folder_becomes_the_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert make_store(tmp_path / "store").open().mentors == ["r20"]


def test_a_link_to_an_empty_folder_becomes_the_store(tmp_path: Path) -> None:
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "big-disk", target_is_directory=True)
    small = make_store(tmp_path / "store")
    assert small.open().mentors == ["r20"]
    assert is_store(tmp_path / "big-disk")


def test_creating_a_store_again_keeps_what_is_there(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in small.root.rglob("*") if path.is_file()}
    create_store(small.root, new_manifest(small.dataset, RECIPE), small.dataset)
    after = {path: path.stat().st_mtime_ns for path in small.root.rglob("*") if path.is_file()}
    assert after == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_of_many_at_once_one_makes_the_store(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    manifest = new_manifest(dataset, RECIPE)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(create_store, tmp_path / "store", manifest, dataset) for _ in range(4)]
    assert [future.result() for future in made] == [None] * 4
    assert open_store(tmp_path / "store").manifest == manifest
    assert open_store(tmp_path / "store").index_N.tolist() == list(range(6))
    assert not list(tmp_path.glob("*.tmp"))


def test_of_many_at_once_one_adds_the_mentor(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", mentors=[]).open()
    arguments = (store, mentor_manifest("r8", 3), find_encoder("float16"), LOGITS, 4)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(add_mentor, *arguments) for _ in range(4)]
    assert [future.result() for future in made] == [None] * 4
    opened = open_store(store.root)
    assert opened.mentors == ["r8"]
    assert opened.mentor("r8").manifest == mentor_manifest("r8", 3)
    assert opened.mentor("r8").encoder == find_encoder("float16")
    assert opened.num_views == 4


def test_adding_a_mentor_again_keeps_its_targets(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store")
    add_mentor(small.open(), mentor_manifest("r20", 3), find_encoder("float32"), LOGITS, 9)
    store = small.open()
    assert store.mentor("r20").encoder == find_encoder("float16")
    assert np.array_equal(store.targets(view=1, index=np.arange(7))[:, 0], small.decoded["r20"][1])


@pytest.mark.parametrize("content", ["file", "hidden"])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, content: str) -> None:
    root = tmp_path / "precious"
    root.mkdir()
    (root / (".x" if content == "hidden" else "thesis.tex")).write_text("text")
    dataset = small_dataset(6, 3)
    with pytest.raises(StoreError, match="exists and is not a kdcache store; name a new or empty"):
        create_store(root, new_manifest(dataset, RECIPE), dataset)
    assert len(list(root.iterdir())) == 1


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    dataset = small_dataset(6, 3)
    with pytest.raises(StoreError, match="exists and is not a kdcache store"):
        create_store(tmp_path / "file", new_manifest(dataset, RECIPE), dataset)
    assert (tmp_path / "file").read_text() == "text"


def test_another_zarr_group_is_refused(tmp_path: Path) -> None:
    zarr.create_group(store=tmp_path / "group", attributes={"mine": 1})
    dataset = small_dataset(6, 3)
    with pytest.raises(StoreError, match="exists and is not a kdcache store"):
        create_store(tmp_path / "group", new_manifest(dataset, RECIPE), dataset)


def test_what_a_killed_creation_left_is_harmless(tmp_path: Path) -> None:
    finished = make_store(tmp_path / "finished")
    leftover = tmp_path / ".store.0123456789ab.tmp"
    shutil.copytree(finished.root, leftover)
    (leftover / "zarr.json").unlink()
    small = make_store(tmp_path / "store")
    assert small.open().mentors == ["r20"]
    assert leftover.exists()


def test_what_a_killed_addition_of_a_mentor_left_is_harmless(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store")
    mentors = small.root / "mentors"
    shutil.copytree(mentors / "r20", mentors / ".r20.0123456789ab.tmp")
    shutil.copytree(mentors / "r20", mentors / ".r56.0123456789ab.tmp")
    (mentors / ".r56.0123456789ab.tmp" / "logits" / "zarr.json").unlink()
    (mentors / ".r8.0123456789ab.tmp").mkdir()
    store = small.open()
    assert store.mentors == ["r20"]
    assert np.array_equal(store.targets(view=1, index=np.arange(7))[:, 0], small.decoded["r20"][1])


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    manifest = new_manifest(dataset, RECIPE)
    broken = small_dataset(6, 3)
    broken.index_N = "not an array"  # type: ignore[assignment]
    with pytest.raises((AttributeError, TypeError, IndexError)):
        create_store(tmp_path / "store", manifest, broken)
    assert list(tmp_path.glob("*store*")) == list(tmp_path.glob(".*store*")) == []


# Growing


def test_arrays_only_grow(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", views=2)
    array = small.array("r20")
    before = array.metadata.read_bytes()
    for fewer in (0, 1, 2):
        grow_views(array, fewer)
        assert array.metadata.read_bytes() == before
    grow_views(array, 5)
    grow_views(array, 3)
    store = small.open()
    assert store.num_views == 5
    assert store.usable_views(["r20"]) == [0, 1]
    assert np.array_equal(store.targets(view=1, index=np.arange(7))[:, 0], small.decoded["r20"][1])


def test_growing_changes_the_number_of_views_and_nothing_else(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", views=2)
    array = small.array("r20")
    before = json.loads(array.metadata.read_bytes())
    grow_views(array, 4)
    after = json.loads(array.metadata.read_bytes())
    assert after.pop("shape") == [4, 7, 3]
    assert before.pop("shape") == [2, 7, 3]
    assert after == before
    opened = zarr.open_array(array.folder, mode="r")
    assert opened.shape == (4, 7, 3)
    assert np.isnan(np.asarray(opened[2:])).all()
    assert np.array_equal(np.asarray(opened[:2]).astype(np.float32), small.decoded["r20"])


def test_of_many_who_grow_at_once_the_most_views_stay(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", views=2)
    array = small.array("r20")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda views: grow_views(array, views), [3, 9, 4, 8, 5, 7, 6, 2]))
    assert small.open().num_views == 9


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
    folders = [small.root, *(path for path in small.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with without_root():
            with pytest.raises(PermissionError):
                (small.root / "new").write_text("text")
            got = small.open().targets(view=1, index=np.arange(7))[:, 0]
        assert np.array_equal(got, small.decoded["r20"][1])
    finally:
        for folder in folders:
            folder.chmod(0o755)
