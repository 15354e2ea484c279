"""`float16`: the targets rounded to half precision, 2 bytes a class. The default.

Log-probabilities survive this up to ten times better than raw logits, whose shared constant costs
them bits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdcache.encode.encoder import Encoder

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class Float16(Encoder):
    """Round to nearest: half a unit in the last of 11 bits, or half the smallest subnormal."""

    name: str = "float16"
    dtype = "float16"
    fill = float("nan")
    relative_error = 2.0**-11
    absolute_error = 2.0**-25
    arithmetic = "target = float32(stored)"

    def encode(
        self, targets: NDArray[np.float32], labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.generic]:
        largest = float(np.abs(targets).max(initial=0.0))
        if not largest <= LARGEST:  # NaN compares false
            raise ValueError(
                f"float16 holds values up to {LARGEST:.0f}, a target has the magnitude {largest:g};"
                " use --encoder float32"
            )
        return targets.astype(np.float16)

    def decode(self, rows: torch.Tensor, labels_B: torch.Tensor | None = None) -> torch.Tensor:
        return rows.to(torch.float32)
