"""The sample lists and the mentors' identities: damaged, lost, or another store's."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.canonical import array_sha256
from kdcache.errors import DamagedTargets, StoreError
from kdcache.store import MentorManifest
from kdcache.store.chunks import crc32c
from kdcache.store.manifest import fingerprint
from tests.store.small import SmallStore, alter, alter_attributes, make_store

LISTS = pytest.mark.parametrize("name", ["index", "labels"])


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "store", mentors=["r8", "r20"])


@LISTS
def test_a_damaged_sample_list_is_an_error(small: SmallStore, name: str) -> None:
    chunk = small.root / name / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[3] ^= 4
    chunk.write_bytes(content)
    with pytest.raises(DamagedTargets, match="it cannot be read") as caught:
        getattr(small.open(), f"{name}_N")
    assert str(chunk) in str(caught.value)


def test_a_sample_list_of_another_length_is_an_error(small: SmallStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", num_samples=8)
    (small.root / "index").rename(tmp_path / "away")
    (other.root / "index").rename(small.root / "index")
    with pytest.raises(DamagedTargets, match="it is not the array it should be"):
        small.open().targets(view=0, index=np.arange(2))


@LISTS
def test_a_lost_sample_list_is_an_error(small: SmallStore, tmp_path: Path, name: str) -> None:
    (small.root / name).rename(tmp_path / "away")
    with pytest.raises(DamagedTargets, match=rf"{name}/zarr\.json is damaged: the file is gone"):
        getattr(small.open(), f"{name}_N")
    (small.root / name).write_text("a file in its place")
    with pytest.raises(DamagedTargets, match=rf"{name}/zarr\.json is damaged: the file is gone"):
        getattr(small.open(), f"{name}_N")


@LISTS
def test_a_lost_chunk_of_a_sample_list_is_an_error(small: SmallStore, name: str) -> None:
    (small.root / name / "c" / "0").unlink()  # Zarr reads it as zeros
    with pytest.raises(DamagedTargets, match=rf"{name}/c/0 is damaged: the file is gone"):
        getattr(small.open(), f"{name}_N")


@LISTS
def test_another_stores_sample_list_is_an_error(
    small: SmallStore, tmp_path: Path, name: str
) -> None:
    other = make_store(tmp_path / "other", num_samples=8, index_N=range(1, 8))
    shutil.copytree(other.root / name, small.root / name, dirs_exist_ok=True)
    with pytest.raises(DamagedTargets, match="it is not the list the manifest was made with"):
        getattr(small.open(), f"{name}_N")


@LISTS
@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(shape=[8]),
        lambda document: document.update(fill_value=1),
        lambda document: document["codecs"].pop(),
        lambda document: document.update(attributes=None, seal="0" * 64),
        lambda document: document.update(attributes={"kdcache": 5}, seal="0" * 64),
    ],
)
def test_a_sample_list_of_other_metadata_is_an_error(
    small: SmallStore, name: str, change: Callable[[dict[str, Any]], object]
) -> None:
    alter(small.root / name / "zarr.json", change)
    with pytest.raises(DamagedTargets, match="it is not the array it should be"):
        getattr(small.open(), f"{name}_N")


def forge_list(small: SmallStore, name: str, values: list[int]) -> None:
    """A list with the manifest, fingerprint and seals that fit it."""
    values_N = np.array(values, dtype="<i8")
    content = values_N.tobytes()
    chunk = small.root / name / "c" / "0"
    chunk.write_bytes(content + crc32c(content).to_bytes(4, "little"))

    def forge(manifest: dict[str, Any]) -> None:
        manifest["dataset"][f"{name}_sha256"] = array_sha256(values_N)
        manifest["fingerprint"] = fingerprint(
            manifest["dataset"], manifest["recipe"], manifest["view_seed"]
        )

    alter_attributes(small.root / "zarr.json", forge)


@pytest.mark.parametrize("values", [[0, 1, 1, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [-1, *range(6)]])
def test_sample_integers_that_do_not_ascend_are_an_error(
    small: SmallStore, values: list[int]
) -> None:
    forge_list(small, "index", values)
    with pytest.raises(StoreError, match="sample integers must ascend from 0 up"):
        small.open().targets(view=0, index=np.arange(2), mentors=[])


@pytest.mark.parametrize("value", [-1, 3, 2**62])
def test_labels_beyond_the_classes_are_an_error(small: SmallStore, value: int) -> None:
    forge_list(small, "labels", [0, 1, 2, 0, 1, 2, value])
    with pytest.raises(StoreError, match="labels must lie below 3"):
        small.open().labels_N  # noqa: B018


# Mentors


def test_a_mentor_in_anothers_folder_is_an_error(small: SmallStore) -> None:
    (small.root / "mentors" / "r20").rename(small.root / "mentors" / "r56")
    store = small.open()
    assert store.mentors == ["r56", "r8"]
    with pytest.raises(StoreError, match="describes the mentor 'r20', not its folder's"):
        store.mentor("r56")
    assert store.usable_views(["r8"]) == [0, 1]


def test_a_mentor_of_other_views_is_an_error(small: SmallStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", num_samples=8)
    shutil.rmtree(small.root / "mentors" / "r20")
    shutil.copytree(other.root / "mentors" / "r20", small.root / "mentors" / "r20")
    store = small.open()
    with pytest.raises(StoreError, match="its targets are for the views") as caught:
        store.mentor("r20")
    for manifest in (store.manifest, other.open().manifest):
        assert manifest.fingerprint in str(caught.value)
    assert [mentor.manifest.name for mentor in store.sound_mentors] == ["r8"]


@pytest.mark.parametrize("key", MentorManifest.__dataclass_fields__)
def test_a_mentor_that_lacks_something_is_an_error(small: SmallStore, key: str) -> None:
    group = small.root / "mentors" / "r20" / "zarr.json"
    alter_attributes(group, lambda mentor: mentor.pop(key))
    with pytest.raises(StoreError, match="not a mentor of format 1"):
        small.open().mentor("r20")


@pytest.mark.parametrize(
    "change",
    [{"name": 5}, {"fingerprint": None}, {"run_shape": []}, {"preprocessing": "x"}, {"extra": 1}],
)
def test_a_mentor_of_other_types_is_an_error(small: SmallStore, change: dict[str, Any]) -> None:
    group = small.root / "mentors" / "r20" / "zarr.json"
    alter_attributes(group, lambda mentor: mentor.update(change))
    with pytest.raises(StoreError, match="not a mentor of format 1"):
        small.open().mentor("r20")


def test_a_lost_document_of_a_mentor_is_damage(small: SmallStore) -> None:
    (small.root / "mentors" / "r20" / "zarr.json").unlink()
    small.array("r8").metadata.unlink()
    store = small.open()
    assert store.mentors == ["r20", "r8"]
    assert store.sound_mentors == []
    for error in store.mentor_errors.values():
        assert isinstance(error, DamagedTargets)
        assert "the file is gone" in str(error)
