"""How well a network finds people's joints: from their boxes to the official evaluators' numbers.

    photographs -> pose-crop -> network -> heatmaps -> keypoints -> image coordinates -> AP, PCKh

Boxes are the annotated ones, as in the papers' ablations; published test numbers are with a
detector's boxes, which are worse.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.datasets import ImageDataset, Preprocessing
from kdcache.devices import precision_context, send
from kdcache.heatmaps import QUARTER, decode_keypoints, mirror_back
from kdcache.models import checked_forward
from kdcache.train.pose_evaluation import coco_metrics, pckh
from kdcache.views import PersonRecipe, PoseCrop

BATCH = 64
Heatmapper = Callable[[NDArray[np.int64], NDArray[np.uint8]], torch.Tensor]


@torch.inference_mode()
def evaluate_pose(
    network: torch.nn.Module,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    device: torch.device,
    precision: str = "fp32",
    *,
    height: int,
    width: int,
    decoder: str = QUARTER,
    flip_test: bool = False,
) -> dict[str, float | None]:
    """`pose_metrics` of a network in eval mode on the boxes of all people; its mode is restored.

    `height`, `width`: of the views, in pixels. `flip_test`: heatmaps are averaged with those of the
    mirror image.
    """
    mirrored = dataset.person_labels.people.skeleton.mirrored

    def heatmaps(index_B: NDArray[np.int64], pixels_BCHW: NDArray[np.uint8]) -> torch.Tensor:
        images = preprocessing(send(torch.from_numpy(pixels_BCHW), device))
        with precision_context(device, precision):
            found = _maps(network, images, dataset.num_classes)
            if flip_test:
                flipped = _maps(network, images.flip(-1), dataset.num_classes)
                found = (found + mirror_back(flipped, mirrored)) / 2
        return found.float()

    was_training = network.training
    network.eval()
    try:
        recipe = PoseCrop(height=height, width=width)
        return pose_metrics(dataset, find_keypoints(dataset, recipe, heatmaps, decoder=decoder))
    finally:
        network.train(was_training)


def find_keypoints(
    dataset: ImageDataset,
    recipe: PersonRecipe,
    heatmaps: Heatmapper,
    *,
    view: int = 0,
    decoder: str = QUARTER,
) -> NDArray[np.float64]:
    """float64 (N, J, 3): every person's keypoints in image coordinates, and their scores.

    `heatmaps`: of samples and the pixels of their view, float32 (B, J, H, W).
    """
    people = dataset.person_labels.people
    parts = []
    for start in range(0, len(dataset), BATCH):
        index_B = dataset.index_N[start : start + BATCH]
        found = heatmaps(index_B, recipe(dataset.images(index_B), index_B, view))
        # Decoded on the CPU: DARK computes in float64, which not every device has.
        points_BJ3 = decode_keypoints(found.cpu(), decoder).numpy()
        parts.append(recipe.map_back(points_BJ3, people.take(index_B), index_B, view))
    return np.concatenate(parts)


def pose_metrics(
    dataset: ImageDataset, keypoints_NJ3: NDArray[np.float64]
) -> dict[str, float | None]:
    """Percent of the official evaluators: `pckh` and its groups of MPII, else `ap`, `ap50`, `ap75`
    and `ar`. `keypoints_NJ3`: of the dataset's people, in its order, in image coordinates; None for
    all numbers where they are not finite. Raises DatasetError for people of MPII of whom nobody has
    a head size."""
    if not np.isfinite(keypoints_NJ3).all():
        return dict.fromkeys(metric_names(dataset))
    labels = dataset.person_labels
    people = labels.people.take(dataset.index_N)
    if people.skeleton.name == "mpii-16":
        found = pckh(people, keypoints_NJ3)
        return {name: value for name, value in found.items() if name not in ("people", "head_size")}
    return dict(coco_metrics(people, keypoints_NJ3, ignored=labels.ignored))


def require_measurable(dataset: ImageDataset) -> None:
    """Raises DatasetError for people on whom `pose_metrics` can measure nothing."""
    people = dataset.person_labels.people.take(dataset.index_N)
    if people.skeleton.name == "mpii-16":
        pckh(people, people.joints_NJ3)


def _maps(network: torch.nn.Module, images_BCHW: torch.Tensor, joints: int) -> torch.Tensor:
    return checked_forward(
        "the network", network, images_BCHW, joints, output="heatmaps", remedy="Evaluate another"
    )


def metric_names(dataset: ImageDataset) -> tuple[str, ...]:
    """What `pose_metrics` gives of a dataset."""
    if dataset.person_labels.people.skeleton.name == "mpii-16":
        return ("pckh", "head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    return ("ap", "ap50", "ap75", "ar")
