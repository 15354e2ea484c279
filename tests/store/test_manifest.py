"""The manifest: which views a store is for. Another format, or an altered one, is an error."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.datasets import open_dataset
from kdcache.errors import StoreError, StoreMismatch
from kdcache.store import create_store, is_store, new_manifest, open_store, require_equal
from kdcache.store.manifest import fingerprint
from kdcache.views import CropFlip, Unaugmented
from tests.store.small import RECIPE, SmallStore, make_store, small_dataset


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "store")


def alter(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes `attributes.kdcache` of a zarr.json."""
    metadata = json.loads(path.read_bytes())
    change(metadata["attributes"]["kdcache"])
    path.write_text(json.dumps(metadata))


# Fingerprints


def test_a_fingerprint_is_the_sha256_of_the_canonical_json() -> None:
    text = (
        '{"dataset":{"name":"caf\\u00e9","num_samples":3},'
        '"recipe":{"flip":true,"name":"crop-flip","padding":4},"view_seed":7}'
    )
    got = fingerprint(
        {"num_samples": 3, "name": "café"},
        {"padding": 4, "name": "crop-flip", "flip": True},
        7,
    )
    assert (
        got
        == hashlib.sha256(text.encode()).hexdigest()
        == "393d677e3e445c24fef12968f7a2217342c838ecf5418c4610cf2a1bebdd5346"
    )


def test_the_fingerprint_of_the_digits_is_pinned() -> None:
    digits = open_dataset("digits")
    recipe = CropFlip(size=8, padding=1, flip=False)
    assert (
        new_manifest(digits, recipe).fingerprint
        == "f0cba9cba9d7021f29f9b60db483046dcea2f194ee5c09c755dd0b8b78fb6684"
    )


def test_a_fingerprint_names_dataset_recipe_and_seed() -> None:
    dataset = small_dataset(20, 4)
    manifests = [
        new_manifest(dataset, RECIPE),
        new_manifest(dataset.select(19), RECIPE),
        new_manifest(small_dataset(20, 5), RECIPE),
        new_manifest(dataset, CropFlip(size=4, padding=1, seed=1)),
        new_manifest(dataset, CropFlip(size=4, padding=2)),
        new_manifest(dataset, Unaugmented()),
    ]
    assert len({manifest.fingerprint for manifest in manifests}) == len(manifests)
    assert new_manifest(small_dataset(20, 4), RECIPE) == manifests[0]


def test_a_manifest_counts_blocks_and_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.store.layout.TARGET_BLOCK", 4)
    manifest = new_manifest(small_dataset(10, 3), RECIPE)
    assert (manifest.block, manifest.num_blocks) == (4, 3)
    assert [manifest.block_rows(block) for block in range(3)] == [
        slice(0, 4),
        slice(4, 8),
        slice(8, 10),
    ]


def test_a_manifest_round_trips_through_its_store(small: SmallStore) -> None:
    expected = new_manifest(small.dataset, RECIPE)
    assert small.open().manifest == expected
    assert small.open().fingerprint == expected.fingerprint
    assert json.loads(json.dumps(expected.to_json())) == expected.to_json()
    assert set(expected.written_by) == {
        "python",
        "kdcache",
        "torch",
        "torchvision",
        "numpy",
        "zarr",
        "numcodecs",
    }


# Foreign and altered manifests


@pytest.mark.parametrize("found", [2, 0, "1", None])
def test_another_format_is_an_error_that_names_both(small: SmallStore, found: object) -> None:
    alter(small.root / "zarr.json", lambda manifest: manifest.update(format=found))
    with pytest.raises(StoreError, match=f"has store format {found!r}, this version .* format 1"):
        small.open()
    assert is_store(small.root)


def test_a_store_of_another_format_is_not_written_over(small: SmallStore) -> None:
    alter(small.root / "zarr.json", lambda manifest: manifest.update(format=2, new_field=[1]))
    before = (small.root / "zarr.json").read_bytes()
    create_store(small.root, new_manifest(small.dataset, RECIPE), small.dataset)
    assert (small.root / "zarr.json").read_bytes() == before


ALTERATIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "seed": lambda manifest: manifest.update(view_seed=1),
    "recipe": lambda manifest: manifest["recipe"].update(padding=2),
    "samples": lambda manifest: manifest["dataset"].update(num_samples=6),
    "pixels": lambda manifest: manifest["dataset"].update(pixels_sha256="0" * 64),
    "fingerprint": lambda manifest: manifest.update(fingerprint="0" * 64),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_manifest_is_an_error(small: SmallStore, alteration: str) -> None:
    alter(small.root / "zarr.json", ALTERATIONS[alteration])
    with pytest.raises(StoreError, match="the manifest was altered: it states the fingerprint"):
        small.open()


def test_a_block_of_nothing_is_an_error(small: SmallStore) -> None:
    alter(small.root / "zarr.json", lambda manifest: manifest.update(block=0))
    with pytest.raises(StoreError, match="block cannot be 0"):
        small.open()


DELETIONS = ["fingerprint", "dataset", "recipe", "view_seed", "block", "replay_proof", "written_by"]


@pytest.mark.parametrize("key", DELETIONS)
def test_a_manifest_that_lacks_something_is_an_error(small: SmallStore, key: str) -> None:
    alter(small.root / "zarr.json", lambda manifest: manifest.pop(key))
    with pytest.raises(StoreError, match="the manifest is not one of format 1"):
        small.open()


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": 5},
        {"dataset": {}},
        {"recipe": 3},
        {"block": "8"},
        {"extra": 1},
        {"recipe": None},
    ],
)
def test_a_manifest_of_other_types_is_an_error(small: SmallStore, change: dict[str, Any]) -> None:
    alter(small.root / "zarr.json", lambda manifest: manifest.update(change))
    with pytest.raises(StoreError, match="the manifest is not one of format 1"):
        small.open()


FORGERIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "no class count": lambda manifest: manifest["dataset"].pop("num_classes"),
    "class count of text": lambda manifest: manifest["dataset"].update(num_classes="x"),
    "recipe of pairs": lambda manifest: manifest.update(recipe=[["name", "none"]]),
    "fractional block": lambda manifest: manifest.update(block=8.5),
    "seed of text": lambda manifest: manifest.update(view_seed="x"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_with_a_fitting_fingerprint_is_an_error(
    small: SmallStore, forgery: str
) -> None:
    def forge(manifest: dict[str, Any]) -> None:
        FORGERIES[forgery](manifest)
        manifest["fingerprint"] = fingerprint(
            manifest["dataset"], manifest["recipe"], manifest["view_seed"]
        )

    alter(small.root / "zarr.json", forge)
    with pytest.raises(StoreError):
        small.open()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"attributes": 5}', b"\xff"])
def test_metadata_that_is_not_ours_is_an_error(small: SmallStore, content: bytes) -> None:
    (small.root / "zarr.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"is not \(part of\) a kdcache store"):
        small.open()
    assert not is_store(small.root)


def test_attributes_of_another_type_are_an_error(small: SmallStore) -> None:
    (small.root / "zarr.json").write_text('{"attributes": {"kdcache": [1]}}')
    with pytest.raises(StoreError, match="must be an object"):
        small.open()


def test_a_mentor_in_anothers_folder_is_an_error(small: SmallStore) -> None:
    (small.root / "mentors" / "r20").rename(small.root / "mentors" / "r56")
    with pytest.raises(StoreError, match="describes the mentor 'r20', not its folder's"):
        small.open()


def test_a_mentor_that_lacks_something_is_an_error(small: SmallStore) -> None:
    group = small.root / "mentors" / "r20" / "zarr.json"
    alter(group, lambda mentor: mentor.pop("run_shape"))
    with pytest.raises(StoreError, match="not a mentor of format 1"):
        small.open()


@pytest.mark.parametrize(
    "encoder",
    [
        None,
        "float16",
        {"name": "sqrt9"},
        {"name": ["float16"]},
        {"name": "float16", "arithmetic": "target = 2 * stored"},
    ],
)
def test_an_encoder_this_version_cannot_decode_is_an_error(
    small: SmallStore, encoder: object
) -> None:
    metadata = small.array("r20").metadata
    alter(metadata, lambda attributes: attributes.update(encoder=encoder))
    with pytest.raises(StoreError, match=r"cannot decode \(it knows float16, float32\)"):
        small.open()


@pytest.mark.parametrize("shape", [None, [], ["x"], 5])
def test_an_array_without_a_shape_is_an_error(small: SmallStore, shape: object) -> None:
    path = small.array("r20").metadata
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "shape": shape}))
    with pytest.raises(StoreError, match=r"is not the Zarr v3 array|a view has the shape"):
        small.open()


@pytest.mark.parametrize("name", ["index", "labels"])
def test_a_damaged_sample_list_is_an_error(small: SmallStore, name: str) -> None:
    chunk = small.root / name / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[3] ^= 4
    chunk.write_bytes(content)
    with pytest.raises(StoreError, match="the array is missing or damaged"):
        getattr(small.open(), f"{name}_N")


def test_a_sample_list_of_another_length_is_an_error(small: SmallStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", num_samples=8)
    (small.root / "index").rename(tmp_path / "away")
    (other.root / "index").rename(small.root / "index")
    with pytest.raises(StoreError, match="is not the list the manifest was made with"):
        small.open().targets(view=0, index=np.arange(2))


def test_a_lost_sample_list_is_an_error(small: SmallStore, tmp_path: Path) -> None:
    (small.root / "index").rename(tmp_path / "away")
    with pytest.raises(StoreError, match="the array is missing or damaged"):
        small.open().targets(view=0, index=np.arange(2))


@pytest.mark.parametrize("name", ["index", "labels"])
def test_a_lost_chunk_of_a_sample_list_is_an_error(small: SmallStore, name: str) -> None:
    (small.root / name / "c" / "0").unlink()  # Zarr reads it as zeros
    with pytest.raises(StoreError, match=name):
        getattr(small.open(), f"{name}_N")


@pytest.mark.parametrize("name", ["index", "labels"])
def test_another_stores_sample_list_is_an_error(
    small: SmallStore, tmp_path: Path, name: str
) -> None:
    other = make_store(tmp_path / "other", num_samples=8, index_N=range(1, 8))
    shutil.copytree(other.root / name, small.root / name, dirs_exist_ok=True)
    with pytest.raises(StoreError, match=name):
        getattr(small.open(), f"{name}_N")


# Both sides


def test_equal_descriptions_are_equal() -> None:
    require_equal("it", ("left", {"a": 1, "b": [2]}), ("right", {"b": [2], "a": 1}), "do this")


def test_a_mismatch_shows_both_sides_of_what_differs_and_nothing_else() -> None:
    with pytest.raises(StoreMismatch) as caught:
        require_equal(
            "the recipe",
            ("store /s", {"same": 1, "padding": 4, "gone": "x"}),
            ("this command", {"same": 1, "padding": 2, "new": "y"}),
            "Do this.",
        )
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert lines[0] == ["the", "recipe", "differs:"]
    assert lines[1] == ["store", "/s", "this", "command"]
    assert sorted(lines[2:5]) == [["gone", "x", "-"], ["new", "-", "y"], ["padding", "4", "2"]]
    assert lines[5:] == [["Do", "this."]]


def test_stores_are_opened_by_text_path_too(small: SmallStore) -> None:
    assert open_store(str(small.root)).fingerprint == small.open().fingerprint
