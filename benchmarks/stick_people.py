"""Procedural people: articulated stick figures with occlusion, in COCO's official format.

    python -m benchmarks.stick_people DEST --people 1000 --seed 0

writes DEST/annotations/person_keypoints_{train,val}2017.json and JPEGs in DEST/{train,val}2017/, to
be opened as `--dataset coco-keypoints --data-dir DEST`. For speed and scale, never for results: no
photograph of a person is in it. An image is a function of (seed, split, its number).

Backgrounds are parts of COCO's photographs in `$KDCACHE_DATA/coco` without an annotated person,
gradients with noise where there are none.
"""

import json
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.material import default_data_dir
from benchmarks.stick_figures import (
    HEIGHT,
    WIDTH,
    Background,
    DrawnPerson,
    draw_scene,
    gradients,
)
from kdcache.datasets.skeleton import COCO_17

SPLITS = ("train2017", "val2017")
_MOST_PER_IMAGE = 3


def photo_parts(coco: Path) -> Background:
    """Parts of the photographs in `coco`/images that no annotated person's box touches.

    Gradients where that folder or its person_keypoints_*.json is not there, or chance finds none.
    """
    boxes: dict[str, list[list[float]]] = {}
    for file in sorted(coco.glob("person_keypoints_*.json")):
        document = json.loads(file.read_text())
        names = {image["id"]: image["file_name"] for image in document["images"]}
        boxes.update({name: boxes.get(name, []) for name in names.values()})
        for annotation in document["annotations"]:
            boxes[names[annotation["image_id"]]].append(annotation["bbox"])
    known = [name for name in sorted(boxes) if (coco / "images" / name).is_file()]

    def part(generator: np.random.Generator) -> NDArray[np.uint8]:
        for _ in range(10 if known else 0):
            name = known[generator.integers(len(known))]
            with Image.open(coco / "images" / name) as photo:
                width = int(generator.uniform(WIDTH / 4, min(photo.width, WIDTH)))
                height = min(photo.height, width * HEIGHT // WIDTH)
                left = int(generator.integers(photo.width - width + 1))
                top = int(generator.integers(photo.height - height + 1))
                if not any(
                    left < x + w and x < left + width and top < y + h and y < top + height
                    for x, y, w, h in boxes[name]
                ):
                    box = (left, top, left + width, top + height)
                    found = photo.convert("RGB").crop(box).resize((WIDTH, HEIGHT))
                    return np.asarray(found)
        return gradients(generator)

    return part


def write_split(folder: Path, split: str, people: int, seed: int, background: Background) -> Path:
    """Writes JPEGs and annotation file of exactly so many people; returns the latter's path."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number in count(1):
        left = people - len(annotations)
        if not left:
            break
        address = (seed, SPLITS.index(split), number)
        in_image = 1 + int(np.random.default_rng(address).integers(_MOST_PER_IMAGE))
        scene = draw_scene(min(in_image, left), address, background)
        name = f"{number:012d}.jpg"
        Image.fromarray(scene.pixels_HW3).save(folder / split / name, quality=90)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for person in scene.people:
            annotations.append(_annotation(person, len(annotations) + 1, number))
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": [joint.replace(" ", "_") for joint in COCO_17.joints],
        "skeleton": [[a + 1, b + 1] for a, b in COCO_17.limbs],
    }
    document = {
        "info": {"description": f"procedural stick people, seed {seed}: not photographs"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }
    path = folder / "annotations" / f"person_keypoints_{split}.json"
    path.write_text(json.dumps(document))
    return path


def _annotation(person: DrawnPerson, number: int, image: int) -> dict[str, Any]:
    rows, columns = person.mask_HW.nonzero()
    left, top = int(columns.min()), int(rows.min())
    box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "num_keypoints": int((person.joints_J3[:, 2] > 0).sum()),
        "keypoints": person.joints_J3.ravel().tolist(),
        "bbox": box,
        "area": int(person.mask_HW.sum()),
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": _run_lengths(person.mask_HW)},
    }


def _run_lengths(mask_HW: NDArray[np.bool_]) -> list[int]:
    """COCO's: down the columns, first of pixels outside the mask."""
    pixels = mask_HW.T.ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=False))
    edges = np.concatenate([[0], starts, [pixels.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return lengths


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option("--people", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--test-people", type=click.IntRange(min=1), help="Default: a fifth of --people.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder whose coco/ gives backgrounds.  [default: $KDCACHE_DATA]",
)
def main(
    dest: Path, people: int, test_people: int | None, seed: int, data_dir: Path | None
) -> None:
    """Writes procedural stick people to the new folder DEST, in COCO's format."""
    if dest.exists() and any(dest.iterdir()):
        raise click.UsageError(f"{dest} is there and not empty; name a new folder")
    data_dir = data_dir or default_data_dir()
    background = gradients if data_dir is None else photo_parts(data_dir / "coco")
    for split, number in zip(SPLITS, (people, test_people or max(1, people // 5)), strict=True):
        path = write_split(dest, split, number, seed, background)
        click.echo(f"{path}: {number:,} procedural people")


if __name__ == "__main__":
    main()
