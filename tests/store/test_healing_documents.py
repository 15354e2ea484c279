"""Healing: whatever document is lost or damaged, the call that makes a store makes it anew."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcache.encode import LOGITS, find_encoder
from kdcache.errors import DamagedTargets, StoreError, StoreMismatch
from kdcache.store import (
    Manifest,
    ensure_mentor,
    ensure_store,
    is_damaged_store,
    new_manifest,
    open_damaged_store,
)
from tests.store.small import (
    RECIPE,
    SmallStore,
    alter_attributes,
    files_of,
    make_store,
    mentor_manifest,
    small_dataset,
)


@pytest.fixture
def small(tmp_path: Path) -> SmallStore:
    return make_store(tmp_path / "store", mentors=["r8", "r20"], encoder="sqrt8")


@pytest.fixture
def manifest(small: SmallStore) -> Manifest:
    return small.open().manifest


def heal(small: SmallStore, manifest: Manifest, views: int = 2, encoder: str = "sqrt8") -> None:
    """What precompute does before it computes anything."""
    ensure_store(small.root, manifest, small.dataset)
    for name in ("r8", "r20"):
        mentor = mentor_manifest(name, 3, manifest.fingerprint)
        ensure_mentor(small.root, manifest, mentor, find_encoder(encoder), LOGITS, views)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def garble(path: Path) -> None:
    path.write_bytes(b"\xff\x00garbage")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lose(path: Path) -> None:
    path.unlink()


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))


DOCUMENTS = [
    "zarr.json",
    "index/zarr.json",
    "index/c/0",
    "labels/zarr.json",
    "labels/c/0",
    "mentors/zarr.json",
    "mentors/r20/zarr.json",
    "mentors/r20/logits/zarr.json",
]


@pytest.mark.parametrize("damage", [flip, garble, empty, lose, edit])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_damaged_document_is_made_anew_and_nothing_else_is_touched(
    small: SmallStore, manifest: Manifest, name: str, damage: Callable[[Path], None]
) -> None:
    before = files_of(small.root)
    damage(small.root / name)
    heal(small, manifest)
    after = files_of(small.root)
    assert {key: content for key, (content, _) in after.items()} == {
        key: content for key, (content, _) in before.items()
    }
    # A lost list is two files, and both are made anew.
    touched = {key for key in after if after[key] != before[key] and key != ".lock"}
    assert name in touched
    assert {Path(key).parts[0] for key in touched} == {Path(name).parts[0]}
    assert len(touched) <= 2
    for mentor in ("r8", "r20"):
        got = small.open().targets(view=1, index=np.arange(7), mentors=[mentor])[:, 0]
        assert np.array_equal(got, small.decoded[mentor][1])


def test_all_of_them_at_once(small: SmallStore, manifest: Manifest) -> None:
    before = {name: content for name, (content, _) in files_of(small.root).items()}
    for name, damage in zip(DOCUMENTS, itertools.cycle([lose, garble, empty]), strict=False):
        damage(small.root / name)
    heal(small, manifest)
    assert {name: content for name, (content, _) in files_of(small.root).items()} == before


def test_a_whole_list_that_is_gone(small: SmallStore, manifest: Manifest) -> None:
    before = {name: content for name, (content, _) in files_of(small.root).items()}
    shutil.rmtree(small.root / "index")
    shutil.rmtree(small.root / "labels")
    heal(small, manifest)
    assert {name: content for name, (content, _) in files_of(small.root).items()} == before


# The manifest


def test_a_manifest_is_only_made_anew_for_the_mentors_views(
    small: SmallStore, manifest: Manifest
) -> None:
    (small.root / "zarr.json").unlink()
    assert is_damaged_store(small.root)
    before = files_of(small.root)
    dataset = small_dataset(9, 3)
    other = new_manifest(dataset, RECIPE)
    for attempt in (
        lambda: ensure_store(small.root, other, dataset),
        lambda: open_damaged_store(small.root, other),
    ):
        with pytest.raises(StoreMismatch, match="this command cannot make it anew") as caught:
            attempt()
        assert manifest.fingerprint in str(caught.value)
        assert other.fingerprint in str(caught.value)
    after = files_of(small.root)
    assert {name: after[name] for name in before} == before


def test_a_store_without_its_manifest_can_be_looked_at(
    small: SmallStore, manifest: Manifest
) -> None:
    flip(small.root / "zarr.json")
    with pytest.raises(DamagedTargets):
        small.open()
    store = open_damaged_store(small.root, manifest)
    got = store.targets(view=1, index=np.arange(7), mentors=["r8"])[:, 0]
    assert np.array_equal(got, small.decoded["r8"][1])


def test_one_sound_mentor_is_witness_enough(small: SmallStore, manifest: Manifest) -> None:
    lose(small.root / "zarr.json")
    garble(small.root / "mentors" / "r20" / "zarr.json")
    dataset = small_dataset(9, 3)
    with pytest.raises(StoreMismatch, match="mentor 'r8' there was run over the views"):
        ensure_store(small.root, new_manifest(dataset, RECIPE), dataset)
    heal(small, manifest)
    assert small.open().usable_views(["r8", "r20"]) == [0, 1]


# Mentors


def test_a_lost_array_document_declares_what_is_committed(
    small: SmallStore, manifest: Manifest
) -> None:
    """Though fewer views are asked for, none of what is there is given up."""
    lose(small.array("r20").metadata)
    heal(small, manifest, views=1)
    store = small.open()
    assert store.mentor("r20").declared_views == 2
    assert store.usable_views(["r20", "r8"]) == [0, 1]


def test_targets_of_another_mentor_are_not_taken_for_the_healed_ones(
    small: SmallStore, manifest: Manifest
) -> None:
    """Both documents gone, and the next command is for another checkpoint."""
    lose(small.root / "mentors" / "r20" / "zarr.json")
    lose(small.root / "mentors" / "r20" / "logits" / "zarr.json")
    other = replace(mentor_manifest("r20", 3, manifest.fingerprint), checkpoint_sha256="1" * 64)
    ensure_mentor(small.root, manifest, other, find_encoder("sqrt8"), LOGITS, 2)
    store = small.open()
    assert store.mentor("r20").manifest == other
    assert store.mentor("r20").commits == {}
    with pytest.raises(DamagedTargets, match="of targets of another mentor, encoder or store"):
        store.targets(view=0, index=np.arange(7))


def test_targets_of_another_encoder_are_not_taken_for_the_healed_ones(
    small: SmallStore, manifest: Manifest
) -> None:
    lose(small.array("r20").metadata)
    heal(small, manifest, encoder="float16")
    store = small.open()
    assert store.mentor("r8").encoder == find_encoder("sqrt8")
    assert store.mentor("r20").commits == {}
    with pytest.raises(DamagedTargets, match="of targets of another mentor, encoder or store"):
        store.usable_views(["r20"])


def test_a_mentor_of_other_views_is_not_healed_over(small: SmallStore, manifest: Manifest) -> None:
    """Its documents are sound, only not this store's: nobody knows whose targets they are."""
    group = small.root / "mentors" / "r20" / "zarr.json"
    alter_attributes(group, lambda mentor: mentor.update(fingerprint="0" * 64))
    before = files_of(small.root)
    heal(small, manifest)
    assert files_of(small.root) == before
    with pytest.raises(StoreError, match="its targets are for the views"):
        small.open().mentor("r20")
