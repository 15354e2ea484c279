"""A pose dataset as one of ours: every annotated person is a sample."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.canonical import json_sha256
from kdcache.datasets.image_dataset import ImageDataset
from kdcache.datasets.labels import PersonLabels
from kdcache.datasets.open_people import open_people

# Height and width as HRNet and SimpleBaseline have them, and how far their training views go.
VIEW_PARAMETERS: dict[str, dict[str, Any]] = {
    "coco-keypoints": {"height": 256, "width": 192, "scale": 0.35, "rotation": 45.0},
    "mpii": {"height": 256, "width": 256, "scale": 0.25, "rotation": 30.0},
}
READERS = max(2, min(8, os.cpu_count() or 2))  # threads that decode photographs ahead


def open_people_dataset(name: str, split: str, data_dir: Path) -> ImageDataset:
    """`name`: coco-keypoints or mpii. Raises as `open_people`."""
    opened = open_people(name, split, data_dir)
    return ImageDataset(
        name=name,
        split=split,
        fetch=opened.read_photos,
        labels=PersonLabels(opened.people, opened.ignored),
        preprocessing=opened.preprocessing,
        reads_ahead=READERS,
        view_parameters=VIEW_PARAMETERS[name],
        default_recipe="pose-affine",
        plain_recipe="pose-crop",
        describe=partial(_describe, opened.file_sha256),
        report=opened.report,
    )


def _describe(
    file_sha256: Callable[[NDArray[np.int64]], list[str]], index_K: NDArray[np.int64]
) -> dict[str, Any]:
    return {"pixels_sha256": json_sha256(file_sha256(index_K))}
