"""Replay proof: pixels that drifted since the store was written are noticed before training."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcache.datasets import open_dataset
from kdcache.errors import ReplayMismatch
from kdcache.store import new_manifest, require_replay
from kdcache.views import CropFlip, Unaugmented
from kdcache.views.recipe import Pixels
from tests.store.small import RECIPE, small_dataset

WRITTEN_BY = {"torch": "1.2.3"}
RUNNING = {"torch": "4.5.6"}


@dataclass(frozen=True, kw_only=True)
class Drifted(CropFlip):
    """Crop-flip after a library changed one pixel of each image."""

    def __call__(self, images_BCHW: Pixels, index_B: NDArray[np.int64], view: int) -> Pixels:
        pixels = super().__call__(images_BCHW, index_B, view)
        pixels[:, 0, 0, 0] ^= 1
        return pixels


def test_the_same_recipe_replays() -> None:
    dataset = small_dataset(30, 3)
    proof = new_manifest(dataset, RECIPE).replay_proof
    require_replay(proof, dataset, RECIPE, WRITTEN_BY, RUNNING)
    assert len(proof) == 16
    assert len({(sampled["view"], sampled["index"]) for sampled in proof}) > 8


def test_a_drifted_recipe_is_refused_with_both_sides() -> None:
    dataset = small_dataset(30, 3)
    proof = new_manifest(dataset, RECIPE).replay_proof
    drifted = Drifted(size=RECIPE.size, padding=RECIPE.padding, seed=RECIPE.seed)
    theirs = new_manifest(dataset, drifted).replay_proof
    with pytest.raises(ReplayMismatch) as caught:
        require_replay(proof, dataset, drifted, WRITTEN_BY, RUNNING)
    message = str(caught.value)
    assert f"view {proof[0]['view']} of sample {proof[0]['index']} replays as other" in message
    assert f"{theirs[0]['sha256'][:16]}... here" in message
    assert f"{proof[0]['sha256'][:16]}... in the store" in message
    assert "store written by {'torch': '1.2.3'}" in message
    assert "{'torch': '4.5.6'}" in message


@pytest.mark.parametrize("recipe", [CropFlip(size=4, padding=1, seed=1), Unaugmented()])
def test_another_recipe_is_refused(recipe: CropFlip | Unaugmented) -> None:
    dataset = small_dataset(30, 3)
    proof = new_manifest(dataset, RECIPE).replay_proof
    with pytest.raises((ReplayMismatch, ValueError)):
        require_replay(proof, dataset, recipe, WRITTEN_BY, RUNNING)


def test_the_proof_of_none_is_of_its_only_view() -> None:
    dataset = small_dataset(30, 3)
    proof = new_manifest(dataset, Unaugmented()).replay_proof
    assert {sampled["view"] for sampled in proof} == {0}
    require_replay(proof, dataset, Unaugmented(), WRITTEN_BY, RUNNING)


def test_the_proof_is_of_the_chosen_samples() -> None:
    dataset = small_dataset(30, 3, index_N=[4, 11, 29])
    proof = new_manifest(dataset, RECIPE).replay_proof
    assert {sampled["index"] for sampled in proof} <= {4, 11, 29}


def test_the_proof_of_the_digits_is_pinned() -> None:
    recipe = CropFlip(size=8, padding=1, flip=False)
    proof = new_manifest(open_dataset("digits"), recipe).replay_proof
    assert proof[:2] == [
        {
            "view": 77,
            "index": 1209,
            "sha256": "69fc03330e820562dd87bf896c13ee373d05d451027e6f31d9de30c6ea3c5493",
        },
        {
            "view": 134,
            "index": 324,
            "sha256": "92bd6d2d0dde59a6493184583a94c96486602d61a6cf95fa2a8349983e7996f0",
        },
    ]
