"""`heatmap8`: one byte a heatmap pixel, in levels of each map's own, compressed.

What costs bytes is what a network says between joints, and how finely: so steps are no finer than
1/128, and what lies below 0.016, or 1.6% of a map's largest magnitude, becomes zero. Networks are
taught Gaussians of peak 1, and some maps show no joint; hence the absolute numbers.

What rounding would lose is the joint's place, as neighbours come to share a level; so the peak
keeps a level to itself, and its neighbours their order: on maps of real photographs 3% of the peaks
would move otherwise, and none does, for the same bytes (docs/log.md).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder

ERROR = 0.016  # of a map's largest magnitude, at least of 1; below it a value becomes zero
FINEST = 1 / 128  # of steps
LARGEST = 2.0**100  # magnitude
HIGHEST = 255  # level
PARAMETERS = 5  # bytes: of the step, and the level of zero


@dataclass(frozen=True, kw_only=True)
class Heatmap8(Encoder):
    """Heatmaps (J, H, W), each in levels (q - zero) * step of its own.

    The step divides the map's highest value, so that this is a level, and only the (first) highest
    pixel has it: the place of the peak survives, and its value to the rounding of float32 (but of
    a peak below 1% of what the map has below zero: that is raised to two steps). Of its
    left and right neighbours, and of the upper and lower, the higher one stays the higher one, and
    so the quarter-pixel keypoint survives. Zero is exact.

    |decoded - x| <= 0.016 * max(largest |x| of the map, 1): of what becomes zero, and of two steps,
    the most that a level is moved, which is a neighbour of the peak. All else is off by half a
    step: 0.004, or up to 0.4% of that magnitude where that is more.

    A stored map has a line more, which begins with the step (little-endian float32) and the level
    of zero; W is at least 5.
    """

    name: str = "heatmap8"
    compression: str | None = "zstd"
    dtype = "uint8"
    uncompressed = "float16"
    fill = 255.0
    relative_error = 0.0  # of the value itself
    absolute_error = ERROR
    arithmetic = (
        "step = the little-endian float32 in stored[j, H, 0..3]; zero = stored[j, H, 4]; "
        "target[j, y, x] = float32(stored[j, y, x] - zero) * step, in float32; 255 in all bytes "
        "(a step that is not a number): no target"
    )

    @property
    def exact(self) -> bool:
        return False

    def bound(self, targets: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same for all values of a map."""
        largest = np.abs(targets).max(axis=(-2, -1), keepdims=True, initial=0.0)
        bound = ERROR * np.maximum(largest.astype(np.float64), 1)
        return np.broadcast_to(bound, targets.shape)

    def describe(self) -> dict[str, Any]:
        """`peak_error`: of a map's largest magnitude, where that is above 1."""
        return {**super().describe(), "peak_error": ERROR}

    def stored_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        joints, height, width = row
        return joints, height + 1, width

    def resident_row(self, row: tuple[int, ...]) -> tuple[int, ...]:
        return self.stored_row(row)

    def encode(
        self, targets: NDArray[np.float32], labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.generic]:
        *leading, height, width = targets.shape
        if width < PARAMETERS:
            raise ValueError(
                f"{self.name} holds maps at least {PARAMETERS} wide, not {width}; use --encoder "
                "float16"
            )
        largest = float(np.abs(targets).max(initial=0.0))
        if not largest <= LARGEST:  # NaN compares false
            raise ValueError(
                f"{self.name} holds magnitudes up to {LARGEST:.3g}, a target has {largest:g}; use "
                "--encoder float32"
            )
        stored = np.zeros((*leading, height + 1, width), dtype=np.uint8)
        maps_KHW = targets.reshape(-1, height, width)
        step_K, zero_K, levels_KHW = _levels(maps_KHW)
        stored_KLW = stored.reshape(-1, height + 1, width)  # a view
        stored_KLW[:, :height] = levels_KHW
        stored_KLW[:, height, :4] = step_K.astype("<f4")[:, None].view(np.uint8)
        stored_KLW[:, height, 4] = zero_K
        return stored

    def decode(self, rows: torch.Tensor, labels_B: torch.Tensor | None = None) -> torch.Tensor:
        """Of rows (.., J, H + 1, W), whatever comes before: those of several mentors, say."""
        # A copy of its own: in a slice of a row the bytes may lie where no float32 may.
        bytes_4 = rows[..., -1, :4].clone(memory_format=torch.contiguous_format)
        step_11 = bytes_4.view(torch.float32)[..., None]
        zero_11 = rows[..., -1, 4:5, None].to(torch.float32)
        return rows[..., :-1, :].to(torch.float32).sub_(zero_11).mul_(step_11)


def _levels(
    maps_KHW: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
    """Of K maps the step (K,), the level of zero (K,) and all levels (K, H, W)."""
    count, height, width = maps_KHW.shape
    flat_KP = maps_KHW.reshape(count, height * width)
    each_K = np.arange(count)
    peak_K = flat_KP.argmax(axis=1)  # the first of equal ones
    high_K = np.maximum(flat_KP[each_K, peak_K], 0).astype(np.float64)
    largest_K = np.maximum(high_K, -flat_KP.min(axis=1).astype(np.float64))
    floor_K = (ERROR * np.maximum(largest_K, 1)).astype(np.float32)
    kept_KP = np.where(np.abs(flat_KP) >= floor_K[:, None], flat_KP, np.float32(0))
    row_K, column_K = np.divmod(peak_K, width)
    sides = [
        (each_K[inside], peak_K[inside, None] + np.array([-apart, apart]))
        for inside, apart in (
            ((high_K > 0) & (column_K > 0) & (column_K < width - 1), 1),
            ((high_K > 0) & (row_K > 0) & (row_K < height - 1), width),
        )
    ]
    for of_I, pair_I2 in sides:  # for their order they are kept, however small
        kept_KP[of_I[:, None], pair_I2] = flat_KP[of_I[:, None], pair_I2]
    low_K = np.minimum(kept_KP.min(axis=1), 0).astype(np.float64)

    # `above` levels over zero, the last of them the peak's: at least 2, for its neighbours' order,
    # and so many that no step is above FINEST, or above what 254 levels need.
    range_K = np.maximum(high_K - low_K, np.finfo(np.float64).tiny)
    above_K = np.minimum((HIGHEST - 1) * (high_K / range_K), np.ceil(high_K / FINEST))
    above_K = np.where(high_K > 0, np.maximum(np.floor(above_K), 2), 0)
    step_K = np.maximum(
        high_K / np.maximum(above_K, 1), -low_K / np.maximum(HIGHEST - 1 - above_K, 1)
    )
    step_K = np.where(high_K > 0, step_K, np.maximum(step_K, FINEST))
    step_K = np.maximum(step_K, np.finfo(np.float32).tiny).astype(np.float32)

    levels_KP = np.rint(kept_KP / step_K[:, None])
    top_K = above_K.astype(np.float32)
    np.minimum(levels_KP, np.maximum(top_K - 1, 0)[:, None], out=levels_KP)
    has_peak_K = high_K > 0
    levels_KP[each_K[has_peak_K], peak_K[has_peak_K]] = top_K[has_peak_K]
    for of_I, pair_I2 in sides:
        _keep_order(levels_KP, flat_KP, of_I, pair_I2, top_K)
    zero_K = np.rint(-low_K / step_K) + 1  # a level to spare below, for the lower of a pair
    levels_KP += zero_K[:, None]
    levels_KHW = levels_KP.reshape(maps_KHW.shape).astype(np.uint8)
    return step_K, zero_K.astype(np.uint8), levels_KHW


def _keep_order(
    levels_KP: NDArray[np.float32],
    flat_KP: NDArray[np.float32],
    of_I: NDArray[np.int64],
    pair_I2: NDArray[np.int64],
    top_K: NDArray[np.float32],
) -> None:
    """Moves the levels of unequal values that share one apart; `pair_I2`: pixels of maps `of_I`.

    Away from zero, so that zero is never moved: the higher value up, unless the next level is the
    peak's or the value is not positive; then the lower one down.
    """
    values_I2 = flat_KP[of_I[:, None], pair_I2]
    levels_I2 = levels_KP[of_I[:, None], pair_I2]
    shared_I = (levels_I2[:, 0] == levels_I2[:, 1]) & (values_I2[:, 0] != values_I2[:, 1])
    higher_I = values_I2.argmax(axis=1)
    up_I = (values_I2.max(axis=1) > 0) & (levels_I2[:, 0] + 1 < top_K[of_I])
    moved_I = np.where(up_I, higher_I, 1 - higher_I)
    by_I = np.where(up_I, 1, -1).astype(np.float32)
    levels_KP[of_I[shared_I], pair_I2[shared_I, moved_I[shared_I]]] += by_I[shared_I]
