"""`digits`: 1,797 real handwritten digits, bundled, for the demo and the tests.

The test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI Machine
Learning Repository, 1998, doi 10.24432/C50P49), licence CC BY 4.0: 8 x 8 counts of 0 to 16, here
scaled to 0 to 255 and repeated over three channels. Every fifth sample is the test split.
"""

from pathlib import Path

import numpy as np

from kdcache.datasets.image_dataset import ImageDataset, array_dataset
from kdcache.datasets.preprocessing import Preprocessing

FILE = Path(__file__).with_name("digits.npz")
VIEW_PARAMETERS = {"size": 8, "padding": 1, "flip": False}
PREPROCESSING = Preprocessing(mean=(0.3053,) * 3, std=(0.3761,) * 3)


def open_digits(split: str) -> ImageDataset:
    """1,438 training or 359 test images, uint8 (3, 8, 8), ten classes."""
    with np.load(FILE, allow_pickle=False) as arrays:
        counts_NHW, labels_N = arrays["counts_NHW"], arrays["labels_N"]
    of_split = (np.arange(len(labels_N)) % 5 == 4) == (split == "test")
    gray_NHW = np.round(counts_NHW[of_split] * (255 / 16)).astype(np.uint8)
    return array_dataset(
        name="digits",
        split=split,
        images_NCHW=np.repeat(gray_NHW[:, None], 3, axis=1),
        labels_N=labels_N[of_split].astype(np.int64),
        num_classes=10,
        preprocessing=PREPROCESSING,
        view_parameters=VIEW_PARAMETERS,
    )
