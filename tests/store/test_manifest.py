"""The manifest: which views a store is for. Another format, or an altered one, is an error."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdcache.datasets import open_dataset
from kdcache.errors import DamagedTargets, StoreError, StoreMismatch
from kdcache.store import (
    Manifest,
    ensure_store,
    is_damaged_store,
    is_store,
    new_manifest,
    open_store,
    require_equal,
)
from kdcache.store.manifest import fingerprint
from kdcache.views import CropFlip, Unaugmented
from tests.store.small import (
    RECIPE,
    SmallStore,
    alter,
    alter_attributes,
    files_of,
    make_store,
    small_dataset,
)


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "store")


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
    described = asdict(expected)
    assert json.loads(json.dumps(described)) == described
    assert Manifest(**json.loads(json.dumps(described))) == expected
    assert set(expected.written_by) == {
        "python",
        "kdcache",
        "torch",
        "torchvision",
        "numpy",
        "pillow",
        "zarr",
        "numcodecs",
    }


# Foreign and altered manifests: forged ones have a right seal, an editor's have not


def require_refused(
    small: SmallStore, change: Callable[[dict[str, Any]], object], match: str
) -> None:
    """Forged, it is refused for what it says; merely edited, as damaged."""
    path = small.root / "zarr.json"
    whole = path.read_bytes()
    alter_attributes(path, change)
    with pytest.raises(StoreError, match=match) as caught:
        small.open()
    assert not isinstance(caught.value, DamagedTargets)
    path.write_bytes(whole)
    alter_attributes(path, change, reseal=False)
    with pytest.raises(DamagedTargets, match="its content is not what was sealed"):
        small.open()


@pytest.mark.parametrize("found", [2, 0, "1", None, True, 1.0])
def test_another_format_is_an_error_that_names_both(small: SmallStore, found: object) -> None:
    match = f"has store format {found!r}, this version .* format 1"
    require_refused(small, lambda manifest: manifest.update(format=found), match)
    alter_attributes(small.root / "zarr.json", lambda manifest: manifest.update(format=found))
    assert is_store(small.root)


def test_a_store_of_another_format_is_not_written_over(small: SmallStore) -> None:
    alter_attributes(small.root / "zarr.json", lambda m: m.update(format=2, new_field=[1]))
    before = files_of(small.root)
    with pytest.raises(StoreError, match="has store format 2"):
        ensure_store(small.root, new_manifest(small.dataset, RECIPE), small.dataset)
    assert files_of(small.root) == before


ALTERATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "seed": lambda manifest: manifest.update(view_seed=1),
    "recipe": lambda manifest: manifest["recipe"].update(padding=2),
    "samples": lambda manifest: manifest["dataset"].update(num_samples=8),
    "pixels": lambda manifest: manifest["dataset"].update(pixels_sha256="0" * 64),
    "fingerprint": lambda manifest: manifest.update(fingerprint="0" * 64),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_manifest_is_an_error(small: SmallStore, alteration: str) -> None:
    match = "the manifest was altered: it states the fingerprint"
    require_refused(small, ALTERATIONS[alteration], match)


@pytest.mark.parametrize("block", [0, -1, 8, True])
def test_a_block_of_nothing_or_more_than_all_is_an_error(small: SmallStore, block: int) -> None:
    match = f"block cannot be {block}"
    require_refused(small, lambda manifest: manifest.update(block=block), match)


KEYS = ["fingerprint", "dataset", "recipe", "view_seed", "block", "replay_proof", "written_by"]


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_that_lacks_something_is_an_error(small: SmallStore, key: str) -> None:
    match = "the manifest is not one of format 1"
    require_refused(small, lambda manifest: manifest.pop(key), match)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": 5},
        {"dataset": {}},
        {"recipe": 3},
        {"block": "7"},
        {"extra": 1},
        {"recipe": None},
        {"fingerprint": 5},
        {"written_by": {"torch": 2}},
        {"replay_proof": []},
        {"replay_proof": [{"view": 0}]},
        {"replay_proof": [{"view": 0, "index": -1, "sha256": "0"}]},
    ],
)
def test_a_manifest_of_other_types_is_an_error(small: SmallStore, change: dict[str, Any]) -> None:
    match = "the manifest is not one of format 1"
    require_refused(small, lambda manifest: manifest.update(change), match)


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no class count": lambda manifest: manifest["dataset"].pop("num_classes"),
    "class count of text": lambda manifest: manifest["dataset"].update(num_classes="x"),
    "recipe of pairs": lambda manifest: manifest.update(recipe=[["name", "none"]]),
    "fractional block": lambda manifest: manifest.update(block=3.5),
    "seed of text": lambda manifest: manifest.update(view_seed="x"),
    "no samples": lambda manifest: manifest["dataset"].update(num_samples=0),
    "ever so many samples": lambda manifest: manifest["dataset"].update(num_samples=2**41),
    "name of a number": lambda manifest: manifest["dataset"].update(name=5),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_with_a_fitting_fingerprint_is_an_error(
    small: SmallStore, forgery: str
) -> None:
    def forge(manifest: dict[str, Any]) -> None:
        FORGERIES[forgery](manifest)
        sides = manifest["dataset"], manifest["recipe"]
        with suppress(TypeError, ValueError):
            manifest["fingerprint"] = fingerprint(*sides, manifest["view_seed"])

    require_refused(small, forge, "the manifest is not one of format 1")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"attributes": 5}', b"\xff"])
def test_metadata_without_a_seal_is_damaged(small: SmallStore, content: bytes) -> None:
    (small.root / "zarr.json").write_bytes(content)
    with pytest.raises(DamagedTargets, match=f"{len(content)} bytes without a seal"):
        small.open()
    assert not is_store(small.root)
    assert is_damaged_store(small.root)  # its mentors say so


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(attributes=[document["attributes"]]),
        lambda document: document.update(attributes={"k": document["attributes"]["kdcache"]}),
        lambda document: document["attributes"].update(kdcache=[document["attributes"]["kdcache"]]),
    ],
)
def test_attributes_of_another_type_are_an_error(
    small: SmallStore, change: Callable[[dict[str, Any]], object]
) -> None:
    alter(small.root / "zarr.json", change)
    with pytest.raises(StoreError, match="must be an object with a seal"):
        small.open()


def test_a_seal_elsewhere_is_none_of_ours(small: SmallStore) -> None:
    def move(document: dict[str, Any]) -> None:
        document["seal"] = document["attributes"]["kdcache"].pop("seal")

    alter(small.root / "zarr.json", move)
    with pytest.raises(StoreError, match="must be an object with a seal"):
        small.open()


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
