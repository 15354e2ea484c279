"""Proofs of tolerant recipes: a level here and there is no drift, other parameters always are."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.datasets.image_dataset import array_dataset
from kdcache.datasets.labels import PersonLabels
from kdcache.datasets.people import PersonPhotos
from kdcache.errors import ReplayMismatch, StoreError, UsageError
from kdcache.philox import Purpose, words
from kdcache.store import (
    Manifest,
    ensure_store,
    new_manifest,
    read_manifest,
    require_replay,
)
from kdcache.store.manifest import manifest_of
from kdcache.store.replay_proof import replay_checksums
from kdcache.versions import library_versions
from kdcache.views import CropFlip, PersonRecipe, PoseAffine, PoseCrop, Recipe
from tests.views.people import coco_people, photos_of, random_people, take_photos

WRITTEN_BY, RUNNING = {"pillow": "1.2.3"}, {"pillow": "4.5.6"}
VALUES = 16 * 256 * 3


def images_of(count: int = 40, size: int = 64) -> ImageDataset:
    random = np.random.default_rng(3)
    return array_dataset(
        name="noise",
        split="train",
        images_NCHW=random.integers(10, 246, (count, 3, size, size)).astype(np.uint8),
        labels_N=np.zeros(count, dtype=np.int64),
        num_classes=1,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        view_parameters={},
    )


@dataclass(frozen=True, kw_only=True)
class Tolerant(CropFlip):
    """Crop-flip that only promises its parameters, by whichever libraries make it."""

    exact = False

    def proof_parameters(
        self, images: Any, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.float64]:
        at = self.parameters(index_B, view)
        return np.stack([at.top_B, at.left_B, at.flip_B, at.top_B / 3], axis=1).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Disturbed(Tolerant):
    """With a share of its values some levels off, up or down."""

    levels: int
    share: float

    def __call__(self, images: Any, index_B: NDArray[np.int64], view: int) -> Any:
        pixels = np.asarray(super().__call__(images, index_B, view))
        random = np.random.default_rng([view, *index_B])
        off = random.choice([-self.levels, self.levels], pixels.shape)
        off[random.random(pixels.shape) >= self.share] = 0
        return np.clip(pixels + off, 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Moved(Tolerant):
    """The same pixels, a parameter by so much another."""

    by: float

    def proof_parameters(
        self, images: Any, index_B: NDArray[np.int64], view: int
    ) -> NDArray[np.float64]:
        parameters = super().proof_parameters(images, index_B, view)
        parameters[:, 3] += self.by
        return parameters


SIZES: dict[str, Any] = {"size": 64, "padding": 8, "seed": 5}
RECIPE = Tolerant(**SIZES)


def replay(recipe: Recipe, proof: list[dict[str, Any]] | None = None) -> None:
    dataset = images_of()
    proof = replay_checksums(dataset, RECIPE) if proof is None else proof
    require_replay(proof, dataset, recipe, WRITTEN_BY, RUNNING)


@pytest.mark.parametrize(
    ("levels", "share"), [(0, 0), (1, 0.01), (1, 0.5), (1, 1), (2, 0.0003), (200, 0.0003)]
)
def test_a_level_or_hardly_a_pixel_is_tolerated(levels: int, share: float) -> None:
    replay(Disturbed(**SIZES, levels=levels, share=share))


@pytest.mark.parametrize(("levels", "share"), [(2, 0.01), (2, 1.0), (9, 0.003)])
def test_more_is_refused_with_how_much_and_both_sides(levels: int, share: float) -> None:
    with pytest.raises(ReplayMismatch) as caught:
        replay(Disturbed(**SIZES, levels=levels, share=share))
    message = str(caught.value)
    further = int(message.split(" of 12,288 values")[0].split()[-1].replace(",", ""))
    assert further == pytest.approx(VALUES * share, rel=0.5)
    assert f"by {levels} at most" in message
    assert "differ by more than one level of 255, 0.1% may" in message
    assert "store written by {'pillow': '1.2.3'}" in message
    assert "running          {'pillow': '4.5.6'}" in message


def test_the_share_is_of_all_entries_together() -> None:
    """12 of 12,288 values may be off by more than a level, all in one entry too; 13 may not."""
    proof = replay_checksums(images_of(), RECIPE)
    values = bytearray.fromhex(proof[7]["pixels"])
    for place in range(12):
        values[place] = (values[place] + 100) % 256
    proof[7]["pixels"] = values.hex()
    replay(RECIPE, proof)
    values[12] = (values[12] + 100) % 256
    proof[7]["pixels"] = values.hex()
    worst = rf"view {proof[7]['view']} of sample {proof[7]['index']} \(13 of 768\)"
    with pytest.raises(ReplayMismatch, match=rf"13 of 12,288 values \(0\.11%\).*{worst}"):
        replay(RECIPE, proof)


@pytest.mark.parametrize("by", [0, 1e-12, -5e-7])
def test_last_bits_of_a_parameter_are_tolerated(by: float) -> None:
    replay(Moved(**SIZES, by=by))


@pytest.mark.parametrize("by", [2e-6, -0.5])
def test_another_parameter_is_refused(by: float) -> None:
    with pytest.raises(
        ReplayMismatch, match=r"other parameters .*\[.*\] here, \[.*\] in the store"
    ):
        replay(Moved(**SIZES, by=by))


def test_another_seed_and_fewer_parameters_are_refused() -> None:
    with pytest.raises(ReplayMismatch, match="is made with other parameters"):
        replay(replace(RECIPE, seed=6))
    proof = replay_checksums(images_of(), RECIPE)
    del proof[0]["parameters"][-1]
    with pytest.raises(ReplayMismatch, match="is made with other parameters"):
        replay(RECIPE, proof)


def test_a_proof_of_fewer_pixels_is_no_writers() -> None:
    proof = replay_checksums(images_of(), RECIPE)
    proof[2]["pixels"] = proof[2]["pixels"][:60]
    with pytest.raises(StoreError, match=r"has 30 values of view .* a writer takes 768: fetch"):
        replay(RECIPE, proof)


def test_an_entry_holds_the_pixels_at_the_words_of_its_view() -> None:
    dataset = images_of()
    for entry in replay_checksums(dataset, RECIPE):
        assert set(entry) == {"view", "index", "parameters", "pixels"}
        assert len(json.dumps(entry)) < 2000
        index_1 = np.array([entry["index"]])
        pixels_CHW = RECIPE(dataset.images(index_1), index_1, entry["view"])[0]
        words_S4 = words(0, Purpose.PROOF_PIXELS, np.arange(256), entry["view"]).tolist()
        expected = [
            int(pixels_CHW[channel, word[0] * 64 // 2**32, word[1] * 64 // 2**32])
            for word in words_S4
            for channel in range(3)
        ]
        assert list(bytes.fromhex(entry["pixels"])) == expected
        at = RECIPE.parameters(index_1, entry["view"])
        third = round(int(at.top_B[0]) / 3, 9)
        assert entry["parameters"] == [at.top_B[0], at.left_B[0], float(at.flip_B[0]), third]


# Recipes of people


def photo_dataset(photos: PersonPhotos) -> ImageDataset:
    def fetch(index_B: NDArray[np.int64]) -> Any:
        return take_photos(photos, index_B.tolist())

    return ImageDataset(
        name="people",
        split="train",
        fetch=fetch,
        labels=PersonLabels(photos.people),
        describe=lambda index_K: {"pixels_sha256": str(len(index_K))},
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3),
        view_parameters={},
    )


@pytest.mark.parametrize("recipe", [PoseAffine(seed=2, jitter=0.3, half_body=0.5), PoseCrop()])
def test_views_of_people_replay(recipe: PersonRecipe) -> None:
    dataset = photo_dataset(photos_of(random_people(20)))
    proof = json.loads(json.dumps(replay_checksums(dataset, recipe)))
    require_replay(proof, dataset, recipe, WRITTEN_BY, RUNNING)
    assert all(len(json.dumps(entry)) < 2000 for entry in proof)
    for other in (PoseAffine(seed=3, jitter=0.3), PoseCrop(height=128, width=192)):
        with pytest.raises((ReplayMismatch, UsageError)):
            require_replay(proof, dataset, other, WRITTEN_BY, RUNNING)


def test_other_photographs_of_the_same_people_are_refused(real_data: Path) -> None:
    if not (real_data / "coco").exists():
        pytest.skip(f"{real_data} has no folder coco with images and their people")
    photos = coco_people(real_data, 20)
    recipe = PoseAffine(seed=1)
    proof = replay_checksums(photo_dataset(photos), recipe)
    level = [np.clip(p.astype(np.int64) + 1, 0, 255).astype(np.uint8) for p in photos.photos]
    brighter = [np.clip(p.astype(np.int64) + 3, 0, 255).astype(np.uint8) for p in photos.photos]
    for changed, told in ((level, None), (brighter, "by 3 at most")):
        dataset = photo_dataset(replace(photos, photos=changed))
        if told is None:
            require_replay(proof, dataset, recipe, WRITTEN_BY, RUNNING)
        else:
            with pytest.raises(ReplayMismatch, match=told):
                require_replay(proof, dataset, recipe, WRITTEN_BY, RUNNING)


def test_pillow_is_among_the_versions() -> None:
    assert library_versions()["pillow"][0].isdigit()


# Manifests


def test_a_manifest_with_a_tolerant_proof_round_trips(tmp_path: Path) -> None:
    dataset = images_of()
    manifest = new_manifest(dataset, RECIPE)
    ensure_store(tmp_path / "S", manifest, dataset)
    assert read_manifest(tmp_path / "S") == manifest
    assert (tmp_path / "S/zarr.json").stat().st_size < 40_000


def attributes() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(new_manifest(images_of(), RECIPE))))
    return found


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a checksum instead": lambda e: (e.pop("parameters"), e.pop("pixels"), e.update(sha256="0")),
    "a checksum too": lambda e: e.update(sha256="0" * 64),
    "no parameters": lambda e: e.pop("parameters"),
    "no pixels": lambda e: e.pop("pixels"),
    "no view": lambda e: e.pop("view"),
    "another member": lambda e: e.update(more=1),
    "parameters of text": lambda e: e.update(parameters="12"),
    "an empty list": lambda e: e.update(parameters=[]),
    "a million parameters": lambda e: e.update(parameters=[1.0] * 10**6),
    "a parameter of text": lambda e: e["parameters"].append("\x1b[31m"),
    "a parameter that is true": lambda e: e["parameters"].append(True),
    "a parameter that is no number": lambda e: e["parameters"].append(math.nan),
    "a parameter without end": lambda e: e["parameters"].append(-math.inf),
    "a parameter of 400 digits": lambda e: e["parameters"].append(10**400),
    "a nested parameter": lambda e: e["parameters"].append([1.0]),
    "pixels of numbers": lambda e: e.update(pixels=[1, 2, 3]),
    "no pixel": lambda e: e.update(pixels=""),
    "half a value": lambda e: e.update(pixels="abc"),
    "large letters": lambda e: e.update(pixels="AB" * 768),
    "spaces, as bytes.fromhex reads": lambda e: e.update(pixels="ab ab"),
    "a line end": lambda e: e.update(pixels="abab\n"),
    "other digits": lambda e: e.update(pixels="\u0661\u0662"),
    "for the terminal": lambda e: e.update(pixels="\x1b[2J"),
    "pixels without end": lambda e: e.update(pixels="00" * 10**6),
    "a far view": lambda e: e.update(view=2**32),
    "a negative sample": lambda e: e.update(index=-1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_entry_that_no_writer_wrote_is_refused(name: str) -> None:
    found = attributes()
    assert isinstance(manifest_of(found, "here"), Manifest)
    HOSTILE[name](found["replay_proof"][3])
    with pytest.raises(StoreError, match=r"not one of format 1 .*replay_proof holds") as caught:
        manifest_of(found, "here")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("exact", [True, 1, None, "no", []])
def test_the_proof_fits_what_the_recipe_says_of_itself(exact: Any) -> None:
    """Else it would be compared in a way it was not written for."""
    found = attributes()
    found["recipe"]["exact"] = exact
    with pytest.raises(StoreError, match="replay_proof holds"):
        manifest_of(found, "here")
    found["recipe"]["exact"] = 0  # equals false wherever descriptions are compared
    for entry in found["replay_proof"]:
        entry.update(sha256="0" * 64)
        del entry["parameters"], entry["pixels"]
    with pytest.raises(StoreError, match="replay_proof holds"):
        manifest_of(found, "here")
