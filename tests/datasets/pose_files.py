"""Small pose datasets in the official formats, with real image files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdcache.datasets.skeleton import COCO_17

WIDTH, HEIGHT = 64, 48


def save_photo(path: Path, mode: str = "RGB", seed: int = 0, **options: Any) -> Image.Image:
    """A smooth coloured image of 64 x 48; returns it as it was given to Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    image = small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).convert(mode)
    image.save(path, **options)
    return image


def keypoints(labelled: int = 17) -> list[float]:
    """The first `labelled` joints at (10 + j, 20 + j), visible and hidden in turn; then zeros."""
    values: list[float] = []
    for j in range(17):
        values += [10 + j, 20 + j, 1 + j % 2] if j < labelled else [0, 0, 0]
    return values


def person(annotation: int, image: int = 1, **changes: Any) -> dict[str, Any]:
    """An annotation in COCO's format."""
    entry = {
        "id": annotation,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": 300.0,
        "bbox": [8.0, 15.5, 30.0, 25.0],
        "num_keypoints": 17,
        "keypoints": keypoints(),
        "segmentation": [[8.0, 15.5, 38.0, 15.5, 38.0, 40.5]],
    }
    return entry | changes


def coco_document(people: list[dict[str, Any]], images: int = 2, **changes: Any) -> dict[str, Any]:
    """A file's content: `images` images, named 000000000001.jpg and on."""
    names = [name.replace(" ", "_") for name in COCO_17.joints]
    document = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}],
        "annotations": people,
    }
    return document | changes


def write_coco(folder: Path, document: Any, images: int = 2) -> tuple[Path, Path]:
    """The annotation file and the folder of its images."""
    for i in range(1, images + 1):
        save_photo(folder / "images" / f"{i:012}.jpg", seed=i)
    file = folder / "person_keypoints_train2017_subset.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file, folder / "images"


def mpii_person(image: str = "a.jpg", **changes: Any) -> dict[str, Any]:
    """An entry in the format of HRNet's train.json: joint j at (5 + 2 j, 4 + 2 j), from 1."""
    entry = {
        "image": image,
        "joints": [[5.0 + 2 * j, 4.0 + 2 * j] for j in range(16)],
        "joints_vis": [1] * 16,
        "center": [30.0, 20.0],
        "scale": 0.2,
    }
    return entry | changes


def write_mpii(folder: Path, people: Any, name: str = "train.json") -> tuple[Path, Path]:
    """The annotation file and the folder of its images, a.jpg and b.jpg, beside it."""
    for seed, image in enumerate(("a.jpg", "b.jpg")):
        save_photo(folder / image, seed=seed)
    file = folder / name
    file.write_text(people if isinstance(people, str) else json.dumps(people))
    return file, folder


def small_poses(folder: Path, people: int = 20) -> Path:
    """A data folder with both pose datasets, train and test split, of so many people each."""
    for split in ("train", "val"):
        entries = [person(1 + n, image=1 + n % 2) for n in range(people)]
        document = json.dumps(coco_document(entries))
        write_coco(folder / "coco", document)
        file = folder / "coco" / f"person_keypoints_{split}2017_subset.json"
        file.write_text(document)
    for name in ("train.json", "valid.json"):
        entries = [mpii_person("ab"[n % 2] + ".jpg") for n in range(people)]
        write_mpii(folder / "mpii", entries, name)
    return folder
