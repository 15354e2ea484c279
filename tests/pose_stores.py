"""Small stores of people filled by hand: heatmaps made from labels, so that it is known what each
mentor sees. Their data are files in COCO's and MPII's formats."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset, open_dataset
from kdcache.encode import HEATMAPS, KEYPOINTS, find_encoder
from kdcache.heatmaps import decode_keypoints, gaussian_heatmaps
from kdcache.store import (
    MentorManifest,
    TargetStore,
    commit_targets,
    ensure_mentor,
    ensure_store,
    new_manifest,
    open_store,
)
from kdcache.views import PersonRecipe, PoseAffine
from tests.datasets.pose_files import coco_document, keypoints, person, write_coco

SIDE = 128
# Joints lie 1 pixel apart on a diagonal of the photograph: 2 or 3 in these views.
RECIPE = PoseAffine(height=SIDE, width=SIDE, scale=0.1, rotation=20.0, seed=3)
Sees = Callable[[NDArray[np.float32], ImageDataset], NDArray[np.float32]]


def coco_folder(folder: Path, people: int = 5) -> Path:
    """A data folder of COCO's subset layout: two photographs, people with 17 or 9 joints."""
    entries = [
        person(
            101 + i,
            image=1 + i % 2,
            bbox=[8.0 + i, 15.5, 30.0, 25.0],
            num_keypoints=17 if i % 3 else 9,
            keypoints=keypoints(17 if i % 3 else 9),
        )
        for i in range(people)
    ]
    write_coco(folder, coco_document(entries))
    return folder


def truth(label_BJ3: NDArray[np.float32], dataset: ImageDataset) -> NDArray[np.float32]:
    """The labels' own heatmaps (B, J, H, W)."""
    maps: NDArray[np.float32] = gaussian_heatmaps(
        torch.from_numpy(label_BJ3), SIDE // 4, SIDE // 4
    ).numpy()
    return maps


def swapped(label_BJ3: NDArray[np.float32], dataset: ImageDataset) -> NDArray[np.float32]:
    """Left taken for right."""
    return truth(label_BJ3, dataset)[:, list(dataset.person_labels.people.skeleton.mirrored)]


def faint(label_BJ3: NDArray[np.float32], dataset: ImageDataset) -> NDArray[np.float32]:
    """In the right places, and too low to be seen."""
    return 0.05 * truth(label_BJ3, dataset)


def without(joint: int) -> Sees:
    """The truth but for one joint, which it takes to be near a corner."""

    def sees(label_BJ3: NDArray[np.float32], dataset: ImageDataset) -> NDArray[np.float32]:
        maps_BJHW = truth(label_BJ3, dataset)
        corner_BJ3 = np.array([[[SIDE - 24, SIDE - 24, 1.0]]], dtype=np.float32)
        maps_BJHW[:, joint] = truth(corner_BJ3, dataset)[:, 0]
        return maps_BJHW

    return sees


def fill_people_store(
    root: Path,
    dataset: ImageDataset,
    mentors: Mapping[str, Sees],
    *,
    recipe: PersonRecipe = RECIPE,
    views: int = 2,
    keypoints_of: Callable[[str], bool] = lambda name: True,
) -> TargetStore:
    """A store of these mentors' heatmaps, exactly, and keypoints (of those asked for)."""
    manifest = new_manifest(dataset, recipe)
    ensure_store(root, manifest, dataset)
    encoder = find_encoder("float32")
    for name, sees in mentors.items():
        mentor = MentorManifest(
            fingerprint=manifest.fingerprint,
            name=name,
            architecture="simplebaseline-resnet18",
            num_classes=dataset.num_classes,
            checkpoint_sha256="0" * 64,
            preprocessing=dataset.preprocessing.describe(),
            run_shape={"precision": "fp32", "batch": 64, "memory_format": "channels_last"},
        )
        kinds = [HEATMAPS, *([KEYPOINTS] if keypoints_of(name) else [])]
        for kind in kinds:
            ensure_mentor(root, manifest, mentor, encoder, kind, views)
        store = open_store(root)
        for view in range(views):
            for block in range(manifest.num_blocks):
                index_B = store.index_N[manifest.block_rows(block)]
                maps = sees(dataset.labels_in_view(recipe, index_B, view), dataset)
                rows = {HEATMAPS: maps, KEYPOINTS: decode_keypoints(torch.from_numpy(maps)).numpy()}
                for kind in kinds:
                    commit_targets(
                        store.mentor(name, kind.name),
                        (view, block),
                        rows[kind],
                        dataset.labels(index_B),
                        manifest.block,
                    )
    return open_store(root)


def coco_people(folder: Path, people: int = 5) -> ImageDataset:
    """The dataset of `coco_folder`."""
    return open_dataset("coco-keypoints", data_dir=coco_folder(folder, people))
