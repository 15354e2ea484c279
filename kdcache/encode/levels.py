"""Levels: the square root of -log p in 256 steps, finer for likely classes than for unlikely ones.

The root spends levels where divergences feel them; a knee spends fewer on what hardly any
temperature feels, and reaches log-probabilities far below those that were seen.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

HIGHEST = 255
COARSEST, FINEST = 2.0**-10, 2.0**16  # levels a unit of s
_SLACK = 1 + 2.0**-11  # for the rounding of float32 roots, products and sums


@dataclass(frozen=True, kw_only=True)
class Levels:
    """level = fine * s up to `knee`, from there on knee + coarse * (s - knee / fine); s = sqrt(-x).

    `fine`, `coarse`: levels a unit of s, 2^-10 <= coarse <= fine <= 2^16, so that float32 roots are
    exact enough. `knee`: 0 to 255. Rounded to the nearest level. Raises ValueError for others.
    """

    fine: float
    coarse: float
    knee: int

    def __post_init__(self) -> None:
        if not COARSEST <= self.coarse <= self.fine <= FINEST:  # NaN compares false
            raise ValueError(
                f"levels a unit are {COARSEST:g} to {FINEST:g}, and no finer beyond the knee, not "
                f"{self.fine:g} and {self.coarse:g}"
            )
        if not 0 <= self.knee <= HIGHEST:
            raise ValueError(f"the knee lies in 0 to {HIGHEST}, not at {str(self.knee)[:40]}")

    @cached_property
    def furthest(self) -> float:
        """The largest s that has a level."""
        return self.knee / self.fine + (HIGHEST - self.knee) / self.coarse

    @cached_property
    def lowest(self) -> float:
        """The smallest log-probability that has a level."""
        return -(self.furthest * self.furthest)

    def of(self, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Levels before rounding, float32, of log-probabilities of any shape, at most 0."""
        root = np.sqrt(-targets, dtype=np.float32)
        at = np.float32(self.knee / self.fine)
        below = np.minimum(root, at) * np.float32(self.fine)
        beyond = np.maximum(root - at, np.float32(0)) * np.float32(self.coarse)
        levels: NDArray[np.float32] = below + beyond
        return levels

    @property
    def error(self) -> tuple[float, float]:
        """(a, b) with |decoded - x| <= a + b * sqrt(|x|) for every x that has a level."""
        step = 1 / self.coarse
        return step * step / 4 * _SLACK, step * _SLACK

    def bound(self, targets: NDArray[np.float32]) -> NDArray[np.float64]:
        """The largest error of each value: tighter than `error` on the fine side of the knee."""
        root = np.sqrt(np.abs(targets, dtype=np.float64))
        is_fine = root <= self.knee / self.fine
        step = np.where(is_fine, 1 / self.fine, 1 / self.coarse)
        return (step * root + step * step / 4) * _SLACK


def decode_levels(
    levels: torch.Tensor, fine: torch.Tensor, coarse: torch.Tensor, knee: torch.Tensor
) -> torch.Tensor:
    """float32 log-probabilities of uint8 levels; the float32 parameters broadcast.

    `fine`, `coarse`: units of s a level, the reciprocals of those of `Levels`.
    """
    beyond = levels.to(torch.float32)
    root = torch.minimum(beyond, knee)
    beyond -= root
    root *= fine
    root += beyond.mul_(coarse)
    return root.mul_(root).neg_()
