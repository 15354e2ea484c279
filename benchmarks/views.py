"""Replayed crop-flip views against torchvision's per-sample transforms, on one core."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks import synthetic
from benchmarks.material import Settings
from benchmarks.paired import Budget, interleave, ratio, require_same, timed
from benchmarks.table import Row, Skipped, number
from kdcache.loader import ROWS_AT_ONCE
from kdcache.views import CropFlip

SIZE, PADDING, BATCH = 32, 4, ROWS_AT_ONCE


def measure(settings: Settings) -> Iterator[Row | Skipped]:
    """Both sides turn images in memory (arrays here, PIL images there) into uint8 batches."""
    count = settings.size(full=6400, quick=640)
    images_NCHW = synthetic.images(count, SIZE)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images_NCHW]
    batches = np.split(np.random.default_rng(1).permutation(count), count // BATCH)
    recipe = CropFlip(size=SIZE, padding=PADDING)
    per_sample = transforms.Compose(
        [
            transforms.RandomCrop(SIZE, padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    require_same(_same_pixels(recipe, images_NCHW, pictures, batches[0]), "pixels")

    def ours() -> None:
        for index_B in batches:
            recipe(images_NCHW[index_B], index_B, 1)

    def theirs() -> None:
        for index_B in batches:
            torch.stack([per_sample(pictures[index]) for index in index_B])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = interleave({"ours": timed(ours), "theirs": timed(theirs)}, settings.repeats)
    finally:
        torch.set_num_threads(threads)
    rates = {name: number(count / min(times)) for name, times in seconds.items()}
    yield Row(
        what="replayed crop-flip views/s / torchvision's, one core",
        measured=ratio(seconds["theirs"], seconds["ours"]),
        budget=Budget(limit=20, aim=45),
        detail=(
            f"best {rates['ours']} views/s against {rates['theirs']}; {count:,} noise images of 32 "
            f"x 32 in shuffled batches of {BATCH}, as the loader asks; torchvision's from PIL "
            "images, both stacked"
        ),
    )


def _same_pixels(
    recipe: CropFlip,
    images_NCHW: NDArray[np.uint8],
    pictures: list[Image.Image],
    index_B: NDArray[np.int64],
) -> bool:
    """Whether torchvision, given our crop corners and flips, makes our bytes."""
    at = recipe.parameters(index_B, 1)
    theirs = []
    for row, index in enumerate(index_B):
        padded = functional.pad(pictures[index], [PADDING] * 4)
        picture = functional.crop(padded, int(at.top_B[row]), int(at.left_B[row]), SIZE, SIZE)
        picture = functional.hflip(picture) if at.flip_B[row] else picture
        theirs.append(functional.pil_to_tensor(picture))
    ours = recipe(images_NCHW[index_B], index_B, 1)
    return np.array_equal(torch.stack(theirs).numpy(), ours)
