"""The bundled digits at the size the CIFAR networks are made for, as `module:factory`."""

import numpy as np
from numpy.typing import NDArray

from kdcache.datasets import open_dataset


class LargeDigits:
    """Forty digits, 32 x 32: every pixel four times as wide and high."""

    def __init__(self, split: str) -> None:
        digits = open_dataset("digits", split, samples=40)
        pixels_NCHW = digits.images(digits.index_N).repeat(4, axis=2).repeat(4, axis=3)
        self.pixels_NHWC = np.ascontiguousarray(pixels_NCHW.transpose(0, 2, 3, 1))
        self.targets = digits.labels(digits.index_N)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.pixels_NHWC[index], int(self.targets[index])


def training_and_test(split: str) -> LargeDigits:
    """The factory."""
    return LargeDigits(split)
