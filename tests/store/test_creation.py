"""Making and growing stores: completed by whoever comes, foreign folders refused, never smaller."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from kdcache.datasets import ImageDataset
from kdcache.encode import LOGITS, find_encoder
from kdcache.errors import StoreError
from kdcache.store import (
    ensure_mentor,
    ensure_store,
    is_store,
    new_manifest,
    open_store,
    verify_store,
)
from tests.store.small import (
    RECIPE,
    SmallStore,
    files_of,
    make_store,
    mentor_manifest,
    small_dataset,
)


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    manifest = new_manifest(dataset, RECIPE)
    ensure_store(tmp_path / "deep" / "store", manifest, dataset)
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


def ensure(root: Path, dataset: ImageDataset, views: int = 4) -> None:
    """What precompute does before it fills a store."""
    manifest = new_manifest(dataset, RECIPE)
    ensure_store(root, manifest, dataset)
    for name in ("r8", "r20"):
        mentor = mentor_manifest(name, 3, manifest.fingerprint)
        ensure_mentor(root, manifest, mentor, find_encoder("float16"), LOGITS, views)


def test_a_sound_store_is_not_written_to(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    ensure(tmp_path / "store", dataset)
    (tmp_path / "store" / ".lock").unlink()
    before = files_of(tmp_path / "store")
    ensure(tmp_path / "store", dataset)
    ensure(tmp_path / "store", dataset, views=2)
    assert files_of(tmp_path / "store") == before  # not even a lock
    ensure(tmp_path / "store", dataset, views=5)
    after = files_of(tmp_path / "store")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {".lock", *(f"mentors/{name}/logits/zarr.json" for name in ("r8", "r20"))}


def test_of_many_threads_at_once_each_ends_with_the_whole_store(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(ensure, tmp_path / "store", dataset) for _ in range(4)]
    assert [future.result() for future in made] == [None] * 4
    require_whole(tmp_path / "store", dataset)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_of_many_processes_at_once_each_ends_with_the_whole_store(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                ensure(tmp_path / "store", dataset)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 4
    require_whole(tmp_path / "store", dataset)


def require_whole(root: Path, dataset: ImageDataset) -> None:
    store = open_store(root)
    assert store.manifest == new_manifest(dataset, RECIPE)
    assert store.index_N.tolist() == dataset.index_N.tolist()
    assert store.labels_N.tolist() == dataset.labels(dataset.index_N).tolist()
    assert store.mentors == ["r20", "r8"]
    assert store.mentor_errors == {}
    assert store.num_views == 4
    expected = mentor_manifest("r8", 3, store.fingerprint)
    assert store.mentor("r8").manifest == expected
    assert store.mentor("r8").encoder == find_encoder("float16")
    assert not [path for path in root.rglob("*") if path.name.endswith(".tmp")]


def test_a_mentor_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    """Whoever asks for another one is told so later, with both sides."""
    small = make_store(tmp_path / "store")
    manifest = small.open().manifest
    before = files_of(small.root)
    other = replace(mentor_manifest("r20", 3, manifest.fingerprint), checkpoint_sha256="1" * 64)
    ensure_mentor(small.root, manifest, other, find_encoder("float32"), LOGITS, 2)
    assert files_of(small.root) == before
    ensure_mentor(small.root, manifest, other, find_encoder("float32"), LOGITS, 9)
    store = small.open()
    assert store.mentor("r20").encoder == find_encoder("float16")
    assert store.mentor("r20").manifest.checkpoint_sha256 == "0" * 64
    assert store.num_views == 9
    assert np.array_equal(store.targets(view=1, index=np.arange(7))[:, 0], small.decoded["r20"][1])


# What is refused


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "precious"
    (root / "labels").mkdir(parents=True)
    (root / "thesis.tex").write_text("text")
    dataset = small_dataset(6, 3)
    before = files_of(root)
    with pytest.raises(StoreError, match="exists and is not a kdcache store; name a new or empty"):
        ensure_store(root, new_manifest(dataset, RECIPE), dataset)
    assert files_of(root) == before


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    dataset = small_dataset(6, 3)
    with pytest.raises(StoreError, match="exists and is not a kdcache store"):
        ensure_store(tmp_path / "file", new_manifest(dataset, RECIPE), dataset)
    assert (tmp_path / "file").read_text() == "text"


def test_another_zarr_group_is_refused(tmp_path: Path) -> None:
    group = zarr.create_group(store=tmp_path / "group", attributes={"mine": 1})
    group.create_array("index", shape=(3,), dtype="int64")
    before = files_of(tmp_path / "group")
    dataset = small_dataset(6, 3)
    with pytest.raises(StoreError, match="exists and is not a kdcache store"):
        ensure_store(tmp_path / "group", new_manifest(dataset, RECIPE), dataset)
    assert files_of(tmp_path / "group") == before


def test_a_store_of_other_views_stays_as_it_is(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store")
    (small.root / "index" / "zarr.json").unlink()  # not even healed: these are not its samples
    before = files_of(small.root)
    dataset = small_dataset(9, 3)
    ensure_store(small.root, new_manifest(dataset, RECIPE), dataset)
    assert files_of(small.root) == before


# What killed writers leave


def test_what_a_killed_creation_left_is_completed(tmp_path: Path) -> None:
    """The documents appear one by one, the store's own last; at each point the call goes on."""
    dataset = small_dataset(6, 3)
    ensure(tmp_path / "whole", dataset)
    whole = tmp_path / "whole"
    steps = ["zarr.json", "mentors/zarr.json", "labels/zarr.json", "labels/c/0", "index/zarr.json"]
    for kept in range(len(steps)):
        root = tmp_path / f"killed-{kept}"
        shutil.copytree(whole, root)
        shutil.rmtree(root / "mentors" / "r8")
        shutil.rmtree(root / "mentors" / "r20")
        (root / ".zarr.json.0123456789ab.tmp").write_bytes(b"{")
        for name in steps[: kept + 1]:
            (root / name).unlink()
        assert not is_store(root)
        ensure(root, dataset)
        (root / ".zarr.json.0123456789ab.tmp").unlink()
        require_whole(root, dataset)


def test_what_a_killed_addition_of_a_mentor_left_is_completed(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    ensure(tmp_path / "store", dataset)
    (tmp_path / "store" / "mentors" / "r20" / "zarr.json").unlink()  # it comes last
    shutil.rmtree(tmp_path / "store" / "mentors" / "r8")
    (tmp_path / "store" / "mentors" / "r8").mkdir()
    store = open_store(tmp_path / "store")
    assert (store.mentors, store.mentor_errors) == ([], {})
    assert verify_store(store.root).ok
    ensure(tmp_path / "store", dataset)
    require_whole(tmp_path / "store", dataset)


def test_a_creation_that_fails_makes_no_store(tmp_path: Path) -> None:
    dataset = small_dataset(6, 3)
    manifest = new_manifest(dataset, RECIPE)
    broken = small_dataset(6, 3)
    broken.index_N = "not an array"  # type: ignore[assignment]
    with pytest.raises((AttributeError, TypeError, IndexError)):
        ensure_store(tmp_path / "store", manifest, broken)
    assert not is_store(tmp_path / "store")
    ensure(tmp_path / "store", dataset)
    require_whole(tmp_path / "store", dataset)


# Growing


def declare(small: SmallStore, views: int) -> None:
    manifest = small.open().manifest
    mentor = mentor_manifest("r20", 3, manifest.fingerprint)
    ensure_mentor(small.root, manifest, mentor, find_encoder("float16"), LOGITS, views)


def test_arrays_only_grow(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", views=2)
    before = files_of(small.root)
    for fewer in (0, 1, 2):
        declare(small, fewer)
        assert files_of(small.root) == before
    declare(small, 5)
    declare(small, 3)
    store = small.open()
    assert store.num_views == 5
    assert store.usable_views(["r20"]) == [0, 1]
    assert np.array_equal(store.targets(view=1, index=np.arange(7))[:, 0], small.decoded["r20"][1])


def test_growing_changes_the_number_of_views_and_nothing_else(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", views=2)
    array = small.array("r20")
    before = json.loads(array.metadata.read_bytes())
    declare(small, 4)
    after = json.loads(array.metadata.read_bytes())
    assert after.pop("shape") == [4, 7, 3]
    assert before.pop("shape") == [2, 7, 3]
    assert after["attributes"]["kdcache"].pop("seal") != before["attributes"]["kdcache"].pop("seal")
    assert after == before
    opened = zarr.open_array(array.folder, mode="r")
    assert opened.shape == (4, 7, 3)
    assert np.isnan(np.asarray(opened[2:])).all()
    assert np.array_equal(np.asarray(opened[:2]).astype(np.float32), small.decoded["r20"])


def test_of_many_who_grow_at_once_the_most_views_stay(tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", views=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda views: declare(small, views), [3, 9, 4, 8, 5, 7, 6, 2]))
    assert small.open().num_views == 9
