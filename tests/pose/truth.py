"""A store whose mentor is the ground truth: heatmaps of the labels, by the store's own commits.

    store = store_of(root, dataset, recipe, views, {"truth": right}, encoder="heatmap8")

A mentor of a network cannot see labels; everything behind the network is the same here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset
from kdcache.datasets.people import People
from kdcache.encode import HEATMAPS, KEYPOINTS, find_encoder
from kdcache.heatmaps import STRIDE, decode_keypoints, gaussian_heatmaps
from kdcache.mentors import RunShape
from kdcache.store import (
    MentorManifest,
    TargetStore,
    commit_targets,
    ensure_mentor,
    ensure_store,
    new_manifest,
    open_store,
)
from kdcache.views import PersonRecipe

Heatmapper = Callable[[NDArray[np.float32]], torch.Tensor]  # (B, J, 3) labels -> (B, J, H, W)


def heatmapper(recipe: PersonRecipe) -> Heatmapper:
    """The Gaussians that labels of the recipe's views ask for."""
    sides = recipe.height // STRIDE, recipe.width // STRIDE
    return lambda joints_BJ3: gaussian_heatmaps(torch.from_numpy(joints_BJ3), *sides)


def store_of(
    root: Path,
    dataset: ImageDataset,
    recipe: PersonRecipe,
    views: int,
    mentors: Mapping[str, Heatmapper],
    *,
    encoder: str = "heatmap8",
) -> TargetStore:
    """What each mentor makes of the labels of each view, as heatmaps and keypoints."""
    manifest = new_manifest(dataset, recipe)
    ensure_store(root, manifest, dataset)
    kinds = {HEATMAPS: find_encoder(encoder), KEYPOINTS: find_encoder("float32")}
    for name, make in mentors.items():
        mentor = MentorManifest(
            fingerprint=manifest.fingerprint,
            name=name,
            architecture="ground truth",
            num_classes=dataset.num_classes,
            checkpoint_sha256="0" * 64,
            preprocessing=dataset.preprocessing.describe(),
            run_shape=RunShape(batch=64).describe(),
        )
        for kind, its_encoder in kinds.items():
            ensure_mentor(root, manifest, mentor, its_encoder, kind, views)
        store = open_store(root)
        for view in range(views):
            for block in range(manifest.num_blocks):
                index_B = dataset.index_N[manifest.block_rows(block)]
                maps_BJHW = make(dataset.labels_in_view(recipe, index_B, view))
                for kind in kinds:
                    commit_targets(
                        store.mentor(name, kind.name),
                        (view, block),
                        kind.from_forward(maps_BJHW).numpy(),
                        dataset.labels(index_B),
                        manifest.block,
                    )
    return open_store(root)


def in_image(
    dataset: ImageDataset,
    recipe: PersonRecipe,
    view: int,
    maps_NJHW: torch.Tensor,
    decoder: str,
) -> NDArray[np.float64]:
    """(N, J, 3): keypoints of all people, from the maps of one view back to their images."""
    people = dataset.person_labels.people.take(dataset.index_N)
    points_NJ3 = decode_keypoints(maps_NJHW, decoder).numpy()
    return recipe.map_back(points_NJ3, people, dataset.index_N, view)


def people_inside(dataset: ImageDataset, recipe: PersonRecipe, view: int) -> People:
    """The people, without the labels of joints that lie outside of the view."""
    people = dataset.person_labels.people.take(dataset.index_N)
    joints_NJ3 = dataset.labels_in_view(recipe, dataset.index_N, view)
    inside_NJ = recipe.map_back(joints_NJ3, people, dataset.index_N, view)[..., 2]
    kept_NJ3 = people.joints_NJ3.copy()
    kept_NJ3[..., 2] *= inside_NJ
    return replace(people, joints_NJ3=kept_NJ3)
