"""Perfect heatmaps through the whole pipeline: what cropping, storing and decoding leave of them.

Views are scaled, turned, mirrored and of half bodies; heatmaps of the labels are encoded,
committed, read back, decoded and mapped back into the images, and the official evaluators say how
good they are. Joints outside of a view cannot be found: of the 374 real people 42 of 3,825 labelled
joints lie outside of plain crops (all of them hidden ones), 530 outside of view 0 here.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import kdcache
from kdcache.datasets import ImageDataset
from kdcache.heatmaps import DARK, QUARTER
from kdcache.train.pose_evaluation import coco_metrics, pckh
from kdcache.views import PersonRecipe, PoseAffine, PoseCrop
from tests.pose.truth import heatmapper, in_image, people_inside, store_of

COST = 0.5  # points of AP that storing may cost
AUGMENTED = PoseAffine(height=256, width=192, half_body=0.3)


def quality(
    dataset: ImageDataset, recipe: PersonRecipe, view: int, maps: torch.Tensor, decoder: str
) -> tuple[float, float]:
    """AP or PCKh in percent, of all joints and of those inside of the view."""
    keypoints_NJ3 = in_image(dataset, recipe, view, maps, decoder)
    everybody = dataset.person_labels.people.take(dataset.index_N)
    found = []
    for people in (everybody, people_inside(dataset, recipe, view)):
        if dataset.name == "mpii":
            found.append(pckh(people, keypoints_NJ3)["pckh"])
        else:
            found.append(coco_metrics(people, keypoints_NJ3)["ap"])
    return found[0], found[1]


def ceilings(
    root: Path, dataset: ImageDataset, recipe: PersonRecipe, views: int, encoder: str = "heatmap8"
) -> dict[str, np.ndarray]:
    """By decoder (views, 2, 2): never stored and stored, of all joints and of those inside."""
    make = heatmapper(recipe)
    store = store_of(root, dataset, recipe, views, {"truth": make}, encoder=encoder)
    stream = kdcache.TargetStream(store, device="cpu")
    found: dict[str, list[list[tuple[float, float]]]] = {QUARTER: [], DARK: []}
    for view in range(views):
        never_stored = make(dataset.labels_in_view(recipe, dataset.index_N, view))
        with stream.view(view) as targets:
            stored = targets.gather_targets(dataset.index_N).heatmaps
        assert stored is not None
        direct = store.targets(view, dataset.index_N, kind="heatmaps")
        np.testing.assert_array_equal(stored.numpy(), direct)
        for decoder, rows in found.items():
            rows.append(
                [
                    quality(dataset, recipe, view, maps, decoder)
                    for maps in (never_stored, stored[:, 0])
                ]
            )
        keypoints = store.targets(view, dataset.index_N, kind="keypoints")[:, 0]
        people = dataset.person_labels.people.take(dataset.index_N)
        beside = recipe.map_back(keypoints, people, dataset.index_N, view)
        exact = in_image(dataset, recipe, view, never_stored, QUARTER)
        np.testing.assert_array_equal(beside, exact)  # they are stored as they were
    return {decoder: np.array(rows) for decoder, rows in found.items()}


def require_kept(found: dict[str, np.ndarray], least: float) -> None:
    for decoder, qualities in found.items():
        never_stored, stored = qualities[:, 0], qualities[:, 1]
        assert (stored >= never_stored - COST).all(), (decoder, qualities)
        assert (never_stored[:, 1] >= least).all(), (decoder, qualities)
        assert (never_stored[:, 1] >= never_stored[:, 0]).all()


def test_of_stick_people(tmp_path: Path, people: ImageDataset) -> None:
    recipe = PoseAffine(height=128, width=96, half_body=0.3)
    # Half a heatmap pixel is more of a person in smaller views: 97.6 by quarter, 99.4 by dark.
    require_kept(ceilings(tmp_path / "S", people, recipe, 2), 97)


def test_of_real_people(tmp_path: Path, real_people: Callable[[str, str], ImageDataset]) -> None:
    people = real_people("coco-keypoints", "train")
    found = ceilings(tmp_path / "S", people, AUGMENTED, 1)
    require_kept(found, 99.5)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("encoder", ["heatmap8", "float16"])
def test_of_all_real_people_in_several_views(
    tmp_path: Path, real_people: Callable[[str, str], ImageDataset], split: str, encoder: str
) -> None:
    people = real_people("coco-keypoints", split)
    found = ceilings(tmp_path / "S", people, AUGMENTED, 4, encoder)
    require_kept(found, 99.5)
    plain = ceilings(tmp_path / "plain", people, PoseCrop(), 1, encoder)
    require_kept(plain, 99.5)


def test_of_mpiis_people(tmp_path: Path, real_people: Callable[[str, str], ImageDataset]) -> None:
    people = real_people("mpii", "train")
    recipe = PoseAffine(height=256, width=256, scale=0.25, rotation=30.0, half_body=0.3)
    found = ceilings(tmp_path / "S", people, recipe, 4)
    require_kept(found, 100)
    plain = ceilings(tmp_path / "plain", people, PoseCrop(height=256, width=256), 1)
    assert all((qualities == 100).all() for qualities in plain.values())
